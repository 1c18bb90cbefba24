"""Guidance as weights over branches: CFG, MA-CFG (arXiv 2511.03334), UCG (arXiv 2603.18600), dual, modality.

A branch is one forward pass under a text (positive T, negative N) and a coupling (open C, anchor 0). Every
mode is TC + sum over its terms of (scale - 1) * (toward - away), so scale 1 means no guidance in all of them.
The published text on UCG fixes neither formula nor scales: `ucg`, `ucg_joint` and `ucg_cross` are our
reading.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch


class Branch(Enum):
    """Text and coupling of one forward pass."""

    TC = ("positive", "open")
    T0 = ("positive", "anchor")
    NC = ("negative", "open")
    N0 = ("negative", "anchor")

    @property
    def negative(self) -> bool:
        return self.value[0] == "negative"

    @property
    def anchor(self) -> bool:
        return self.value[1] == "anchor"


TC, T0, NC, N0 = Branch


class StreamWeights(NamedTuple):
    """The weight of one branch in the prediction of each stream."""

    video: float
    audio: float


@dataclass(frozen=True)
class TermScale:
    """Scale of a term per stream, and the part of the run (0 to 1) in which it counts. Elsewhere it is 1.

    least_sigma: below this noise level it is 1 too, whatever part of the run that is.
    """

    video: float = 1.0
    audio: float = 1.0
    start: float = 0.0
    end: float = 1.0
    least_sigma: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.video) and math.isfinite(self.audio)):
            raise ValueError(
                f"guidance scales must be finite numbers, got video {self.video} and audio {self.audio}"
            )
        if not 0.0 <= self.start <= self.end <= 1.0:
            raise ValueError(
                f"wanted a range with 0 <= start <= end <= 1, got start {self.start} and end {self.end}"
            )
        if not self.least_sigma >= 0.0:
            raise ValueError(f"the least noise level of guidance must be at least 0, got {self.least_sigma}")


@dataclass(frozen=True)
class Term:
    """One direction of guidance, from `away` to `toward`, with the scales it has unless told otherwise."""

    toward: Branch
    away: Branch
    default: TermScale


@dataclass(frozen=True)
class Mode:
    """One row of the table. reference: the branch that the published formula starts from. about: in words."""

    reference: Branch
    terms: Mapping[str, Term]
    about: str


# Over each row what it predicts; the scales are the published ones where there are any.
MODES: Mapping[str, Mode] = {
    # N0 + s (TC - N0). UCG of CCL, as we read it.
    "ucg_joint": Mode(
        N0,
        {"joint": Term(TC, N0, TermScale(3.0, 3.0))},
        "away from no text and no coupling together, one scale (CCL)",
    ),
    # NC + s (TC - NC), with the scales of Ovi (arXiv 2510.01284).
    "cfg": Mode(
        NC,
        {"text": Term(TC, NC, TermScale(4.0, 3.0))},
        "away from the negative text, as most models",
    ),
    # N0 + s (TC - N0). UniAVGen's MA-CFG, whose one further pass has neither text nor coupling; in the
    # times from .5 to 1 alone, which keeps the picture clean.
    "ma_cfg": Mode(
        N0,
        {"joint": Term(TC, N0, TermScale(3.0, 2.0, least_sigma=0.5))},
        "as ucg_joint, with the scales and the noise levels of UniAVGen",
    ),
    # N0 + s_text (T0 - N0) + s_cross (TC - T0). UCG of CCL, as we read it.
    "ucg": Mode(
        N0,
        {"text": Term(T0, N0, TermScale(3.0, 3.0)), "cross": Term(TC, T0, TermScale(2.0, 2.0))},
        "text and coupling apart (CCL)",
    ),
    # T0 + s (TC - T0). UCG of CCL, as we read it.
    "ucg_cross": Mode(T0, {"cross": Term(TC, T0, TermScale(3.0, 3.0))}, "away from no coupling only"),
    # N0 + s_cross (NC - N0) + s_text (TC - NC). Dual CFG of MOVA, equation 6 of arXiv 2602.08794.
    "dual": Mode(
        N0,
        {"text": Term(TC, NC, TermScale(5.0, 5.0)), "cross": Term(NC, N0, TermScale(3.5, 3.5))},
        "text and coupling apart, as in the MOVA paper",
    ),
    # NC + s_text (TC - NC) + (s_cross - 1) (TC - T0). The guider of LTX-2's two streams.
    "modality": Mode(
        NC,
        {"text": Term(TC, NC, TermScale(3.0, 7.0)), "cross": Term(TC, T0, TermScale(3.0, 3.0))},
        "cfg and coupling, as LTX-2",
    ),
}


# What people call the scale of a term, another name for each term of a mode. One scale of text and coupling
# together has the name of the text's.
SCALE_NAMES = {"text": "cfg", "joint": "cfg", "cross": "modality_scale"}


def mode_named(name: str) -> Mode:
    """The row of the table; ValueError lists the known names."""
    if name not in MODES:
        raise ValueError(f"guidance mode {name!r} is unknown, known are {', '.join(MODES)}")
    return MODES[name]


def check_settings(mode: str, settings: Mapping[str, TermScale]) -> None:
    """Refuse an unknown mode, and scales for terms the mode does not have."""
    unknown = set(settings) - set(mode_named(mode).terms)
    if unknown:
        known = ", ".join(MODES[mode].terms)
        raise ValueError(f"guidance mode {mode!r} has no term {sorted(unknown)}, its terms are {known}")


def default_settings(mode: str) -> dict[str, TermScale]:
    return {name: term.default for name, term in mode_named(mode).terms.items()}


def branch_weights(mode: str, settings: Mapping[str, TermScale]) -> dict[Branch, StreamWeights]:
    """The branches to run and their weights, which sum to 1 for each stream.

    A term left out of `settings` has scale 1. The ranges of the terms do not count here: a sampler leaves out
    the terms whose range does not hold its step.
    """
    check_settings(mode, settings)
    video = dict.fromkeys(Branch, 0.0)
    audio = dict.fromkeys(Branch, 0.0)
    video[TC] = audio[TC] = 1.0
    # TC + sum of (scale - 1) (toward - away)
    for name, scale in settings.items():
        term = MODES[mode].terms[name]
        for stream, amount in ((video, scale.video - 1.0), (audio, scale.audio - 1.0)):
            stream[term.toward] += amount
            stream[term.away] -= amount
    return _needed({branch: StreamWeights(video[branch], audio[branch]) for branch in Branch})


def without_coupling(weights: Mapping[Branch, StreamWeights]) -> dict[Branch, StreamWeights]:
    """The same guidance where one stream runs alone: an anchor branch equals the open one of its text."""
    folded = dict.fromkeys(Branch, StreamWeights(0.0, 0.0))
    for branch, weight in weights.items():
        target = NC if branch.negative else TC
        folded[target] = StreamWeights(
            folded[target].video + weight.video, folded[target].audio + weight.audio
        )
    return _needed(folded)


def without_guidance(
    weights: Mapping[Branch, StreamWeights], video: bool, audio: bool
) -> dict[Branch, StreamWeights]:
    """The same guidance, but none of the streams said so: theirs is the open positive branch."""
    kept = {}
    for branch, weight in weights.items():
        plain = float(branch is TC)
        kept[branch] = StreamWeights(plain if video else weight.video, plain if audio else weight.audio)
    return _needed(kept)


def _needed(weights: Mapping[Branch, StreamWeights]) -> dict[Branch, StreamWeights]:
    return {branch: weight for branch, weight in weights.items() if branch is TC or any(weight)}


def combine(predictions: Mapping[Branch, torch.Tensor], weights: Mapping[Branch, float]) -> torch.Tensor:
    """The guided prediction of one stream: TC + sum of w (branch - TC)."""
    # Not the sum of w * branch, which without guidance would be TC in all but its last bits.
    guided = base = predictions[TC]
    for branch, weight in weights.items():
        if branch is not TC and weight:
            guided = guided + weight * (predictions[branch] - base)
    return guided
