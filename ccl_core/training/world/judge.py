"""Judges of generated clips of the world: what each object looks like, what it does, which sound it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product

import numpy as np
import torch
from torch import Tensor

from ...metrics.matching import WIDE, SyncSummary, match_events, summarise_sync
from ...metrics.onsets import detect_onsets, to_mono
from .clip import PALETTE, Attributes, Object
from .contacts import JUMP, Track, contacts_of, track_colours, track_foreground
from .sounds import SAMPLE_RATE, SILENT, SOUNDS, strike

STILL = "still"
NO_COLOUR = "none"
# Share of the shape's usual brightness from which a frame counts as showing it.
PRESENT = 0.3
BANDS = 24
# Share of what rang before an onset that is taken off; all of it would hide a sound that comes again.
FADED = 0.7
# Seconds after an onset that tell its sound.
LISTEN = 0.15
# Seconds before an onset that tell what still rings.
TAIL = 0.05


@dataclass(frozen=True)
class Seen:
    """One object of a clip as it looks; "none", "still" when nothing is seen, happens."""

    colour: str
    motion: str
    contacts: tuple[float, ...]  # seconds


@dataclass(frozen=True)
class Onset:
    """The beginning of one sound."""

    time: float  # seconds
    profile: Tensor  # (BANDS,)

    @property
    def sound(self) -> str:
        return nearest_sound(self.profile)


@dataclass(frozen=True)
class Judgement:
    """A clip against what was asked, object by object in the order asked."""

    seen: tuple[Seen, ...]
    sounds: tuple[str, ...]  # of each object, "silent" without onsets
    contacts: tuple[float, ...]  # of all objects, sorted
    onsets: tuple[float, ...]
    sync: SyncSummary


def judge_clip(
    frames: Tensor, fps: float, waveform: Tensor, sample_rate: int, asked: Sequence[Attributes | Object]
) -> Judgement:
    """See judge_video and judge_sounds; of several asked objects, each must name its colour."""
    seen = judge_video(frames, fps, [thing.colour for thing in asked])
    onsets = hear(waveform, sample_rate)
    owned = [thing.contacts for thing in seen]
    expected = [thing.sound for thing in asked] or [None]
    events = sorted((time, k) for k, times in enumerate(owned) for time in times)
    contacts = [time for time, _ in events]
    times = [onset.time for onset in onsets]
    agree = agreement([expected[k] for _, k in events], onsets) if len(owned) > 1 else None
    return Judgement(
        seen=tuple(seen),
        sounds=judge_sounds(onsets, owned, expected),
        contacts=tuple(contacts),
        onsets=tuple(times),
        sync=summarise_sync(contacts, times, agree),
    )


def judge_video(frames: Tensor, fps: float, colours: Sequence[str | None] = ()) -> list[Seen]:
    """What is seen in frames (f, h, w, 3) in 0..1. Several given colours tell the objects apart.

    With at most one colour given, everything in the foreground is one object.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < 2:
        raise ValueError(f"frames must be (f, h, w, 3) with at least two frames, got {tuple(frames.shape)}")
    frames = frames.float().cpu()
    if len(colours) < 2:
        return [see(track_foreground(frames), fps)]
    unknown = [name for name in colours if name not in PALETTE]
    if unknown:
        raise ValueError(
            f"colours must be of {', '.join(PALETTE)}, got {unknown[0]}: name one for each object"
        )
    palette = torch.tensor([PALETTE[name] for name in colours]) / 255
    return [see(track, fps) for track in track_colours(frames, palette)]


def see(track: Track, fps: float) -> Seen:
    if track.presence.amax() < PRESENT:
        return Seen(NO_COLOUR, STILL, ())
    return Seen(nearest_colour(track.colour), motion_of(track, fps), tuple(contacts_of(track, fps)))


def nearest_colour(colour: Tensor) -> str:
    """The palette's entry with the nearest hue, whatever the brightness."""
    names = list(PALETTE)
    palette = torch.tensor([PALETTE[name] for name in names]).float()
    distance = (hue(palette) - hue(colour)).norm(dim=-1)
    return names[int(distance.argmin())]


def hue(colour: Tensor) -> Tensor:
    return colour / colour.amax(-1, keepdim=True).clamp_min(1e-6)


def motion_of(track: Track, fps: float) -> str:
    """Dark spells are blinking; else the longer axis decides. A fall is a bounce that never rises visibly."""
    # In 8 % of the frames: a generated shape may dim for a moment.
    if (track.presence < PRESENT).float().mean() > 0.08:
        return "blinks"
    # Quantiles, since a few frames may show nothing and then have no position.
    wide = float(track.x.quantile(0.95) - track.x.quantile(0.05))
    tall = float(track.y.quantile(0.95) - track.y.quantile(0.05))
    if max(wide, tall) < 0.06:
        return STILL
    if wide > tall:
        return "slides"
    # In picture heights per second, so that the rate of the frames does not matter.
    velocity = track.y.diff() * fps
    # A fall begins again at the top: a jump in one frame, which is no rise.
    rising = ((velocity < -0.3) & (velocity > -JUMP * fps)).float().mean()
    return "bounces" if rising > 0.15 else "falls"


def hear(waveform: Tensor, sample_rate: int) -> list[Onset]:
    """Every onset of a waveform (n,) or (c, n), with what can be heard from there on."""
    signal = to_mono(waveform)
    return [Onset(time, profile(signal, time, sample_rate)) for time in detect_onsets(signal, sample_rate)]


def judge_sounds(
    onsets: Sequence[Onset], contacts: Sequence[Sequence[float]], expected: Sequence[str | None]
) -> tuple[str, ...]:
    """The sound of each object: of the onsets at its contacts, or of those at no contact if it has none.

    A single object has all onsets. Where two contacts claim one onset, the expected sound decides.
    """
    if len(contacts) == 1:
        return (common_sound(onsets),)
    events = sorted((time, k) for k, times in enumerate(contacts) for time in times)
    agree = agreement([expected[k] for _, k in events], onsets)
    matches = match_events([time for time, _ in events], [onset.time for onset in onsets], WIDE, agree)
    owners = dict(events)
    by_time = {onset.time: onset for onset in onsets}
    left = [by_time[time] for time in matches.spurious]
    own: list[list[Onset]] = [[] for _ in contacts]
    for contact, onset in matches.pairs:
        own[owners[contact]].append(by_time[onset])
    return tuple(common_sound(heard or left) for heard in own)


def agreement(expected: Sequence[str | None], onsets: Sequence[Onset]) -> Tensor:
    """Which onsets (columns) have the sound expected at each contact (rows)."""
    heard = [onset.sound for onset in onsets]
    agree = [name == sound for name, sound in product(expected, heard)]
    return torch.tensor(agree).view(len(expected), len(heard))


def common_sound(onsets: Sequence[Onset]) -> str:
    return nearest_sound(torch.stack([onset.profile for onset in onsets]).mean(0)) if onsets else SILENT


def nearest_sound(heard: Tensor) -> str:
    templates = sound_templates()
    return max(SOUNDS, key=lambda name: float(torch.cosine_similarity(heard, templates[name], dim=0)))


@cache
def sound_templates() -> dict[str, Tensor]:
    # A fixed seed, so that a judgement can be repeated.
    rng = np.random.default_rng(0)
    return {name: sound_template(rng, name) for name in SOUNDS}


def sound_template(rng: np.random.Generator, name: str) -> Tensor:
    """The mean profile of some strikes, which differ where the sound is noise. (BANDS,)"""
    strikes = [torch.from_numpy(strike(rng, name)) for _ in range(8)]
    return torch.stack([profile(note, 0.0, SAMPLE_RATE) for note in strikes]).mean(0)


def profile(signal: Tensor, onset: float, sample_rate: int) -> Tensor:
    """Shares of loudness in logarithmic bands that are new after the onset: what rang before is taken off."""
    begin = round(onset * sample_rate)
    listen = round(LISTEN * sample_rate)
    tail = round(TAIL * sample_rate)
    after = band_powers(signal[begin : begin + listen], listen, sample_rate)
    # Reversed, so that the samples next to the onset count most.
    ringing = band_powers(signal[max(0, begin - tail) : begin].flip(0), tail, sample_rate)
    bands = (after - FADED * ringing).clamp_min(0)
    # The root keeps the loudest band from deciding alone.
    return (bands / bands.sum().clamp_min(1e-12)).sqrt()  # (BANDS,)


def band_powers(cut: Tensor, samples: int, sample_rate: int) -> Tensor:
    """Mean power per band over a stretch of at most so many samples, the first of them counting most."""
    # The falling half of a Hann window.
    window = torch.hann_window(2 * samples)[samples:]
    cut = torch.nn.functional.pad(cut, (0, samples - len(cut)))
    # One transform length for both stretches, so that their bands hold the same frequencies.
    power = torch.fft.rfft(cut * window, n=2 * round(LISTEN * sample_rate)).abs() ** 2 / window.square().sum()
    hertz = torch.linspace(0, sample_rate / 2, len(power))
    # From below the drum (85 Hz) to just below half of 16 kHz.
    edges = torch.logspace(np.log10(50), np.log10(7600), BANDS + 1)
    return torch.stack([power[(hertz >= low) & (hertz < high)].sum() for low, high in pairwise(edges)])
