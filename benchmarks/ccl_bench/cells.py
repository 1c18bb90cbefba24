"""Cells of a comparison, each trained by the pack's trainer from the same towers with a fresh interaction.

A cell is a row: what it changes in the options of the interaction, and in the settings of the trainer. For
one seed all cells see the same clips, tasks, times and noise in the same order. A run writes the log of the
trainer; when it is finished, one JSON and the file of its model are left.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccl_tools.console import ScriptError

if TYPE_CHECKING:
    from ccl_pack.ccl_core.training.finetune.run import Measure
    from ccl_pack.ccl_core.training.finetune.settings import Settings
    from ccl_pack.ccl_core.training.finetune.trainer import FineTuner

# Steps that are timed beforehand, and of these the first ones that do not count.
TIMED, COLD = 4, 1


@dataclass(frozen=True)
class Cell:
    """A row of a comparison: what differs in the options of the interaction and in those of the trainer."""

    name: str
    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What all runs share. settings: of the trainer, the base is their model; work: the folder of runs."""

    settings: Settings
    work: Path

    @property
    def every(self) -> int:
        return self.settings.train.validate_every

    def shared(self) -> dict[str, Any]:
        """What decides the numbers of a run beside its cell and seed."""
        train = {key: value for key, value in asdict(self.settings.train).items() if key not in FREE}
        base = hashlib.sha256(Path(self.settings.model.video).read_bytes()).hexdigest()
        said = {"base": base, "held_out": self.settings.data.validation_clips, **train}
        # Through JSON, as a report has it: tuples become lists.
        return json.loads(json.dumps(said))


# Of the trainer's settings: where it writes, and what changes no number.
FREE = ("out", "seed", "samples", "threads", "export", "export_whole", "keep", "save_every")


@dataclass(frozen=True)
class Run:
    """One cell from one seed, and its files."""

    cell: Cell
    seed: int
    work: Path

    @property
    def name(self) -> str:
        return f"{self.cell.name}-{self.seed}"

    @property
    def result(self) -> Path:
        return self.work / f"{self.name}.json"

    @property
    def model(self) -> Path:
        return self.work / f"{self.name}.safetensors"

    @property
    def folder(self) -> Path:
        """Of the trainer, while the run is not finished."""
        return self.work / self.name


def runs_of(cells: Sequence[Cell], seeds: Sequence[int], work: Path) -> list[Run]:
    """Seed by seed, so that a comparison that is cut short has whole seeds."""
    return [Run(cell, seed, work) for seed in seeds for cell in cells]


def base_settings(
    config: Path, base: Path, cache: Path, held_out: int, work: Path, changes: Mapping[str, Any]
) -> Settings:
    """The settings of a file of scripts/train.py for cells on a base; changes: of its `train`."""
    from ccl_pack.ccl_core.training.finetune.settings import ModelSettings
    from ccl_pack.ccl_core.training.finetune.settings_file import read_settings

    found = read_settings(config)
    train = replace(found.train, **changes, keep=1, samples=(), export_whole=False, out=str(work))
    data = replace(found.data, cache=str(cache.resolve()), validation_clips=held_out)
    model = ModelSettings(video=str(base.resolve()), fresh=("interaction",))
    return replace(found, model=model, data=data, train=train)


def settings_of(plan: Plan, run: Run) -> Settings:
    train = replace(plan.settings.train, **run.cell.train, seed=run.seed, out=str(run.folder))
    return replace(plan.settings, train=train)


def assembled(settings: Settings, cell: Cell) -> tuple[Any, Any]:
    """The streams of the base, and the configuration with the cell's interaction in the place of its own."""
    from ccl_pack.ccl_core.training.finetune.load import part_of, read_model

    assembly, config = read_model(settings.model)
    options = replace(config.interaction.options, **cell.options)
    streams = {name: value for name, value in assembly.sd.items() if part_of(name) != "interaction"}
    config = replace(config, interaction=replace(config.interaction, options=options))
    return replace(assembly, sd=streams), config


def is_finished(plan: Plan, run: Run) -> bool:
    """Whether its report is there; ScriptError if it is of a comparison with other settings."""
    if not run.result.exists():
        return False
    shared = plan.shared()
    stated = json.loads(run.result.read_text())["settings"]
    changed = [
        f"{key} was {stated.get(key)!r} and is {value!r}"
        for key, value in shared.items()
        if stated.get(key) != value
    ]
    if changed:
        raise ScriptError(
            f"{run.result} was made with other settings: {'; '.join(changed)}",
            "set them back, or name another --work",
        )
    return True


def train(plan: Plan, run: Run, measure: Measure) -> None:
    """Train a cell to its last step, from the newest save of a killed run, and write its report."""
    import comfy.model_management

    from ccl_pack.ccl_core.training.finetune.export import WHOLE
    from ccl_pack.ccl_core.training.finetune.run import LOG, finetune
    from ccl_pack.ccl_core.training.finetune.saves import saves

    settings = settings_of(plan, run)
    device = comfy.model_management.get_torch_device()
    trainer = finetune(settings, *assembled(settings, run.cell), device, measure=measure)
    (folder,) = [path for step, path in saves(run.folder).items() if step == trainer.step]
    shutil.copyfile(folder / WHOLE, run.model)
    lines = [json.loads(line) for line in (run.folder / LOG).read_text().splitlines()]
    write_result(run, report_of(plan, run, trainer, lines))
    shutil.rmtree(run.folder)


def report_of(plan: Plan, run: Run, trainer: FineTuner, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All of a run that a table may ask. probes: the held-out clips, from step 0 on."""
    steps = [line for line in lines if "loss" in line]
    return {
        "cell": run.cell.name,
        "title": run.cell.title,
        "seed": run.seed,
        "settings": plan.shared(),
        "options": asdict(trainer.config.interaction.options),
        "train": dict(run.cell.train),
        "parameters": sum(value.numel() for value in trainer.model.parameters()),
        "seconds_per_step": round(trainer.seconds / max(1, trainer.step), 3),
        "probes": [line for line in lines if "validation" in line],
        "losses": [{"step": line["step"], **line["loss"]} for line in steps],
    }


def write_result(run: Run, report: dict[str, Any]) -> None:
    part = run.result.with_suffix(".part")
    part.write_text(json.dumps(report) + "\n")
    part.replace(run.result)


def pace(plan: Plan, cell: Cell, measure: Measure) -> tuple[float, float]:
    """Seconds of a step and of a probe, of steps that are thrown away."""
    import comfy.model_management
    import torch

    from ccl_pack.ccl_core.training.finetune.run import plain_attention
    from ccl_pack.ccl_core.training.finetune.trainer import FineTuner

    settings = settings_of(plan, Run(cell, 0, plan.work))
    device = comfy.model_management.get_torch_device()
    comfy.model_management.in_training = True
    torch.set_num_threads(settings.train.threads or torch.get_num_threads())
    trainer = FineTuner(settings, *assembled(settings, cell), device)
    with plain_attention(device, trainer.compute):
        spent = [timed(trainer.update) for _ in range(TIMED)]
        return sum(spent[COLD:]) / (TIMED - COLD), timed(lambda: measure(trainer))


def timed(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


def forecast(runs: int, steps: int, every: int, step_seconds: float, probe_seconds: float) -> str:
    """The minutes of some runs, in words."""
    # Those at step 0 and behind the last step too.
    probes = -(-steps // every) + 1
    training, probing = runs * steps * step_seconds / 60, runs * probes * probe_seconds / 60
    return (
        f"{runs} runs of {steps} steps at {step_seconds:.2f} s: {training:.0f} min; {probes} probes of each "
        f"at {probe_seconds:.1f} s: {probing:.0f} min"
    )
