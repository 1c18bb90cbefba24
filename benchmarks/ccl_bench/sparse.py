"""Sparse against dense self-attention of the video: FLOPs of one forward, and seconds on this machine."""

from __future__ import annotations

import math
import statistics
import time
from typing import TYPE_CHECKING

from ccl_tools.console import Ticker

if TYPE_CHECKING:
    from torch import Tensor

# Tokens of a latent frame, height and width, and latent frames by frames.
SIZES = {"480p": (30, 53), "720p": (45, 80), "1080p": (68, 120)}
LATENT_FRAMES = {193: 49, 205: 52}
HEADS, HEAD_DIM, LAYERS = 40, 128, 40  # of Wan 14B
KEEP = 0.25
# Timed with the heads of one group: 29 frames of 720p, whose rows of blocks are full.
TIMED = (8, 45, 80)


def dense_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Torch's own attention of q, k, v (b, n, h * d)."""
    import torch

    q, k, v = (x.unflatten(2, (-1, HEAD_DIM)).transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def petaflops(size: str, frames: int) -> dict[str, float | int | str]:
    """PFLOP of all layers in one forward, which torch counts while the code runs on the meta device.

    Selection, padding and the dense tail are in it. Heads cost alike, so one group of them runs.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ccl_pack.ccl_core.model import sparse

    grid = sparse.Grid(0, (LATENT_FRAMES[frames], *SIZES[size]))
    tokens = math.prod(grid.size)
    x = torch.empty(1, tokens, sparse.HEADS * HEAD_DIM, device="meta", dtype=torch.bfloat16)
    layers = HEADS // sparse.HEADS * LAYERS
    with FlopCounterMode(display=False) as dense:
        dense_attention(x, x, x)
    # Without data nothing bounds a chunk, and its size changes no product.
    sparse.GATHERED_BYTES = 2**62
    with FlopCounterMode(display=False) as chosen:
        sparse.sparse_attention(x, x, x, sparse.HEADS, grid, KEEP, dense_attention, sparse.gather)
    # The sums behind the means of q and k, which torch does not count.
    sums = 2 * tokens * HEADS * HEAD_DIM * LAYERS
    return {
        "size": size,
        "frames": frames,
        "tokens": tokens,
        "blocks": math.prod(grid.blocks),
        "dense": dense.get_total_flops() * layers / 1e15,
        "sparse": (chosen.get_total_flops() * layers + sums) / 1e15,
    }


def seconds(repeats: int, ticker: Ticker) -> dict[str, float]:
    """The gather and dense attention in turns, float32, one group of heads; the median of each."""
    import torch

    from ccl_pack.ccl_core.model import sparse

    grid = sparse.Grid(0, TIMED)
    generator = torch.Generator().manual_seed(0)
    shape = 1, math.prod(TIMED), sparse.HEADS * HEAD_DIM
    q, k, v = (torch.randn(shape, generator=generator) for _ in range(3))
    runs = {
        "dense": lambda: dense_attention(q, k, v),
        "sparse": lambda: sparse.sparse_attention(q, k, v, sparse.HEADS, grid, KEEP, dense_attention),
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeats):
        for name, run in runs.items():
            ticker.tick(f"{name} {i + 1}/{repeats}")
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}
