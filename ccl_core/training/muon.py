"""Muon for small models on few cores: momentum made orthogonal (kellerjordan.github.io/posts/muon, 2024)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """For weights of two and more dimensions; the tiny models need far fewer steps with it than with Adam.

    compute: type in which the momentum is made orthogonal, bf16 in the source.
    """

    def __init__(
        self, kernels: Any, lr: float, momentum: float = 0.95, compute: torch.dtype = torch.float32
    ) -> None:
        super().__init__(kernels, {"lr": lr, "momentum": momentum})
        self.compute = compute

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for kernels in _by_shape([p for p in group["params"] if p.grad is not None]):
                self._step(kernels, group["lr"], group["momentum"])

    def _step(self, kernels: list[Tensor], lr: float, momentum: float) -> None:
        """One update of equally shaped kernels in one batch: many small products one by one cost far more."""
        grads = [p.grad for p in kernels]
        velocities = [self.state[p].setdefault("velocity", torch.zeros_like(p)) for p in kernels]
        torch._foreach_lerp_(velocities, grads, 1 - momentum)
        # Nesterov momentum: the gradient moved towards the velocity.
        ahead = torch.stack(torch._foreach_lerp(grads, velocities, momentum))
        updates = orthogonal(ahead.flatten(2), self.compute).view_as(ahead)
        torch._foreach_add_(kernels, list(updates), alpha=-lr)


def _by_shape(kernels: list[Tensor]) -> list[list[Tensor]]:
    groups: dict[torch.Size, list[Tensor]] = {}
    for kernel in kernels:
        groups.setdefault(kernel.shape, []).append(kernel)
    return list(groups.values())


def orthogonal(matrix: Tensor, compute: torch.dtype = torch.float32, rounds: int = 5) -> Tensor:
    """Nearest (semi-)orthogonal matrices (..., r, c) by Newton-Schulz, in the type `compute`.

    Each round is X <- (a + b G + c G G) X with G = X X^T. Rounding to bf16 moves the result by 1 %, and its
    singular values are only near 1 anyway.
    """
    if matrix.shape[-2] > matrix.shape[-1]:
        return orthogonal(matrix.mT, compute, rounds).mT
    # The Frobenius norm bounds the largest singular value, which must start at 1 or less.
    scaled = matrix / matrix.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-12)
    x = scaled.flatten(0, -3).to(compute) if matrix.ndim > 2 else scaled[None].to(compute)
    for _ in range(rounds):
        gram = x @ x.mT
        # Jordan's coefficients: singular values come near 1 in five rounds, but never to 1.
        factor = torch.baddbmm(gram, gram, gram, beta=-4.775, alpha=2.0315)
        x = torch.baddbmm(x, factor, x, beta=3.4445)
    return x.view(matrix.shape).to(matrix)
