"""benchmarks/attention.py: the dense reference agrees with the partition."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from ccl_bench import attention
from ccl_pack.ccl_core.alignment.tarp import plan
from ccl_pack.ccl_core.alignment.timeline import Timeline
from ccl_pack.ccl_core.model.attention import Place
from ccl_pack.ccl_core.model.interactions import KV
from ccl_pack.ccl_core.model.interactions.cca import frames_to_windows, tokens_to_frames


@pytest.mark.parametrize("clock", ["uniform", "causal"])
@pytest.mark.parametrize("latent_frames, audio_tokens", [(1, 5), (5, 34), (9, 66), (7, 3)])
@pytest.mark.parametrize("direction", ["a2v", "v2a"])
def test_partition_equals_dense_mask(
    direction: str, latent_frames: int, audio_tokens: int, clock: str
) -> None:
    made = plan(Timeline(latent_frames, audio_tokens, Fraction(16), Fraction(32), clock))
    spatial, context, heads, dim = 6, 3, 2, 16
    counts = (latent_frames * spatial, audio_tokens)
    queries, keys = counts if direction == "a2v" else counts[::-1]
    torch.manual_seed(latent_frames)
    q, k, v = (torch.randn(2, n, dim) for n in (queries, keys, keys))
    anchor = (torch.randn(1, context, dim), torch.randn(1, context, dim))
    partition, ranges = {"a2v": (frames_to_windows, made.a2v), "v2a": (tokens_to_frames, made.v2a)}[direction]
    place = Place(direction, slice(0, queries), slice(0, keys), context, (queries, keys))
    mask = attention.dense_mask(direction, ranges, spatial, context, audio_tokens)
    assert mask.shape == (queries, context + keys)
    assert (mask[:, :context].all() and not mask.all()) or latent_frames == 1
    torch.testing.assert_close(
        partition(q, KV(k, v), KV(*anchor), ranges, heads, {}, place),
        attention.dense_attention(q, k, v, anchor, mask, heads),
    )
