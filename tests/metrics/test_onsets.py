"""Onsets of sounds whose times are known by construction."""

import pytest
import torch

from ccl_pack.ccl_core.metrics.onsets import detect_onsets


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("kind", ["tone", "noise", "low"])
def test_onsets_are_found_to_a_few_milliseconds(rate: int, kind: str) -> None:
    starts = [0.3, 0.75, 1.31]
    seconds = torch.arange(2 * rate) / rate
    generator = torch.Generator().manual_seed(1)
    carrier = {
        "tone": torch.cos(2 * torch.pi * 900 * seconds),
        "noise": torch.randn(2 * rate, generator=generator),
        "low": torch.cos(2 * torch.pi * 90 * seconds),
    }[kind]
    level = sum((seconds >= s) * torch.exp(-(seconds - s).clamp_min(0) / 0.06) for s in starts)
    background = 1e-3 * torch.randn(2 * rate, generator=generator)
    assert detect_onsets(0.4 * level * carrier + background, rate) == pytest.approx(starts, abs=0.008)


def test_onsets_of_stereo_and_of_silence() -> None:
    click = torch.zeros(2, 16000)
    click[:, 8000:8200] = 0.5
    assert detect_onsets(click, 16000) == pytest.approx([0.5], abs=0.005)
    assert detect_onsets(torch.zeros(16000), 16000) == []
    assert detect_onsets(torch.zeros(0), 16000) == []
    with pytest.raises(ValueError, match="sample_rate must be positive, got 0"):
        detect_onsets(click, 0)
