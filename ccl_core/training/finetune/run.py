"""A whole run: go on where it stopped, log, validate, save and sample."""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import comfy.model_management
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...config import CCLConfig
from ...host.files.assemble import Assembly
from ...host.files.read import ModelPaths
from .course import check_validations
from .export import LORA, export_trained, paths_of
from .order import generator_of
from .saves import STATE, new_save, prune, saves
from .settings import Settings
from .trainer import FineTuner

log = logging.getLogger(__name__)

LOG = "log.jsonl"


@dataclass(frozen=True)
class Save:
    """What was saved: the files of the model, the LoRA beside them, and whether the encoders are in it."""

    step: int
    files: ModelPaths
    lora: Path | None
    whole: bool


# Makes the clips of `train.samples` with what was saved.
Sampler = Callable[[Save], None]
# What a line of the log says of the held-out clips, by name; by "validation" the run's course is watched.
Measure = Callable[[FineTuner], dict[str, Any]]


def held_out_losses(trainer: FineTuner) -> dict[str, Any]:
    return {"validation": validate(trainer)}


def finetune(
    settings: Settings,
    assembly: Assembly,
    config: CCLConfig,
    device: torch.device,
    sampler: Sampler | None = None,
    measure: Measure = held_out_losses,
) -> FineTuner:
    """Train to the last step, from the newest save in the folder `train.out` where there is one.

    The log has a line for each step, and one more where the validation clips were measured. ValueError where
    the run has left its course; what was saved before stays.
    """
    comfy.model_management.in_training = True  # the host's RoPE kernel has no gradient
    if settings.train.threads is not None:
        torch.set_num_threads(settings.train.threads)
    trainer = FineTuner(settings, assembly, config, device)
    out = Path(settings.train.out)
    out.mkdir(parents=True, exist_ok=True)
    found = list(saves(out).values())
    if found:
        trainer.resume(found[-1] / STATE)
    log.info("%s", overview(trainer))
    cut(out / LOG, trainer.step if found else -1)
    with (out / LOG).open("a", encoding="utf-8") as record:
        # Step 0 is the line that the others are compared with.
        if not found and trainer.held_out:
            _write(record, {"step": 0, **measure(trainer)})
        with plain_attention(device, trainer.compute):
            while trainer.step < settings.train.steps:
                _step(trainer, record, out, sampler, measure)
    return trainer


@contextmanager
def plain_attention(device: torch.device, compute: torch.dtype) -> Iterator[None]:
    """Inside, on a CPU in bf16, attention is two products and a softmax.

    torch's fused one takes three to eight times as long there, nearly all of it backward.
    """
    if device.type != "cpu" or compute != torch.bfloat16:
        yield
        return
    # Else torch multiplies in fp32. The name is that of the place where the option was first needed.
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


def _step(trainer: FineTuner, record: IO[str], out: Path, sampler: Sampler | None, measure: Measure) -> None:
    """One step, and what is due behind it."""
    train = trainer.settings.train
    _write(record, trainer.update())
    saving = trainer.step == train.steps or trainer.step % train.save_every == 0
    # The best save is told by its validation.
    if trainer.held_out and (saving or trainer.step % train.validate_every == 0):
        _write(record, {"step": trainer.step, **measure(trainer)})
        check_validations(list(validations(out / LOG).values()), trainer.step)
    if saving:
        # The log first: a checkpoint must not be ahead of its log.
        os.fsync(record.fileno())
        save = _save(trainer, out)
        if sampler is not None:
            _sample(sampler, save)


def _save(trainer: FineTuner, out: Path) -> Save:
    train = trainer.settings.train
    with new_save(out, trainer.step) as folder:
        trainer.save(folder / STATE)
        export_trained(trainer, folder)
    prune(out, train.keep, validations(out / LOG))
    written = saves(out)[trainer.step]
    log.info("wrote %s", written)
    lora = written / LORA if trainer.adapters else None
    return Save(trainer.step, paths_of(trainer, written), lora, train.export_whole)


def _sample(sampler: Sampler, save: Save) -> None:
    """Make the samples; what fails there is told, and the training goes on."""
    comfy.model_management.in_training = False
    try:
        with torch.random.fork_rng(), torch.inference_mode():
            sampler(save)
    except Exception:
        log.exception("the samples of step %d failed, the training goes on", save.step)
    finally:
        comfy.model_management.in_training = True


def validations(path: Path) -> dict[int, float]:
    """The mean loss of each validation in a log, by its step."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    measured = {line["step"]: list(line["validation"].values()) for line in lines if "validation" in line}
    return {step: sum(values) / len(values) for step, values in measured.items()}


def overview(trainer: FineTuner) -> str:
    counts: dict[str, int] = defaultdict(int)
    # Not the groups' own rates, which a run that goes on has from its save, as the schedule left them.
    for rate, group in zip(trainer.rates, trainer.groups(), strict=True):
        counts[f"{rate:g}"] += sum(value.numel() for value in group["params"])
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
    mix = [task for task, share in train.tasks.items() if share > 0]
    with trainer.averaged():
        for entry in trainer.held_out:
            clip = entry.load()
            tasks = mix if clip.only_task is None else [clip.only_task]
            for i, time in enumerate(uniform.split(1)):
                for task in tasks:
                    # By clip and time, not by task or step: a difference of losses is one of weights.
                    noise = generator_of(0, "validation", entry.name, i)
                    for name, value in trainer.losses([clip], [task], time, noise).items():
                        sums[name].append(float(value))
    return {name: sum(values) / len(values) for name, values in sorted(sums.items())}
