"""Block-sparse self-attention of the video (arXiv 2610.05416).

The grid of latent tokens is cut into blocks of 4 x 4 x 4. A block of queries reads the blocks of keys that
score best, per head; score = mean q . mean k. Attention on what was chosen is exact. Dense stay: queries of
an incomplete last row of blocks in time, whose keys are chosen like others, and queries of tokens beside the
grid (references), whose keys all see.

Axes: b batch, n tokens, g heads of a group, B blocks, c query blocks of a chunk, K chosen blocks, d width.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InductorError
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils._triton import has_triton

from ..notices import notice

SIDE = 4  # tokens along each axis of a block
SIZE = SIDE**3
# Heads that are regrouped at once: what is held beside q, k, v and the result is a share of one copy.
HEADS = 4
# Keys and values that the gather copies at once, or those of one query block where that is more.
GATHERED_BYTES = 256 * 2**20

# The host's transformer option under which a function takes the place of attention.
OVERRIDE = "optimized_attention_override"
# Where the video's grid lies among its tokens. The joint model tells it, for every pass.
GRID = "ccl_grid"
# Marks the options of the one call that is self-attention of the video, where somebody asked for the mark.
SELF_ATTENTION = "ccl_self_attention"
MARKED = "ccl_mark_self_attention"


class Grid(NamedTuple):
    """The latent's tokens: t * h * w of them from `start` on, in this order."""

    start: int
    size: tuple[int, int, int]

    @property
    def span(self) -> slice:
        return slice(self.start, self.start + math.prod(self.size))

    @property
    def blocks(self) -> tuple[int, int, int]:
        t, h, w = (-(-side // SIDE) for side in self.size)
        return t, h, w

    @property
    def sparse_frames(self) -> int:
        """Latent frames in full rows of blocks; the queries behind them are dense."""
        return self.size[0] // SIDE * SIDE


def of_self_attention(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a stream's self-attention; those of the audio have no grid and stay as they are."""
    return {**options, SELF_ATTENTION: True} if options.get(MARKED) and GRID in options else options


class SparseOverride:
    """What the host calls in place of attention: sparse for the video's self-attention, else as before.

    keep: share of the key blocks that a query block reads. before: the override that was there.
    """

    def __init__(self, keep: float, before: Callable[..., Tensor] | None = None) -> None:
        self.keep = keep
        self.before = before

    def __call__(
        self,
        func: Callable[..., Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if self.before is None:
                return func(q, k, v, heads, *args, **kwargs)
            return self.before(func, q, k, v, heads, *args, **kwargs)

        options = kwargs.get("transformer_options") or {}
        grid: Grid | None = options.get(GRID)
        if grid is None or not options.get(SELF_ATTENTION) or not grid.sparse_frames:
            return dense(q, k, v)
        return sparse_attention(q, k, v, heads, grid, self.keep, dense)


# One break of the graph where a block is compiled: flex_attention is compiled by itself.
@torch.compiler.disable
def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    grid: Grid,
    keep: float,
    dense: Callable[[Tensor, Tensor, Tensor], Tensor],
    kernel: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Attention (b, n, heads * d) whose grid is sparse. dense: the attention of all other queries."""
    kernel = kernel or _kernel_on(q.device.type)
    start, (_, h, w) = grid
    sparse = slice(start, start + grid.sparse_frames * h * w)
    out = torch.empty_like(q)
    for rest in (slice(0, sparse.start), slice(sparse.stop, q.shape[1])):
        if rest.start < rest.stop:
            out[:, rest] = dense(q[:, rest], k, v)
    width = q.shape[-1] // heads
    for first in range(0, heads, HEADS):
        own = slice(first * width, (first + HEADS) * width)
        out[:, sparse, own] = _heads(q[..., own], k[..., own], v[..., own], width, grid, keep, kernel)
    return out


class Keys(NamedTuple):
    """What a group of heads may read: blocks of the grid, then blocks of the tokens beside it."""

    k: Tensor  # (b, g, M, 64, d)
    v: Tensor
    real: Tensor  # (M, 64), False where a block is padded
    padded: bool


@functools.cache
def _kernel_on(device: str) -> Callable[..., Tensor]:
    if device != "cpu" and not has_triton():
        notice(
            "Sparse attention: without Triton torch does not compile flex_attention, so blocks are copied, "
            "which may take longer than dense attention: install Triton (on Windows triton-windows), or set "
            "keep to 1"
        )
        return gather
    return gather if device == "cpu" else flex


def _heads(
    q: Tensor, k: Tensor, v: Tensor, width: int, grid: Grid, keep: float, kernel: Callable[..., Tensor]
) -> Tensor:
    """Sparse attention of the heads in q, k, v (b, n, g*d) -> that of the sparse queries (b, m, g*d)."""
    queries, *own = (_blocked(x[:, grid.span], grid, width) for x in (q, k, v))
    asking = grid.sparse_frames // SIDE * grid.blocks[1] * grid.blocks[2]
    queries = queries[:, :, :asking]
    real = _real(grid, q.device)
    chosen = choose(queries, own[0], real, keep)
    parts = [torch.cat(pair, dim=2) for pair in zip(own, _beside((k, v), grid, width), strict=True)]
    beside = k.shape[1] - math.prod(grid.size)
    always = parts[0].shape[2] - real.shape[0]
    # What stands beside the grid is chosen by every query block.
    last = torch.arange(real.shape[0], real.shape[0] + always, device=q.device)
    chosen = torch.cat([chosen, last.expand(*chosen.shape[:3], always)], dim=-1)
    behind = torch.arange(always * SIZE, device=q.device).view(always, SIZE) < beside
    keys = Keys(*parts, torch.cat([real, behind]), parts[0].shape[2] * SIZE > k.shape[1])
    return _unblocked(kernel(queries, keys, chosen), grid)


def choose(queries: Tensor, keys: Tensor, real: Tensor, keep: float) -> Tensor:
    """The key blocks (b, g, B, K) that each query block reads: the best max(1, int(keep * blocks))."""
    tokens = real.sum(1)[:, None]
    # Padding is zero: a sum over the block is one over its real tokens. Query blocks are the first blocks.
    of_queries = queries.sum(3, dtype=torch.float32) / tokens[: queries.shape[2]]
    of_keys = keys.sum(3, dtype=torch.float32) / tokens
    count = max(1, int(keep * keys.shape[2]))
    return (of_queries @ of_keys.mT).topk(count, dim=-1, sorted=False).indices


def gather(q: Tensor, keys: Keys, chosen: Tensor) -> Tensor:
    """Attention of q (b, g, B, 64, d) on copies of the chosen blocks.

    The copies take at most GATHERED_BYTES, or those of one query block in the heads of a group.
    """
    b, g, blocks, _, d = q.shape
    read = chosen.shape[-1] * SIZE
    step = max(1, min(blocks, GATHERED_BYTES // (2 * b * g * read * d * q.element_size())))
    # Rows of all heads, and one copy that every chunk writes anew: fresh pages cost as much as the products.
    chosen = chosen + torch.arange(b * g, device=q.device).view(b, g, 1, 1) * keys.k.shape[2]
    copies = [q.new_empty(b * g * step * chosen.shape[-1], SIZE, d) for _ in range(2)]
    out = torch.empty_like(q)
    for at in range(0, blocks, step):
        rows = chosen[:, :, at : at + step]
        k, v = (
            torch.index_select(x.flatten(0, 2), 0, rows.flatten(), out=copy[: rows.numel()]).view(
                -1, 1, read, d
            )
            for x, copy in zip((keys.k, keys.v), copies, strict=True)
        )
        # Without padding no mask is needed.
        mask = keys.real[rows % keys.k.shape[2]].view(-1, 1, 1, read) if keys.padded else None
        asking = q[:, :, at : at + step].reshape(-1, 1, SIZE, d)
        made = scaled_dot_product_attention(asking, k, v, attn_mask=mask)
        out[:, :, at : at + step] = made.view(b, g, -1, SIZE, d)
    return out


def flex(q: Tensor, keys: Keys, chosen: Tensor) -> Tensor:
    """The same in torch's flex_attention, compiled: it reads the chosen blocks where they lie.

    Where torch cannot compile it, the gather takes over, and the log says so.
    """
    global _flex_compiles
    if _flex_compiles:
        try:
            k, v = keys.k.flatten(2, 3), keys.v.flatten(2, 3)
            made = _compiled_flex()(q.flatten(2, 3), k, v, block_mask=block_mask(keys, chosen))
            return made.view_as(q)
        except (TorchDynamoException, InductorError) as error:
            _flex_compiles = False
            notice(
                "Sparse attention: torch cannot compile flex_attention here, so blocks are copied, which "
                f"is slower: {error}"
            )
    return gather(q, keys, chosen)


# A fact of the machine, found out by the first call.
_flex_compiles = True


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    return torch.compile(flex_attention)


def block_mask(keys: Keys, chosen: Tensor) -> BlockMask:
    """The chosen blocks as flex_attention reads them."""
    *rows, count = chosen.shape
    blocks, real = keys.k.shape[2], keys.real.flatten()
    return BlockMask.from_kv_blocks(
        torch.full(rows, count, dtype=torch.int32, device=chosen.device),
        # As wide as there are blocks: by this width the mask knows how many.
        pad(chosen.to(torch.int32), (0, blocks - count)),
        BLOCK_SIZE=SIZE,
        mask_mod=lambda b, g, q, kv: real[kv],  # noqa: ARG005 - torch's signature
        seq_lengths=(rows[-1] * SIZE, blocks * SIZE),
        # For the way back, of which there is none here.
        compute_q_blocks=False,
    )


def _blocked(x: Tensor, grid: Grid, width: int) -> Tensor:
    """Tokens of the grid (b, t*h*w, g*d) in blocks, padded with zeros: (b, g, B, 64, d)."""
    gaps = [(0, SIDE * count - side) for side, count in zip(grid.size, grid.blocks, strict=True)]
    x = x.unflatten(1, grid.size)
    if any(gap for _, gap in gaps):
        x = pad(x, (0, 0, *itertools.chain(*reversed(gaps))))
    x = rearrange(x, "b (t x) (h y) (w z) (g d) -> b g (t h w) (x y z) d", x=SIDE, y=SIDE, z=SIDE, d=width)
    return x.contiguous()


def _unblocked(x: Tensor, grid: Grid) -> Tensor:
    """Blocks of the sparse frames (b, g, B, 64, d) -> their tokens (b, n, g*d), without padding."""
    _, h, w = grid.blocks
    x = rearrange(x, "b g (t h w) (x y z) d -> b (t x) (h y) (w z) (g d)", h=h, w=w, x=SIDE, y=SIDE, z=SIDE)
    return x[:, :, : grid.size[1], : grid.size[2]].flatten(1, 3)


def _real(grid: Grid, device: torch.device) -> Tensor:
    """Which tokens of the blocks are not padding: (B, 64)."""
    ones = torch.ones(1, math.prod(grid.size), 1, dtype=torch.bool, device=device)
    return _blocked(ones, grid, 1)[0, 0, :, :, 0]


def _beside(tensors: Sequence[Tensor], grid: Grid, width: int) -> list[Tensor]:
    """Tokens outside the grid (b, n, g*d) in blocks, padded with zeros: (b, g, M, 64, d)."""
    outside = [torch.cat([x[:, : grid.start], x[:, grid.span.stop :]], dim=1) for x in tensors]
    gap = -outside[0].shape[1] % SIZE
    return [rearrange(pad(x, (0, 0, 0, gap)), "b (m x) (g d) -> b g m x d", x=SIZE, d=width) for x in outside]
