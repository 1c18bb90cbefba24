"""The pitch of a voice, by autocorrelation: known tones, octaves that are not taken, silence."""

import pytest
import torch

from ccl_pack.ccl_core.training.tiny.pitch import pitch, same_pitch

SECONDS = torch.arange(16000) / 16000


def voice(hertz: float, level: float = 0.3) -> torch.Tensor:
    """All harmonics below 4 kHz, the fundamental weak, as a small loudspeaker has it."""
    parts = [torch.cos(2 * torch.pi * hertz * k * SECONDS + k) for k in range(1, int(4000 / hertz))]
    return level * (0.2 * parts[0] + sum(parts[1:])) / len(parts)


@pytest.mark.parametrize("hertz", [85, 120, 200, 320, 420])
def test_the_pitch_of_a_voice_is_that_of_its_fundamental(hertz: float) -> None:
    found = pitch(voice(hertz), 16000)
    assert found.shape == (59,)
    assert ((found / hertz - 1).abs() < 0.02).all()


def test_silence_and_noise_have_no_pitch() -> None:
    torch.manual_seed(0)
    assert (pitch(torch.zeros(16000), 16000) == 0).all()
    assert (pitch(torch.randn(16000), 16000) == 0).float().mean() > 0.95


def test_a_pause_is_not_voiced() -> None:
    speech = voice(150)
    speech[8000:] *= 0.01
    assert (pitch(speech, 16000)[-25:] == 0).all()


def test_a_voice_is_the_same_within_eight_percent_and_at_any_level() -> None:
    assert same_pitch(voice(155, 0.01), voice(150), 16000) == 1
    assert same_pitch(voice(170), voice(150), 16000) == 0
    assert same_pitch(torch.zeros(16000), voice(150), 16000) == 0
    assert same_pitch(voice(300), voice(150), 16000) == 0
