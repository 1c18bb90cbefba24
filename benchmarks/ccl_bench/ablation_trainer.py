"""The training of the models that benchmarks/method.py compares: one task a step, the same draws for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.ops
import torch

from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.training.flow import (
    PAPER_MIX,
    Draw,
    initialise,
    losses,
    sample_lag,
    save_atomically,
    shifted,
)
from ccl_pack.ccl_core.training.muon import Muon

if TYPE_CHECKING:
    from torch import Tensor

    from ccl_pack.ccl_core.config import CCLConfig
    from ccl_pack.ccl_core.training.flow import Batch


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result besides model and data."""

    steps: int = 600
    seed: int = 0
    batch: int = 16
    muon_rate: float = 0.015
    adam_rate: float = 1e-3
    warmup: int = 100
    decay: float = 0.7  # the last share of the steps, over which the rates fall to zero
    tasks: Mapping[str, float] = field(default_factory=lambda: PAPER_MIX)  # shares
    text_drop: float = 0.1
    # The sampler's, so that training sees the times that sampling takes.
    shift: float = 3.0
    # Shift of the audio's time over the video's, drawn per clip between these: one file then serves any
    # audio_shift.
    audio_lag: tuple[float, float] = (0.5, 4.0)
    threads: int = 2


class Trainer:
    """The state of a run: weights, the optimisers, the clock. Saved whole, resumed whole."""

    def __init__(self, config: CCLConfig, recipe: Recipe, start: Mapping[str, Tensor] | None = None) -> None:
        """start: weights to begin with, of a whole model or of its streams alone; see `begin`."""
        torch.manual_seed(recipe.seed)
        self.config = config
        self.recipe = recipe
        self.model = JointModel(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
        initialise(self.model)
        if start is not None:
            begin(self.model, start)
        self.model.to(comfy.model_management.get_torch_device())
        self.optimisers = optimisers_of(self.model, recipe)
        self.rates = [group["lr"] for optimiser in self.optimisers for group in optimiser.param_groups]
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.step = 0

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
        }
        save_atomically(state, path)

    def resume(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.generator.set_state(state["generator"])
        self.step = state["step"]


def optimisers_of(model: JointModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers; Adam for embeddings, heads, norms, modulations and context."""
    inner = {
        name: value
        for name, value in model.named_parameters()
        if value.ndim == 2 and ("blocks." in name or "interaction." in name) and not name.endswith("context")
    }
    others = [value for name, value in model.named_parameters() if name not in inner]
    adam = torch.optim.AdamW(others, recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    return [Muon(list(inner.values()), recipe.muon_rate), adam]


def begin(model: JointModel, start: Mapping[str, Tensor]) -> None:
    """Put weights in the place of fresh ones; the interaction stays fresh if `start` has none of it.

    Raises ValueError for weights of another model, and RuntimeError from torch for wrong shapes.
    """
    found = model.load_state_dict(dict(start), strict=False)
    coupled = any(key.startswith("interaction.") for key in start)
    missing = [key for key in found.missing_keys if coupled or not key.startswith("interaction.")]
    if missing or found.unexpected_keys:
        raise ValueError(
            f"the weights to start from are those of another model: {len(missing)} tensors are missing, "
            f"such as {missing[:1]}, {len(found.unexpected_keys)} are too many, "
            f"such as {found.unexpected_keys[:1]}"
        )


def loss(
    model: JointModel, batch: Batch, task: str, recipe: Recipe, generator: torch.Generator
) -> dict[str, Tensor]:
    """Flow-matching losses of the streams the task generates, one task for the whole batch."""
    # The order of the draws decides what a seed means: time, lag, noise of the video, noise of the audio.
    time = sample_time(len(batch.video), recipe.shift, generator)
    lag = sample_lag(len(batch.video), recipe.audio_lag, generator)
    noise = [torch.randn(clean.shape, generator=generator) for clean in (batch.video, batch.audio)]
    found = losses(model, batch, (task,) * len(time), Draw(*noise, time, shifted(time, lag)))
    return {name.removeprefix(f"{task}/"): value for name, value in found.items()}


def sample_time(batch: int, shift: float, generator: torch.Generator) -> Tensor:
    """Uniform time, stratified over the batch, under the same shift the sampler uses. (b,), 1 is noise."""
    # One time from each equal part of 0..1: every batch covers the whole range.
    return shifted((torch.arange(batch) + torch.rand(batch, generator=generator)) / batch, shift)
