"""Block-sparse attention against one dense mask of the same blocks, built token by token."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from ccl_pack.ccl_core.model import sparse
from ccl_pack.ccl_core.model.sparse import Grid, SparseOverride, of_self_attention, sparse_attention

HEADS, WIDTH = 6, 16  # more heads than one group holds, and an incomplete second group
GRIDS = {
    "whole blocks": Grid(0, (8, 8, 12)),
    "padded height and width": Grid(0, (8, 9, 10)),
    "one latent frame left, as of 49 and 193 frames": Grid(0, (5, 8, 8)),
    "three left and padded": Grid(0, (11, 6, 9)),
    "tokens on both sides": Grid(7, (6, 5, 9)),
}
BESIDE = 11  # tokens behind the last grid


def tokens(grid: Grid, batch: int = 2) -> list[Tensor]:
    n = grid.span.stop + (BESIDE if grid.start else 0)
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(batch, n, HEADS * WIDTH, generator=generator) for _ in range(3)]


def split(x: Tensor) -> Tensor:
    return x.unflatten(2, (HEADS, WIDTH)).transpose(1, 2)


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = (split(q) @ split(k).mT) / WIDTH**0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ split(v)).transpose(1, 2).flatten(2)


def block_of_tokens(grid: Grid) -> Tensor:
    """The block of each token of the grid, counted by hand."""
    _, rows, columns = (-(-side // 4) for side in grid.size)
    cells = itertools.product(*map(range, grid.size))
    return torch.tensor([(t // 4 * rows + h // 4) * columns + w // 4 for t, h, w in cells])


def oracle_mask(q: Tensor, k: Tensor, grid: Grid, keep: float) -> Tensor:
    """Who sees whom: (b, heads, n, n)."""
    block = block_of_tokens(grid)
    count = int(block.max()) + 1

    def means(x: Tensor) -> Tensor:
        x = split(x[:, grid.span])
        return torch.stack([x[:, :, block == i].mean(2) for i in range(count)], dim=2)

    best = (means(q) @ means(k).mT).argsort(-1, descending=True)[..., : max(1, int(keep * count))]
    chosen = torch.zeros(*best.shape[:2], count, count, dtype=torch.bool).scatter_(-1, best, value=True)
    mask = torch.ones(*best.shape[:2], q.shape[1], q.shape[1], dtype=torch.bool)
    full = grid.size[0] // 4 * 4 * grid.size[1] * grid.size[2]
    asking = slice(grid.start, grid.start + full)
    mask[:, :, asking, grid.span] = chosen[:, :, block[:full]][..., block]
    return mask


@pytest.mark.parametrize("keep", [0.25, 0.6, 0.01])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("bound", [2**28, 1], ids=["one chunk", "a query block at a time"])
def test_it_equals_a_dense_mask_of_the_same_blocks(
    grid: Grid, keep: float, bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "GATHERED_BYTES", bound)
    q, k, v = tokens(grid)
    mask = oracle_mask(q, k, grid, keep)
    assert not mask.all()
    got = sparse_attention(q, k, v, HEADS, grid, keep, masked)
    torch.testing.assert_close(got, masked(q, k, v, mask), rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_the_block_mask_of_flex_attention_names_the_same_blocks(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uncompiled, flex_attention reads the rule alone, so the blocks are put into the rule, from the mask."""

    def eager(q: Tensor, k: Tensor, v: Tensor, block_mask: sparse.BlockMask) -> Tensor:
        named, rule = block_mask.to_dense().bool(), block_mask.mask_mod

        def also(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return rule(b, h, i, j) & named[b, h, i // 64, j // 64]

        block_mask.mask_mod = also
        return flex_attention(q, k, v, block_mask=block_mask)

    monkeypatch.setattr(sparse, "_compiled_flex", lambda: eager)
    q, k, v = tokens(grid)
    got = sparse_attention(q, k, v, HEADS, grid, 0.25, masked, sparse.flex)
    torch.testing.assert_close(got, masked(q, k, v, oracle_mask(q, k, grid, 0.25)), rtol=0, atol=1e-5)


def test_only_the_marked_call_on_a_full_row_of_blocks_is_sparse() -> None:
    grid = Grid(0, (5, 8, 8))
    q, k, v = tokens(grid)
    asked = []

    def dense(q: Tensor, k: Tensor, v: Tensor, _heads: int, **_: object) -> Tensor:
        asked.append(q.shape[1])
        return masked(q, k, v)

    override = SparseOverride(0.25)
    options = {sparse.MARKED: True, sparse.GRID: grid}
    for given in (
        {},
        options,
        of_self_attention({sparse.MARKED: True}),
        of_self_attention({sparse.GRID: grid}),
    ):
        assert torch.equal(override(dense, q, k, v, HEADS, transformer_options=given), masked(q, k, v))
    short = of_self_attention({**options, sparse.GRID: Grid(0, (3, 8, 8))})
    override(dense, q, k, v, HEADS, transformer_options=short)
    assert asked == [320] * 5
    marked = of_self_attention(options)
    assert not torch.equal(override(dense, q, k, v, HEADS, transformer_options=marked), masked(q, k, v))
    assert asked[5:] == [64]  # the one latent frame that is left


def test_the_gather_takes_over_where_torch_cannot_compile(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler(*_: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(sparse, "_compiled_flex", lambda: torch.compile(flex_attention, backend=no_compiler))
    monkeypatch.setattr(sparse, "_flex_compiles", True)
    grid = GRIDS["tokens on both sides"]
    q, k, v = tokens(grid)
    for _ in range(2):
        got = sparse_attention(q, k, v, HEADS, grid, 0.25, masked, sparse.flex)
        assert torch.equal(got, sparse_attention(q, k, v, HEADS, grid, 0.25, masked, sparse.gather))
    assert len([r for r in caplog.records if "cannot compile flex_attention" in r.getMessage()]) == 1
