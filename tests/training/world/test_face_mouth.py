"""The mouth is read from pictures alone, also from blurred ones."""

from __future__ import annotations

from functools import cache
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from ccl_pack.ccl_core.training.world import face
from ccl_pack.ccl_core.training.world.face_mouth import drawn_shapes, mouth_costs, opening_of, vowel_shown


@cache
def drawn(size: int = 64) -> tuple[face.FaceClip, ...]:
    return tuple(islice(face.clips(11, size=size), 16))


def pictures(clip: face.FaceClip) -> Tensor:
    return torch.from_numpy(clip.frames).float() / 255


def blurred(frames: Tensor) -> Tensor:
    """As a decoder leaves them: each pixel the mean of nine, and noise of 10 of 255 values."""
    smooth = avg_pool2d(pad(frames.movedim(-1, 1), [1] * 4, mode="replicate"), 3, 1).movedim(1, -1)
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    return (smooth + 0.04 * noise).clamp(0, 1)


def test_the_opening_follows_the_true_one() -> None:
    for clip in drawn():
        opening = opening_of(mouth_costs(pictures(clip), clip.place)).numpy()
        assert np.corrcoef(opening, clip.mouth)[0, 1] > 0.99
        assert np.abs(opening - clip.mouth).mean() < 0.04


def large() -> tuple[face.FaceClip, ...]:
    """Clips whose mouths are wide beside the blur of three pixels."""
    return tuple(clip for clip in islice(face.clips(12), 40) if clip.place.size > 0.85)


def test_the_opening_is_found_in_blurred_and_noisy_frames() -> None:
    for clips, mean, least in ((drawn(), 0.94, 0.75), (large(), 0.95, 0.85)):
        read = [opening_of(mouth_costs(blurred(pictures(clip)), clip.place)).numpy() for clip in clips]
        alike = [np.corrcoef(o, clip.mouth)[0, 1] for o, clip in zip(read, clips, strict=True)]
        assert np.mean(alike) > mean and min(alike) > least


def visemes_right(mouths: list[Tensor], clips: tuple[face.FaceClip, ...]) -> float:
    """The share of syllables in whose middle these mouths show the vowel of these clips."""
    right = []
    for costs, clip in zip(mouths, clips, strict=True):
        for said in clip.syllables:
            right.append(vowel_shown(costs, 16, (said.opening + said.end) / 2) == said.vowel)
    return float(np.mean(right))


def test_the_mouth_shows_the_vowel_and_that_of_another_clip_does_not() -> None:
    clips = drawn()
    mouths = [mouth_costs(pictures(clip), clip.place) for clip in clips]
    assert visemes_right(mouths, clips) > 0.98
    assert visemes_right(mouths, clips[1:] + clips[:1]) < 0.35

    clips = large()
    mouths = [mouth_costs(blurred(pictures(clip)), clip.place) for clip in clips]
    assert len(clips) > 8 and visemes_right(mouths, clips) > 0.85


def test_pictures_of_another_size_are_read_alike() -> None:
    clip = drawn(96)[0]
    large = opening_of(mouth_costs(pictures(clip), clip.place))
    small = interpolate(pictures(clip).movedim(-1, 1), (64, 64), mode="area").movedim(1, -1)
    assert torch.equal(large, opening_of(mouth_costs(small, clip.place)))
    assert np.corrcoef(large.numpy(), clip.mouth)[0, 1] > 0.98


def test_a_picture_without_a_mouth_shows_no_vowel() -> None:
    costs = mouth_costs(torch.full((5, 64, 64, 3), 0.5))
    assert vowel_shown(costs, 16, 0.1) == ""


@pytest.mark.parametrize("time", [0.0, 0.99, 5.0])
def test_the_last_frame_stays_when_the_clip_ends(time: float) -> None:
    costs = torch.ones(16, len(drawn_shapes().vowels))
    costs[:, drawn_shapes().vowels.index("o") + 4] = 0
    assert vowel_shown(costs, 16, time) == "o"
