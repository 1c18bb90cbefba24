"""The points of benchmarks/guidance.py: task, mode and strength, measured on the same clips and noise."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ccl_bench import generate
from ccl_bench.tiny_options import GUIDANCE, lesson_of
from ccl_tools.console import ScriptError, say

NONE = "none"
SHARED = ("clips", "seed", "objects", "frames", "audio_shift", "sampler")  # what points must have in common


@dataclass(frozen=True)
class Point:
    """One setting of the guidance in one task."""

    task: str
    mode: str
    strength: float

    def file(self, work: Path) -> Path:
        return work / f"{self.task}-{self.mode}-{self.strength:g}.json"


def points(options: argparse.Namespace) -> Iterator[Point]:
    """What this process measures; none last, since processes that share a task have it in common."""
    for task in options.tasks:
        for mode in options.modes:
            yield from (
                Point(task, mode, strength) for strength in sorted(set(options.strengths)) if strength
            )
    yield from (Point(task, NONE, 0.0) for task in options.tasks)


def scales_of(point: Point) -> dict[str, float]:
    """The scale of each stream and term, by `stream_term`."""
    from ccl_pack.ccl_core.guidance import default_settings

    if point.mode == NONE:
        return {}
    scales = {}
    for term, default in default_settings(point.mode).items():
        scales[f"video_{term}"] = generate.strengthened(default.video, point.strength)
        scales[f"audio_{term}"] = generate.strengthened(default.audio, point.strength)
    return scales


def passes(mode: str, scales: dict[str, float]) -> int:
    """Passes of the model per step."""
    from ccl_pack.ccl_core.guidance import MODES, TermScale, branch_weights

    if mode == NONE:
        return 1
    terms = {term: TermScale(scales[f"video_{term}"], scales[f"audio_{term}"]) for term in MODES[mode].terms}
    return len(branch_weights(mode, terms))


def write(path: Path, content: Any) -> None:
    """All of it or nothing, under a name of this process until it is whole."""
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def check_settings(options: argparse.Namespace) -> None:
    """One folder holds points of one kind: others could not be compared."""
    import hashlib

    from ccl_pack.ccl_core.families import FAMILIES

    settings = {name: getattr(options, name) for name in SHARED}
    settings |= {"sampling_steps": options.sampling_steps or FAMILIES["ccl"].sampling.steps}
    settings |= {"checkpoint": hashlib.sha256(options.checkpoint.read_bytes()).hexdigest()}
    path = options.work / "settings.json"
    if path.exists() and json.loads(path.read_text()) != settings:
        raise ScriptError(
            f"{options.work} holds points with other settings: {path.read_text()}",
            "choose another --work, or repeat the settings of these points",
        )
    write(path, settings)


def run(options: argparse.Namespace) -> None:
    """All points that are not there yet, one after the other."""
    import torch

    from ccl_pack.ccl_core.training.world.evaluate import draw_clips

    options.work.mkdir(parents=True, exist_ok=True)
    check_settings(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    wanted = list(points(options))
    unseen = lesson_of(options).held_out
    with torch.inference_mode():
        loaded = generate.load(options.checkpoint.resolve())
        clips = draw_clips(options.seed, options.clips, options.frames, loaded.fps, options.objects, unseen)
        for number, point in enumerate(wanted):
            if not point.file(options.work).exists():
                write(point.file(options.work), measure(point, loaded, clips, options))
            say(f"  {number + 1} of {len(wanted)} points are done: {point.file(options.work).stem}")


def measure(point: Point, loaded: Any, clips: Sequence[Any], options: argparse.Namespace) -> dict[str, Any]:
    """The clips generated with one setting, as totals."""
    from ccl_pack.ccl_core.training.world.evaluate import against_given, by_objects, chance, total

    scales = scales_of(point)
    sampling = generate.Sampling(
        point.task,
        GUIDANCE if point.mode == NONE else point.mode,
        point.strength,
        options.audio_shift,
        options.frames,
        options.sampling_steps,
        options.sampler,
    )
    rows, seconds = generate.generate(loaded, clips, sampling, options.seed)
    found = {"scales": scales, "passes": passes(point.mode, scales), **total(rows), **seconds}
    found |= against_given(point.task, rows) | by_objects(rows)
    return {**asdict(point), **found, "chance_62ms_share": chance(rows)["matched_62ms_share"]}
