"""Two speakers: the mask of who speaks in each frame, and both voices in one sound."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch

from ccl_pack.ccl_core.host.media.speakers import mixed, shares_of, speaker_mask

FPS, RATE = Fraction(10), 1000  # 100 samples a frame


def voice(*levels: float, rate: int = RATE, channels: int = 1) -> dict[str, Any]:
    """A sound with this level in each frame, up and down in turn."""
    samples = round(rate / FPS)
    loud = torch.tensor(levels).repeat_interleave(samples)
    signs = 1 - 2 * (torch.arange(len(loud)) % 2)
    return {"waveform": (loud * signs).expand(1, channels, -1), "sample_rate": rate}


def halves() -> tuple[torch.Tensor, torch.Tensor]:
    """A face at the left, and one at the right."""
    left, right = torch.zeros(1, 4, 8), torch.zeros(1, 4, 8)
    left[..., :4] = 1
    right[..., 4:] = 1
    return left, right


def test_a_share_is_that_of_the_energy_in_the_time_of_a_frame() -> None:
    shares = shares_of((voice(0.4, 0.4, 0.0, 0.0), voice(0.0, 0.2, 0.2, 0.0)), FPS, 4)
    torch.testing.assert_close(shares[0], torch.tensor([1.0, 0.8, 0.0, 1.0]))
    torch.testing.assert_close(shares[1], torch.tensor([0.0, 0.2, 1.0, 1.0]))


def test_what_is_40_db_below_the_loudest_frame_is_quiet() -> None:
    shares = shares_of((voice(0.5, 0.004), voice(0.5, 0.006)), FPS, 2)
    assert shares[:, 1].tolist() == [0, 1]


def test_a_voice_that_ends_is_quiet_from_there_on() -> None:
    shares = shares_of((voice(0.5), voice(0.5, 0.5, 0.5)), FPS, 4)
    assert shares.tolist() == [[0.5, 0, 0, 1], [0.5, 1, 1, 1]]


def test_each_mask_counts_where_its_voice_sounds() -> None:
    left, right = halves()
    mask = speaker_mask((left, right), (voice(0.5, 0.0, 0.0), voice(0.0, 0.5, 0.0)), FPS, 3)
    assert torch.equal(mask, torch.cat([left, right, left + right]))


def test_a_mask_in_which_nothing_is_painted_is_told(caplog: pytest.LogCaptureFixture) -> None:
    left, _ = halves()
    speaker_mask((left, torch.zeros(1, 64, 64)), (voice(0.5), voice(0.5)), FPS, 1)
    assert "mask_2 is black all over" in caplog.text and "mask_1" not in caplog.text


def test_masks_of_each_frame_and_of_another_size_are_taken(caplog: pytest.LogCaptureFixture) -> None:
    moving = torch.zeros(3, 4, 8)
    moving[0, 0], moving[1, 1], moving[2, 2] = 1, 1, 1
    mask = speaker_mask((moving, torch.zeros(5, 8, 16)), (voice(0.5, 0.5, 0.5), voice(0.0)), FPS, 3)
    assert torch.equal(mask, moving)
    assert "mask_2 has 5 frames, the clip 3: those behind its end are left out" in caplog.text
    assert "mask_1" not in caplog.text


def test_overlapping_masks_end_at_1() -> None:
    white = torch.ones(1, 4, 8)
    assert speaker_mask((white, white), (voice(0.0), voice(0.0)), FPS, 1).max() == 1


def test_both_voices_are_one_sound_as_long_as_the_longer_one() -> None:
    made = mixed((voice(0.25, 0.0), voice(0.0, 0.5, 0.125)))
    assert made["sample_rate"] == RATE and torch.equal(made["waveform"], voice(0.25, 0.5, 0.125)["waveform"])


def test_rates_and_channels_are_those_of_the_first_and_of_the_most() -> None:
    made = mixed((voice(0.25, 0.25), voice(0.25, 0.25, rate=2 * RATE, channels=2)))
    assert made["sample_rate"] == RATE and made["waveform"].shape == (1, 2, 200)


def test_a_sum_that_clips_is_lowered_and_told(caplog: pytest.LogCaptureFixture) -> None:
    made = mixed((voice(0.8), voice(0.45)))
    assert made["waveform"].abs().max() == 1
    assert "lowered to 0.80 of their level" in caplog.text


@pytest.mark.parametrize(
    ("masks", "voices", "message"),
    [
        ((torch.ones(2, 4, 4), torch.ones(1, 4, 4)), (voice(0.5), voice(0.5)), "mask_1 has shape"),
        ((torch.ones(1, 4, 4), torch.ones(4, 4)), (voice(0.5), voice(0.5)), "mask_2 has shape"),
        (
            (torch.ones(1, 4, 4), torch.ones(1, 4, 4)),
            (voice(0.5), {"waveform": torch.zeros(2, 1, 9), "sample_rate": RATE}),
            "a voice has shape \\(2, 1, 9\\), wanted \\(1, channels, samples\\)",
        ),
    ],
)
def test_what_is_no_mask_or_no_voice_is_refused(masks: Any, voices: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        speaker_mask(masks, voices, FPS, 3)
