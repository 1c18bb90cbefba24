"""Judges of generated clips of the world: what each object looks like, what it does, which sound it makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ...metrics.matching import WIDE, SyncSummary, summarise_sync
from ...metrics.onsets import detect_onsets
from .clip import PALETTE, Attributes, Object
from .contacts import JUMP, Track, contacts_of, track_colours, track_foreground
from .listen import Onset, listen
from .sounds import SILENT

STILL = "still"
NO_COLOUR = "none"
# What begins and is no note of the world.
OTHER = "other"
# Share of the shape's usual brightness from which a frame counts as showing it.
PRESENT = 0.3


@dataclass(frozen=True)
class Seen:
    """One object of a clip as it looks; "none", "still" when nothing is seen, happens."""

    colour: str
    motion: str
    contacts: tuple[float, ...]  # seconds


@dataclass(frozen=True)
class Judgement:
    """A clip against what was asked, object by object in the order asked."""

    seen: tuple[Seen, ...]
    sounds: tuple[str, ...]  # of each object, "silent" without onsets
    contacts: tuple[float, ...]  # of all objects that are to sound, sorted
    heard: tuple[Onset, ...]
    sync: SyncSummary

    @property
    def onsets(self) -> tuple[float, ...]:
        return tuple(onset.time for onset in self.heard)


def judge_clip(
    frames: Tensor, fps: float, waveform: Tensor, sample_rate: int, asked: Sequence[Attributes | Object]
) -> Judgement:
    """See judge_video and judge_sounds; of several asked objects, each must name its colour."""
    seen = judge_video(frames, fps, [thing.colour for thing in asked])
    onsets = hear(waveform, sample_rate) if asked else hear_any(waveform, sample_rate)
    owned = [thing.contacts for thing in seen]
    expected = [thing.sound for thing in asked] or [None]
    events = sorted(
        (time, sound)
        for times, sound in zip(owned, expected, strict=True)
        for time in times
        if sound != SILENT
    )
    contacts = [time for time, _ in events]
    times = [onset.time for onset in onsets]
    agree = agreement([sound for _, sound in events], onsets) if len(owned) > 1 else None
    return Judgement(
        seen=tuple(seen),
        sounds=judge_sounds(onsets, owned, expected),
        contacts=tuple(contacts),
        heard=tuple(onsets),
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
    """Every note of the world's sounds, and whatever else begins in a waveform (n,) or (c, n), by time."""
    notes = listen(waveform, sample_rate)
    times = [note.time for note in notes]
    strange = [onset for onset in hear_any(waveform, sample_rate) if not near(onset.time, times, WIDE)]
    return sorted([*notes, *strange], key=lambda onset: onset.time)


def hear_any(waveform: Tensor, sample_rate: int) -> list[Onset]:
    """Every onset, whatever it is."""
    return [Onset(time, OTHER) for time in detect_onsets(waveform, sample_rate)]


def judge_sounds(
    onsets: Sequence[Onset],
    contacts: Sequence[Sequence[float]],
    expected: Sequence[str | None],
    offscreen: Collection[str] = (),
) -> tuple[str, ...]:
    """The sound of each object: what is mostly heard at its contacts, or else at no contact.

    A contact at which the expected sound is heard among others has that one. Contacts near those of another
    object count only for an object that has no others. offscreen: sounds that belong to no object.
    """
    events = [time for times in contacts for time in times]
    left = [o.sound for o in onsets if o.sound not in offscreen and not near(o.time, events, WIDE)]
    return tuple(
        most_common(at_contacts(onsets, telling(contacts, k), expected[k])) or most_common(left) or SILENT
        for k in range(len(contacts))
    )


def telling(contacts: Sequence[Sequence[float]], k: int) -> list[float]:
    """Contacts of object k whose sound cannot be another object's, or all if there are none."""
    others = [time for i, times in enumerate(contacts) if i != k for time in times]
    return [time for time in contacts[k] if not near(time, others, WIDE)] or list(contacts[k])


def at_contacts(
    onsets: Sequence[Onset], contacts: Sequence[float], expected: str | None, tolerance: float = WIDE
) -> list[str]:
    """What is heard at each contact with an onset: the expected sound, or the nearest."""
    heard = []
    for contact in contacts:
        there = [onset for onset in onsets if abs(onset.time - contact) <= tolerance]
        if there:
            best = min(there, key=lambda onset: (onset.sound != expected, abs(onset.time - contact)))
            heard.append(best.sound)
    return heard


def near(time: float, others: Iterable[float], distance: float) -> bool:
    return any(abs(time - other) <= distance for other in others)


def most_common(sounds: Sequence[str]) -> str | None:
    return Counter(sounds).most_common(1)[0][0] if sounds else None


def agreement(expected: Sequence[str | None], onsets: Sequence[Onset]) -> Tensor:
    """Which onsets (columns) have the sound expected at each contact (rows)."""
    heard = [onset.sound for onset in onsets]
    agree = [name == sound for name, sound in product(expected, heard)]
    return torch.tensor(agree).view(len(expected), len(heard))
