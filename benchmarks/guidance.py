"""Every guidance mode over its scales, for each task of ccl-tiny: sync, captions, passes, a recommendation.

    python benchmarks/guidance.py --work guidance-work --clips 16 --seed 1  # measures, writes docs/method/
    python benchmarks/guidance.py --summarise                               # draws anew from guidance.json

A point is a task, a mode and a strength: 0 is no guidance, which is one for all modes and stands under the
name `none`, 1 the mode's default scales. All points see the same held-out captions and noise. Killed and
started again, the script goes on where it was; several processes may share --work if their --tasks or --modes
differ.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from ccl_bench.generate import TASKS
from ccl_bench.guidance import run
from ccl_bench.guidance_report import collect, summarise
from ccl_bench.tiny_options import add_shared, check_frames, check_shared, guidance_modes
from ccl_tools.console import exit_on_script_error, say
from ccl_tools.environment import ROOT, load_pack, reexec

STRENGTHS = (0.5, 1.0, 1.5, 2.0)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("guidance-work"), help="folder of the points")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "method", help="folder of JSON, chart and tables"
    )
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--modes", nargs="+", help="default: all")
    parser.add_argument(
        "--strengths", type=float, nargs="+", default=STRENGTHS, help="1: the mode's default scales"
    )
    parser.add_argument("--clips", type=int, default=16, help="held-out captions per point")
    parser.add_argument("--seed", type=int, default=1, help="decides captions, wording and noise")
    parser.add_argument("--sampling-steps", type=int, help="default: that of CCLJointSampler")
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--summarise", action="store_true", help="only draw anew from guidance.json")
    add_shared(parser)
    options = parser.parse_args(arguments)
    counts = [getattr(options, name) for name in ("clips", "sampling_steps", "threads")]
    if min(count for count in counts if count is not None) < 1 or options.seed < 0:
        parser.error("--clips, --sampling-steps and --threads must be at least 1, --seed at least 0")
    if not all(math.isfinite(strength) and strength >= 0 for strength in options.strengths):
        parser.error(f"--strengths must be at least 0, got {options.strengths}")
    check_shared(parser, options)
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, then collect, draw and write the tables."""
    options = parse(arguments)
    reexec()
    load_pack(pytorch_attention=True)
    check_frames(options.frames)
    options.modes = guidance_modes(options.modes)
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.summarise:
        run(options)
        collect(options)
    summarise(options.out)
    say(f"Written: {options.out}")


if __name__ == "__main__":
    exit_on_script_error(main)
