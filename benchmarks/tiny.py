"""ccl-tiny measured through the real nodes: does it show what was asked, do sounds begin at the contacts?

    python benchmarks/tiny.py --task t2av --clips 64 --seed 1 2 3 --objects both --report tiny.json

A seed decides which captions are asked (of objects whose words no training clip combined), how they are
worded, and the noise; with several seeds, each has all the clips. A contact is met only by an onset of its
own object's sound within 62.5 ms; of a given stream the true events count. `total` has for every column its
value, the 95 % of a bootstrap over clips, two ceilings on clips of the world with the same captions (as they
are, and after a round trip through the model's VAEs), and as the floor `chance`: another clip's answer.
`rows` has the same for easy and hard clips. --against compares with a report on the same captions, clip by
clip.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccl_bench.generate import TASKS, evaluate, load
from ccl_bench.tiny_options import GUIDANCE, add_shared, check_frames, check_shared, guidance_modes
from ccl_tools.console import ScriptError, exit_on_script_error, say
from ccl_tools.environment import load_pack, reexec


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--task", choices=list(TASKS), default="t2av", help="what is generated (the rest is given)"
    )
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument(
        "--seed", type=int, nargs="+", required=True, help="each decides captions, wording and noise"
    )
    parser.add_argument("--report", type=Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--guidance", default=GUIDANCE, help=f"a mode of CCLJointSampler (default: {GUIDANCE})"
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        help="guidance from none, 0, to the mode's default scales, 1 (default: 1)",
    )
    parser.add_argument("--steps", type=int, help="default: that of CCLJointSampler")
    parser.add_argument(
        "--substeps", type=int, default=1, help="steps of the audio in each step, by CCLSubstepSampler (1)"
    )
    parser.add_argument("--batch", type=int, default=8, help="clips per run of the sampler")
    parser.add_argument(
        "--repeats",
        type=int,
        default=8,
        help="answers to the first caption, whose diversity is told; t2av only, 0 for none (default: 8)",
    )
    parser.add_argument("--against", type=Path, help="an earlier report on the same captions")
    parser.add_argument(
        "--world",
        choices=("easy", "hard"),
        default="easy",
        help="hard: close hits, silent objects, off-screen sounds, noise (default: easy, as in 0.2.0)",
    )
    parser.add_argument(
        "--unseen-by",
        type=Path,
        nargs="+",
        default=[],
        help="other checkpoints that shall not have been taught what is asked either",
    )
    add_shared(parser)
    options = parser.parse_args(arguments)
    check(parser, options)
    return options


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    low = [name for name in ("clips", "batch", "substeps") if getattr(options, name) < 1]
    if low or (options.steps is not None and options.steps < 1) or min(options.seed) < 0:
        parser.error("--clips, --batch, --steps and --substeps must be at least 1, --seed at least 0")
    if not (math.isfinite(options.strength) and options.strength >= 0):
        parser.error(f"--strength must be at least 0, got {options.strength}")
    if options.repeats < 0 or options.repeats == 1:
        parser.error(f"--repeats must be 0, or at least 2 to be compared, got {options.repeats}")
    named = [*options.unseen_by, *filter(None, [options.against])]
    absent = [path for path in named if not path.is_file()]
    if absent:
        parser.error(f"{absent[0]} is not there")
    check_shared(parser, options)


def main() -> None:
    """Measure, print a summary, write the report."""
    options = parse()
    reexec()
    load_pack(pytorch_attention=True)
    check_frames(options.frames)
    guidance_modes([options.guidance])
    import torch

    with torch.inference_mode():
        loaded = load(options.checkpoint.resolve())
        found = evaluate(loaded, options)
    write(options, loaded.fps, found)
    show(found["total"])
    if options.against:
        show_comparison(found["per_clip"], json.loads(options.against.read_text())["per_clip"])


def write(options: argparse.Namespace, fps: float, found: dict[str, Any]) -> None:
    """The report: what was asked for, and what was found."""
    settings = {key: value for key, value in vars(options).items() if key not in ("report", "against")}
    settings |= {
        "checkpoint": options.checkpoint.name,
        "unseen_by": [path.name for path in options.unseen_by],
    }
    options.report.write_text(json.dumps({**settings, "fps": fps, **found}, indent=1) + "\n")


def show(total: dict[str, Any]) -> None:
    """A line for every column."""
    say(f"{'':20}{'value':>8}{'95 %':>16}{'of':>6}{'world':>8}{'VAEs':>8}{'chance':>8}")
    for name, row in total.items():
        low, high = row["interval"] or (None, None)
        beside = [row["ceiling"]["world"], row["ceiling"]["vae"], row["chance"]]
        say(
            f"{name:20}{number(row['value'])}{number(low)}{number(high)}{row['of']:6}"
            + "".join(map(number, beside))
        )


def show_comparison(mine: Sequence[Any], theirs: Sequence[Any]) -> None:
    """A line for every column, and whether all are better by more than the interval."""
    from ccl_pack.ccl_core.training.world.report import compare

    try:
        found = compare(mine, theirs)
    except ValueError as error:
        raise ScriptError(str(error), "repeat the settings of the other report") from error
    say(f"{'':20}{'here':>8}{'there':>8}{'better by, 95 %':>18}")
    for name, row in found.items():
        low, high = row["better_by"] or (None, None)
        values = "".join(map(number, (row["here"], row["there"], low, high)))
        say(f"{name:20}{values}  {row['verdict']}")
    say(f"better in every column that was not perfect: {'yes' if all_better(found) else 'no'}")


def all_better(found: dict[str, Any]) -> bool:
    return all(row["verdict"] in ("better", "perfect", "not asked") for row in found.values())


def number(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{value:8.3f}"


if __name__ == "__main__":
    exit_on_script_error(main)
