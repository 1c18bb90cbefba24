"""CCLReferences: who speaks, as a picture and a voice that a model reads in front of its streams."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_edit_model import ReferenceLatent
from torch import Tensor

import nodes as host_nodes
from ccl_pack.ccl_core.config import AsymmetricOptions, InteractionConfig
from ccl_pack.ccl_core.host.base_model import CCLModel
from ccl_pack.ccl_core.host.media.references import encode_voice
from ccl_pack.nodes.conditioning import CCLDualPrompt
from ccl_pack.nodes.encoding import CCLEncodeAV
from ccl_pack.nodes.references import CCLReferences
from support import tiny
from support.tiny_vaes import SAMPLE_RATE, audio_vae, frames, image_vae, release, sound, video_vae

POSITIVE, NEGATIVE = tiny.conditioning(1), tiny.conditioning(7)
# tiny.av_latent has 3 latent frames of 4 x 6 cells of 8 pixels.
HEIGHT, WIDTH = 32, 48


@pytest.fixture(scope="module", autouse=True)
def vaes_of_this_file() -> Iterator[None]:
    yield
    release()


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def talking() -> Any:
    streams = {name: replace(getattr(tiny.CONFIG, name), references=True) for name in ("video", "audio")}
    coupling = InteractionConfig("asymmetric", (0, 1), AsymmetricOptions())
    return tiny.patcher(interaction=coupling, **streams)


def referred(latent: dict[str, Any] | None = None, **given: Any) -> tuple[list, list]:
    vaes = {"video_vae": video_vae(), "audio_vae": audio_vae()}
    latent = tiny.av_latent() if latent is None else latent
    return CCLReferences.execute(POSITIVE, NEGATIVE, latent, **vaes | given).args


def entries(latent: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    """What both texts carry; their texts are those that came in."""
    both = referred(latent, **given)
    for made, before in zip(both, (POSITIVE, NEGATIVE), strict=True):
        ((text, carried),) = made
        assert text is before[0][0]
    assert both[0][0][1] == both[1][0][1] and not POSITIVE[0][1]
    return carried


def kept(picture: Tensor, length_fit: str = "pad") -> dict[str, Any]:
    return CCLEncodeAV.execute(tiny.av_latent(), "crop", length_fit, video_vae(), images=picture)[0]


def test_a_picture_is_cut_to_the_latent_and_encoded_as_one_frame() -> None:
    # Twice as high as wide: the middle rows of it are seen.
    picture = torch.zeros(1, 3 * HEIGHT, WIDTH, 3)
    picture[:, HEIGHT : 2 * HEIGHT] = frames(1, HEIGHT, WIDTH)
    (latent,) = entries(image=picture)["reference_latents"]
    assert torch.equal(latent, video_vae().encode(frames(1, HEIGHT, WIDTH)))
    assert latent.shape == (1, 16, 1, 4, 6)


def test_a_voice_is_its_first_second_at_the_rate_of_the_vae() -> None:
    voice = entries(voice=sound(3 * SAMPLE_RATE // 2))["reference_audio"]
    first = sound(3 * SAMPLE_RATE // 2)["waveform"][..., :SAMPLE_RATE]
    assert torch.equal(voice, encode_voice(audio_vae(), first)) and voice.shape == (1, 8, 32)
    stereo = entries(voice=sound(2 * 44100, 44100, channels=2))["reference_audio"]
    assert stereo.shape == (1, 8, 32)


def test_each_clip_may_have_its_own() -> None:
    latent = tiny.av_latent(batch=2)
    given = entries(latent, image=frames(2, HEIGHT, WIDTH), voice=sound(SAMPLE_RATE, batch=2))
    alone = [entries(image=one)["reference_latents"][0] for one in frames(2, HEIGHT, WIDTH).split(1)]
    assert torch.equal(given["reference_latents"][0], torch.cat(alone))
    assert given["reference_audio"].shape == (2, 8, 32)


def test_without_an_image_the_first_frame_of_a_kept_video_is_the_reference() -> None:
    """As in training, where a clip without an image of its own has its first frame."""
    film = frames(9, HEIGHT, WIDTH)
    first = video_vae().encode(film[:1])
    for latent in (kept(film), kept(film[:1], "generate")):
        torch.testing.assert_close(entries(latent)["reference_latents"][0], first, rtol=1e-4, atol=1e-4)
    other = entries(kept(film), image=frames(1, HEIGHT, WIDTH, seed=5))["reference_latents"][0]
    assert (other - first).abs().max() > 0.01


def test_a_video_that_is_absent_or_generated_is_no_reference() -> None:
    absent = tiny.av_latent(masks=tiny.given("video"))
    absent["samples"].tensors[0].zero_()
    for latent in (tiny.av_latent(), absent, tiny.av_latent(masks=tiny.given("audio"))):
        assert entries(latent, voice=sound(SAMPLE_RATE)).keys() == {"reference_audio"}
        with pytest.raises(ValueError, match="neither image nor voice is connected, and the latent keeps no"):
            referred(latent)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": frames(3)}, "image holds 3 pictures, wanted 1, or one for each of 1 clips"),
        ({"image": frames(1), "video_vae": None}, "video_vae is not connected, but image needs it"),
        ({"voice": sound(SAMPLE_RATE // 2)}, "voice is 0.50 s long, wanted 1 s of a reference voice"),
        ({"voice": sound(SAMPLE_RATE, batch=2)}, "voice is a batch of 2, the latent one of 1"),
        ({"voice": sound(SAMPLE_RATE), "audio_vae": None}, "audio_vae is not connected, but voice needs it"),
        ({"voice": None}, "voice is connected to a node that gives no sound"),
        ({"image": torch.full((1, 8, 8, 3), float("nan"))}, "image holds NaN or infinite values"),
    ],
)
def test_what_cannot_be_a_reference_says_so(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        referred(**given)


def test_a_vae_of_another_kind_says_so() -> None:
    with pytest.raises(ValueError, match="the video_vae input holds an image VAE"):
        referred(image=frames(1), video_vae=image_vae())


def sampled(model: Any, positive: list, negative: list = NEGATIVE, **latent: Any) -> list[Tensor]:
    run = host_nodes.common_ksampler(
        model, 1, 2, 3.0, "euler", "simple", positive, negative, tiny.av_latent(**latent)
    )
    return run[0]["samples"].unbind()


def test_the_host_s_node_for_reference_latents_does_the_same_with_a_picture() -> None:
    picture = frames(1, HEIGHT, WIDTH)
    latent = {"samples": host_nodes.VAEEncode().encode(video_vae(), picture)[0]["samples"]}
    theirs = [ReferenceLatent.execute(text, latent)[0] for text in (POSITIVE, NEGATIVE)]
    model = talking()
    made, wanted = sampled(model, *referred(image=picture)), sampled(model, *theirs)
    assert all(torch.equal(x, y) for x, y in zip(made, wanted, strict=True))
    assert (sampled(model, POSITIVE)[0] - made[0]).abs().max() > 1e-4


def test_a_picture_that_no_stream_reads_is_told(caplog: pytest.LogCaptureFixture) -> None:
    sampled(tiny.patcher(), *referred(image=frames(1)))
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    said = [record.getMessage().split(" (reference_latents), which")[0] for record in caplog.records]
    assert said == ["positive has a reference image", "negative has a reference image"]
    caplog.clear()
    sampled(talking(), *referred(image=frames(1)))
    sampled(tiny.patcher(), POSITIVE)
    assert not caplog.records


def test_context_windows_leave_them_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the video has as many latent frames as the voice tokens, or the picture rows of cells."""
    seen = []
    apply = CCLModel._apply_model

    def look(*args: Any, **conds: Any) -> Tensor:
        seen.append((conds["reference_latent"].shape[1:], conds["audio_reference"].shape[1:]))
        return apply(*args, **conds)

    monkeypatch.setattr(CCLModel, "_apply_model", look)
    windowed = ContextWindowsManualNode.execute(
        talking(), 2, 1, "standard_static", 1, False, "pyramid", 2, False
    )[0]
    positive, negative = referred(image=frames(1), voice=sound(SAMPLE_RATE))
    for text in (positive, negative):
        text[0][1]["reference_audio"] = text[0][1]["reference_audio"][..., :4]
    sampled(windowed, positive, negative, frames=4, tokens=26)
    assert set(seen) == {((16, 4, 6), (8, 4))}


def test_a_text_for_the_sound_alone_says_that_its_references_are_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    carrying, _ = referred(image=frames(1), voice=sound(SAMPLE_RATE))
    CCLDualPrompt.execute(POSITIVE, carrying)
    (record,) = caplog.records
    assert "carries reference_latents, reference_audio, of which nothing is used" in record.getMessage()
