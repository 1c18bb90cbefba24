"""What moves the weights: AdamW, or Muon for the matrices inside and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..muon import Muon
from .load import part_of
from .settings import COMPUTE, TrainSettings


def optimisers_of(
    trained: Mapping[str, Tensor], own: Collection[str], train: TrainSettings
) -> list[torch.optim.Optimizer]:
    """One optimiser, or two. own: names of the model's own parameters; the others are those of a LoRA."""
    matrices = {}
    if train.optimiser == "muon":
        matrices = {name: value for name, value in trained.items() if name in own and _inner(name, value)}
    others = {name: value for name, value in trained.items() if name not in matrices}
    made: list[torch.optim.Optimizer] = []
    if matrices:
        made.append(Muon(_by_rate(matrices, train), lr=0.0, compute=COMPUTE[train.precision]))
    if others:
        groups = _groups(others, train)
        made.append(torch.optim.AdamW(groups, betas=train.betas, weight_decay=train.weight_decay, fused=True))
    return made


def _inner(name: str, value: Tensor) -> bool:
    """Whether it is a matrix inside a layer or the interaction; embeddings, heads and context are Adam's."""
    inside = "blocks." in name or name.startswith("interaction.")
    return value.ndim == 2 and inside and not name.endswith("context")


def _by_rate(matrices: Mapping[str, Tensor], train: TrainSettings) -> list[dict[str, Any]]:
    # Muon works on all matrices of one shape in a group at once.
    groups: dict[float, list[Tensor]] = {}
    for name, value in matrices.items():
        groups.setdefault(train.muon_rates[part_of(name)], []).append(value)
    return [{"params": values, "lr": rate} for rate, values in groups.items()]


def _groups(trained: Mapping[str, Tensor], train: TrainSettings) -> list[dict[str, Any]]:
    """A group for each part; norms, biases, modulations and context tokens do not decay."""
    groups: dict[tuple[str, bool], list[Tensor]] = {}
    for name, value in trained.items():
        decays = value.ndim > 1 and not name.endswith(("modulation", "context"))
        groups.setdefault((part_of(name), decays), []).append(value)
    described = []
    for (part, decays), values in groups.items():
        group = {"params": values, "lr": train.rates[part]}
        # Without an entry of its own a group has the optimiser's decay.
        described.append(group if decays else group | {"weight_decay": 0.0})
    return described
