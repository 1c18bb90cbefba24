"""Flow matching with a task per sample (CCL, arXiv 2603.18600), for tiny and for real models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..model.interactions.base import Routes
from ..model.joint import JointModel
from ..tasks import TASKS, State, Task

STREAMS = ("video", "audio")
# t2v and t2a in one pass: both directions anchored is exactly both of them side by side.
SEPARATE = "t2v + t2a"
# The shares of the paper, as a survey quotes them. The keys are the tasks that training knows.
PAPER_MIX = {"joint": 0.6, "a2v": 0.15, "v2a": 0.15, SEPARATE: 0.1}
# Of both streams: a fresh model predicts nothing.
ZERO = ("head.head.weight", "head.head.bias")
# The number that the model reads for noise level 1, as in Wan.
TIMESTEPS = 1000

Moved = TypeVar("Moved", "Batch", "Draw")


@dataclass(frozen=True)
class Batch:
    """Clean latents of some clips and the weights of their losses.

    video (b, c, t, h, w), audio (b, m, a), text (b, n, d).
    """

    video: Tensor
    audio: Tensor
    text: Tensor
    video_weight: Tensor  # (b, 1, t, h, w)
    audio_weight: Tensor  # (b, 1, a)


@dataclass(frozen=True)
class Draw:
    """What chance decides for a batch: the noise of each stream, shaped as its latent, and its times (b,)."""

    video_noise: Tensor
    audio_noise: Tensor
    video_time: Tensor
    audio_time: Tensor


class Noised(NamedTuple):
    """A stream between clean and noise: the model's input, the velocity to predict, and its time (b,)."""

    latent: Tensor
    target: Tensor
    time: Tensor


def losses(
    model: JointModel,
    batch: Batch,
    tasks: Sequence[str],
    draw: Draw,
    compute: torch.dtype = torch.float32,
    **conds: Any,
) -> dict[str, Tensor]:
    """Flow-matching losses, by "task/stream", of a batch whose samples may have tasks of their own.

    Batch and draw lie on the CPU, wherever the model is, so that a seed draws the same everywhere. The model
    predicts noise - clean (Wan's velocity). A given stream is clean at time 0 and has no loss. A batch of an
    interaction without routes takes SEPARATE for all its samples or for none. compute: type of the model's
    input; conds: more arguments of the model.
    """
    device = next(model.parameters()).device
    batch = on(batch, device)
    draw = on(draw, device)
    streams = [noised_stream(name, batch, draw, tasks) for name in STREAMS]
    velocities = model(
        [stream.latent.to(compute) for stream in streams],
        tuple(stream.time * TIMESTEPS for stream in streams),
        batch.text.to(compute),
        transformer_options=switches(model, tasks),
        routes=routes(tasks),
        **conds,
    )
    found = {}
    for task in dict.fromkeys(tasks):
        chosen = [i for i, name in enumerate(tasks) if name == task]
        for name, stream, velocity in zip(STREAMS, streams, velocities, strict=True):
            if generates(task, name):
                weight = getattr(batch, f"{name}_weight")[chosen]
                found[f"{task}/{name}"] = weighted(velocity[chosen].float(), stream.target[chosen], weight)
    return found


def on(tensors: Moved, device: torch.device) -> Moved:
    """The same batch or draw on a device."""
    moved = {entry.name: getattr(tensors, entry.name).to(device) for entry in fields(tensors)}
    return replace(tensors, **moved)


def noised_stream(name: str, batch: Batch, draw: Draw, tasks: Sequence[str]) -> Noised:
    """One stream of a batch as its samples' tasks want it: on its way to noise, or given."""
    generated = torch.tensor([generates(task, name) for task in tasks])
    time = getattr(draw, f"{name}_time")
    noise = getattr(draw, f"{name}_noise")
    return noised(getattr(batch, name), generated, time, noise)


def noised(clean: Tensor, generated: Tensor, time: Tensor, noise: Tensor) -> Noised:
    """A stream at its time; a given sample is clean at time 0. generated: bool (b,)."""
    time = time * generated.to(time)
    t = time.view(-1, *[1] * (clean.ndim - 1))
    # The straight path x_t = (1 - t) clean + t noise (arXiv 2209.03003) has the velocity noise - clean.
    return Noised(torch.lerp(clean, noise, t), noise - clean, time)


def weighted(made: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    # Divided by the mean weight, so that a loss has the same scale whatever the weights are.
    return ((made - target).square() * weight).mean() / weight.mean()


def row_of(task: str) -> Task:
    """The states of both streams; those of SEPARATE are those of joint, its directions are closed."""
    return TASKS["joint" if task == SEPARATE else task]


def generates(task: str, stream: str) -> bool:
    return getattr(row_of(task), stream) is State.GENERATED


def routes(tasks: Sequence[str]) -> tuple[Routes, Routes]:
    """Dynamic context routing (CCL, arXiv 2603.18600): the routes (a2v, v2a) of the samples."""
    a2v = tuple(task != SEPARATE and row_of(task).a2v_open for task in tasks)
    v2a = tuple(task != SEPARATE and row_of(task).v2a_open for task in tasks)
    return as_one(a2v), as_one(v2a)


def as_one(opened: tuple[bool, ...]) -> Routes:
    """One bool where all samples have the same route, which the model runs faster."""
    return opened[0] if len(set(opened)) == 1 else opened


def switches(model: JointModel, tasks: Sequence[str]) -> dict[str, bool]:
    """The transformer options that stand for routes an interaction lacks; ValueError for a mixed batch."""
    if model.kind.routed or SEPARATE not in tasks:
        return {}
    if len(set(tasks)) > 1:
        raise ValueError(f"a batch of the tasks {sorted(set(tasks))}: without routes {SEPARATE} stands alone")
    return {"a2v_cross_attn": False, "v2a_cross_attn": False}


def shifted(time: Tensor, shift: float | Tensor) -> Tensor:
    """Noise levels under the shift of the sampler (SD3, arXiv 2403.03206)."""
    return shift * time / (1 + (shift - 1) * time)


def initialise(model: nn.Module) -> None:
    """Wan's initialisation; output heads and an interaction's `o` start at zero, context tokens at random."""
    for name, value in model.named_parameters():
        # CCL without a gate: with `o` at zero, a fresh coupling leaves the two streams as they are.
        if name.endswith(ZERO) or (".o." in name and name.startswith("interaction.")):
            nn.init.zeros_(value)
        elif value.ndim == 1:
            nn.init.constant_(value, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
        elif name.endswith("modulation"):
            nn.init.normal_(value, std=value.shape[-1] ** -0.5)
        elif name.endswith("context"):
            nn.init.normal_(value)
        elif "text_embedding" in name or "time_embedding" in name:
            nn.init.normal_(value, std=0.02)
        else:
            nn.init.xavier_uniform_(value.flatten(1))


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """A file that is whole or the one before it, also where the machine stops."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
