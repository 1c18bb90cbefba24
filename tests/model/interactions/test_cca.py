"""CCA: partitioned attention against a dense mask, context tokens, and odd sizes."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from ccl_pack.ccl_core.alignment.tarp import plan
from ccl_pack.ccl_core.alignment.timeline import Timeline
from ccl_pack.ccl_core.model.attention import Place
from ccl_pack.ccl_core.model.interactions import KV
from ccl_pack.ccl_core.model.interactions.cca import frames_to_windows, tokens_to_frames

HEADS, DIM, CONTEXT = 2, 16, 3
PLACE = Place("a2v", slice(0), slice(0), CONTEXT, (0, 0))  # for observers, of whom there is none


def dense(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    anchor: tuple[torch.Tensor, torch.Tensor],
    allowed: torch.Tensor,
) -> torch.Tensor:
    """One masked attention over context tokens and all of the source. allowed: (queries, keys)."""
    k, v = (torch.cat([c.expand(len(x), -1, -1), x], dim=1) for c, x in zip(anchor, (k, v), strict=True))
    mask = torch.cat([torch.ones(len(allowed), CONTEXT, dtype=torch.bool), allowed], dim=1)
    heads = [x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (q, k, v)]
    return torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2).flatten(2)


def tensors(
    batch: int, queries: int, keys: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, queries), (batch, keys), (batch, keys), (1, CONTEXT), (1, CONTEXT)]
    q, k, v, ck, cv = (torch.randn(*shape, DIM, generator=generator) for shape in shapes)
    return q, k, v, (ck, cv)


@pytest.mark.parametrize("clock", ["uniform", "causal"])
@pytest.mark.parametrize(
    ("frames", "tokens", "spatial"), [(9, 66, 4), (5, 7, 1), (3, 20, 6), (1, 4, 5), (6, 4, 2)]
)
def test_partition_equals_the_dense_mask(clock: str, frames: int, tokens: int, spatial: int) -> None:
    made = plan(Timeline(frames, tokens, Fraction(16), Fraction(32), clock))
    frame_of = torch.arange(frames).repeat_interleave(spatial)
    sees = torch.zeros(frames, tokens, dtype=torch.bool)
    for i, (start, stop) in enumerate(made.a2v):
        sees[i, start:stop] = True
    q, k, v, anchor = tensors(2, frames * spatial, tokens)
    torch.testing.assert_close(
        frames_to_windows(q, KV(k, v), KV(*anchor), made.a2v, HEADS, {}, PLACE),
        dense(q, k, v, anchor, sees[frame_of]),
    )

    nearest = torch.zeros(tokens, frames, dtype=torch.bool)
    for i, (start, stop) in enumerate(made.v2a):
        nearest[start:stop, i] = True
    q, k, v, anchor = tensors(2, tokens, frames * spatial)
    torch.testing.assert_close(
        tokens_to_frames(q, KV(k, v), KV(*anchor), made.v2a, HEADS, {}, PLACE),
        dense(q, k, v, anchor, nearest[:, frame_of]),
    )
