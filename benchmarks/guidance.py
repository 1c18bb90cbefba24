"""Every guidance mode over its scales, for each task of ccl-tiny: sync, captions, passes, and what to recommend.

    python benchmarks/guidance.py --work guidance-work --clips 16 --seed 1   # measures, writes docs/method/
    python benchmarks/guidance.py --summarise                                # draws anew from docs/method/guidance.json

A point is a task, a mode and a strength: 0 is no guidance, which is one for all modes and stands under the name `none`,
1 the mode's default scales. All points see the same held-out captions and noise. Killed and started again, the script
goes on where it was; several processes may share --work if their --tasks or --modes differ.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent / "scripts"), str(HERE)]
from method import sibling

from ccl_tools.console import ScriptError, exit_on_script_error, say
from ccl_tools.environment import ROOT, load_pack, reexec

NONE = "none"
SHARED = ("clips", "seed", "objects", "frames", "audio_shift", "sampler")  # what points must have in common
STRENGTHS = (0.5, 1.0, 1.5, 2.0)


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
            yield from (Point(task, mode, strength) for strength in sorted(set(options.strengths)) if strength)
    yield from (Point(task, NONE, 0.0) for task in options.tasks)


def scales_of(point: Point) -> dict[str, float]:
    """The scale of each stream and term, by `stream_term`."""
    from ccl_pack.ccl_core.guidance import default_settings

    if point.mode == NONE:
        return {}
    scales, strengthened = {}, sibling("tiny").strengthened
    for term, default in default_settings(point.mode).items():
        scales[f"video_{term}"] = strengthened(default.video, point.strength)
        scales[f"audio_{term}"] = strengthened(default.audio, point.strength)
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
    tiny = sibling("tiny")
    told = sibling("tiny_options")
    wanted = list(points(options))
    unseen = told.lesson_of(options).held_out
    with torch.inference_mode():
        loaded = tiny.load(options.checkpoint.resolve())
        clips = draw_clips(options.seed, options.clips, options.frames, loaded.fps, options.objects, unseen)
        for number, point in enumerate(wanted):
            if not point.file(options.work).exists():
                write(point.file(options.work), measure(point, loaded, clips, options))
            say(f"  {number + 1} of {len(wanted)} points are done: {point.file(options.work).stem}")


def measure(point: Point, loaded: Any, clips: Sequence[Any], options: argparse.Namespace) -> dict[str, Any]:
    """The clips generated with one setting, as totals."""
    from ccl_pack.ccl_core.training.world.evaluate import against_given, by_objects, chance, total

    tiny, scales = sibling("tiny"), scales_of(point)
    sampling = tiny.Sampling(
        point.task,
        sibling("tiny_options").GUIDANCE if point.mode == NONE else point.mode,
        point.strength,
        options.audio_shift,
        options.frames,
        options.sampling_steps,
        options.sampler,
    )
    rows, seconds = tiny.generate(loaded, clips, sampling, options.seed)
    found = {"scales": scales, "passes": passes(point.mode, scales), **total(rows), **seconds}
    found |= against_given(point.task, rows) | by_objects(rows)
    return {**asdict(point), **found, "chance_62ms_share": chance(rows)["matched_62ms_share"]}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    tiny = sibling("tiny")
    told = sibling("tiny_options")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("guidance-work"), help="folder of the points")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "method", help="folder of JSON, chart and tables")
    parser.add_argument("--tasks", nargs="+", choices=list(tiny.TASKS), default=list(tiny.TASKS))
    parser.add_argument("--modes", nargs="+", help="default: all")
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS, help="1: the mode's default scales")
    parser.add_argument("--clips", type=int, default=16, help="held-out captions per point")
    parser.add_argument("--seed", type=int, default=1, help="decides captions, wording and noise")
    parser.add_argument("--sampling-steps", type=int, help="default: that of CCLJointSampler")
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--summarise", action="store_true", help="only draw anew from guidance.json")
    told.add_shared(parser)
    options = parser.parse_args(arguments)
    counts = [getattr(options, name) for name in ("clips", "sampling_steps", "threads")]
    if min(count for count in counts if count is not None) < 1 or options.seed < 0:
        parser.error("--clips, --sampling-steps and --threads must be at least 1, --seed at least 0")
    if not all(math.isfinite(strength) and strength >= 0 for strength in options.strengths):
        parser.error(f"--strengths must be at least 0, got {options.strengths}")
    told.check_shared(parser, options)
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, then collect, draw and write the tables."""
    options = parse(arguments)
    reexec()
    load_pack(pytorch_attention=True)
    told = sibling("tiny_options")
    told.check_frames(options.frames)
    options.modes = told.guidance_modes(options.modes)
    options.out.mkdir(parents=True, exist_ok=True)
    report = sibling("guidance_report")
    if not options.summarise:
        run(options)
        report.collect(options)
    report.summarise(options.out)
    say(f"Written: {options.out}")


if __name__ == "__main__":
    exit_on_script_error(main)
