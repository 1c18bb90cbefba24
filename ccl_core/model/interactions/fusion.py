"""Fusion, the coupling of Ovi (arXiv 2510.01284): inside text attention, whose queries and output projection it shares.

    o( Attn(q, k text, v text) + Attn(R q, R k_fusion, v_fusion) ),  q = norm_q(q(norm3 x))

Both directions read the other stream after its self-attention and before its text attention. No mask, gate or anchor.
"""

from __future__ import annotations

from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...config import CCLConfig
from ..streams import StreamBlock, StreamState
from .base import EPS, Interaction, Link, Tables, rotate


class FusionSource(torch.nn.Module):
    """One direction: keys and values of the other stream for this stream's text queries."""

    def __init__(self, dim: int, source_dim: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.norm_y = operations.LayerNorm(source_dim, EPS, **factory)
        self.k = operations.Linear(source_dim, dim, **factory)
        self.v = operations.Linear(source_dim, dim, **factory)
        self.norm_k = operations.RMSNorm(dim, eps=EPS, elementwise_affine=True, **factory)

    def forward(self, q: Tensor, y: Tensor, freqs: Tables, heads: int, options: dict[str, Any]) -> Tensor:
        """q: (b, x, d), not rotated yet; y: (b, y, d_y)."""
        own_freqs, source_freqs = freqs
        y = self.norm_y(y)
        k = rotate(self.norm_k(self.k(y)), source_freqs, heads)
        q = rotate(q, own_freqs, heads)
        return optimized_attention(q, k, self.v(y), heads=heads, transformer_options=options)  # (b, x, d)


class Fusion(Interaction):
    """Both directions of the coupling in one layer."""

    def __init__(self, config: CCLConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.a2v = FusionSource(config.video.dim, config.audio.dim, operations, **factory)
        self.v2a = FusionSource(config.audio.dim, config.video.dim, operations, **factory)

    def text_attention(
        self,
        blocks: tuple[StreamBlock | None, StreamBlock | None],
        video: StreamState | None,
        audio: StreamState | None,
        link: Link,
    ) -> None:
        if video is None or audio is None:
            super().text_attention(blocks, video, audio, link)
            return
        v, a = video.tokens[:, video.main], audio.tokens
        # References beside the video latent ask too: text and sound share one query.
        a2v_freqs = (video.freqs, link.a2v_freqs[1])
        _attend(blocks[0], video, self.a2v if link.a2v_open else None, a, a2v_freqs)
        _attend(blocks[1], audio, self.v2a if link.v2a_open else None, v, link.v2a_freqs)


def _attend(block: StreamBlock, state: StreamState, source: FusionSource | None, y: Tensor, freqs: Tables) -> None:
    if source is None:
        state.tokens = block.text_attention(state)
        return
    attention, options = block.cross_attn, state.options
    heads, context = attention.num_heads, state.context
    q = attention.norm_q(attention.q(block.norm3(state.tokens)))
    k, v = attention.norm_k(attention.k(context)), attention.v(context)
    delta = optimized_attention(q, k, v, heads=heads, transformer_options=options)
    state.tokens = block.add_text(state, attention.o(delta + source(q, y, freqs, heads, options)))
