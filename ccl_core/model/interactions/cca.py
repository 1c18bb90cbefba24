"""CCA, cross-modal context attention, with learnable context tokens (LCT) and dynamic context routing (DCR).

CCL, arXiv 2603.18600; the equations are those of design section 3.1. The public text fixes neither the number of
context tokens nor where they enter; here they pass through the same norm and projections as real tokens of the source
stream.

Axes: b batch, v video tokens, a audio tokens, t latent frames, s spatial tokens of a frame, c context tokens, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.ops
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...config import CCLConfig
from ..streams import StreamState
from .base import EPS, CrossAttention, Interaction, Link, Routes, rotate


class ContextAttention(CrossAttention):
    """One direction: queries from stream x, keys and values from the context tokens and, on an open route, stream y."""

    def __init__(
        self, dim: int, source_dim: int, heads: int, context_tokens: int, operations: Any, **factory: Any
    ) -> None:
        super().__init__(dim, source_dim, heads, operations, **factory)
        self.norm_x = operations.LayerNorm(dim, EPS, **factory)
        self.context = torch.nn.Parameter(torch.empty(context_tokens, source_dim, **factory))

    def query(self, x: Tensor, freqs: Tensor) -> Tensor:
        return rotate(self.norm_q(self.q(self.norm_x(x))), freqs, self.heads)  # (b, x, d)

    def source(self, y: Tensor, freqs: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm_y(y)
        return rotate(self.norm_k(self.k(y)), freqs, self.heads), self.v(y)  # (b, y, d) twice

    def anchor(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the context tokens; they carry no position."""
        y = self.norm_y(comfy.ops.cast_to_input(self.context, x)[None])
        return self.norm_k(self.k(y)), self.v(y)  # (1, c, d) twice


class CCA(Interaction):
    """Both directions of the coupling in one layer.

    No gate: `o` starts at zero, so a fresh model is its two streams.
    """

    routed = True

    def __init__(self, config: CCLConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        video, audio, count = config.video, config.audio, config.interaction.options.context_tokens
        self.a2v = ContextAttention(video.dim, audio.dim, video.num_heads, count, operations, **factory)
        self.v2a = ContextAttention(audio.dim, video.dim, audio.num_heads, count, operations, **factory)

    def after_text(self, video: StreamState | None, audio: StreamState | None, link: Link) -> None:
        v = None if video is None else video.tokens[:, video.main]  # (b, v, d_v)
        a = None if audio is None else audio.tokens  # (b, a, d_a)
        if v is not None:
            windows = link.tarp and link.tarp.a2v
            to_video = _delta(self.a2v, v, a, link.a2v_freqs, link.a2v_open, frames_to_windows, windows, link.options)
        if a is not None:
            ranges = link.tarp and link.tarp.v2a
            to_audio = _delta(self.v2a, a, v, link.v2a_freqs, link.v2a_open, tokens_to_frames, ranges, link.options)
            audio.add(to_audio)
        if v is not None:
            video.add(to_video)


def _delta(
    direction: ContextAttention,
    x: Tensor,
    y: Tensor | None,
    freqs: tuple[Tensor, Tensor | None],
    route: Routes,
    partition: Any,
    ranges: Sequence[tuple[int, int]] | None,
    options: dict[str, Any],
) -> Tensor:
    """What one direction adds to the stream x; y is None where the other stream is absent."""
    own_freqs, source_freqs = freqs
    q, anchor = direction.query(x, own_freqs), direction.anchor(x)

    def attend(q: Tensor, rows: slice | list[int]) -> Tensor:
        k, v = direction.source(y[rows], source_freqs)
        return partition(q, k, v, anchor, ranges, direction.heads, options)

    return direction.o(_routed(q, anchor, None if y is None else attend, route, direction.heads, options))


def frames_to_windows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    anchor: tuple[Tensor, Tensor],
    windows: Sequence[tuple[int, int]],
    heads: int,
    options: dict[str, Any],
) -> Tensor:
    """A2V: the queries (b, t*s, d) of each latent frame attend to the anchor and their own window of k, v (b, a, d).

    One unmasked attention per frame: the result of a dense mask at a fraction of its cost. A loop, since stacking the
    frames copies q, k and v as a whole, which took longer than the attention (docs/decisions.md).
    """
    out = torch.empty_like(q)
    for frame, (start, stop) in zip(_frames(q, len(windows)), windows, strict=True):
        keys, values = _with_anchor(anchor, k[:, start:stop], v[:, start:stop])  # (b, c+n, d)
        out[:, frame] = optimized_attention(q[:, frame], keys, values, heads=heads, transformer_options=options)
    return out  # (b, t*s, d)


def tokens_to_frames(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    anchor: tuple[Tensor, Tensor],
    ranges: Sequence[tuple[int, int]],
    heads: int,
    options: dict[str, Any],
) -> Tensor:
    """V2A: the queries (b, a, d) nearest to a latent frame attend to the anchor and its tokens of k, v (b, t*s, d)."""
    out = torch.empty_like(q)
    for frame, (start, stop) in zip(_frames(k, len(ranges)), ranges, strict=True):
        if stop > start:
            keys, values = _with_anchor(anchor, k[:, frame], v[:, frame])  # (b, c+s, d)
            queries = q[:, start:stop]
            out[:, start:stop] = optimized_attention(queries, keys, values, heads=heads, transformer_options=options)
    return out  # (b, a, d)


def _routed(
    q: Tensor, anchor: tuple[Tensor, Tensor], attend: Any, route: Routes, heads: int, options: dict[str, Any]
) -> Tensor:
    """DCR: samples on an open route run `attend(q, rows)`, the others see their context tokens alone."""
    if attend is None or route is False:
        return _anchored(q, anchor, heads, options)
    if route is True:
        return attend(q, slice(None))
    out = torch.empty_like(q)
    for is_open in set(route):
        rows = [i for i, state in enumerate(route) if state is is_open]
        out[rows] = attend(q[rows], rows) if is_open else _anchored(q[rows], anchor, heads, options)
    return out


def _anchored(q: Tensor, anchor: tuple[Tensor, Tensor], heads: int, options: dict[str, Any]) -> Tensor:
    k, v = (x.expand(q.shape[0], -1, -1) for x in anchor)  # (b, c, d)
    return optimized_attention(q, k, v, heads=heads, transformer_options=options)


def _frames(x: Tensor, count: int) -> list[slice]:
    size = x.shape[1] // count
    return [slice(i * size, (i + 1) * size) for i in range(count)]


def _with_anchor(anchor: tuple[Tensor, Tensor], k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.cat([c.expand(len(x), -1, -1), x], dim=1) for c, x in zip(anchor, (k, v), strict=True))
