"""The parts of UniAVGen on trial: who sees whom, a clock inside, face masks, the range of MA-CFG.

    python benchmarks/talking_ablations.py cells --base streams.safetensors --cache faces/cache --work cells
    python benchmarks/talking_ablations.py guidance --checkpoint model.safetensors --work cells
    python benchmarks/talking_ablations.py report --work cells

cells     trains each cell from each seed with the trainer of scripts/train.py: the towers of --base, a fresh
          interaction, the recipe of --config. For one seed all see the same clips, tasks, times and noise.
          Every --every steps the held-out clips of the cache are measured at fixed noise: losses of driven
          (a2v), dubbing (v2a) and joint; the first two with the given stream of another clip as well, in
          five passes without a gradient for each 16 clips; and where the face mask lies, in a sixth.
guidance  samples one trained file through the real nodes with MA-CFG at all noise levels, from .5 up, and
          none, and judges the clips as benchmarks/talking.py does.
report    writes the page talking.md of docs/method, its JSON and a chart from what is finished.

Killed and started again, a part goes on where it was: a cell from its newest save, with the same numbers.
What it takes is said before it starts. One JSON a run, and its model, stay in --work.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ccl_bench.talking_cells import CELLS
from ccl_tools.console import ScriptError, exit_on_script_error, say
from ccl_tools.environment import ROOT, load_pack, reexec
from ccl_tools.lock import only_one

if TYPE_CHECKING:
    from ccl_bench.cells import Plan, Run

TASKS = ("joint", "dubbing", "driven")
CONFIG = ROOT / "scripts" / "configs" / "uniavgen-tiny-joint.json"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--work", type=Path, required=True, help="folder of the runs")
    add_cells(parts.add_parser("cells", parents=[shared], help="train and measure the cells"))
    add_guidance(parts.add_parser("guidance", parents=[shared], help="sample with three ranges of MA-CFG"))
    report = parts.add_parser("report", parents=[shared], help="write page, JSON and chart")
    report.add_argument("--out", type=Path, default=ROOT / "docs" / "method", help="folder of page and chart")
    options = parser.parse_args(arguments)
    check(parser, options)
    return options


def add_seeds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])


def add_cells(parser: argparse.ArgumentParser) -> None:
    add_seeds(parser)
    parser.add_argument("--base", type=Path, required=True, help="a file of the towers that cells start from")
    parser.add_argument("--cache", type=Path, required=True, help="encoded faces (train.py --phase cache)")
    parser.add_argument("--config", type=Path, default=CONFIG, help="of scripts/train.py: the recipe")
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS), metavar="CELL")
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--batch", type=int, default=16, help="clips in a step")
    parser.add_argument("--every", type=int, default=50, help="steps between two probes, which are saved")
    parser.add_argument("--probe-clips", type=int, default=32, help="held-out clips of a probe")
    parser.add_argument("--threads", type=int, help="of the CPU (default: the recipe's)")


def add_guidance(parser: argparse.ArgumentParser) -> None:
    add_seeds(parser)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a trained talking face")
    parser.add_argument("--encoders", type=Path, help="as of benchmarks/talking.py")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--clips", type=int, default=32, help="of each task and seed")
    parser.add_argument("--steps", type=int, help="default: the model's")
    parser.add_argument("--batch", type=int, default=8, help="clips per run of the sampler")


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    given = {name: getattr(options, name, None) for name in ("steps", "batch", "every", "clips", "threads")}
    low = [name for name, value in given.items() if value is not None and value < 1]
    if low:
        parser.error(f"--{low[0]} must be at least 1, got {given[low[0]]}")
    if getattr(options, "probe_clips", 2) < 2:
        parser.error("--probe-clips must be at least 2: a gap needs another clip")
    for name in ("base", "config", "checkpoint", "encoders", "cache"):
        path = getattr(options, name, None)
        if path is not None and not path.exists():
            parser.error(f"--{name} {path} is not there")


def plan_of(options: argparse.Namespace) -> Plan:
    from ccl_bench.cells import Plan, base_settings

    changes = {"steps": options.steps, "batch": options.batch}
    changes |= dict.fromkeys(("validate_every", "save_every"), options.every)
    changes |= {} if options.threads is None else {"threads": options.threads}
    base, cache, work = options.base, options.cache, options.work.resolve()
    return Plan(base_settings(options.config, base, cache, options.probe_clips, work, changes), work)


def train_cells(options: argparse.Namespace) -> None:
    """Every run that is not finished, after a word on how long they take."""
    from ccl_bench.cells import forecast, is_finished, pace, runs_of, train

    plan = plan_of(options)
    runs = runs_of([CELLS[name] for name in options.cells], options.seeds, plan.work)
    left = [run for run in runs if not is_finished(plan, run)]
    say(f"{len(runs) - len(left)} of {len(runs)} runs are finished")
    if not left:
        return
    measure = probe_of(plan)
    say(forecast(len(left), options.steps, options.every, *pace(plan, left[0].cell, measure)))
    for run in left:
        train(plan, run, measure)
        say(summary(run))


def probe_of(plan: Plan):  # noqa: ANN201 - a type that only the pack has
    """What is measured on the held-out clips, which all cells share."""
    from ccl_bench.cell_probe import Probe
    from ccl_bench.talking_cells import MaskProbe
    from ccl_pack.ccl_core.training.finetune.cache import Cache
    from ccl_pack.ccl_core.training.finetune.order import split_validation

    data = plan.settings.data
    entries, _ = split_validation(Cache(Path(data.cache)).entries(), data.validation_clips)
    clips = [entry.load() for entry in entries]
    losses, mask = Probe(clips), MaskProbe(clips)
    return lambda trainer: losses(trainer) | mask(trainer)


def summary(run: Run) -> str:
    last = json.loads(run.result.read_text())["probes"][-1]
    losses = ", ".join(f"{name} {value:.3f}" for name, value in last["validation"].items())
    return f"{run.name}: {losses}"


def guide(options: argparse.Namespace) -> None:
    """Every task and seed that is not measured."""
    import torch

    from ccl_bench import talking_nodes
    from ccl_bench.talking_cells_report import GUIDANCE
    from ccl_bench.talking_ranges import measure

    asked = [(task, seed) for seed in options.seeds for task in options.tasks]
    files = {pair: options.work / f"{GUIDANCE}{pair[0]}-{pair[1]}.json" for pair in asked}
    stated = {"checkpoint": options.checkpoint.name, "clips": options.clips, "steps": options.steps}
    left = [pair for pair, path in files.items() if not is_measured(path, stated)]
    with torch.inference_mode():
        loaded = talking_nodes.load(options.checkpoint.resolve(), options.encoders) if left else None
        for task, seed in left:
            asks = argparse.Namespace(**vars(options) | {"task": task, "seed": seed, "voice": False})
            found = {"task": task, "seed": seed, **stated, **measure(loaded, asks)}
            files[task, seed].write_text(json.dumps(found, indent=1) + "\n")


def is_measured(path: Path, stated: dict[str, object]) -> bool:
    """Whether its report is there; ScriptError for one of another checkpoint or other settings."""
    if not path.exists():
        return False
    found = json.loads(path.read_text())
    other = {name: found[name] for name, value in stated.items() if found[name] != value}
    if other:
        raise ScriptError(f"{path} was made with {other}, asked is {stated}", "name another --work")
    return True


def report(options: argparse.Namespace) -> None:
    from ccl_bench.talking_cells_report import PAGE, write

    write(options.work, options.out)
    say(f"Written: {options.out / PAGE}")


PARTS = {"cells": train_cells, "guidance": guide, "report": report}


def main() -> None:
    options = parse()
    reexec()
    load_pack(pytorch_attention=True)
    options.work.mkdir(parents=True, exist_ok=True)
    with only_one(options.work, "run of talking_ablations.py"):
        try:
            PARTS[options.part](options)
        except ValueError as error:
            raise ScriptError(str(error), "read the lines above, correct it, start again") from error


if __name__ == "__main__":
    exit_on_script_error(main)
