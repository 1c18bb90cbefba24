"""The pitch of a voice over time, by autocorrelation: pure numbers, no weights."""

from __future__ import annotations

import torch
from torch import Tensor

# Seconds: five periods of the lowest voice, and the step.
WINDOW = 0.064
HOP = 0.016
LOWEST = 70.0
HIGHEST = 450.0
# The first peak of so much of the highest is the period; later ones are multiples of it.
FIRST = 0.85
# Least correlation at the period, and least level beside the loudest window (25 dB), of a voice.
VOICED = 0.6
LOUD = 0.056


def pitch(waveform: Tensor, sample_rate: int) -> Tensor:
    """Hertz every 16 ms of a waveform (n,), 0 where no voice is: (windows,)."""
    size = round(WINDOW * sample_rate)
    windows = waveform.unfold(-1, size, round(HOP * sample_rate))
    windows = windows - windows.mean(-1, keepdim=True)
    level = windows.square().mean(-1).sqrt()
    longest = round(sample_rate / LOWEST)
    correlation = autocorrelation(windows, longest + 2)  # (windows, lags)
    middle = correlation[:, 1:-1]
    peak = (middle >= correlation[:, :-2]) & (middle >= correlation[:, 2:])
    lags = torch.arange(1, correlation.shape[1] - 1)
    middle = middle.masked_fill(~peak | (lags < sample_rate / HIGHEST), 0)
    best = middle.amax(-1, keepdim=True)
    first = (middle >= FIRST * best).float().argmax(-1)
    voiced = (best[:, 0] > VOICED) & (level > LOUD * level.amax())
    return voiced * sample_rate / (first + 1)


def autocorrelation(windows: Tensor, lags: int) -> Tensor:
    """Of each window with itself, 1 at lag 0; the shorter overlap at longer lags is made up for."""
    size = windows.shape[-1]
    power = torch.fft.rfft(windows, 2 * size).abs().square()
    products = torch.fft.irfft(power)[:, :lags]
    energy = windows.square().cumsum(-1)
    # Energy of the first and of the last size - k samples.
    head = energy.flip(-1)[:, :lags]
    tail = windows.square().flip(-1).cumsum(-1).flip(-1)[:, :lags]
    return products / (head * tail).sqrt().clamp(min=1e-12)


def same_pitch(made: Tensor, real: Tensor, sample_rate: int, near: float = 0.08) -> float:
    """The share of the voiced windows of `real` in which `made` has the same pitch, within 8 %."""
    wanted = pitch(real, sample_rate)
    voiced = wanted > 0
    heard = pitch(made, sample_rate)[voiced]
    return float(((heard / wanted[voiced] - 1).abs() < near).float().mean()) if voiced.any() else 1.0
