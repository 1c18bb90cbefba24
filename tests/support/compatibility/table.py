"""The table of docs/compatibility.md: what a node does to plain Wan it does to the video of a joint model.

A row is a node with values that have an effect. Two numbers, both parts of the largest value: how far it
moves plain Wan, and how far the video of a pair is from that, on a coupling that adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from support.uncoupled import model_of, sample, two_experts, wan_of

EXPERTS = "low-noise expert"
# The couplings of models that have weights, as the page lists them.
COUPLINGS = ("cca", "fusion", "bridge")
COLUMNS = (*COUPLINGS, EXPERTS)
Patch = Callable[[ModelPatcher], ModelPatcher]


@dataclass(frozen=True)
class Row:
    """A node. moves: it changes the result. bound: of the distance to plain Wan. steps: of the run."""

    node: str
    patch: Patch
    moves: bool = True
    bound: float = 2e-6
    steps: int = 2
    # Of columns that have another one.
    bounds: Mapping[str, float] = field(default_factory=dict)
    # It is for the video expert of high noise, as on the first of two MODELs of plain Wan.
    of_high: bool = False
    # What plain Wan needs beside the node to be right under it.
    mend_wan: Patch | None = None
    # The joint model of a column and its plain Wan, where they are not `pair_of`'s.
    pair: Callable[[str], tuple[ModelPatcher, ModelPatcher]] | None = None


@cache
def pair_of(column: str) -> tuple[ModelPatcher, ModelPatcher]:
    """A joint model and the plain Wan that its video is."""
    if column == EXPERTS:
        joint, low = two_experts()
        return joint, wan_of(low)
    joint = model_of(column, fresh=True)
    return joint, wan_of(joint)


@dataclass(frozen=True)
class Measured:
    """moved: plain Wan by the node. apart: the video of a pair from plain Wan under the node."""

    moved: float
    apart: float


def measured(row: Row, column: str) -> Measured:
    joint, wan = (row.pair or pair_of)(column)
    # From half the noise on only the low-noise expert runs.
    run = {"steps": row.steps, "denoise": 0.5 if column == EXPERTS else 1.0}
    right = wan if row.mend_wan is None else row.mend_wan(wan)
    patched = wan if row.of_high and column == EXPERTS else row.patch(right)
    wanted = sample(patched, sound=False, **run)[0]
    moved = distance(wanted, sample(wan, sound=False, **run)[0])
    return Measured(moved, distance(sample(row.patch(joint), **run)[0], wanted))


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def bound_of(row: Row, column: str) -> float:
    return row.bounds.get(column, row.bound)
