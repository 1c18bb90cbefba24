"""CCLInspectAV: what a latent is, in words, with known answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_lt import LTXVSeparateAVLatent

from ccl_pack.nodes.inspecting import CCLInspectAV
from ccl_pack.nodes.tasks import CCLMaskAV, CCLSetTask
from support.av_models import LTX_FPS, h3_latent, ltx_latent, own_latent

Latent = dict[str, Any]


@pytest.fixture(autouse=True)
def as_the_host_runs_nodes() -> Iterator[None]:
    with torch.inference_mode():
        yield


def lines(latent: Latent, **typed: float) -> list[str]:
    return CCLInspectAV.execute(latent, **typed)[0].split("\n")


def constant(latent: Latent, value: float) -> Latent:
    return {
        **latent,
        "samples": NestedTensor([torch.full_like(x, value) for x in latent["samples"].unbind()]),
    }


def test_a_latent_of_ltx_2_in_words() -> None:
    assert lines(constant(ltx_latent(), 2.0), fps=LTX_FPS) == [
        "LTX-2: video and audio",
        "video: (1, 128, 5, 2, 2) float32 on cpu; 5 latent frames, 33 frames, 1.320 s at 25 fps; mean 2.000, "
        "deviation 0.000",
        "audio: (1, 8, 33, 16) float32 on cpu; 33 tokens, 1.320 s at 25 tokens a second; mean 2.000, "
        "deviation 0.000",
        "mismatch: the sound is 0.0 ms longer than the video; the streams agree",
        "task: none set",
        "video mask: none (generated)",
        "audio mask: none (generated)",
        "also: downscale_ratio_spacial, type",
    ]


def test_a_latent_of_h3_knows_its_rates() -> None:
    found = lines(constant(h3_latent(), 0.0))
    assert found[0] == "MiniMax H3: video and audio"
    assert "12 latent frames, 39 frames, 1.625 s at 24 fps; empty (zeros)" in found[1]
    assert "(1, 32, 2, 65)" in found[2] and "65 tokens, 1.625 s at 40 tokens a second" in found[2]
    assert found[3] == "mismatch: the sound is 0.0 ms longer than the video; the streams agree"


def test_streams_that_differ_are_told_in_milliseconds() -> None:
    # 34 tokens of 32 a second are 17 frames at 16 fps; four more are 125 ms.
    assert lines(own_latent())[3] == "mismatch: the sound is 0.0 ms longer than the video; the streams agree"
    assert lines(own_latent(tokens=38))[3].startswith("mismatch: the sound is 125.0 ms longer than the video")
    found = lines(own_latent(tokens=17))[3]
    assert found.startswith("mismatch: the sound is 531.2 ms shorter than the video; they do not agree")


def test_rates_that_nobody_says_are_asked_for() -> None:
    found = lines(ltx_latent())
    assert "5 latent frames, 33 frames, fps not said (type them into fps)" in found[1]
    assert found[3] == "mismatch: not known, since a rate is not said"
    sound = {"samples": torch.ones(1, 64, 43)}
    assert "43 tokens, tokens a second not said (type them into audio_rate)" in lines(sound)[1]
    assert "43 tokens, 2.000 s at 21.5 tokens a second" in lines(sound, audio_rate=21.5)[1]
    with pytest.raises(ValueError, match="fps is 30, and the latent was made for 24 fps"):
        lines(h3_latent(), fps=30.0)


def test_masks_and_task_in_words() -> None:
    masked = CCLMaskAV.execute(ltx_latent(), "renew", "both", 0.36, 0.68, 0.5, fps=LTX_FPS)[0]
    assert lines(masked)[5:7] == [
        "video mask: 0.000 to 0.360 s kept; 0.360 to 0.680 s made at strength 0.5; 0.680 to 1.320 s kept "
        "(generated)",
        "audio mask: 0.000 to 0.370 s kept; 0.370 to 0.690 s made at strength 0.5; 0.690 to 1.290 s kept "
        "(generated)",
    ]
    dubbed = lines(CCLSetTask.execute(own_latent(), {"task": "v2a"})[0])
    assert dubbed[4:7] == ["task: v2a", "video mask: all kept (given)", "audio mask: all made (generated)"]
    silent = lines(CCLSetTask.execute(own_latent(), {"task": "t2v"})[0])
    assert silent[6] == "audio mask: all kept (absent)"


def test_a_mask_within_the_picture_and_one_of_many_parts() -> None:
    latent = own_latent()
    within = torch.zeros(1, 1, 5, 4, 4)
    within[..., 2:] = 1
    every_other = torch.arange(34).remainder(2).float()[None, None]
    found = lines({**latent, "noise_mask": NestedTensor([within, every_other])})
    assert found[5] == "video mask: all 0 to 1, by place (generated)"
    assert found[6].endswith("0.219 to 0.250 s made; and 26 parts more (generated)")


@pytest.mark.parametrize(("stream", "title"), [(0, "Wan: video alone"), (1, "Wan: audio alone")])
def test_one_stream_alone(stream: int, title: str) -> None:
    found = lines(LTXVSeparateAVLatent.execute(own_latent())[stream])
    assert found[0] == title and len(found) == 4 and "mismatch" not in "".join(found)


def test_a_broken_latent_says_so() -> None:
    latent = own_latent()
    latent["samples"].unbind()[1][0, 0, 0] = float("nan")
    assert lines(latent)[2].endswith("holds NaN or infinite values")
