"""The fusion of Ovi (arXiv 2510.01284), inside text attention, whose q and o it shares.

    o( Attn(q, k text, v text) + Attn(R q, R k_fusion, v_fusion) ),  q = norm_q(q(norm3 x))

Both directions read the other stream after its self-attention and before its text attention. No mask, gate or
anchor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...config import CCLConfig
from ..blocks import Beside
from ..rotary import rotate
from .base import EPS, KV, Interaction, Link


class FusionSource(torch.nn.Module):
    """One direction: R k_fusion and v_fusion of the other stream for this stream's text queries."""

    def __init__(self, dim: int, source_dim: int, heads: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.heads = heads
        self.norm_y = operations.LayerNorm(source_dim, EPS, **factory)
        self.k = operations.Linear(source_dim, dim, **factory)
        self.v = operations.Linear(source_dim, dim, **factory)
        self.norm_k = operations.RMSNorm(dim, eps=EPS, elementwise_affine=True, **factory)

    def source(self, y: Tensor, table: Tensor) -> KV:
        """y: (b, y, d_y) -> keys and values (b, y, d)."""
        y = self.norm_y(y)
        return KV(rotate(self.norm_k(self.k(y)), table, self.heads), self.v(y))


class Fusion(Interaction):
    """Both directions of the coupling in one layer."""

    place = "inside_text"

    def __init__(self, config: CCLConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        video, audio = config.video, config.audio
        self.a2v = FusionSource(video.dim, audio.dim, video.num_heads, operations, **factory)
        self.v2a = FusionSource(audio.dim, video.dim, audio.num_heads, operations, **factory)

    def forward(
        self,
        v: Tensor | None,
        a: Tensor | None,
        link: Link,
        kept: KV | None = None,
    ) -> tuple[Beside | KV | None, ...]:
        """What each text attention reads beside its text. None: no stream to read, or a closed direction.

        kept: what the audio reads of a video that does not run. With `link.hear` a third value is what it
        read.
        """
        to_v = to_a = heard = None
        if v is not None and a is not None:
            to_v, _ = _beside(self.a2v, link, "a2v", a, None)
        if a is not None and (v is not None or kept is not None):
            to_a, heard = _beside(self.v2a, link, "v2a", v, kept)
        return (to_v, to_a, heard) if link.hear else (to_v, to_a)


def _beside(
    source: FusionSource, link: Link, direction: str, y: Tensor | None, kept: KV | None
) -> tuple[Beside | None, KV | None]:
    """What one direction reads of the stream y, or of what is kept of it, and its keys and values."""
    way = link.way(direction)
    if not way.route:
        return None, None
    kv = source.source(y[:, way.seen], way.tables.keys) if kept is None else kept
    return Beside(*kv, way.tables.queries, way.updated, way.place()), kv
