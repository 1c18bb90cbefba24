"""MA-CFG at all noise levels, from .5 up as published, and none: one trained file through the nodes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ccl_bench import talking
from ccl_bench.talking_nodes import Sampling

if TYPE_CHECKING:
    from ccl_bench.generate import Loaded

# The first one is what the others are compared with.
RANGES = {
    "sigma from .5": Sampling("ma_cfg", lowest_sigma=0.5),
    "all noise levels": Sampling("ma_cfg", lowest_sigma=0.0),
    "none": Sampling("ma_cfg", scale=1.0),
}


def measure(loaded: Loaded, options: argparse.Namespace) -> dict[str, Any]:
    """The same clips of a task with every range. options: as of benchmarks/talking.py."""
    from dataclasses import replace

    from ccl_pack.ccl_core.training.tiny.face_asked import ask_faces
    from ccl_pack.ccl_core.training.world.face_report import ANSWER, make_rows

    task = talking.task_of(options)
    asked = ask_faces(options.seed, options.clips, talking.FRAMES, loaded.fps, task.kept)
    answers = {
        name: talking.answer(loaded, asked, task, replace(sampling, steps=options.steps), options)
        for name, sampling in RANGES.items()
    }
    # The judge compares all kinds with the answer.
    answers[ANSWER] = answers.pop(next(iter(RANGES)))
    exact = {kind: some.exact for kind, some in answers.items() if some.exact}
    found = {kind: some.found for kind, some in answers.items()}
    found |= talking.beside(loaded, asked, task, options.seed)
    return compare(make_rows(task, [one.clip for one in asked], found, exact))


def compare(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Every column of every range, and how far the first range is ahead of the others over the same clips."""
    from ccl_pack.ccl_core.training.world.face_report import ANSWER, COLUMNS, LAG, values_of_kind

    first, *others = RANGES
    kinds = {first: ANSWER} | {name: name for name in others}
    return {
        "values": {name: values_of_kind(rows, kind) for name, kind in kinds.items()},
        "ahead": {name: ahead_of(rows, name) for name in others},
        "columns": [LAG, *COLUMNS],
    }


def ahead_of(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """By column how far the first range is ahead of another, with the verdict of the judge."""
    from ccl_pack.ccl_core.training.world.face_report import COLUMNS, better_by

    return {column: better_by(rows, name, column) for column in COLUMNS}
