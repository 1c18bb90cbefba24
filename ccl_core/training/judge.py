"""Judges of generated clips for ccl-tiny (design 9): which colour and motion is seen, which sound is heard."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..metrics import JUMP, Track, detect_onsets, to_mono, track_foreground
from .world import PALETTE, SAMPLE_RATE, SOUNDS, strike

STILL = "still"
NO_COLOUR = "none"
PRESENT = 0.3  # share of the shape's usual brightness from which a frame counts as showing it
SILENT = "silent"
BANDS = 24


def judge_video(frames: Tensor, fps: float) -> tuple[str, str]:
    """Colour and motion of the shape in frames (f, h, w, 3) in 0..1; "none", "still" when nothing is seen, happens."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < 2:
        raise ValueError(f"frames must be (f, h, w, 3) with at least two frames, got {tuple(frames.shape)}")
    track = track_foreground(frames.float().cpu())
    if track.presence.amax() < PRESENT:
        return NO_COLOUR, STILL
    return nearest_colour(track.colour), motion_of(track, fps)


def nearest_colour(colour: Tensor) -> str:
    """The palette's entry with the nearest hue, whatever the brightness."""
    names = list(PALETTE)
    palette = torch.tensor([PALETTE[name] for name in names]).float()
    distance = (hue(palette) - hue(colour)).norm(dim=-1)
    return names[int(distance.argmin())]


def hue(colour: Tensor) -> Tensor:
    return colour / colour.amax(-1, keepdim=True).clamp_min(1e-6)


def motion_of(track: Track, fps: float) -> str:
    """Dark spells are blinking; else the longer axis decides, and a fall is a bounce that never rises visibly."""
    if (track.presence < PRESENT).float().mean() > 0.08:
        return "blinks"
    wide, tall = (float(p.quantile(0.95) - p.quantile(0.05)) for p in (track.x, track.y))
    if max(wide, tall) < 0.06:
        return STILL
    if wide > tall:
        return "slides"
    # In picture heights per second, so that the rate of the frames does not matter.
    velocity = track.y.diff() * fps
    rising = ((velocity < -0.3) & (velocity > -JUMP * fps)).float().mean()
    return "bounces" if rising > 0.15 else "falls"


def judge_sound(waveform: Tensor, sample_rate: int) -> str:
    """The world's sound whose spectrum is nearest to what follows the onsets; "silent" without onsets."""
    signal = to_mono(waveform)
    onsets = detect_onsets(signal, sample_rate)
    if not onsets:
        return SILENT
    heard = torch.stack([profile(signal[round(t * sample_rate) :], sample_rate) for t in onsets]).mean(0)
    templates = sound_templates()
    return max(SOUNDS, key=lambda name: float(torch.cosine_similarity(heard, templates[name], dim=0)))


@cache
def sound_templates() -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    return {
        name: torch.stack([profile(torch.from_numpy(strike(rng, name)), SAMPLE_RATE) for _ in range(8)]).mean(0)
        for name in SOUNDS
    }


def profile(signal: Tensor, sample_rate: int) -> Tensor:
    """Shares of loudness in logarithmic bands over the first 150 ms."""
    cut = signal[: round(0.15 * sample_rate)]
    cut = torch.nn.functional.pad(cut, (0, round(0.15 * sample_rate) - len(cut)))
    power = torch.fft.rfft(cut * torch.hann_window(2 * len(cut))[len(cut) :]).abs() ** 2
    hertz = torch.linspace(0, sample_rate / 2, len(power))
    edges = torch.logspace(np.log10(50), np.log10(7600), BANDS + 1)
    bands = torch.stack([power[(hertz >= low) & (hertz < high)].sum() for low, high in pairwise(edges)])
    return (bands / bands.sum().clamp_min(1e-12)).sqrt()  # (BANDS,)
