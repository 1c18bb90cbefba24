"""Rotary tables of both streams and of the coupling, and their use.

Axes: b batch, n tokens, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import comfy.quant_ops
import torch
from comfy.ldm.flux.math import apply_rope1, rope
from comfy.ldm.wan.model import WanModel
from torch import Tensor

THETA = 10000  # of Wan's RoPE and of every published coupling


class Tables(NamedTuple):
    """Rotary tables of one direction: of the stream that asks and of the one that is read, None if absent."""

    queries: Tensor | None
    keys: Tensor | None


def axis_table(positions: Tensor, width: int) -> Tensor:
    """Table of one axis over a whole head of this width: positions (n,) -> (1, n, 1, width / 2, 2, 2)."""
    # The last two axes are the rotation by position * THETA^(-2 i / width); the third is for the heads.
    return rope(positions[None], width, THETA)[:, :, None]


def time_table(stream: WanModel, positions: Sequence[Fraction], device: torch.device) -> Tensor:
    """Table of tokens at (position, 0, 0) on Wan's three axes, for the head width of `stream` (TARP, Ovi)."""
    # float32: positions are fractions of a latent frame, and bf16 has steps of 1/4 from frame 32 on.
    ids = torch.zeros(1, len(positions), 3, device=device, dtype=torch.float32)  # (1, a, 3)
    ids[0, :, 0] = torch.tensor(
        [float(position) for position in positions], device=device, dtype=torch.float32
    )
    return stream.rope_embedder(ids).movedim(1, 2)


def rotate(x: Tensor, table: Tensor, heads: int) -> Tensor:
    """Wan's RoPE, in interleaved pairs: (b, n, d) -> (b, n, d)."""
    return apply_rope1(x.unflatten(2, (heads, -1)), table).flatten(2)


def rotate_halves(x: Tensor, table: Tensor, heads: int) -> Tensor:
    """RoPE that pairs the two halves of a head, as MOVA's bridge does: (b, n, d) -> (b, n, d)."""
    return comfy.quant_ops.ck.apply_rope_split_half1(x.unflatten(2, (heads, -1)), table).flatten(2)
