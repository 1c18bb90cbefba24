"""The judges name what the world put into a clip, and say when there is nothing."""

import numpy as np
import pytest
import torch

from ccl_pack.ccl_core.training.judge import judge_sound, judge_video
from ccl_pack.ccl_core.training.world import COLOURS, MOTIONS, PALETTE, SOUNDS, sample_clip


@pytest.mark.parametrize("motion", MOTIONS)
def test_colour_and_motion(motion):
    rng = np.random.default_rng(11)
    for colour in COLOURS:
        clip = sample_clip(rng, frames=33, colour=colour, motion=motion)
        assert judge_video(torch.from_numpy(clip.frames) / 255, 16) == (colour, motion)


@pytest.mark.parametrize("sound", SOUNDS)
def test_sound(sound):
    rng = np.random.default_rng(12)
    for _ in range(4):
        clip = sample_clip(rng, frames=33, sound=sound)
        noisy = torch.from_numpy(clip.waveform) * 0.5 + 0.003 * torch.randn(len(clip.waveform))
        assert judge_sound(noisy, 16000) == sound


def test_a_dim_shape_keeps_its_colour_and_a_resting_one_is_still():
    frames = torch.full((20, 32, 32, 3), 0.07)
    frames[:, 10:20, 10:20] = 0.7 * torch.tensor(PALETTE["purple"]) / 255
    assert judge_video(frames, 16) == ("purple", "still")


def test_silence_and_wrong_shapes():
    assert judge_sound(torch.zeros(16000), 16000) == "silent"
    with pytest.raises(ValueError, match="at least two frames"):
        judge_video(torch.zeros(1, 8, 8, 3), 16)
