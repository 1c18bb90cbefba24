"""Training of real models on cached clips: the interaction, and any part of the streams (docs/training.md).

Everything that chance decides in a step follows from the seed and the number of the step, so a run that goes
on from a checkpoint takes the very steps of one that was never stopped.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...config import CCLConfig
from ...host.files.assemble import Assembly
from ..flow import (
    FACE,
    TRAINED,
    Batch,
    Draw,
    losses,
    loudness,
    motion,
    sample_lag,
    save_atomically,
    shifted,
)
from .adapters import Adapter, adaptable, attach
from .beside import beside_of, task_of
from .cache import Cache, EncodedClip, Entry, level_deviation, padded
from .course import AGAIN, Course, total_of
from .load import load, part_of
from .optimisers import optimisers_of
from .order import Order, generator_of, split_validation, stratified
from .saves import read_state
from .settings import COMPUTE, Settings, TrainSettings

log = logging.getLogger(__name__)

Item = TypeVar("Item")


class FineTuner:
    """The state of a run: weights in training, their optimiser and average, the step."""

    def __init__(
        self, settings: Settings, assembly: Assembly, config: CCLConfig, device: torch.device
    ) -> None:
        train = settings.train
        self.settings = settings
        self.assembly = assembly
        self.device = device
        self.compute = COMPUTE[train.precision]
        self.config = config
        self.model = load(assembly, config, train.checkpointing, device, settings.model.random, train.seed)
        self.adapters = self._adapt(train)
        self.trained = self._choose(train)
        own = {name for name, _ in self.model.named_parameters()}
        self.optimisers = optimisers_of(self.trained, own, train)
        self.rates = [group["lr"] for group in self.groups()]
        self.average = (
            None if train.ema is None else {name: v.detach().clone() for name, v in self.trained.items()}
        )
        cache = Cache(Path(settings.data.cache))
        self.no_text = cache.no_text()
        self.held_out, entries = split_validation(cache.entries(), settings.data.validation_clips)
        self.order = Order(entries, train.batch, train.seed)
        weighs = train.loss_weights.get("loudness", 0.0)
        self.level_deviation = level_deviation(entries) if weighs else 1.0
        self.course = Course()
        self.step = 0
        self.seconds = 0.0

    def _adapt(self, train: TrainSettings) -> dict[str, Adapter]:
        names = [name for name, module in self.model.named_modules() if adaptable(name, module)]
        names = [name for name in names if train.how(part_of(name)) == "lora"]
        generator = generator_of(train.seed, "adapters", 0)
        adapters = attach(self.model, names, train.lora_rank, train.lora_alpha, generator)
        for adapter in adapters.values():
            adapter.to(self.device)
        return adapters

    def _choose(self, train: TrainSettings) -> dict[str, Tensor]:
        """The parameters in training by name, in single precision; all others are frozen."""
        chosen = {}
        for name, value in self.model.named_parameters():
            full = train.how(part_of(name)) == "full"
            value.requires_grad_(full)
            if full:
                value.data = value.data.float().clone()  # not the file's own memory
                chosen[name] = value
        for name, adapter in self.adapters.items():
            chosen |= {f"{name}.{side}": value for side, value in adapter.named_parameters()}
        return chosen

    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimisers."""
        return list(chain.from_iterable(optimiser.param_groups for optimiser in self.optimisers))

    def update(self) -> dict[str, Any]:
        """One step of the optimiser; returns its line of the log. ValueError: a gradient is not finite."""
        started = time.monotonic()
        rate = self.schedule()
        for group, full in zip(self.groups(), self.rates, strict=True):
            group["lr"] = full * rate
        passes = self._passes()
        means = self._learn(passes)
        norm = self._clip(passes)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self._follow()
        self.course = self.course.after(total_of(means), self.step >= self.settings.train.warmup)
        self.course.check(self.step)
        self.seconds += time.monotonic() - started
        seconds = round(self.seconds, 3)
        return {"step": self.step, "loss": means, "norm": norm, "rate": rate, "seconds": seconds}

    def _passes(self) -> list[list[Entry]]:
        """The clips of each pass of this step."""
        count = self.settings.train.accumulate
        return [self.order.batch(self.step * count + i) for i in range(count)]

    def _learn(self, passes: list[list[Entry]]) -> dict[str, float]:
        """Add up the gradients of all passes; the mean of each loss over the clips that had its task."""
        train = self.settings.train
        generator = generator_of(train.seed, "step", self.step)
        sizes = [len(entries) for entries in passes]
        measured: list[tuple[str, int, float]] = []
        # The times are stratified over the whole step, which may have one clip a pass.
        times = stratified(sum(sizes), generator).split(sizes)
        for entries, uniform in zip(passes, times, strict=True):
            clips = [entry.load() for entry in entries]
            tasks = self.draw_tasks(clips, generator)
            # What hears a voice has more tokens.
            for heard in (False, True):
                chosen = [i for i, task in enumerate(tasks) if TRAINED[task].voice is heard]
                if chosen:
                    own = [clips[i] for i in chosen], [tasks[i] for i in chosen], uniform[chosen]
                    measured += self._add_gradients(*own, generator, len(tasks))
        return means_of(measured)

    def _add_gradients(
        self,
        clips: Sequence[EncodedClip],
        tasks: Sequence[str],
        uniform: Tensor,
        generator: torch.Generator,
        count: int,
    ) -> list[tuple[str, int, float]]:
        """Add up the gradients of some of the `count` clips of a pass; (loss, clips that had it, value)."""
        train = self.settings.train
        found = self.losses(clips, tasks, uniform, generator, train.text_drop, lagging=True)
        counts = {name: tasks.count(name.split("/")[0]) or len(tasks) for name in found}
        weights = dict.fromkeys(found, 1.0) | {FACE: self.face_weight()}
        # Each loss is a mean over the clips of its task: weighted by their number, all clips count alike.
        total = sum(value * weights[name] * counts[name] / count for name, value in found.items())
        # With frozen towers, an interaction that is switched off leaves nothing to train.
        if total.requires_grad:
            (total / train.accumulate).backward()
        return [(name, counts[name], float(value.detach())) for name, value in found.items()]

    def face_weight(self) -> float:
        """Of the face masks' loss at this step: linear from the first of the two weights to the second."""
        first, last = self.settings.train.face_weight
        return first + (last - first) * self.step / self.settings.train.steps

    def _clip(self, passes: list[list[Entry]]) -> float:
        """Bound the norm of the gradient and return it; ValueError names the clips where it is not finite."""
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), self.settings.train.clip)
        if not torch.isfinite(norm):
            names = sorted({entry.name for entry in chain(*passes)})
            raise ValueError(
                f"step {self.step + 1}: the gradient is not finite, on {', '.join(names)}. "
                f"Nothing was saved at this step: look at these clips, or {AGAIN}"
            )
        return float(norm)

    def _follow(self) -> None:
        """Let the average come a little nearer to the weights, where the run keeps one."""
        if self.average is not None:
            weights = [value.detach() for value in self.trained.values()]
            torch._foreach_lerp_(list(self.average.values()), weights, 1 - self.settings.train.ema)

    def schedule(self) -> float:
        """Linear warm-up, constant, and over the last share `decay` of the steps linear towards zero."""
        train = self.settings.train
        left = (1 - self.step / train.steps) / train.decay if train.decay else 1.0
        return min(1.0, (self.step + 1) / max(1, train.warmup), left)

    def draw_tasks(self, clips: Sequence[EncodedClip], generator: torch.Generator) -> list[str]:
        """A task for each clip, or one for all; clips of one stream alone have no choice."""
        train = self.settings.train
        shares = torch.tensor(list(train.tasks.values()))
        # Without routes of its own an interaction is open or closed for all clips of a pass.
        drawn = len(clips) if self.model.kind.routed and train.task_of == "clip" else 1
        rows = torch.multinomial(shares, drawn, replacement=True, generator=generator).tolist()
        names = [list(train.tasks)[row] for row in rows]
        tasks = names if drawn == len(clips) else names * len(clips)
        return [task_of(clip, task) for clip, task in zip(clips, tasks, strict=True)]

    def losses(
        self,
        clips: Sequence[EncodedClip],
        tasks: Sequence[str],
        uniform: Tensor,
        generator: torch.Generator,
        text_drop: float = 0.0,
        lagging: bool = False,
    ) -> dict[str, Tensor]:
        """Losses by "task/stream". uniform (b,): times before their shift; generator: on the CPU.

        lagging: whether the audio's time lags as in training, or as the model is sampled.
        """
        dropped = torch.rand(len(clips), generator=generator) < text_drop
        batch = self._batch(clips, dropped.tolist())
        noise = [torch.randn(clean.shape, generator=generator) for clean in (batch.video, batch.audio)]
        bounds = self.settings.train.audio_lag if lagging else None
        lag = None if bounds is None else sample_lag(len(clips), bounds, generator)
        prefix = None
        if any(TRAINED[task].prefix for task in tasks):
            # From one latent frame to all but one.
            prefix = torch.randint(1, batch.video.shape[2], (len(clips),), generator=generator)
        draw = Draw(*noise, *self.times(uniform, lag), prefix)
        conds = {}
        if "image" in clips[0].beside:
            image = torch.stack([clip.beside["image"] for clip in clips])
            conds["video_concat"] = image.to(self.device, self.compute)
        return losses(self.model, batch, tasks, draw, self.compute, **conds)

    def _batch(self, clips: Sequence[EncodedClip], dropped: Sequence[bool]) -> Batch:
        """Clips of one shape, some without their words, with their weights and what is beside them."""
        video = torch.stack([clip.video for clip in clips])
        audio = torch.stack([clip.audio for clip in clips])
        rows = len(clips[0].text)
        empty = padded(self.no_text[:rows], rows)
        text = torch.stack([empty if drop else clip.text for clip, drop in zip(clips, dropped, strict=True)])
        return Batch(video, audio, text, *self._weights(video, audio), **beside_of(clips, dropped))

    def _weights(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """What the losses weigh: 1, and more where something moves or sounds."""
        given = self.settings.train.loss_weights
        weights = [torch.ones(len(clean), *[1] * (clean.ndim - 1)) for clean in (video, audio)]
        if given.get("motion", 0.0) and video.numel():
            weights[0] = 1 + given["motion"] * motion(video)
        if given.get("loudness", 0.0) and audio.numel():
            weights[1] = 1 + given["loudness"] * loudness(audio, self.level_deviation)
        return tuple(weights)

    def times(self, uniform: Tensor, lag: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise levels of both streams from one uniform number a clip, within the levels that are trained.

        lag (b,): shifts of the audio's over the video's, else that of the model.
        """
        train = self.settings.train
        shift = self.config.shift if train.shift is None else train.shift
        # The inverse of a shift s is the shift 1 / s: the bounds before the shift.
        low = shifted(torch.tensor(train.times[0]), 1 / shift)
        high = shifted(torch.tensor(train.times[1]), 1 / shift)
        inner = low + (high - low) * uniform
        audio_shift = shift if self.config.audio_shift is None else self.config.audio_shift
        video = shifted(inner, shift)
        return video, shifted(inner, audio_shift) if lag is None else shifted(video, lag)

    def save(self, path: Path) -> None:
        state = {
            "deciding": json.dumps(self.settings.deciding()),
            "clips": self.order.names,
            "trained": {name: value.detach() for name, value in self.trained.items()},
            "average": self.average,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "course": asdict(self.course),
            "step": self.step,
            "seconds": self.seconds,
        }
        save_atomically(state, path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint; ValueError if it is damaged, or of a run with other settings."""
        state = read_state(path)
        self._check(json.loads(state["deciding"]), path)
        if state["clips"] != self.order.names:
            log.warning(
                "the clips are not those that the run began with: it goes on, unlike a run without a stop"
            )
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(state["trained"][name])
            for name in self.average or ():
                self.average[name].copy_(state["average"][name])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.course = Course(**state["course"])
        self.step = state["step"]
        self.seconds = state["seconds"]

    def _check(self, stated: dict[str, Any], path: Path) -> None:
        # Through JSON, as the checkpoint was: tuples become lists.
        own = json.loads(json.dumps(self.settings.deciding()))
        changed = [
            f"{part}.{name} was {stated[part].get(name)!r} and is {value!r}"
            for part, values in own.items()
            for name, value in values.items()
            if stated[part].get(name) != value
        ]
        if changed:
            raise ValueError(
                f"{path} is of a run with other settings: {'; '.join(changed)}. "
                "Set them back, or name another train.out"
            )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the weights are their average over the steps, where the run keeps one."""
        if self.average is None:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, value in self.trained.items():
            value.data, self.average[name] = self.average[name], value.data


def means_of(measured: Sequence[tuple[str, int, float]]) -> dict[str, float]:
    """Means of losses by name from (name, clips, value), each value as often as clips had its task."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for name, clips, value in measured:
        sums[name] = sums.get(name, 0.0) + clips * value
        counts[name] = counts.get(name, 0) + clips
    return {name: sums[name] / counts[name] for name in sorted(sums)}
