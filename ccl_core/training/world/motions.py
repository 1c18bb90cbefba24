"""The motions of the procedural world: paths whose contacts (floor, wall, light switch) are known exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Geometry in pixels of a 64 x 64 frame; other sizes scale it.
FLOOR = 58.0
LEFT_WALL = 3.0
RIGHT_WALL = 61.0
SHELF = 38.0
# Pixels per second squared: a bounce over the free height of the room takes about a second.
GRAVITY = 300.0


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
    rng: np.random.Generator, motion: str, radius: float, lane: Lane, frames: int, fps: float, rate: int
) -> Path:
    """Random period and phase, redrawn until every contact lies between two seen frames on either side.

    Contacts are rounded to a sample of the sound, whose rate is `rate`.
    """
    times = np.arange(frames) / fps
    # A tenth of a second is more than one frame at 16 fps: a contact has seen frames on both sides.
    first = 0.1
    last = (frames - 1) / fps - 0.1
    while True:
        path = PATHS[motion](rng, radius, lane, times)
        near = [t for t in path.contacts if -0.1 < t < times[-1] + 0.15]
        if near and near[0] >= first and near[-1] <= last:
            return Path(path.x, path.y, path.brightness, tuple(round(t * rate) / rate for t in near))


def bounce(rng: np.random.Generator, radius: float, lane: Lane, times: np.ndarray) -> Path:
    """Parabolas between elastic hits of the floor, as high as the lane allows."""
    # Up and down over a height h takes sqrt(8 h / g).
    longest = math.sqrt(8 * (lane.floor - 2 * radius - 1) / GRAVITY)
    # No motion has a period below .5 s, twice the longest note: notes of one object never overlap.
    period = rng.uniform(0.55, min(0.9, longest))
    start = rng.uniform(-period, 0)
    since = np.mod(times - start, period)
    y = lane.floor - radius - GRAVITY / 2 * since * (period - since)
    x = np.full_like(times, place(rng, radius, lane))
    return Path(x, y, np.ones_like(times), regular(start, period, times))


def fall(rng: np.random.Generator, radius: float, lane: Lane, times: np.ndarray) -> Path:
    """Held at the top, dropped, at rest on the floor, and again from the top."""
    top = radius + 2
    hold = rng.uniform(0.1, 0.35)
    rest = rng.uniform(0.25, 0.5)
    # A fall from rest over a height h takes sqrt(2 h / g).
    drop = math.sqrt(2 * (lane.floor - radius - top) / GRAVITY)
    period = hold + drop + rest
    start = rng.uniform(-period, 0)
    falling = np.clip(np.mod(times - start, period) - hold, 0, drop)
    y = top + GRAVITY / 2 * falling**2
    x = np.full_like(times, place(rng, radius, lane))
    return Path(x, y, np.ones_like(times), regular(start + hold + drop, period, times))


def slide(rng: np.random.Generator, radius: float, lane: Lane, times: np.ndarray) -> Path:
    """Constant speed along the floor, turned round by each wall."""
    period = rng.uniform(0.5, 0.85)
    start = rng.uniform(-2 * period, 0)
    # Two periods there and back: 0 is the left wall, 1 the right.
    phase = np.mod((times - start) / period, 2)
    left = lane.left + radius
    right = lane.right - radius
    x = left + (right - left) * np.minimum(phase, 2 - phase)
    return Path(
        x, np.full_like(times, lane.floor - radius), np.ones_like(times), regular(start, period, times)
    )


def blink(rng: np.random.Generator, radius: float, lane: Lane, times: np.ndarray) -> Path:
    """Dark and lit in turn.

    The light grows over one frame, so that a partly lit frame tells when within it the light came on.
    """
    lit = rng.uniform(0.25, 0.45)
    dark = rng.uniform(0.25, 0.45)
    start = rng.uniform(-lit - dark, 0)
    since = np.mod(times - start, lit + dark)
    ramp = times[1] - times[0]
    brightness = np.clip(since / ramp, 0, 1) * np.clip((lit + ramp - since) / ramp, 0, 1)
    x = np.full_like(times, place(rng, radius, lane))
    y = np.full_like(times, rng.uniform(radius + 3, lane.floor - radius - 1))
    return Path(x, y, brightness, regular(start, lit + dark, times))


PATHS = {"bounces": bounce, "falls": fall, "slides": slide, "blinks": blink}
MOTIONS = tuple(PATHS)


def place(rng: np.random.Generator, radius: float, lane: Lane) -> float:
    """Anywhere between the walls."""
    return rng.uniform(lane.left + radius + 1, lane.right - radius - 1)


def regular(start: float, period: float, times: np.ndarray) -> tuple[float, ...]:
    """Every start + k * period from shortly before the first to shortly after the last frame."""
    # `start` may lie up to two periods before the first frame or, after a hold, within the clip.
    count = math.ceil((times[-1] - start) / period) + 2
    return tuple(start + k * period for k in range(-2, count))
