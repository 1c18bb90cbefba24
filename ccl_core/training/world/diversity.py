"""How unlike each other the answers to one caption are, beside the world's own clips of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from .clip import Attributes, Clip
from .scene import sample_clip

# Clips of the world, enough for the second digit.
CLIPS = 64


def spread(rhythms: Sequence[Sequence[float]]) -> float | None:
    """Mean distance of two answers in seconds: first contacts apart plus mean periods apart.

    rhythms: the contacts of one object, answer by answer; those with fewer than two have no period and are
    left out. None if fewer than two remain.
    """
    known = [(times[0], (times[-1] - times[0]) / (len(times) - 1)) for times in rhythms if len(times) > 1]
    apart = [abs(a[0] - b[0]) + abs(a[1] - b[1]) for a, b in combinations(known, 2)]
    return round(statistics.fmean(apart), 4) if apart else None


def world_spread(clip: Clip, fps: float) -> float | None:
    """Of clips of the world with the caption of this one."""
    asked = [Attributes(None, thing.colour, thing.shape, thing.motion, thing.sound) for thing in clip.objects]
    rng = np.random.default_rng(0)
    drawn = (
        sample_clip(rng, *asked, frames=len(clip.frames), fps=fps, caption=clip.caption) for _ in range(CLIPS)
    )
    return spread([other.objects[0].contacts for other in drawn])
