"""CCA, cross-modal context attention, with learnable context tokens (LCT) and dynamic context routing (DCR).

CCL, arXiv 2603.18600. For the query stream x and the source stream y:

    q = RoPE(RMSNorm(Wq LN x)),  K = [Kc; RoPE(RMSNorm(Wk LN y))],  V = [Vc; Wv LN y]
    delta = Wo softmax(q K^T / sqrt(dh)) V,  Kc = RMSNorm(Wk LN C),  Vc = Wv LN C

C are the context tokens. The public text fixes neither their number nor where they enter; here they pass
through the same norm and projections as real tokens of the source stream, so that they are a context like any
other.

Axes: b batch, v video tokens, a audio tokens, t latent frames, s spatial tokens of a frame, c context tokens,
d width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.ops
import torch
from torch import Tensor

from ...alignment import tarp
from ...alignment.plan import Plan, Ranges
from ...alignment.timeline import Timeline
from ...config import CCLConfig
from ..attention import Place, attend
from ..rotary import rotate
from ..spans import add_to_span
from .base import EPS, KV, CrossAttention, Interaction, Link, Routes, Way


class ContextAttention(CrossAttention):
    """One direction: queries of stream x on the context tokens and, on an open route, on stream y."""

    def __init__(
        self, dim: int, source_dim: int, heads: int, context_tokens: int, operations: Any, **factory: Any
    ) -> None:
        super().__init__(dim, source_dim, heads, operations, **factory)
        self.norm_x = operations.LayerNorm(dim, EPS, **factory)
        self.context = torch.nn.Parameter(torch.empty(context_tokens, source_dim, **factory))

    # q = RoPE(RMSNorm(Wq LN x)), RMSNorm over the whole width as in Wan's self-attention.
    def query(self, x: Tensor, table: Tensor) -> Tensor:
        return rotate(self.norm_q(self.q(self.norm_x(x))), table, self.heads)  # (b, x, d)

    # RoPE(RMSNorm(Wk LN y)) and Wv LN y, for every token that somebody may read.
    def source(self, y: Tensor, table: Tensor) -> KV:
        y = self.norm_y(y)
        return KV(rotate(self.norm_k(self.k(y)), table, self.heads), self.v(y))  # (b, y, d) twice

    def anchor(self, x: Tensor) -> KV:
        """Kc and Vc: keys and values of the context tokens (LCT), which have no position. (1, c, d) twice."""
        y = self.norm_y(comfy.ops.cast_to_input(self.context, x)[None])
        return KV(self.norm_k(self.k(y)), self.v(y))


class CCA(Interaction):
    """Both directions of the coupling in one layer.

    No gate: `o` starts at zero, so a fresh model is its two streams.
    """

    place = "after_text"
    routed = True

    def __init__(self, config: CCLConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        video, audio = config.video, config.audio
        count = config.interaction.options.context_tokens
        self.a2v = ContextAttention(video.dim, audio.dim, video.num_heads, count, operations, **factory)
        self.v2a = ContextAttention(audio.dim, video.dim, audio.num_heads, count, operations, **factory)

    @staticmethod
    def plan(config: CCLConfig, timeline: Timeline) -> Plan:  # noqa: ARG004 - every CCA has TARP's plan
        return tarp.plan(timeline)

    def forward(
        self, v: Tensor | None, a: Tensor | None, link: Link, kept: KV | None = None
    ) -> tuple[Tensor | KV | None, Tensor | KV | None]:
        """New tokens of both streams. With `link.keep` an absent one's place holds what it would read."""
        # Both directions read v and a as they came in, so neither sees what the other one added.
        to_v = to_a = None
        if v is not None:
            to_v = _added(self.a2v, link.way("a2v"), v, a, kept, frames_to_windows, link.options)
        elif link.keep:
            to_v = self.a2v.source(a[:, link.audio.spans.seen], link.a2v.keys)
        if a is not None:
            to_a = _added(self.v2a, link.way("v2a"), a, v, kept, tokens_to_frames, link.options)
        elif link.keep:
            to_a = self.v2a.source(v[:, link.video.spans.seen], link.v2a.keys)
        return to_v, to_a


def _added(
    modules: ContextAttention,
    way: Way,
    x: Tensor,
    y: Tensor | None,
    kept: KV | None,
    by_frame: Callable[..., Tensor],
    options: dict[str, Any],
) -> Tensor:
    """x + Wo softmax(q K^T / sqrt(dh)) V: the asking stream with what one direction adds to it.

    y: tokens of the other stream, or `kept`: the keys and values they would give; both None where it is
    absent.
    """
    # Kept keys are those of the span alone, so they count from 0.
    if kept is not None:
        way = way._replace(seen=slice(0, kept.k.shape[1]))
    asking = x[:, way.updated]
    q = modules.query(asking, way.tables.queries)
    anchor = modules.anchor(asking)
    place = way.place(len(modules.context))
    source = None if y is None else y[:, way.seen]

    # Keys and values are made of the open samples alone: closed ones must not pay for them.
    def read(q: Tensor, rows: list[int] | slice, place: Place) -> Tensor:
        made = modules.source(source[rows], way.tables.keys) if kept is None else kept.of(rows)
        return by_frame(q, made, anchor, way.ranges, modules.heads, options, place)

    if (source is None and kept is None) or way.route is False:
        made = _anchored(q, anchor, modules.heads, options, place)
    else:
        made = _routed(q, anchor, read, way.route, modules.heads, options, place)
        made = _close_to_kept(made, q, anchor, way.kept, modules.heads, options)
    return add_to_span(x, way.updated, modules.o(made))


def _routed(
    q: Tensor,
    anchor: KV,
    read: Callable[[Tensor, list[int] | slice, Place], Tensor],
    route: Routes,
    heads: int,
    options: dict[str, Any],
    place: Place,
) -> Tensor:
    """DCR (CCL): samples on an open route run `read`, the others see their context tokens alone."""
    if route is True:
        return read(q, slice(None), place)
    out = torch.empty_like(q)
    place = place._replace(partial=True)
    for is_open in set(route):
        rows = [i for i, state in enumerate(route) if state is is_open]
        if is_open:
            out[rows] = read(q[rows], rows, place)
        else:
            out[rows] = _anchored(q[rows], anchor, heads, options, place)
    return out


# DCR by region: a direction into tokens that are kept is closed, as that into a given stream.
def _close_to_kept(
    made: Tensor, q: Tensor, anchor: KV, kept: Tensor | None, heads: int, options: dict[str, Any]
) -> Tensor:
    if kept is None:
        return made
    return torch.where(kept[..., None], _anchored(q, anchor, heads, options, None), made)


# A closed direction: softmax(q Kc^T / sqrt(dh)) Vc, which the other stream cannot change.
def _anchored(q: Tensor, anchor: KV, heads: int, options: dict[str, Any], place: Place | None) -> Tensor:
    k, v = (x.expand(q.shape[0], -1, -1) for x in anchor)  # (b, c, d)
    return attend(q, k, v, heads, options, None if place is None else place._replace(keys=None))


def frames_to_windows(
    q: Tensor, kv: KV, anchor: KV, windows: Ranges, heads: int, options: dict[str, Any], place: Place
) -> Tensor:
    """A2V: the queries of each frame in q (b, t*s, d) see the anchor and their own window of k, v (b, a, d).

    One unmasked attention per frame: the result of a dense mask at a fraction of its cost. A loop, since
    stacking the frames copies q, k and v as a whole, which took longer than the attention
    (docs/decisions.md).
    """
    out = torch.empty_like(q)
    for frame, (start, stop) in zip(_frames(q, len(windows)), windows, strict=True):
        keys, values = _with_anchor(anchor, kv, slice(start, stop))  # (b, c+n, d)
        here = place._replace(queries=frame, keys=slice(start, stop))
        out[:, frame] = attend(q[:, frame], keys, values, heads, options, here)
    return out  # (b, t*s, d)


def tokens_to_frames(
    q: Tensor, kv: KV, anchor: KV, ranges: Ranges, heads: int, options: dict[str, Any], place: Place
) -> Tensor:
    """V2A: the queries of q (b, a, d) nearest to a frame see the anchor and its part of k, v (b, t*s, d)."""
    out = torch.empty_like(q)
    for frame, (start, stop) in zip(_frames(kv.k, len(ranges)), ranges, strict=True):
        # With fewer audio tokens than latent frames some frames are nearest to none.
        if stop > start:
            keys, values = _with_anchor(anchor, kv, frame)  # (b, c+s, d)
            here = place._replace(queries=slice(start, stop), keys=frame)
            out[:, start:stop] = attend(q[:, start:stop], keys, values, heads, options, here)
    return out  # (b, a, d)


def _frames(x: Tensor, count: int) -> list[slice]:
    size = x.shape[1] // count
    return [slice(i * size, (i + 1) * size) for i in range(count)]


def _with_anchor(anchor: KV, kv: KV, span: slice) -> KV:
    k, v = (torch.cat([c.expand(len(x), -1, -1), x[:, span]], dim=1) for c, x in zip(anchor, kv, strict=True))
    return KV(k, v)
