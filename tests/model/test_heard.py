"""What the audio reads of the video, kept for passes of the audio alone, against passes of both streams."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.model.heard import HEARD, HEARING, Heard
from ccl_pack.ccl_core.model.joint import JointModel
from support.tiny import conditioning, count_blocks, latents, patcher

KINDS = pytest.mark.parametrize("kind", ["cca", "fusion", "bridge", "asymmetric"])
POSITIVE, NEGATIVE, OTHER = "a", "b", "c"
SEEDS = {POSITIVE: 1, NEGATIVE: 2, OTHER: 3}


def model_of(kind: str) -> JointModel:
    return patcher(interaction=InteractionConfig(kind, (0, 1), OPTIONS[kind]())).model.diffusion_model


@torch.no_grad()
def run(model: JointModel, texts: str, video_seed: int = 2, **options: Any) -> list[Tensor]:
    """Velocities of both streams under these texts, one row each; the audio is always the same."""
    video, audio = latents(video_seed)[0], latents(2)[1]
    context = torch.cat([conditioning(SEEDS[text])[0][0] for text in texts])
    count = len(texts)
    signs = [int(text != POSITIVE) for text in texts]
    options = {"uuids": list(texts), "cond_or_uncond": signs, **options}
    streams = [video.expand(count, -1, -1, -1, -1), audio.expand(count, -1, -1)]
    return model(streams, torch.full((count,), 700.0), context, transformer_options=options)


@KINDS
def test_the_audio_alone_makes_what_it_makes_beside_the_video_and_no_block_of_that_runs(kind: str) -> None:
    model, heard = model_of(kind), Heard()
    wanted = run(model, POSITIVE + NEGATIVE)[1]
    beside = run(model, POSITIVE + NEGATIVE, **{HEARING: heard})[1]
    torch.testing.assert_close(beside, wanted, rtol=1e-4, atol=1e-5)
    calls = count_blocks(model)
    # Another video, which is not looked at.
    video, audio = run(model, POSITIVE + NEGATIVE, video_seed=9, **{HEARD: heard})
    torch.testing.assert_close(audio, beside, rtol=1e-4, atol=1e-5)
    assert calls == {"video": 0, "audio": 2} and not video.any()


@KINDS
def test_what_is_heard_matters(kind: str) -> None:
    """Else the test above would pass with a coupling that is off."""
    model = model_of(kind)
    assert not torch.allclose(run(model, POSITIVE)[1], run(model, POSITIVE, video_seed=9)[1], atol=1e-4)


@KINDS
def test_each_text_reads_its_own_pass_in_whatever_order_they_run(kind: str) -> None:
    model, heard = model_of(kind), Heard()
    first, second = run(model, POSITIVE + NEGATIVE, **{HEARING: heard})[1]
    swapped = run(model, NEGATIVE + POSITIVE, **{HEARD: heard})[1]
    torch.testing.assert_close(swapped, torch.stack([second, first]), rtol=1e-4, atol=1e-5)
    alone = run(model, NEGATIVE, **{HEARD: heard})[1]
    torch.testing.assert_close(alone[0], second, rtol=1e-4, atol=1e-5)


def test_a_text_that_did_not_run_reads_what_the_positive_one_handed_out() -> None:
    """A video that reads neither text nor sound is the same under every text, and so is what it hands out."""
    model, heard, deaf = model_of("cca"), Heard(), {"a2v_cross_attn": False}
    for block in model.blocks:
        block.cross_attn.o.weight.data.zero_()
    wanted = run(model, NEGATIVE, **deaf)[1]
    run(model, OTHER + POSITIVE, **deaf, **{HEARING: heard})
    made = run(model, NEGATIVE, **deaf, **{HEARD: heard})[1]
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-5)


def test_it_is_the_positive_one_s_and_not_the_first_one_s() -> None:
    model, heard, only = model_of("cca"), Heard(), Heard()
    run(model, OTHER + POSITIVE, **{HEARING: heard})
    run(model, POSITIVE, **{HEARING: only})
    read, wanted, other = (
        run(model, NEGATIVE, **{HEARD: one})[1] for one in (heard, only, heard_of_other(model))
    )
    torch.testing.assert_close(read, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(read, other, atol=1e-4)


def heard_of_other(model: JointModel) -> Heard:
    """Of the other text alone."""
    heard = Heard()
    run(model, OTHER, **{HEARING: heard, "cond_or_uncond": [0]})
    return heard


def test_a_new_step_forgets_and_says_so() -> None:
    model, heard = model_of("cca"), Heard()
    run(model, POSITIVE, **{HEARING: heard})
    heard.forget()
    with pytest.raises(LookupError, match="no pass of the video"):
        run(model, POSITIVE, **{HEARD: heard})


def test_the_next_step_takes_the_place_of_the_last() -> None:
    model, heard = model_of("cca"), Heard()
    run(model, POSITIVE, **{HEARING: heard})
    heard.forget()
    wanted = run(model, POSITIVE, video_seed=9, **{HEARING: heard})[1]
    torch.testing.assert_close(run(model, POSITIVE, **{HEARD: heard})[1], wanted, rtol=1e-4, atol=1e-5)


def test_a_closed_direction_needs_no_pass_of_the_video() -> None:
    model = model_of("bridge")
    closed = {"a2v_cross_attn": False, "v2a_cross_attn": False}
    wanted = run(model, POSITIVE, **closed)[1]
    assert torch.equal(run(model, POSITIVE, **closed, **{HEARD: Heard()})[1], wanted)


def test_windows_are_told_apart() -> None:
    heard = Heard()
    windows = [SimpleNamespace(index_list=frames) for frames in ([0, 1], [2, 3])]
    options = [
        {"uuids": ["a"], "cond_or_uncond": [0], "context_window": window} for window in (*windows, None)
    ]
    first = heard.begin(options[0])
    assert heard.of(options[0]) is first
    second = heard.begin(options[1])
    assert heard.of(options[1]) is second is not first
    with pytest.raises(LookupError):
        heard.of(options[2])


def test_a_skipped_layer_is_read_by_none() -> None:
    model, heard = model_of("cca"), Heard()
    wanted = run(model, POSITIVE, **{HEARING: heard, "skip_layers": (1,)})[1]
    made = run(model, POSITIVE, **{HEARD: heard, "skip_layers": (1,)})[1]
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-5)
