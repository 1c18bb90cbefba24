"""Training of real models on cached clips: the interaction, and any part of the streams (docs/training.md).

Everything that chance decides in a step follows from the seed and the number of the step, so a run that goes
on from a checkpoint takes the very steps of one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...config import CCLConfig
from ...host.files.assemble import Assembly
from ...host.files.identify import section
from ..flow import Batch, Draw, losses, save_atomically, shifted
from .adapters import Adapter, attach
from .cache import Cache, EncodedClip, Entry, padded
from .load import load, renew
from .order import Order, generator_of, stratified
from .settings import Settings, TrainSettings

log = logging.getLogger(__name__)

Item = TypeVar("Item")
STATE_KEYS = ("deciding", "clips", "trained", "average", "optimiser", "step", "seconds")
REMEDY = "put a copy of it back and go on from there, or delete it to train from the start"
COMPUTE = {"bf16": torch.bfloat16, "fp32": torch.float32}


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
        self.model = load(assembly, config, train.checkpointing, device)
        if settings.model.fresh_interaction:
            renew(self.model, train.seed)
        self.adapters = self._adapt(train)
        self.trained = self._choose(train)
        self.optimiser = torch.optim.AdamW(
            self._groups(train), betas=train.betas, weight_decay=train.weight_decay, fused=True
        )
        self.rates = [group["lr"] for group in self.optimiser.param_groups]
        self.average = (
            None if train.ema is None else {name: v.detach().clone() for name, v in self.trained.items()}
        )
        cache = Cache(Path(settings.data.cache))
        self.no_text = cache.no_text()
        self.held_out, entries = split_validation(cache.entries(), settings.data.validation_clips)
        self.order = Order(entries, train.batch, train.seed)
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

    def _groups(self, train: TrainSettings) -> list[dict[str, Any]]:
        """A group for each part; norms, biases, modulations and context tokens do not decay."""
        groups: dict[tuple[str, bool], list[Tensor]] = {}
        for name, value in self.trained.items():
            decays = value.ndim > 1 and not name.endswith(("modulation", "context"))
            groups.setdefault((part_of(name), decays), []).append(value)
        described = []
        for (part, decays), values in groups.items():
            group = {"params": values, "lr": train.rates[part]}
            # Without an entry of its own a group has the optimiser's decay.
            described.append(group if decays else group | {"weight_decay": 0.0})
        return described

    def update(self) -> dict[str, Any]:
        """One step of the optimiser; returns its line of the log. ValueError: a gradient is not finite."""
        started = time.monotonic()
        rate = self.schedule()
        for group, full in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = full * rate
        passes = self._passes()
        means = self._learn(passes)
        norm = self._clip(passes)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self._follow()
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
            tasks = self.draw_tasks(len(entries), generator)
            clips = [entry.load() for entry in entries]
            found = self.losses(clips, tasks, uniform, generator, train.text_drop)
            counts = {name: tasks.count(name.split("/")[0]) for name in found}
            measured += [(name, counts[name], float(value.detach())) for name, value in found.items()]
            # Each loss is a mean over the clips of its task: weighted by their number, all clips count alike.
            total = sum(value * counts[name] / len(tasks) for name, value in found.items())
            # With frozen towers, an interaction that is switched off leaves nothing to train.
            if total.requires_grad:
                (total / train.accumulate).backward()
        return means_of(measured)

    def _clip(self, passes: list[list[Entry]]) -> float:
        """Bound the norm of the gradient and return it; ValueError names the clips where it is not finite."""
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), self.settings.train.clip)
        if not torch.isfinite(norm):
            names = sorted({entry.name for entry in chain(*passes)})
            raise ValueError(
                f"step {self.step + 1}: the gradient is not finite, on {', '.join(names)}. "
                "The last checkpoint is whole: look at these clips, or go on from it with lower train.rates"
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

    def draw_tasks(self, count: int, generator: torch.Generator) -> list[str]:
        """A task for each clip; one for all where the interaction has no routes of its own."""
        mix = self.settings.train.tasks
        shares = torch.tensor(list(mix.values()))
        drawn = count if self.model.kind.routed else 1
        rows = torch.multinomial(shares, drawn, replacement=True, generator=generator).tolist()
        tasks = [list(mix)[row] for row in rows]
        return tasks if drawn == count else tasks * count

    def losses(
        self,
        clips: Sequence[EncodedClip],
        tasks: Sequence[str],
        uniform: Tensor,
        generator: torch.Generator,
        text_drop: float = 0.0,
    ) -> dict[str, Tensor]:
        """Losses by "task/stream". uniform (b,): times before their shift; generator: on the CPU."""
        dropped = torch.rand(len(clips), generator=generator) < text_drop
        batch = self._batch(clips, dropped.tolist())
        noise = [torch.randn(clean.shape, generator=generator) for clean in (batch.video, batch.audio)]
        draw = Draw(*noise, *self.times(uniform))
        conds = {}
        if clips[0].image is not None:
            conds["video_concat"] = torch.stack([clip.image for clip in clips]).to(self.device, self.compute)
        return losses(self.model, batch, tasks, draw, self.compute, **conds)

    def _batch(self, clips: Sequence[EncodedClip], dropped: Sequence[bool]) -> Batch:
        """Clips of one shape, some with the empty caption instead of their own; all losses weigh the same."""
        video = torch.stack([clip.video for clip in clips])
        audio = torch.stack([clip.audio for clip in clips])
        rows = len(clips[0].text)
        empty = padded(self.no_text[:rows], rows)
        text = torch.stack([empty if drop else clip.text for clip, drop in zip(clips, dropped, strict=True)])
        weights = [torch.ones(len(clips), *[1] * (clean.ndim - 1)) for clean in (video, audio)]
        return Batch(video, audio, text, *weights)

    def times(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Noise levels of both streams from one uniform number a clip, within the levels that are trained."""
        train = self.settings.train
        shift = self.config.shift if train.shift is None else train.shift
        # The inverse of a shift s is the shift 1 / s: the bounds before the shift.
        low = shifted(torch.tensor(train.times[0]), 1 / shift)
        high = shifted(torch.tensor(train.times[1]), 1 / shift)
        inner = low + (high - low) * uniform
        audio_shift = shift if self.config.audio_shift is None else self.config.audio_shift
        return shifted(inner, shift), shifted(inner, audio_shift)

    def save(self, path: Path) -> None:
        state = {
            "deciding": json.dumps(self.settings.deciding()),
            "clips": self.order.names,
            "trained": {name: value.detach() for name, value in self.trained.items()},
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        save_atomically(state, path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint; ValueError if it is damaged, or of a run with other settings."""
        state = _read_state(path)
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
        self.optimiser.load_state_dict(state["optimiser"])
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


def _read_state(path: Path) -> dict[str, Any]:
    """What `save` wrote; ValueError where the file is cut off, damaged or of something else."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        lacking = [key for key in STATE_KEYS if key not in state]
    # torch raises errors of zip, pickle and of its own for a damaged file.
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {first}): {REMEDY}") from error
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(lacking)}: {REMEDY}")
    return state


def part_of(name: str) -> str:
    """interaction, audio or video, of a weight or layer of the model."""
    found = section(name)
    return found if found in ("audio", "video") else "interaction"


def adaptable(name: str, module: torch.nn.Module) -> bool:
    """Whether a LoRA of the host can change this module: a linear layer of a block or of the interaction."""
    inner = "blocks." in name or name.startswith("interaction.")
    return inner and isinstance(module, torch.nn.Linear)


def split_validation(entries: list[Entry], count: int) -> tuple[list[Entry], list[Entry]]:
    """The clips for validation, chosen by their names alone, and the others; ValueError if none is left."""
    if count >= len(entries):
        raise ValueError(f"data.validation_clips is {count} of {len(entries)} clips: leave some to train on")
    # By a hash of the name: clips that are added later leave the choice nearly as it was.
    by_hash = sorted(entries, key=lambda entry: hashlib.sha256(entry.name.encode()).digest())
    chosen = by_hash[:count]
    return chosen, [entry for entry in entries if entry not in chosen]


def means_of(measured: Sequence[tuple[str, int, float]]) -> dict[str, float]:
    """Means of losses by name from (name, clips, value), each value as often as clips had its task."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for name, clips, value in measured:
        sums[name] = sums.get(name, 0.0) + clips * value
        counts[name] = counts.get(name, 0) + clips
    return {name: sums[name] / counts[name] for name in sorted(sums)}
