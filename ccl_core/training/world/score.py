"""One clip against what was asked, counted: every column of the report is a part of a whole.

Of a given stream the true events count, of a generated one what is seen or heard. A contact is met only by
an onset of its own object's sound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...metrics.matching import NARROW, match_events
from .clip import Clip, Object
from .judge import Onset, Seen, at_contacts, judge_sounds, near, telling
from .sounds import SILENT

# How likely chance may be to bring as many onsets to a silent object's contacts before it counts as sounding.
COINCIDENCE = 0.1

# Columns in which less is better.
FAULTS = ("spurious", "objects_lost")
# What tells of times; the other columns tell of the caption's words.
TIMED = ("f1_62ms", "spurious", "bound_right", "distractors_silent")
COLUMNS = (
    "f1_62ms",
    "spurious",
    "bound_right",
    "objects_lost",
    "distractors_silent",
    "offscreen_kept",
    "colour_right",
    "motion_right",
    "sound_right",
)
# By task, whether the video and the audio are generated.
MAKES = {"t2av": (True, True), "v2a": (False, True), "a2v": (True, False)}

Counts = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Found:
    """What is seen of each object asked, and all that is heard."""

    seen: tuple[Seen, ...]
    onsets: tuple[Onset, ...]
    seconds: float


@dataclass(frozen=True)
class Events:
    """What is compared: the contacts of each object, and the onsets."""

    contacts: tuple[tuple[float, ...], ...]
    onsets: tuple[Onset, ...]


def events_of(asked: Clip, found: Found, task: str) -> Events:
    """The true events of a given stream, those found of a generated one."""
    video, audio = MAKES[task]
    contacts = found.seen if video else asked.objects
    return Events(
        contacts=tuple(tuple(thing.contacts) for thing in contacts),
        onsets=found.onsets if audio else true_onsets(asked),
    )


def true_onsets(clip: Clip) -> tuple[Onset, ...]:
    objects = [
        (time, thing.sound) for thing in clip.objects if thing.sound != SILENT for time in thing.contacts
    ]
    outside = [(time, sound.sound) for sound in clip.offscreen for time in sound.onsets]
    return tuple(Onset(*event) for event in sorted([*objects, *outside]))


def count(asked: Clip, found: Found, task: str) -> Counts:
    """(part, whole) by column; a whole of 0 where a clip has nothing of the kind."""
    events = events_of(asked, found, task)
    met, free = meet(asked.objects, events)
    silent = (k for k, thing in enumerate(asked.objects) if thing.sound == SILENT)
    quiet = {k: keeps_silent(events.contacts[k], free, found.seconds) for k in silent}
    return {
        **timing(asked, events, met, free, task),
        "bound_right": bound(asked.objects, events),
        "objects_lost": lost(asked.objects, found, task),
        "distractors_silent": (sum(quiet.values()), len(quiet)),
        "offscreen_kept": kept(asked, found, task),
        **looks(asked.objects, found.seen if MAKES[task][0] else ()),
        "sound_right": sounding(asked, events, quiet) if MAKES[task][1] else (0, 0),
    }


def timing(asked: Clip, events: Events, met: int, free: Sequence[Onset], task: str) -> Counts:
    """Contacts against onsets, and what was generated and meets nothing.

    An off-screen sound that was asked for may come at any time, and meets no contact.
    """
    outside = {sound.sound for sound in asked.offscreen}
    idle = sum(onset.sound not in outside for onset in free)
    contacts = sum(
        len(times)
        for thing, times in zip(asked.objects, events.contacts, strict=True)
        if thing.sound != SILENT
    )
    spurious = (idle, len(events.onsets)) if MAKES[task][1] else (contacts - met, contacts)
    return {"f1_62ms": (2 * met, contacts + met + idle), "spurious": spurious}


def bound(objects: Sequence[Object], events: Events) -> tuple[int, int]:
    sounding = [k for k, thing in enumerate(objects) if thing.sound != SILENT]
    return sum(is_bound(objects[k].sound, events, k) for k in sounding), len(sounding)


def lost(objects: Sequence[Object], found: Found, task: str) -> tuple[int, int]:
    """Objects whose colour is not seen or whose sound is not heard in what was generated."""
    video, audio = MAKES[task]
    heard = {SILENT, *(onset.sound for onset in found.onsets)}
    missing = [
        (video and thing.colour != seen.colour) or (audio and thing.sound not in heard)
        for thing, seen in zip(objects, found.seen, strict=True)
    ]
    return sum(missing), len(objects)


def kept(asked: Clip, found: Found, task: str) -> tuple[int, int]:
    """Off-screen sounds that are heard at all; none where the sound is given."""
    outside = asked.offscreen if MAKES[task][1] else ()
    heard = {onset.sound for onset in found.onsets}
    return sum(sound.sound in heard for sound in outside), len(outside)


def looks(asked: Sequence[Object], seen: Sequence[Seen]) -> Counts:
    """Of how many objects colour and motion are what was asked; none where the video is given."""
    pairs = list(zip(asked, seen, strict=bool(seen)))
    return {
        "colour_right": (sum(thing.colour == other.colour for thing, other in pairs), len(pairs)),
        "motion_right": (sum(thing.motion == other.motion for thing, other in pairs), len(pairs)),
    }


def sounding(asked: Clip, events: Events, quiet: dict[int, bool]) -> tuple[int, int]:
    """Of how many objects the sound is what was asked."""
    expected = [thing.sound for thing in asked.objects]
    named = judge_sounds(events.onsets, events.contacts, expected, {s.sound for s in asked.offscreen})
    heard = [SILENT if quiet.get(k, False) else sound for k, sound in enumerate(named)]
    return sum(a == b for a, b in zip(expected, heard, strict=True)), len(expected)


def meet(objects: Sequence[Object], events: Events) -> tuple[int, list[Onset]]:
    """How many contacts an onset of their own object's sound meets, and the onsets that meet none."""
    free = list(events.onsets)
    met = 0
    for thing, contacts in zip(objects, events.contacts, strict=True):
        own = [onset for onset in free if onset.sound == thing.sound]
        matches = match_events(list(contacts), [onset.time for onset in own], NARROW)
        used = {time for _, time in matches.pairs}
        met += len(matches.pairs)
        free = [onset for onset in free if not (onset.sound == thing.sound and onset.time in used)]
    return met, free


def is_bound(own: str, events: Events, k: int) -> bool:
    """Whether more of an object's contacts have its own sound than have only another.

    Contacts near those of another object count only for an object that has no others: two sounds at once do
    not tell whose they are.
    """
    heard = at_contacts(events.onsets, telling(events.contacts, k), own, NARROW)
    return heard.count(own) > len(heard) - heard.count(own)


def keeps_silent(contacts: Sequence[float], free: Sequence[Onset], seconds: float) -> bool:
    """Whether no more onsets lie at a silent object's contacts than chance may bring there.

    Only onsets that meet no contact of their own object count. Chance is binomial: each of them falls within
    62.5 ms of a contact with the share of the clip that is so near to one.
    """
    there = sum(near(onset.time, contacts, NARROW) for onset in free)
    # In steps of a millisecond.
    steps = range(round(1000 * seconds))
    share = sum(near(step / 1000, contacts, NARROW) for step in steps) / max(1, len(steps))
    return at_least(there, len(free), share) > COINCIDENCE


def at_least(successes: int, trials: int, share: float) -> float:
    """How likely so many successes or more are."""
    less = (math.comb(trials, n) * share**n * (1 - share) ** (trials - n) for n in range(successes))
    return 1 - sum(less)
