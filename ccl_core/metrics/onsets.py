"""Onsets of any sound by spectral flux: pure numbers, no weights."""

from __future__ import annotations

import statistics

import torch
from torch import Tensor

# Samples at 16 kHz, 16 ms and 4 ms; other rates scale both.
WINDOW = 256
HOP = 64
# Seconds within which a second onset belongs to the first: one note may have several peaks.
REFRACTORY = 0.12


def detect_onsets(waveform: Tensor, sample_rate: int) -> list[float]:
    """Seconds at which sounds begin: peaks of spectral flux, placed where energy rises.

    waveform: (n,) or (c, n)
    """
    if sample_rate <= 0:
        raise ValueError(f"sample_rate must be positive, got {sample_rate}")
    signal = to_mono(waveform)
    window = max(1, round(WINDOW * sample_rate / 16000))
    hop = max(1, round(HOP * sample_rate / 16000))
    # A peak of .001 is 60 dB below full scale: silence.
    if len(signal) < window or signal.abs().amax() < 1e-3:
        return []
    flux = spectral_flux(signal, window, hop)
    reach = round(REFRACTORY * sample_rate / hop)
    picked = pick_peaks(flux, reach)
    starts = [rise(signal, peak * hop, window, sample_rate) / sample_rate for peak in picked]
    # `rise` moves each start by up to two windows, so two may have come a little closer than the peaks were.
    return drop_close(sorted(starts), REFRACTORY * 0.8)


def to_mono(waveform: Tensor) -> Tensor:
    """The mean of all channels, (n,), from (n,), (c, n) or (b, c, n)."""
    signal = torch.as_tensor(waveform).float().cpu()
    return signal.flatten(0, -2).mean(0) if signal.ndim > 1 else signal


def spectral_flux(signal: Tensor, window: int, hop: int) -> Tensor:
    """Sum over frequencies of the growth of the compressed magnitude, relative to the clip's loudest bin."""
    taper = torch.hann_window(window)
    spectrum = torch.stft(signal, window, hop, window=taper, return_complex=True, pad_mode="constant").abs()
    # The logarithm lets a soft sound count beside a loud one.
    compressed = torch.log1p(100 * spectrum / spectrum.amax())  # (bins, frames)
    # Over two hops, so that the growth belongs to the frame between; the ends have no such frame.
    growth = compressed[:, 2:] - compressed[:, :-2]
    flux = growth.clamp_min(0).sum(0)
    return torch.cat([flux.new_zeros(1), flux, flux.new_zeros(1)])  # (frames,)


def pick_peaks(flux: Tensor, reach: int) -> list[int]:
    """Local maxima that stand out from the clip's largest and from their own surroundings."""
    values = flux.tolist()
    threshold = 0.3 * max(values)
    picked = []
    for i, value in enumerate(values):
        around = values[max(0, i - reach) : i + reach + 1]
        if value >= threshold and value == max(around) and value > 2.5 * statistics.fmean(around):
            picked.append(i)
    return picked


def rise(signal: Tensor, sample: int, window: int, sample_rate: int) -> float:
    """The sample at which the level near a flux peak first reaches a third of what it rises by."""
    begin = max(0, sample - 2 * window)
    end = min(len(signal), sample + 2 * window)
    # Half a millisecond on either side, far below the 62.5 ms of a match.
    smooth = max(1, sample_rate // 2000)
    level = torch.nn.functional.max_pool1d(signal[begin:end].abs()[None], 2 * smooth + 1, 1, smooth)[0]
    # The first samples lie before the onset: what rings there is no part of the rise.
    floor = level[: max(1, window // 2)].mean()
    high = (level >= floor + (level.amax() - floor) / 3).nonzero()
    # The smoothing looks ahead by its own half width.
    return float(begin + high[0, 0] + smooth) if len(high) else float(sample)


def drop_close(times: list[float], distance: float) -> list[float]:
    """Sorted times without those that follow another one too closely."""
    kept: list[float] = []
    for time in times:
        if not kept or time - kept[-1] >= distance:
            kept.append(time)
    return kept
