"""LoRA (arXiv 2106.09685) on linear layers while they train, under the names the host's loader reads."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PREFIX = "diffusion_model."


class Adapter(nn.Module):
    """What a LoRA adds to the output of a linear layer: alpha / rank times up(down(x)), 0 at first."""

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        down = torch.empty(rank, layer.in_features)
        # A uniform draw within sqrt(3 / n) has the variance 1 / n: `down` keeps the scale of its input.
        bound = math.sqrt(3 / layer.in_features)
        self.down = nn.Parameter(down.uniform_(-bound, bound, generator=generator))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))
        self.alpha = alpha
        layer.register_forward_hook(self.added)

    def added(
        self,
        layer: nn.Linear,  # noqa: ARG002 - torch's hook
        inputs: tuple[Any, ...],
        output: Tensor,
    ) -> Tensor:
        """The hook of the layer."""
        x = inputs[0]
        inner = F.linear(x, self.down.to(x))  # (..., rank)
        return output + F.linear(inner, self.up.to(x)) * (self.alpha / len(self.down))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Its entries in a LoRA file."""
        return {
            f"{PREFIX}{name}.lora_A.weight": self.down,
            f"{PREFIX}{name}.lora_B.weight": self.up,
            f"{PREFIX}{name}.alpha": torch.tensor(self.alpha),
        }


def attach(
    model: nn.Module, names: list[str], rank: int, alpha: float, generator: torch.Generator
) -> dict[str, Adapter]:
    """Adapters on these layers of a model."""
    return {name: Adapter(model.get_submodule(name), rank, alpha, generator) for name in names}


def adaptable(name: str, module: nn.Module) -> bool:
    """Whether a LoRA of the host can change this module: a linear layer of a block or of the interaction."""
    inner = "blocks." in name or name.startswith("interaction.")
    return inner and isinstance(module, nn.Linear)
