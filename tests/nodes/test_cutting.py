"""CCLTrimAV and CCLJoinAV: both streams cut at one place, and clips that join without a seam."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import Any

import pytest
import torch
from comfy.nested_tensor import NestedTensor
from torch import Tensor

from ccl_pack.ccl_core.alignment.agreement import disagreement
from ccl_pack.ccl_core.host.files.build import load_checkpoint
from ccl_pack.ccl_core.host.media.latents import AVLatent, split
from ccl_pack.ccl_core.host.media.masks import Clip, token_rate_of
from ccl_pack.ccl_core.training.world.evaluate import draw_clips
from ccl_pack.nodes.cutting import CCLJoinAV, CCLTrimAV
from ccl_pack.nodes.tasks import CCLSetTask
from support.by_hand import TINY

# 17 frames at 16 fps, 32 tokens a second.
LATENT_FRAMES, TOKENS = 5, 34
OVI, MOVA = Fraction(125, 4), Fraction(50)  # tokens a second


@pytest.fixture(autouse=True)
def as_the_host_runs_nodes() -> Iterator[None]:
    with torch.inference_mode():
        yield


def clip(
    seed: int = 3, latent_frames: int = LATENT_FRAMES, tokens: int = TOKENS, **rest: Any
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(1, 16, latent_frames, 4, 4, generator=generator)
    return {
        "samples": NestedTensor([video, torch.randn(1, 8, tokens, generator=generator)]),
        "fps": 16.0,
    } | rest


def trimmed(latent: dict[str, Any], start: float = 0.0, end: float = 0.0, **given: Any) -> AVLatent:
    return split(CCLTrimAV.execute(latent, start, end, **given)[0])


def joined(first: dict[str, Any], second: dict[str, Any], overlap: float) -> AVLatent:
    return split(CCLJoinAV.execute(first, second, overlap)[0])


def filled(value: float) -> dict[str, Any]:
    return {"samples": NestedTensor([torch.full_like(x, value) for x in streams(clip())]), "fps": 16.0}


def streams(latent: dict[str, Any]) -> list[Tensor]:
    return latent["samples"].unbind()


# ---- trim


@pytest.mark.parametrize(
    ("start", "end", "frames", "tokens"),
    [
        (0.0, 0.0, slice(0, 5), slice(0, 34)),
        (0.0, 9.0, slice(0, 5), slice(0, 34)),
        # Latent frames begin at 0, 1, 5, 9, 13 and end at 17 frames: .5625 s are 9 frames, 18 tokens.
        (0.0, 0.5625, slice(0, 3), slice(0, 18)),
        # A cut leaves the last of four pictures: latent frame 2 begins the part at frame 8, token 16.
        (0.5, 0.0, slice(2, 5), slice(16, 34)),
        (0.25, 0.8125, slice(1, 4), slice(8, 26)),
    ],
)
def test_a_part_has_the_frames_and_the_sound_of_its_time(
    start: float, end: float, frames: slice, tokens: slice, caplog: pytest.LogCaptureFixture
) -> None:
    video, audio = streams(clip())
    made = trimmed(clip(), start, end)
    assert torch.equal(made.video, video[:, :, frames]) and torch.equal(made.audio, audio[..., tokens])
    assert made.fps == 16.0 and "became" not in caplog.text


def test_a_part_takes_its_masks_along_and_no_task() -> None:
    latent = CCLSetTask.execute(clip(), {"task": "i2av", "first_frames": 9, "last_frames": 0})[0]
    made = trimmed(latent, 0.25)
    assert made.video_mask[0, 0, :, 0, 0].tolist() == [0, 0, 1, 1] and made.audio_mask.shape == (1, 1, 26)
    assert "task" not in made.rest


def test_what_was_rounded_is_told(caplog: pytest.LogCaptureFixture) -> None:
    trimmed(clip(), 0.3)
    assert "0.300 to 1.062 s became 0.250 to 1.062 s, the nearest whole latent frames" in caplog.text
    assert "connect video_vae to have it made anew" in caplog.text


@pytest.mark.parametrize(("start", "end"), [(1.2, 0.0), (0.65, 0.66)])
def test_a_part_without_a_latent_frame_is_refused(start: float, end: float) -> None:
    with pytest.raises(ValueError, match="holds no whole latent frame of a latent of"):
        trimmed(clip(), start, end)


@cache
def vae() -> Any:
    return load_checkpoint(str(TINY))[2]


def test_with_a_vae_the_first_picture_is_that_of_the_whole_clip() -> None:
    (drawn,) = draw_clips(0, 1, 33, 16.0)
    video = vae().encode(torch.from_numpy(drawn.frames).float() / 255)
    whole = vae().decode(video)[0]
    latent = {"samples": video, "fps": 16.0}
    errors = []
    for given in ({}, {"video_vae": vae()}):
        made = trimmed(latent, 1.0, **given)
        assert torch.equal(made.video[:, :, 1:], video[:, :, 5:])
        errors.append(float((vae().decode(made.video)[0][0] - whole[16]).abs().mean()))
    vae.cache_clear()
    assert errors[1] < 0.005 < errors[0]


# ---- join


@pytest.mark.parametrize("kept", [0.3, 0.5, 1.0, 9.0])
def test_a_clip_and_its_continuation_join_to_the_bit(kept: float) -> None:
    latent = clip()
    task = {"task": "continuation", "kept_seconds": kept, "new_seconds": 0.5}
    window = CCLSetTask.execute(latent, task)[0]
    av = split(window)
    made = [
        torch.where(mask == 0, x, 1.0) for x, mask in ((av.video, av.video_mask), (av.audio, av.audio_mask))
    ]
    sampled = {**window, "samples": NestedTensor(made)}
    whole = joined(latent, sampled, kept)
    video, audio = streams(latent)
    assert torch.equal(whole.video[:, :, :LATENT_FRAMES], video) and torch.equal(
        whole.audio[..., :TOKENS], audio
    )
    # .5 s are 8 frames, two latent frames, 16 tokens.
    assert whole.video.shape[2] == LATENT_FRAMES + 2 and whole.audio.shape[2] == TOKENS + 16
    assert (whole.video[:, :, LATENT_FRAMES:] == 1).all() and (whole.audio[..., TOKENS:] == 1).all()


@pytest.mark.parametrize(
    ("latent_frames", "tokens", "rate"),
    [
        (31, 157, Fraction(125, 4)),
        (61, 314, Fraction(125, 4)),
        (49, 403, Fraction(50)),
        (52, 428, Fraction(50)),
    ],
    ids=["Ovi 5 s", "Ovi 10 s", "MOVA", "Prism"],
)
@pytest.mark.parametrize("kept", [0.5, 1.0, 2.0])
def test_a_continuation_of_published_sizes_has_streams_that_agree(
    latent_frames: int, tokens: int, rate: Fraction, kept: float
) -> None:
    video = torch.randn(1, 16, latent_frames, 1, 1)
    latent = {"samples": NestedTensor([video, torch.randn(1, 8, tokens)]), "fps": 24.0}
    task = {"task": "continuation", "kept_seconds": kept, "new_seconds": 4.0}
    window = CCLSetTask.execute(latent, task)[0]
    whole = joined(latent, window, kept)
    for av in (split(window), whole):
        assert disagreement(av.video.shape[2], av.audio.shape[2], Fraction(24), rate) is None
    assert torch.equal(whole.audio[..., :tokens], streams(latent)[1])
    longer = (whole.video.shape[2] - latent_frames) * 4 / 24
    assert (whole.audio.shape[2] - tokens) / float(rate) == pytest.approx(longer, abs=0.04)


def test_streams_do_not_drift_apart_over_many_continuations() -> None:
    video = torch.randn(1, 16, 31, 1, 1)
    latent = {"samples": NestedTensor([video, torch.randn(1, 8, 157)]), "fps": 24.0}
    for _ in range(20):
        task = {"task": "continuation", "kept_seconds": 0.7, "new_seconds": 1.3}
        window = CCLSetTask.execute(latent, task)[0]
        noise = [torch.randn_like(stream) for stream in streams(window)]
        latent = CCLJoinAV.execute(latent, {**window, "samples": NestedTensor(noise)}, 0.7)[0]
        del latent["noise_mask"]
    av = split(latent)
    assert av.video.shape[2] > 150
    assert disagreement(av.video.shape[2], av.audio.shape[2], Fraction(24), OVI) is None


def test_the_rate_of_the_tokens_is_stated_or_that_of_a_family() -> None:
    assert token_rate_of(31, 157, Fraction(24)) == OVI and token_rate_of(49, 403, Fraction(24)) == MOVA
    # 66 tokens in 49/24 s: of a model of 32 a second, sized at another rate of frames than its own.
    assert token_rate_of(13, 66, Fraction(24), 32.0) == 32
    # What a latent states and does not have, as a node may have cut it since.
    assert token_rate_of(9, 40, Fraction(16), 32.0) == Fraction(40 * 16, 33)


def test_a_longer_clip_has_the_tokens_that_its_model_makes() -> None:
    assert Clip(31, 157, Fraction(24), OVI).tokens_of(61) == 314  # as trained
    assert Clip(9, 66, Fraction(16), Fraction(32)).tokens_of(12) == 90
    # Eight for each latent frame, the short first one too, where the clock is the paper's.
    assert Clip(9, 72, Fraction(16), Fraction(32)).tokens_of(12) == 96


def test_an_overlap_is_faded_from_the_first_to_the_second() -> None:
    ones, twos = filled(1), filled(2)
    made = joined(ones, twos, 0.5625)
    # The cut nearest to frame 8 is latent frame 2, at token 16; it stays, latent frames 3 and 4 are faded.
    assert made.video.shape[2] == 7 and made.audio.shape[2] == 50
    torch.testing.assert_close(made.video[0, 0, :, 0, 0], torch.tensor([1, 1, 1, 4 / 3, 5 / 3, 2, 2]))
    fade = torch.arange(1, 19) / 19 + 1
    torch.testing.assert_close(made.audio[0, 0], torch.cat([torch.ones(16), fade, torch.full((16,), 2.0)]))


def test_without_an_overlap_the_second_begins_with_the_last_picture_of_the_first() -> None:
    first, second = clip(1), clip(2)
    made = joined(first, second, 0.0)
    assert torch.equal(made.video, torch.cat([streams(first)[0], streams(second)[0][:, :, 1:]], dim=2))
    # Frame 16 of 17 is at token 32.
    assert torch.equal(made.audio[..., :32], streams(first)[1][..., :32]) and made.audio.shape[2] == 66
    assert torch.equal(made.audio[..., 34:], streams(second)[1][..., 2:])


def test_masks_are_joined_too() -> None:
    kept = CCLSetTask.execute(clip(), {"task": "custom", "audio": "keep"})[0]
    made = joined(kept, clip(2), 0.0)
    assert made.audio_mask[0, 0].tolist() == [0] * 34 + [1] * 32 and made.video_mask.all()
    assert joined(clip(1), clip(2), 0.0).video_mask is None


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"samples": torch.zeros(1, 16, 3, 4, 4)}, "the second latent has no audio part"),
        (clip(fps=24.0), "have 16 and 24 frames a second"),
        (
            {"samples": NestedTensor([torch.zeros(1, 16, 3, 4, 6), torch.zeros(1, 8, 9)])},
            "the video latents have",
        ),
        (
            {"samples": NestedTensor([torch.zeros(1, 16, 3, 4, 4), torch.zeros(1, 9, 9)])},
            "the audio latents have",
        ),
        (clip(latent_frames=1, tokens=2), "the overlap of 0.5 s is longer than the second clip, of 0.062 s"),
    ],
)
def test_clips_that_do_not_fit_are_refused(second: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        joined(clip(), second, 0.5)


@pytest.mark.parametrize("overlap", [-1.0, float("nan")])
def test_an_overlap_that_is_none_is_refused(overlap: float) -> None:
    with pytest.raises(ValueError, match="overlap is"):
        joined(clip(), clip(), overlap)
