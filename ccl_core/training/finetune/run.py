"""A whole run: go on where it stopped, log, validate, save, and write what it trained."""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from pathlib import Path
from typing import IO, Any

import comfy.model_management
import torch

from ...config import CCLConfig
from ...host.files.assemble import Assembly
from .export import export_trained
from .order import generator_of
from .settings import Settings
from .trainer import FineTuner

log = logging.getLogger(__name__)

STATE = "state.pt"
LOG = "log.jsonl"


def finetune(settings: Settings, assembly: Assembly, config: CCLConfig, device: torch.device) -> FineTuner:
    """Train to the last step, from the checkpoint in the folder `train.out` where there is one, and export.

    The log has a line for each step, and one more where the validation clips were measured.
    """
    comfy.model_management.in_training = True  # the host's RoPE kernel has no gradient
    if settings.train.threads is not None:
        torch.set_num_threads(settings.train.threads)
    trainer = FineTuner(settings, assembly, config, device)
    out = Path(settings.train.out)
    train = settings.train
    out.mkdir(parents=True, exist_ok=True)
    resumed = (out / STATE).exists()
    if resumed:
        trainer.resume(out / STATE)
    log.info("%s", overview(trainer))
    cut(out / LOG, trainer.step if resumed else -1)
    with (out / LOG).open("a", encoding="utf-8") as record:
        # Step 0 is the line that the others are compared with.
        if not resumed and trainer.held_out:
            _write(record, {"step": 0, "validation": validate(trainer)})
        while trainer.step < train.steps:
            _write(record, trainer.update())
            last = trainer.step == train.steps
            if trainer.held_out and (last or trainer.step % train.validate_every == 0):
                _write(record, {"step": trainer.step, "validation": validate(trainer)})
            if last or trainer.step % train.save_every == 0:
                # The log first: a checkpoint must not be ahead of its log.
                os.fsync(record.fileno())
                trainer.save(out / STATE)
    for path in export_trained(trainer, out):
        log.info("wrote %s", path)
    return trainer


def overview(trainer: FineTuner) -> str:
    counts: dict[str, int] = defaultdict(int)
    for group in trainer.optimiser.param_groups:
        counts[f"{group['lr']:g}"] += sum(value.numel() for value in group["params"])
    sizes = ", ".join(f"{count / 1e6:.2f} M at {rate}" for rate, count in counts.items())
    clips = f"{sum(map(len, trainer.order.groups))} clips, {len(trainer.held_out)} held out"
    return f"step {trainer.step} of {trainer.settings.train.steps}: {sizes}; {clips}"


def cut(path: Path, step: int) -> None:
    """Drop the lines of a log after a step, which the run that goes on writes again, and a line cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        if not line.endswith("\n") or _step_of(line, path) > step:
            break
        kept.append(line)
    part = path.with_suffix(".part")
    part.write_text("".join(kept), encoding="utf-8")
    part.replace(path)


def _step_of(line: str, path: Path) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} has the damaged line {line.strip()[:80]!r}: delete this line and those behind it, and "
            "start again"
        ) from error


def _write(record: IO[str], line: dict[str, Any]) -> None:
    record.write(json.dumps(line) + "\n")
    record.flush()
    log.info("%s", line)


@torch.no_grad()
def validate(trainer: FineTuner) -> dict[str, float]:
    """Losses by "task/stream" of the held-out clips, for all tasks of the mix, with fixed times and noise."""
    train = trainer.settings.train
    sums: dict[str, list[float]] = defaultdict(list)
    # The middles of equal parts of 0..1.
    uniform = (torch.arange(train.validation_times) + 0.5) / train.validation_times
    tasks = [task for task, share in train.tasks.items() if share > 0]
    with trainer.averaged():
        for entry in trainer.held_out:
            clip = entry.load()
            for i, time in enumerate(uniform.split(1)):
                for task in tasks:
                    # By clip and time, not by task or step: a difference of losses is one of weights.
                    noise = generator_of(0, "validation", entry.name, i)
                    for name, value in trainer.losses([clip], [task], time, noise).items():
                        sums[name].append(float(value))
    return {name: sum(values) / len(values) for name, values in sorted(sums.items())}
