"""Multi-task training of the joint model (CCL, arXiv 2603.18600): flow matching, with DCR routes per task."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from torch import Tensor

from ...config import CCLConfig
from ...model.interactions.base import Routes
from ...model.joint import JointModel
from ...tasks import TASKS, State, Task
from ..muon import Muon
from .data import Batch, Mixture

log = logging.getLogger(__name__)

STREAMS = ("video", "audio")
# t2v and t2a in one pass: both directions anchored is exactly both of them side by side.
SEPARATE = "t2v + t2a"
# Near the paper's mix, with more of a2v: to move with a sound is what the tiny model learns last.
TASK_MIX = {"joint": 0.44, "a2v": 0.3, "v2a": 0.13, SEPARATE: 0.13}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result besides model and data."""

    steps: int = 1700
    seed: int = 0
    batch: int = 16
    muon_rate: float = 0.015
    adam_rate: float = 1e-3
    warmup: int = 100
    decay: float = 0.7  # the last share of the steps, over which the rates fall to zero
    tasks: Mapping[str, float] = field(default_factory=lambda: TASK_MIX)  # shares
    text_drop: float = 0.1
    shift: float = 3.0
    # Shift of the audio's time over the video's, drawn per clip between these: the model then serves any audio_shift.
    audio_lag: tuple[float, float] = (0.5, 4.0)
    save_seconds: float = 120.0
    threads: int = 2


class Trainer:
    """The state of a run: weights, the optimisers, the clock. Saved whole, resumed whole."""

    def __init__(self, config: CCLConfig, recipe: Recipe, start: Mapping[str, Tensor] | None = None) -> None:
        """start: weights to begin with, of a whole model or of its streams alone; see `begin`."""
        torch.manual_seed(recipe.seed)
        self.config, self.recipe = config, recipe
        self.model = JointModel(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
        initialise(self.model)
        if start is not None:
            begin(self.model, start)
        self.model.to(comfy.model_management.get_torch_device())
        self.optimisers = optimisers_of(self.model, recipe)
        self.rates = [group["lr"] for optimiser in self.optimisers for group in optimiser.param_groups]
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.step = 0
        self.seconds = 0.0

    def update(self, batch: Batch) -> dict[str, float]:
        """One optimiser step on one task; returns the losses of the generated streams."""
        groups = [group for optimiser in self.optimisers for group in optimiser.param_groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * self.schedule()
        task = self.draw_task()
        losses = loss(self.model, batch, task, self.recipe, self.generator)
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return {f"{task}/{stream}": float(value.detach()) for stream, value in losses.items()}

    def schedule(self) -> float:
        """Linear warm-up, constant, then linear towards zero."""
        left = (1 - self.step / self.recipe.steps) / self.recipe.decay
        return min(1.0, (self.step + 1) / self.recipe.warmup, left)

    def draw_task(self) -> str:
        names, shares = zip(*self.recipe.tasks.items(), strict=True)
        return names[int(torch.multinomial(torch.tensor(shares), 1, generator=self.generator))]

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "generator": self.generator.get_state(),
            "step": self.step,
            "seconds": self.seconds,
        }
        save_atomically(state, path)

    def resume(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.generator.set_state(state["generator"])
        self.step, self.seconds = state["step"], state["seconds"]


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """A file that is whole or the one before it, also where the machine stops."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def optimisers_of(model: JointModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, Adam for embeddings, heads, norms, modulations and context tokens."""
    inner = {
        name: value
        for name, value in model.named_parameters()
        if value.ndim == 2 and ("blocks." in name or "interaction." in name) and not name.endswith("context")
    }
    others = [value for name, value in model.named_parameters() if name not in inner]
    adam = torch.optim.AdamW(others, recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    return [Muon(list(inner.values()), recipe.muon_rate), adam]


def initialise(model: JointModel) -> None:
    """Wan's initialisation; output heads and the coupling's `o` start at zero, context tokens at random."""
    for name, value in model.named_parameters():
        if name.endswith(("head.head.weight", "head.head.bias")) or (".o." in name and name.startswith("interaction.")):
            torch.nn.init.zeros_(value)
        elif value.ndim == 1:
            torch.nn.init.constant_(value, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
        elif name.endswith("modulation"):
            torch.nn.init.normal_(value, std=value.shape[-1] ** -0.5)
        elif name.endswith("context"):
            torch.nn.init.normal_(value)
        elif "text_embedding" in name or "time_embedding" in name:
            torch.nn.init.normal_(value, std=0.02)
        else:
            torch.nn.init.xavier_uniform_(value.flatten(1))


def begin(model: JointModel, start: Mapping[str, Tensor]) -> None:
    """Put weights in the place of fresh ones; the coupling stays fresh if `start` has none of it.

    Raises ValueError for weights of another model, and RuntimeError from torch for wrong shapes.
    """
    found = model.load_state_dict(dict(start), strict=False)
    coupled = any(key.startswith("interaction.") for key in start)
    missing = [key for key in found.missing_keys if coupled or not key.startswith("interaction.")]
    if missing or found.unexpected_keys:
        raise ValueError(
            f"the weights to start from are those of another model: {len(missing)} tensors are missing, such as "
            f"{missing[:1]}, {len(found.unexpected_keys)} are too many, such as {found.unexpected_keys[:1]}"
        )


@dataclass(frozen=True)
class Draw:
    """What chance decides for a batch: the noise of each stream, in its latent's shape, and its times (b,)."""

    video_noise: Tensor
    audio_noise: Tensor
    video_time: Tensor
    audio_time: Tensor


def on(tensors: Batch | Draw, device: torch.device) -> Batch | Draw:
    """The same on a device."""
    return replace(tensors, **{entry.name: getattr(tensors, entry.name).to(device) for entry in fields(tensors)})


def loss(model: JointModel, batch: Batch, task: str, recipe: Recipe, generator: torch.Generator) -> dict[str, Tensor]:
    """Flow-matching losses of the streams the task generates, one task for the whole batch."""
    time = sample_time(len(batch.video), recipe.shift, generator)
    lag = sample_lag(len(batch.video), recipe.audio_lag, generator)
    noise = [torch.randn(clean.shape, generator=generator) for clean in (batch.video, batch.audio)]
    found = losses(model, batch, (task,) * len(time), Draw(*noise, time, shifted(time, lag)))
    return {name.removeprefix(f"{task}/"): value for name, value in found.items()}


def losses(
    model: JointModel,
    batch: Batch,
    tasks: Sequence[str],
    draw: Draw,
    compute: torch.dtype = torch.float32,
    **conds: Any,
) -> dict[str, Tensor]:
    """Flow-matching losses, by "task/stream", of a batch whose samples may have tasks of their own.

    Batch and draw are the CPU's, wherever the model is, so that a seed draws the same everywhere.
    The model predicts noise - clean (Wan's velocity). A given stream is clean at time 0 and has no loss. A batch of a
    coupling without routes takes SEPARATE for all its samples or for none. compute: type of the model's input; conds:
    more arguments of the model.
    """
    device = next(model.parameters()).device
    batch, draw = on(batch, device), on(draw, device)
    targets, inputs, times = {}, [], []
    for stream in STREAMS:
        generated = torch.tensor([getattr(row_of(task), stream) is State.GENERATED for task in tasks])
        noise, time = getattr(draw, f"{stream}_noise"), getattr(draw, f"{stream}_time")
        noisy, targets[stream], time = noised(getattr(batch, stream), generated, time, noise)
        inputs.append(noisy.to(compute))
        times.append(time * 1000)
    options = switches(model, tasks)
    text = batch.text.to(compute)
    made = model(inputs, tuple(times), text, transformer_options=options, routes=routes(tasks), **conds)
    found = {}
    for task in dict.fromkeys(tasks):
        chosen = [i for i, name in enumerate(tasks) if name == task]
        for stream, velocity in zip(STREAMS, made, strict=True):
            if getattr(row_of(task), stream) is State.GENERATED:
                weight = getattr(batch, f"{stream}_weight")[chosen]
                found[f"{task}/{stream}"] = weighted(velocity[chosen].float(), targets[stream][chosen], weight)
    return found


def row_of(task: str) -> Task:
    """The states of both streams; those of SEPARATE are those of joint, its directions are closed."""
    return TASKS["joint" if task == SEPARATE else task]


def routes(tasks: Sequence[str]) -> tuple[Routes, Routes]:
    """DCR routes (a2v, v2a) of the samples; one bool where all are the same, which the model runs faster."""
    opened = [(False, False) if task == SEPARATE else (row_of(task).a2v_open, row_of(task).v2a_open) for task in tasks]
    return tuple(sides[0] if len(set(sides)) == 1 else sides for sides in zip(*opened, strict=True))


def switches(model: JointModel, tasks: Sequence[str]) -> dict[str, bool]:
    """The transformer options that stand for routes where the coupling has none; ValueError for a mixed batch."""
    if model.kind.routed or SEPARATE not in tasks:
        return {}
    if len(set(tasks)) > 1:
        raise ValueError(f"a batch of the tasks {sorted(set(tasks))}: without routes {SEPARATE} stands alone")
    return {"a2v_cross_attn": False, "v2a_cross_attn": False}


def sample_time(batch: int, shift: float, generator: torch.Generator) -> Tensor:
    """Uniform time, stratified over the batch, under the same shift the sampler uses. (b,), 1 is noise."""
    return shifted((torch.arange(batch) + torch.rand(batch, generator=generator)) / batch, shift)


def sample_lag(batch: int, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Log-uniform between the bounds. (b,)"""
    low, high = bounds
    return low * (high / low) ** torch.rand(batch, generator=generator)


def shifted(time: Tensor, shift: float | Tensor) -> Tensor:
    return shift * time / (1 + (shift - 1) * time)


def noised(clean: Tensor, generated: Tensor, time: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The model's input, its target and the stream's own time; a given sample is clean at time 0.

    generated: bool (b,).
    """
    time = time * generated.to(time)
    t = time.view(-1, *[1] * (clean.ndim - 1))
    return torch.lerp(clean, noise, t), noise - clean, time


def weighted(made: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return ((made - target).square() * weight).mean() / weight.mean()


def train(
    config: CCLConfig, data: Mixture, out: Path, recipe: Recipe, start: Mapping[str, Tensor] | None = None
) -> Trainer:
    """Train for the recipe's steps from the weights `start`, or fresh ones; continues from `out` if it is there.

    Logs JSON lines beside it.
    """
    comfy.model_management.in_training = True
    torch.set_num_threads(recipe.threads)
    trainer = Trainer(config, recipe, start)
    if out.exists():
        trainer.resume(out)
    sums: dict[str, list[float]] = {}
    saved = time.monotonic()
    with out.with_suffix(".jsonl").open("a") as record:
        while trainer.step < recipe.steps:
            started = time.monotonic()
            batch = data.draw(trainer.generator, recipe.batch, recipe.text_drop)
            for name, value in trainer.update(batch).items():
                sums.setdefault(name, []).append(value)
            trainer.seconds += time.monotonic() - started
            if trainer.step % 50 == 0:
                means = {name: round(sum(values) / len(values), 4) for name, values in sorted(sums.items())}
                line = {"step": trainer.step, "seconds": round(trainer.seconds), **means}
                record.write(json.dumps(line) + "\n")
                record.flush()
                log.info("%s", line)
                sums.clear()
            if time.monotonic() - saved > recipe.save_seconds:
                trainer.save(out)
                data.refresh()
                saved = time.monotonic()
    trainer.save(out)
    return trainer
