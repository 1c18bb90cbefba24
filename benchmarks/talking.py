"""A talking face measured through the real nodes: do mouth and sound agree, are words, face and voice right?

    python benchmarks/talking.py --task joint --clips 96 --seed 1 --report joint.json

A seed decides people, words and noise; no training clip has this person, or these words. A model gets words,
a picture of the person, and in every second clip a caption of what moves behind; by task:

joint         no more
reference     a second of the voice too
continuation  the first 17 frames of picture and sound too; what follows is judged
dubbing       the picture, whose first frame is the reference; with --voice a second of the voice too
driven        the sound

The face is found by its looks, and who it is, its mouth and its voice are read from picture and sound alone.
`total` has for every column its value, the 95 % of a bootstrap over clips, and two ceilings: the world's own
clips as they are, and after a round trip through the model's VAEs (`envelope_ceiling`, `viseme_ceiling`).
Lags are less the median of true clips, in ms. `beside` has the same columns of six cheats made of the true
clips, and of the model without its coupling; `against` says whether the answers are beyond each by more than
the interval. A column that a task does not ask has no value.

`mask` says where the face mask lies that the model predicts of the true clips (Show Face Mask): its `iou`
with the face that speaks, on the grid of tokens, which count from half on, beside that of the best mask that
stays; which `share` of it lies on mouth, speaking face, silent face and object, and its `mean` there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ccl_bench.tiny_options import TALKING, guidance_modes
from ccl_tools.console import exit_on_script_error, say
from ccl_tools.environment import load_pack, reexec

TASKS = ("joint", "reference", "continuation", "dubbing", "driven")
PATHS = ("report", "checkpoint", "encoders")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=TASKS, default="joint", help="what is given (default: joint)")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--seed", type=int, required=True, help="decides people, words and noise")
    parser.add_argument("--report", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--checkpoint", type=Path, default=TALKING, help="a UniAVGen model that reads words")
    parser.add_argument(
        "--encoders",
        type=Path,
        help="of a checkpoint without its own: a folder, or an all-in-one file (default: the three beside "
        "it; of the model that ships those of ccl-tiny)",
    )
    parser.add_argument("--voice", action="store_true", help="dubbing: a second of the voice is heard too")
    parser.add_argument("--guidance", help="a mode of CCLJointSampler (default: the model's)")
    parser.add_argument("--sampler", help="a name of ComfyUI's samplers (default: the model's)")
    parser.add_argument("--steps", type=int, help="default: the model's")
    parser.add_argument("--batch", type=int, default=8, help="clips per run of the sampler")
    parser.add_argument(
        "--coupled-only", action="store_true", help="leave out the run without coupling, half of the time"
    )
    options = parser.parse_args(arguments)
    check(parser, options)
    return options


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if min(options.clips, options.batch) < 1 or options.seed < 0:
        parser.error("--clips and --batch must be at least 1, --seed at least 0")
    if options.steps is not None and options.steps < 1:
        parser.error(f"--steps must be at least 1, got {options.steps}")
    if options.voice and options.task != "dubbing":
        parser.error(f"--voice is for the task dubbing, got {options.task}")
    if not options.checkpoint.is_file():
        parser.error(f"--checkpoint {options.checkpoint} is not there")
    if options.encoders and not options.encoders.exists():
        parser.error(f"--encoders {options.encoders} is not there")


def main() -> None:
    """Measure, print a summary, write the report."""
    options = parse()
    reexec()
    load_pack(pytorch_attention=True)
    if options.guidance:
        guidance_modes([options.guidance])
    import torch

    from ccl_bench.talking import evaluate
    from ccl_bench.talking_nodes import load

    with torch.inference_mode():
        loaded = load(options.checkpoint.resolve(), options.encoders)
        found = evaluate(loaded, options)
    write(options, found)
    show(found)


def write(options: argparse.Namespace, found: dict[str, Any]) -> None:
    """The report: what was asked for, and what was found."""
    settings = {key: value for key, value in vars(options).items() if key not in PATHS}
    settings |= {"checkpoint": options.checkpoint.name}
    options.report.write_text(json.dumps({**settings, **found}, indent=1) + "\n")


def show(found: dict[str, Any]) -> None:
    """A line for every column, for every cheat, for every goal."""
    say(f"{'':22}{'value':>8}{'95 %':>16}{'of':>6}{'world':>8}{'VAEs':>8}")
    for name, row in found["total"].items():
        low, high = row["interval"] or (None, None)
        ceilings = "".join(map(number, row["ceiling"].values()))
        say(f"{name:22}{number(row['value'])}{number(low)}{number(high)}{row['of']:6}{ceilings}")
    for kind, row in found["against"].items():
        verdicts = ", ".join(f"{name} {column['verdict']}" for name, column in row["columns"].items())
        say(f"beyond {kind:15}{'yes' if row['beyond'] else 'no':>8}  {verdicts}")
    if found["mask"]:
        show_mask(found["mask"])
    for name, row in found["goals"].items():
        met = "met" if row["met"] else "missed"
        say(f"goal {name:32}{number(row['value'])} of {row['goal']}: {met}")


def show_mask(mask: dict[str, Any]) -> None:
    met = "met" if mask["goal"]["met"] else "missed"
    say(
        f"mask: IoU {mask['iou']} on the face, {mask['constant_iou']} of the best constant mask; goal "
        f"{mask['goal']['iou']} and {mask['goal']['ahead']} ahead: {met}"
    )
    for name, share in mask["share"].items():
        say(f"mask on {name:15}{number(share)} of it, mean{number(mask['mean'][name])}")


def number(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{value:8.3f}"


if __name__ == "__main__":
    exit_on_script_error(main)
