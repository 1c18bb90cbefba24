"""Flow matching with a task per sample (CCL, arXiv 2603.18600), for tiny and for real models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..model.attention import TAPS
from ..model.interactions.base import Routes
from ..model.joint import JointModel
from ..tasks import TASKS, State, Task

STREAMS = ("video", "audio")
# t2v and t2a in one pass: both directions anchored is exactly both of them side by side.
SEPARATE = "t2v + t2a"
# The shares of the paper, as a survey quotes them.
PAPER_MIX = {"joint": 0.6, "a2v": 0.15, "v2a": 0.15, SEPARATE: 0.1}
# Of both streams: a fresh model predicts nothing.
ZERO = ("head.head.weight", "head.head.bias")
# The number that the model reads for noise level 1, as in Wan.
TIMESTEPS = 1000

# The mean of the squared errors of face masks, beside the losses by "task/stream".
FACE = "face/video"

Moved = TypeVar("Moved", "Batch", "Draw")


@dataclass(frozen=True)
class TrainedTask:
    """A task as training draws it.

    row: the states of both streams. coupled: they meet. voice: a reference voice is heard. prefix: both
    streams begin with what is given.
    """

    row: Task
    coupled: bool = True
    voice: bool = False
    prefix: bool = False


TRAINED = {name: TrainedTask(row) for name, row in TASKS.items()} | {
    SEPARATE: TrainedTask(TASKS["joint"], coupled=False),
    "reference": TrainedTask(TASKS["joint"], voice=True),
    "continuation": TrainedTask(TASKS["joint"], prefix=True),
}
# What a mix may name; a clip of one stream has t2v or t2a without being asked.
MIXED = tuple(name for name in TRAINED if name not in ("t2v", "t2a"))


@dataclass(frozen=True)
class Batch:
    """Clean latents of some clips and the weights of their losses.

    video (b, c, t, h, w), audio (b, m, a), text (b, n, d). A video that is absent has no cells (h and w are
    0), sound that is absent no tokens. Where the model reads them: reference (b, c, h, w), voice (b, m, r),
    the bytes of a speech (b, n, 1). face: what the face masks shall be, (b, t * h * w, 1).
    """

    video: Tensor
    audio: Tensor
    text: Tensor
    video_weight: Tensor  # (b, 1, t, h, w)
    audio_weight: Tensor  # (b, 1, a)
    reference: Tensor | None = None
    voice: Tensor | None = None
    speech: Tensor | None = None
    face: Tensor | None = None


@dataclass(frozen=True)
class Draw:
    """What chance decides for a batch: the noise of each stream, shaped as its latent, and its times (b,).

    prefix: (b,) latent frames that a task with a prefix begins with.
    """

    video_noise: Tensor
    audio_noise: Tensor
    video_time: Tensor
    audio_time: Tensor
    prefix: Tensor | None = None


class Noised(NamedTuple):
    """A stream between clean and noise: the model's input, the velocity to predict, and its time.

    time: (b,), or (b, k) of each latent frame or audio token. kept: (b, k), those that are given.
    """

    latent: Tensor
    target: Tensor
    time: Tensor
    kept: Tensor | None = None


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
    interaction without routes takes SEPARATE for all its samples or for none. A voice is heard by all samples
    or by none. compute: type of the model's input; conds: more arguments of the model. Of clips without one
    stream all have the task t2v, or t2a. A batch with faces has the loss of the masks beside the others.
    """
    device = next(model.parameters()).device
    batch = on(batch, device)
    draw = on(draw, device)
    kept = kept_of(model, batch, draw, tasks)
    streams = [noised_stream(name, batch, draw, tasks, kept[name]) for name in STREAMS]
    masks: list[Tensor] = []
    taps = {TAPS: {"face_mask": lambda _, mask: masks.append(mask)}} if batch.face is not None else {}
    velocities = model(
        [stream.latent.to(compute) for stream in streams],
        tuple(stream.time * TIMESTEPS for stream in streams),
        batch.text.to(compute),
        transformer_options=switches(model, tasks) | absent(tasks) | taps,
        routes=routes(tasks),
        **beside(batch, tasks, compute),
        **conds,
    )
    found = {} if not masks else {FACE: sum((mask.float() - batch.face).square().mean() for mask in masks)}
    for task in dict.fromkeys(tasks):
        chosen = [i for i, name in enumerate(tasks) if name == task]
        for name, stream, velocity in zip(STREAMS, streams, velocities, strict=True):
            if generates(task, name):
                weight = getattr(batch, f"{name}_weight")[chosen]
                if stream.kept is not None:
                    weight = weight * ~like(stream.kept[chosen], weight)
                found[f"{task}/{name}"] = weighted(velocity[chosen].float(), stream.target[chosen], weight)
    return found


def on(tensors: Moved, device: torch.device) -> Moved:
    """The same batch or draw on a device."""
    there = {entry.name: getattr(tensors, entry.name) for entry in fields(tensors)}
    return replace(tensors, **{name: value.to(device) for name, value in there.items() if value is not None})


def kept_of(model: JointModel, batch: Batch, draw: Draw, tasks: Sequence[str]) -> dict[str, Tensor | None]:
    """Per stream the latent frames, or audio tokens, that a prefix gives, (b, k); None without prefixes."""
    if not any(TRAINED[task].prefix for task in tasks):
        return dict.fromkeys(STREAMS)
    frames, tokens = batch.video.shape[2], batch.audio.shape[2]
    ranges = model.timeline(frames, tokens).tokens_of_frames
    drawn = zip(tasks, draw.prefix.tolist(), strict=True)
    begun = [count if TRAINED[task].prefix else 0 for task, count in drawn]
    device = batch.video.device
    cuts = torch.tensor([[count, ranges[count][0]] for count in begun], device=device)  # (b, 2)
    places = (torch.arange(length, device=device) for length in (frames, tokens))
    return {name: at < cut[:, None] for name, at, cut in zip(STREAMS, places, cuts.T, strict=True)}


def beside(batch: Batch, tasks: Sequence[str], compute: torch.dtype) -> dict[str, Tensor]:
    """The arguments of the model for what a batch has beside its latents and text."""
    given = {"reference_latent": references_of(batch, tasks), "audio_context": batch.speech}
    voiced = {TRAINED[task].voice for task in tasks}
    if voiced == {True}:
        given["audio_reference"] = batch.voice
    elif len(voiced) > 1:
        raise ValueError(f"a batch of the tasks {sorted(set(tasks))}: all hear a voice, or none does")
    return {name: value.to(compute) for name, value in given.items() if value is not None}


def references_of(batch: Batch, tasks: Sequence[str]) -> Tensor | None:
    """The reference pictures (b, c, h, w). Of a given video it is the first frame, as where it is dubbed."""
    if batch.reference is None:
        return None
    made = torch.tensor([generates(task, "video") for task in tasks], device=batch.video.device)
    return torch.where(like(made, batch.reference), batch.reference, batch.video[:, :, 0])


def noised_stream(
    name: str, batch: Batch, draw: Draw, tasks: Sequence[str], kept: Tensor | None = None
) -> Noised:
    """One stream of a batch as its samples' tasks want it: on its way to noise, or given."""
    generated = torch.tensor([generates(task, name) for task in tasks])
    time = getattr(draw, f"{name}_time")
    noise = getattr(draw, f"{name}_noise")
    return noised(getattr(batch, name), generated, time, noise, kept)


def noised(
    clean: Tensor, generated: Tensor, time: Tensor, noise: Tensor, kept: Tensor | None = None
) -> Noised:
    """A stream at its time; a given sample, and what is kept, is clean at time 0. generated: bool (b,)."""
    time = time * generated.to(time)
    if kept is not None:
        time = time[:, None] * ~kept
    # The straight path x_t = (1 - t) clean + t noise (arXiv 2209.03003) has the velocity noise - clean.
    return Noised(torch.lerp(clean, noise, like(time, clean)), noise - clean, time, kept)


def like(values: Tensor, latent: Tensor) -> Tensor:
    """Values (b,) or (b, k) on the axes of a latent (b, c, k, ...)."""
    if values.ndim == 1:
        return values.view(-1, *[1] * (latent.ndim - 1))
    return values.view(len(values), 1, -1, *[1] * (latent.ndim - 3))


def weighted(made: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    # Divided by the mean weight, so that a loss has the same scale whatever the weights are.
    return ((made - target).square() * weight).mean() / weight.mean()


def generates(task: str, stream: str) -> bool:
    return getattr(TRAINED[task].row, stream) is State.GENERATED


def routes(tasks: Sequence[str]) -> tuple[Routes, Routes]:
    """Dynamic context routing (CCL, arXiv 2603.18600): the routes (a2v, v2a) of the samples."""
    rows = [TRAINED[task] for task in tasks]
    a2v = tuple(task.coupled and task.row.a2v_open for task in rows)
    v2a = tuple(task.coupled and task.row.v2a_open for task in rows)
    return as_one(a2v), as_one(v2a)


def as_one(opened: tuple[bool, ...]) -> Routes:
    """One bool where all samples have the same route, which the model runs faster."""
    return opened[0] if len(set(opened)) == 1 else opened


def absent(tasks: Sequence[str]) -> dict[str, bool]:
    """The transformer options that leave out the stream that a batch has not; ValueError for a mixed one."""
    rows = {TRAINED[task].row for task in tasks}
    left_out = {row for row in rows if State.ABSENT in (row.video, row.audio)}
    if left_out and len(rows) > 1:
        raise ValueError(f"a batch of the tasks {sorted(set(tasks))}: t2v and t2a stand alone in theirs")
    video = any(row.video is State.ABSENT for row in left_out)
    audio = any(row.audio is State.ABSENT for row in left_out)
    return ({"run_vx": False} if video else {}) | ({"run_ax": False} if audio else {})


def switches(model: JointModel, tasks: Sequence[str]) -> dict[str, bool]:
    """The transformer options that stand for routes an interaction lacks; ValueError for a mixed batch."""
    if model.kind.routed or SEPARATE not in tasks:
        return {}
    if len(set(tasks)) > 1:
        raise ValueError(f"a batch of the tasks {sorted(set(tasks))}: without routes {SEPARATE} stands alone")
    return {"a2v_cross_attn": False, "v2a_cross_attn": False}


def motion(video: Tensor) -> Tensor:
    """Where something moves: distance of a latent (b, c, t, h, w) from its median over time. (b, 1, t, h, w)

    The median is the empty room, where nothing stands at one place for half of the clip. At most 1.
    """
    still = video.median(dim=2, keepdim=True).values
    return (video - still).square().mean(dim=1, keepdim=True).sqrt().clamp(max=1)


def level(audio: Tensor) -> Tensor:
    """How far a latent of log-mel bands (b, m, a) is above its quietest moment. (b, 1, a)"""
    return (audio - audio.amin(dim=2, keepdim=True)).mean(dim=1, keepdim=True)


def loudness(audio: Tensor, scale: float) -> Tensor:
    """The level (b, 1, a) over its deviation among the clips of a training. At most 2."""
    return (level(audio) / scale).clamp(max=2)


def sample_lag(count: int, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Shifts of the audio's time over the video's, log-uniform between the bounds. (count,)"""
    low, high = bounds
    return low * (high / low) ** torch.rand(count, generator=generator)


def shifted(time: Tensor, shift: float | Tensor) -> Tensor:
    """Noise levels under the shift of the sampler (SD3, arXiv 2403.03206)."""
    return shift * time / (1 + (shift - 1) * time)


def initialise(model: nn.Module) -> None:
    """Wan's initialisation; output heads and an interaction's `o` start at zero, tokens at random."""
    for name, value in model.named_parameters():
        initialise_tensor(name, value)


def initialise_tensor(name: str, value: Tensor) -> Tensor:
    """The parameter of this name, with its first numbers in it."""
    # CCL without a gate: with `o` at zero, a fresh coupling leaves the two streams as they are.
    if name.endswith(ZERO) or (".o." in name and name.startswith("interaction.")):
        return nn.init.zeros_(value)
    if value.ndim == 1:
        return nn.init.constant_(value, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
    if name.endswith("modulation"):
        return nn.init.normal_(value, std=value.shape[-1] ** -0.5)
    if name.endswith(("context", "speech_text.embedding.weight")):
        return nn.init.normal_(value)
    if "text_embedding" in name or "time_embedding" in name:
        return nn.init.normal_(value, std=0.02)
    nn.init.xavier_uniform_(value.flatten(1))
    return value


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """A file that is whole or the one before it, also where the machine stops."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
