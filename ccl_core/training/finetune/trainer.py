"""Training of real models on cached clips: the interaction, and as much of the towers as one likes (docs/training.md).

Everything that chance decides in a step follows from the seed and the number of the step, so a run that goes on from a
checkpoint takes the very steps of one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...host.files.assemble import Assembly
from ...host.files.identify import section
from ..flow import Batch, Draw, losses, save_atomically, shifted
from .adapters import Adapter, attach
from .cache import Cache, Clip, Entry, padded
from .load import load, renew
from .settings import Settings, TrainSettings

log = logging.getLogger(__name__)

COMPUTE = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Order:
    """Which clips each pass takes: all in an epoch, in an order of its own, clips of one shape together."""

    def __init__(self, entries: list[Entry], batch: int, seed: int) -> None:
        groups: dict[Any, list[Entry]] = {}
        for entry in entries:
            groups.setdefault(entry.shapes, []).append(entry)
        self.groups, self.size, self.seed = list(groups.values()), batch, seed
        self.count = sum(math.ceil(len(group) / batch) for group in self.groups)
        self.epoch = lru_cache(maxsize=1)(self._epoch)

    def batch(self, index: int) -> list[Entry]:
        """The clips of the pass `index`, counted from the start of the run."""
        epoch, position = divmod(index, self.count)
        return self.epoch(epoch)[position]

    def _epoch(self, epoch: int) -> list[list[Entry]]:
        generator, batches = generator_of(self.seed, "epoch", epoch), []
        for group in self.groups:
            rows = torch.randperm(len(group), generator=generator).tolist()
            batches += [[group[i] for i in rows[k : k + self.size]] for k in range(0, len(rows), self.size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


class Trainer:
    """The state of a run: weights in training, their optimiser and average, the step."""

    def __init__(self, settings: Settings, assembly: Assembly, device: torch.device) -> None:
        train = settings.train
        self.settings, self.assembly, self.device = settings, assembly, device
        self.compute = COMPUTE[train.precision]
        self.model = load(assembly, train.checkpointing, device)
        self.config = self.model.ccl_config
        if settings.model.fresh_interaction:
            renew(self.model, train.seed)
        self.adapters = self._adapt(train)
        self.trained = self._choose(train)
        self.optimiser = torch.optim.AdamW(
            self._groups(train), betas=train.betas, weight_decay=train.weight_decay, fused=True
        )
        self.rates = [group["lr"] for group in self.optimiser.param_groups]
        self.average = None if train.ema is None else {name: v.detach().clone() for name, v in self.trained.items()}
        cache = Cache(Path(settings.data.cache))
        entries, self.no_text = cache.entries(), cache.no_text()
        self.held_out, entries = held_out(entries, settings.data.validation_clips)
        self.order = Order(entries, train.batch, train.seed)
        self.step, self.seconds = 0, 0.0

    def _adapt(self, train: TrainSettings) -> dict[str, Adapter]:
        names = [
            name
            for name, module in self.model.named_modules()
            if isinstance(module, torch.nn.Linear)
            and ("blocks." in name or name.startswith("interaction."))
            and train.how(part_of(name)) == "lora"
        ]
        adapters = attach(self.model, names, train.lora_rank, train.lora_alpha, generator_of(train.seed, "adapters", 0))
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
        return [
            {"params": values, "lr": train.rates[part]} | ({} if decays else {"weight_decay": 0.0})
            for (part, decays), values in groups.items()
        ]

    def update(self) -> dict[str, Any]:
        """One step of the optimiser; returns its line of the log. ValueError where the numbers are not finite."""
        started, train = time.monotonic(), self.settings.train
        scale = self.schedule()
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * scale
        generator = generator_of(train.seed, "step", self.step)
        passes = [self.order.batch(self.step * train.accumulate + i) for i in range(train.accumulate)]
        uniform = stratified(sum(map(len, passes)), generator)
        sums: dict[str, float] = {}
        counts: Counter[str] = Counter()
        for entries in passes:
            tasks, (now, uniform) = self.draw_tasks(len(entries), generator), uniform.tensor_split([len(entries)])
            found = self.losses([entry.load() for entry in entries], tasks, now, generator, train.text_drop)
            shares = Counter(tasks)
            for name, value in found.items():
                weight = shares[name.split("/")[0]]
                sums[name], counts[name] = sums.get(name, 0.0) + weight * float(value.detach()), counts[name] + weight
            total = sum(value * shares[name.split("/")[0]] / len(tasks) for name, value in found.items())
            if total.requires_grad:  # with frozen towers, a coupling that is switched off leaves nothing to train
                (total / train.accumulate).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), train.clip)
        if not torch.isfinite(norm):
            names = sorted({entry.name for entries in passes for entry in entries})
            raise ValueError(
                f"step {self.step + 1}: the gradient is not finite, on {', '.join(names)}. The last checkpoint is "
                "whole: look at these clips, or go on from it with lower train.rates"
            )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        if self.average is not None:
            torch._foreach_lerp_(
                list(self.average.values()), [v.detach() for v in self.trained.values()], 1 - train.ema
            )
        self.seconds += time.monotonic() - started
        means = {name: sums[name] / counts[name] for name in sorted(sums)}
        line = {"step": self.step, "loss": means, "norm": float(norm), "rate": scale}
        return line | {"seconds": round(self.seconds, 3)}

    def schedule(self) -> float:
        """Linear warm-up, constant, and over the last share `decay` of the steps linear towards zero."""
        train = self.settings.train
        left = (1 - self.step / train.steps) / train.decay if train.decay else 1.0
        return min(1.0, (self.step + 1) / max(1, train.warmup), left)

    def draw_tasks(self, count: int, generator: torch.Generator) -> list[str]:
        """A task for each clip; one for all where the coupling has no routes of its own."""
        mix = self.settings.train.tasks
        shares, own = torch.tensor(list(mix.values())), self.model.kind.routed
        drawn = torch.multinomial(shares, count if own else 1, replacement=True, generator=generator).tolist()
        return [list(mix)[i] for i in (drawn if own else drawn * count)]

    def losses(
        self,
        clips: Sequence[Clip],
        tasks: Sequence[str],
        uniform: Tensor,
        generator: torch.Generator,
        text_drop: float = 0.0,
    ) -> dict[str, Tensor]:
        """Losses by "task/stream". uniform (b,): the times before their shift; noise is the generator's, on the CPU."""
        video, audio = (torch.stack([getattr(clip, name) for clip in clips]) for name in ("video", "audio"))
        empty = padded(self.no_text[: len(clips[0].text)], len(clips[0].text))
        dropped = torch.rand(len(clips), generator=generator) < text_drop
        text = torch.stack([empty if drop else clip.text for clip, drop in zip(clips, dropped, strict=True)])
        noise = [torch.randn(clean.shape, generator=generator) for clean in (video, audio)]
        video_time, audio_time = self.times(uniform)
        weights = [torch.ones(len(clips), *[1] * (clean.ndim - 1)) for clean in (video, audio)]
        batch = Batch(video, audio, text, *weights)
        draw = Draw(*noise, video_time, audio_time)
        conds = {}
        if clips[0].image is not None:
            conds["video_concat"] = torch.stack([clip.image for clip in clips]).to(self.device, self.compute)
        return losses(self.model, batch, tasks, draw, self.compute, **conds)

    def times(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Noise levels of both streams from one uniform number a clip, within the levels that are trained."""
        train = self.settings.train
        shift = self.config.shift if train.shift is None else train.shift
        low, high = (shifted(torch.tensor(level), 1 / shift) for level in train.times)
        inner = low + (high - low) * uniform
        audio_shift = shift if self.config.audio_shift is None else self.config.audio_shift
        return shifted(inner, shift), shifted(inner, audio_shift)

    def save(self, path: Path) -> None:
        state = {
            "deciding": json.dumps(self.settings.deciding()),
            "clips": [entry.name for group in self.order.groups for entry in group],
            "trained": {name: value.detach() for name, value in self.trained.items()},
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        save_atomically(state, path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint; ValueError if it is of a run with other settings."""
        state = torch.load(path, weights_only=True, map_location="cpu")
        self._check(json.loads(state["deciding"]), path)
        if state["clips"] != [entry.name for group in self.order.groups for entry in group]:
            log.warning("the clips are not those the run began with: it goes on, on another path than without a stop")
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(state["trained"][name])
            for name in self.average or ():
                self.average[name].copy_(state["average"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]

    def _check(self, stated: dict[str, Any], path: Path) -> None:
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


def part_of(name: str) -> str:
    """interaction, audio or video, of a weight or layer of the model."""
    found = section(name)
    return found if found in ("audio", "video") else "interaction"


def held_out(entries: list[Entry], count: int) -> tuple[list[Entry], list[Entry]]:
    """The clips for validation, chosen by their names alone, and the others; ValueError where none would be left."""
    if count >= len(entries):
        raise ValueError(f"data.validation_clips is {count} of {len(entries)} clips: leave some to train on")
    by_hash = sorted(entries, key=lambda entry: hashlib.sha256(entry.name.encode()).digest())
    chosen = by_hash[:count]
    return chosen, [entry for entry in entries if entry not in chosen]


def generator_of(seed: int, *purpose: Any) -> torch.Generator:
    """The random numbers of one purpose, such as ("step", 7), on the CPU whatever the device."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers (count,), one from each of `count` equal parts of 0..1, in random order."""
    return ((torch.arange(count) + torch.rand(count, generator=generator)) / count)[
        torch.randperm(count, generator=generator)
    ]
