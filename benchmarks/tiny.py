"""ccl-tiny measured through the real nodes: does it show what was asked, do sounds begin at the contacts?

    python benchmarks/tiny.py --task t2av --clips 64 --seed 1 2 3 --objects both --report tiny.json

A seed decides which captions are asked (of objects whose colour, shape, motion and sound no training clip
combined), how they are worded, and the noise; with several seeds, each has all the clips. Beside the model
stand two ceilings on clips of the world with the same captions (as they are, and after a round trip through
the model's VAEs), and as the floor `chance`: each clip's contacts against the onsets of the next clip.
`given` counts what is generated beside a given stream against the true events of that stream. `bars` says
what a finished model must reach.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from ccl_bench.generate import TASKS, evaluate, load
from ccl_bench.tiny_options import GUIDANCE, add_shared, check_frames, check_shared, guidance_modes
from ccl_tools.console import exit_on_script_error, say
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
    parser.add_argument("--batch", type=int, default=8, help="clips per run of the sampler")
    add_shared(parser)
    options = parser.parse_args(arguments)
    low = [name for name in ("clips", "batch") if getattr(options, name) < 1]
    if low or (options.steps is not None and options.steps < 1) or min(options.seed) < 0:
        parser.error("--clips, --batch and --steps must be at least 1, --seed at least 0")
    if not (math.isfinite(options.strength) and options.strength >= 0):
        parser.error(f"--strength must be at least 0, got {options.strength}")
    check_shared(parser, options)
    return options


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
    settings = {key: value for key, value in vars(options).items() if key not in ("report", "checkpoint")}
    settings |= {"checkpoint": options.checkpoint.name, "fps": loaded.fps}
    options.report.write_text(json.dumps({**settings, **found}, indent=1) + "\n")
    for name, value in found.items():
        if isinstance(value, dict) and name != "per_seed":
            say(f"{name}: {json.dumps(value)}")


if __name__ == "__main__":
    exit_on_script_error(main)
