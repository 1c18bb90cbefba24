"""A listener that knows the sounds of the world: which of them begin when, also two at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

from ...metrics.onsets import to_mono
from .sounds import SAMPLE_RATE, SOUNDS, strike

# Seconds: long enough to tell a beep from its neighbours among the horn's harmonics, short enough to time it.
WINDOW = 0.032
HOP = 0.004
BANDS = 40
# Hz, from below the drum to just below half of 16 kHz.
RANGE = (40, 7600)
# Share of the loudest note, both as multiples of a note of the world, from which another one is a note.
SOFTEST = 0.18
# A loudest note of so little is silence.
SILENCE = 0.02
# Least cosine between a note and what is left where it is to be.
ALIKE = 0.5
# Seconds between two notes of one kind; nearer ones are parts of the first.
REST = 0.08
# The quantile over a clip of what a band always holds: a bed of noise, a drone.
STEADY = 0.2
# How much of that is taken off, as power: noise swings about its mean.
BED = 2.0
# More of them are noise.
MOST_NOTES = 60


@dataclass(frozen=True)
class Onset:
    """The beginning of one note."""

    time: float  # seconds
    sound: str
    level: float = 1.0  # 1 = a strike of the world


def listen(waveform: Tensor, sample_rate: int) -> list[Onset]:
    """Every note of the world's sounds in a waveform (n,) or (c, n), by time."""
    templates, lead = note_templates()
    heard = without_bed(spectrogram(to_mono(waveform).detach(), sample_rate))
    # A note may begin before the clip and ring beyond it.
    heard = pad(heard, (lead, templates.shape[-1]))
    # Whole samples, so that late notes of a long sound keep their times.
    step = round(HOP * sample_rate) / sample_rate
    notes = [Onset(frame * step, SOUNDS[k], level) for (k, frame), level in find_notes(heard, templates)]
    return sorted(notes, key=lambda onset: onset.time)


def find_notes(heard: Tensor, templates: Tensor) -> list[tuple[tuple[int, int], float]]:
    """((kind, frame), level) by matching pursuit: the note that explains most of what is left comes next."""
    picked: list[tuple[int, int]] = []
    levels = torch.zeros(0)
    left = heard
    while len(picked) < MOST_NOTES and (note := best_note(left, templates, picked, levels)):
        picked.append(note)
        levels, left = explain(heard, templates, picked)
    notes = zip(picked, levels.tolist(), strict=True)
    return [(note, level) for note, level in notes if level >= softest(levels)]


def best_note(
    left: Tensor, templates: Tensor, picked: Sequence[tuple[int, int]], levels: Tensor
) -> tuple[int, int] | None:
    """The note with most energy that is loud enough, like what is left, and away from those of its kind."""
    energies = templates.square().sum((1, 2))[:, None]  # (k, 1)
    match = conv1d(left[None], templates)[0]  # (k, positions)
    around = conv1d(left.square().sum(0)[None, None], torch.ones(1, 1, templates.shape[-1]))[0]
    level = match / energies
    fit = level >= softest(levels if len(levels) else level)
    fit &= match >= ALIKE * (energies * around).sqrt()
    rest = round(REST / HOP)
    for k, frame in picked:
        fit[k, max(0, frame - rest) : frame + rest + 1] = False
    gain = torch.where(fit, match * level, 0.0)
    best = int(gain.argmax())
    return divmod(best, gain.shape[1]) if gain.amax() > 0 else None


def softest(levels: Tensor) -> float:
    """The least level of a note beside these."""
    return max(SILENCE, SOFTEST * float(levels.amax())) if len(levels) else SILENCE


def explain(heard: Tensor, templates: Tensor, picked: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """The levels of the picked notes, fitted together, and what they leave of what is heard."""
    length = templates.shape[-1]
    atoms = heard.new_zeros(len(picked), *heard.shape)
    for atom, (k, frame) in zip(atoms, picked, strict=True):
        atom[:, frame : frame + length] = templates[k]
    flat = atoms.flatten(1)
    fitted = torch.linalg.lstsq(flat @ flat.T, (flat @ heard.flatten())[:, None]).solution[:, 0]
    levels = fitted.clamp_min(0)
    return levels, heard - torch.einsum("n,nbf->bf", levels, atoms)


@cache
def note_templates() -> tuple[Tensor, int]:
    """What a note of each sound looks like, (sounds, BANDS, frames), and the frames before its beginning."""
    rng = np.random.default_rng(0)
    lead = round(WINDOW / 2 / HOP)
    before = round(lead * HOP * SAMPLE_RATE)
    shapes = []
    for name in SOUNDS:
        # Strikes of noise differ: the template is the mean of some.
        notes = [pad(torch.from_numpy(strike(rng, name)), (before, before)) for _ in range(8)]
        power = torch.stack([spectrogram(note, SAMPLE_RATE).square() for note in notes]).mean(0)
        shapes.append(power.sqrt())
    return torch.stack(shapes), lead


def spectrogram(signal: Tensor, sample_rate: int) -> Tensor:
    """Root of the power in each band, (BANDS, frames), alike for every rate."""
    window = round(WINDOW * sample_rate)
    hop = round(HOP * sample_rate)
    taper = torch.hann_window(window)
    bins = torch.stft(signal, window, hop, window=taper, return_complex=True, pad_mode="constant").abs()
    power = (bins / taper.sum()) ** 2
    hertz = torch.arange(len(power)) * sample_rate / window
    edges = band_edges()
    return torch.stack(
        [power[(hertz >= low) & (hertz < high)].sum(0) for low, high in pairwise(edges)]
    ).sqrt()


def band_edges() -> Tensor:
    """Equal steps of mel."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in RANGE)
    return 700 * (10 ** (torch.linspace(low, high, BANDS + 1) / 2595) - 1)


def without_bed(heard: Tensor) -> Tensor:
    """Less what each band holds throughout."""
    steady = heard.quantile(STEADY, dim=-1, keepdim=True)
    return (heard.square() - BED * steady.square()).clamp_min(0).sqrt()
