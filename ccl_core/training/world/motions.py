"""The motions of the procedural world: paths whose contacts (floor, wall, light switch) are known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Geometry in pixels of a 64 x 64 frame; other sizes scale it.
FLOOR = 58.0
LEFT_WALL = 3.0
RIGHT_WALL = 61.0
SHELF = 38.0
# Pixels per second squared: a bounce over the free height of the room takes about a second.
GRAVITY = 300.0
# Least seconds by which neighbouring periods of an irregular rhythm differ; a match forgives .0625 s.
UNEVEN = 0.08


@dataclass(frozen=True)
class Lane:
    """The part of the room an object keeps to, in pixels of a 64 x 64 frame."""

    left: float = LEFT_WALL
    right: float = RIGHT_WALL
    floor: float = FLOOR


ROOM = Lane()
COLUMNS = (Lane(right=30.0), Lane(left=34.0))
UPPER = Lane(floor=SHELF)


@dataclass(frozen=True)
class Path:
    """Motion as seen at the frame times, and the exact contact times behind it."""

    x: np.ndarray  # (f,)
    y: np.ndarray  # (f,)
    brightness: np.ndarray  # (f,) 0..1
    contacts: tuple[float, ...]


def sample_path(
    rng: np.random.Generator,
    motion: str,
    radius: float,
    lane: Lane,
    frames: int,
    fps: float,
    rate: int,
    rhythm: str = "regular",
) -> Path:
    """Random periods and phase, redrawn until every contact lies between two seen frames on either side.

    Contacts are rounded to a sample of the sound, whose rate is `rate`.
    """
    times = np.arange(frames) / fps
    # A tenth of a second is more than one frame at 16 fps: a contact has seen frames on both sides.
    first = 0.1
    last = (frames - 1) / fps - 0.1
    while True:
        path = PATHS[motion](rng, radius, lane, times, rhythm)
        near = [t for t in path.contacts if -0.1 < t < times[-1] + 0.15]
        if near and near[0] >= first and near[-1] <= last:
            return Path(path.x, path.y, path.brightness, tuple(round(t * rate) / rate for t in near))


def beats(draw: Callable[[], float], rng: np.random.Generator, rhythm: str, last: float) -> np.ndarray:
    """Times from some periods before 0 to one period after `last` or more, all in seconds.

    A regular rhythm has one period. In an irregular one each period differs from the one before, so that a
    shift by one period brings few beats onto others.
    """
    period = draw()
    times = [-(3 + rng.random()) * period]
    # No period is as long as 2 s.
    while times[-1] < last + 2:
        times.append(times[-1] + period)
        period = NEXT[rhythm](draw, period)
    return np.array(times)  # (n,)


def same(_draw: Callable[[], float], period: float) -> float:
    return period


def another(draw: Callable[[], float], period: float) -> float:
    """A period that is longer or shorter by more than a match forgives."""
    while True:
        drawn = draw()
        if abs(drawn - period) > UNEVEN:
            return drawn


NEXT = {"regular": same, "irregular": another}
RHYTHMS = tuple(NEXT)


def latest(hits: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At each time the number of the last hit, the seconds since, and those from it to the next; all (f,)."""
    number = np.searchsorted(hits, times, side="right") - 1
    return number, times - hits[number], np.diff(hits)[number]


def bounce(
    rng: np.random.Generator, radius: float, lane: Lane, times: np.ndarray, rhythm: str = "regular"
) -> Path:
    """Parabolas between hits of the floor, as high as the lane allows; elastic if the rhythm is regular."""
    # Up and down over a height h takes sqrt(8 h / g).
    longest = math.sqrt(8 * (lane.floor - 2 * radius - 1) / GRAVITY)
    # No motion has a period below .5 s, twice the longest note: notes of one object never overlap.
    hits = beats(lambda: rng.uniform(0.55, min(0.9, longest)), rng, rhythm, times[-1])
    _, since, period = latest(hits, times)
    y = lane.floor - radius - GRAVITY / 2 * since * (period - since)
    x = np.full_like(times, place(rng, radius, lane))
    return Path(x, y, np.ones_like(times), tuple(hits))


def fall(
    rng: np.random.Generator, radius: float, lane: Lane, times: np.ndarray, rhythm: str = "regular"
) -> Path:
    """Held at the top, dropped, at rest on the floor, and again from the top."""
    top = radius + 2
    # A fall from rest over a height h takes sqrt(2 h / g).
    drop = math.sqrt(2 * (lane.floor - radius - top) / GRAVITY)
    hits = beats(lambda: drop + rng.uniform(0.1, 0.35) + rng.uniform(0.25, 0.5), rng, rhythm, times[-1])
    _, since, period = latest(hits, times)
    rest = split(rng.random(), period - drop, (0.25, 0.5), (0.1, 0.35))
    falling = np.clip(since - period + drop, 0, drop)
    y = np.where(since < rest, lane.floor - radius, top + GRAVITY / 2 * falling**2)
    x = np.full_like(times, place(rng, radius, lane))
    return Path(x, y, np.ones_like(times), tuple(hits))


def slide(
    rng: np.random.Generator, radius: float, lane: Lane, times: np.ndarray, rhythm: str = "regular"
) -> Path:
    """Along the floor, at constant speed from wall to wall."""
    hits = beats(lambda: rng.uniform(0.5, 0.85), rng, rhythm, times[-1])
    number, since, period = latest(hits, times)
    # Two periods there and back: 0 is the left wall, 1 the right.
    phase = np.mod(number + rng.integers(2) + since / period, 2)
    left = lane.left + radius
    right = lane.right - radius
    x = left + (right - left) * np.minimum(phase, 2 - phase)
    return Path(x, np.full_like(times, lane.floor - radius), np.ones_like(times), tuple(hits))


def blink(
    rng: np.random.Generator, radius: float, lane: Lane, times: np.ndarray, rhythm: str = "regular"
) -> Path:
    """Dark and lit in turn.

    The light grows over one frame, so that a partly lit frame tells when within it the light came on.
    """
    hits = beats(lambda: rng.uniform(0.25, 0.45) + rng.uniform(0.25, 0.45), rng, rhythm, times[-1])
    _, since, period = latest(hits, times)
    lit = split(rng.random(), period, (0.25, 0.45), (0.25, 0.45))
    ramp = times[1] - times[0]
    brightness = np.clip(since / ramp, 0, 1) * np.clip((lit + ramp - since) / ramp, 0, 1)
    x = np.full_like(times, place(rng, radius, lane))
    y = np.full_like(times, rng.uniform(radius + 3, lane.floor - radius - 1))
    return Path(x, y, brightness, tuple(hits))


PATHS = {"bounces": bounce, "falls": fall, "slides": slide, "blinks": blink}
MOTIONS = tuple(PATHS)


def place(rng: np.random.Generator, radius: float, lane: Lane) -> float:
    """Anywhere between the walls."""
    return rng.uniform(lane.left + radius + 1, lane.right - radius - 1)


def split(
    share: float, whole: np.ndarray, first: tuple[float, float], second: tuple[float, float]
) -> np.ndarray:
    """The first of two parts of a whole, each within its bounds; share 0: as short as can be, 1: as long."""
    low = np.maximum(first[0], whole - second[1])
    high = np.minimum(first[1], whole - second[0])
    return low + share * (high - low)
