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

from abc import ABC, abstractmethod
from typing import Any

import comfy.ops
import torch
from torch import Tensor

from ...alignment import tarp
from ...alignment.plan import Plan, Ranges
from ...alignment.timeline import Timeline
from ...config import CCLConfig
from ..attention import Place, attend, tap
from ..rotary import rotate
from ..spans import add_to_span
from .base import EPS, KV, CrossAttention, Interaction, Link, Routes, Way
from .folds import fold_out, mix, out_is_folded, project_last, read_anchor, read_both, values_are_last


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
        k, y = self.unprojected(y, table)
        return KV(k, self.v(y))  # (b, y, d) twice

    def unprojected(self, y: Tensor, table: Tensor) -> KV:
        """The keys, and LN y (b, y, d_y) in the place of the values Wv LN y."""
        y = self.norm_y(y)
        return KV(rotate(self.norm_k(self.k(y)), table, self.heads), y)

    def anchor(self, x: Tensor) -> KV:
        """Kc and Vc: keys and values of the context tokens (LCT), which have no position. (1, c, d) twice."""
        y = self.normed_context(x)
        return KV(self.norm_k(self.k(y)), self.v(y))

    def normed_context(self, x: Tensor) -> Tensor:
        """LN C, (1, c, d_y), on the device and in the type of x."""
        return self.norm_y(comfy.ops.cast_to_input(self.context, x)[None])


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
    ) -> tuple[Tensor | KV | None, ...]:
        """New tokens of both streams. With `link.keep` an absent one's place holds what it would read.

        With `link.hear` a third value is what the audio read.
        """
        # Both directions read v and a as they came in, so neither sees what the other one added.
        to_v = to_a = None
        heard = self.v2a.source(v[:, link.video.spans.seen], link.v2a.keys) if link.hear else kept
        if v is not None:
            to_v = _added(self.a2v, link.way("a2v"), v, a, kept, ToWindows, link.options)
        elif link.keep:
            to_v = self.a2v.source(a[:, link.audio.spans.seen], link.a2v.keys)
        if a is not None:
            to_a = _added(self.v2a, link.way("v2a"), a, v, heard, ToFrames, link.options)
        elif link.keep:
            to_a = self.v2a.source(v[:, link.video.spans.seen], link.v2a.keys)
        return (to_v, to_a, heard) if link.hear else (to_v, to_a)


def _added(
    modules: ContextAttention,
    way: Way,
    x: Tensor,
    y: Tensor | None,
    kept: KV | None,
    kind: type[Reading],
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
    place = way.place(len(modules.context))
    source = None if y is None else y[:, way.seen]
    reading = kind(modules, way, q, source, kept, options)
    if reading.closed:
        made = reading.anchored(q, place)
    else:
        made = _routed(reading, q, way.route, place)
        # DCR by region: a direction into tokens that are kept is closed, as that into a given stream.
        if way.kept is not None:
            made = torch.where(way.kept[..., None], reading.anchored(q, None), made)
    return add_to_span(x, way.updated, reading.projected(made))


def _routed(reading: Reading, q: Tensor, route: Routes, place: Place) -> Tensor:
    """DCR (CCL): samples on an open route read the other stream, the others their context tokens alone."""
    if route is True:
        return reading.open(q, slice(None), place)
    out = torch.empty_like(q)
    place = place._replace(partial=True)
    for is_open in set(route):
        rows = [i for i, state in enumerate(route) if state is is_open]
        out[rows] = reading.open(q[rows], rows, place) if is_open else reading.anchored(q[rows], place)
    return out


class Reading(ABC):
    """What the queries of one direction read in a pass: context tokens, and on an open route a source.

    source: tokens of the other stream, or `kept` keys and values, both None where it is absent. Keys and
    values are made of the open samples alone: closed ones must not pay for them. folded: `Wo` is in the
    values, so that nothing is to be projected behind them (folds.py). folds_open: it may be on an open route.
    """

    folds_open = False

    def __init__(
        self,
        modules: ContextAttention,
        way: Way,
        q: Tensor,
        source: Tensor | None,
        kept: KV | None,
        options: dict[str, Any],
    ) -> None:
        self.modules, self.way, self.options = modules, way, options
        self.source, self.kept = source, kept
        self.heads = modules.heads
        self.anchor = modules.anchor(q)
        self.closed = (source is None and kept is None) or way.route is False
        may = self.closed or self.folds_open
        self.folded = may and out_is_folded(modules.o, options, *self._counts(q), self.heads)

    def _counts(self, q: Tensor) -> tuple[int, int, int]:
        """Queries of the batch, keys that one of them sees, and keys of all."""
        context = self.anchor.k.shape[1]
        queries = q.shape[0] * q.shape[1]
        if self.closed:
            return queries, context, context
        seen = self.way.seen.stop - self.way.seen.start
        return queries, context + self._in_view(seen), context + q.shape[0] * seen

    @abstractmethod
    def _in_view(self, seen: int) -> int:
        """Tokens of the source that one query sees, of so many."""

    @abstractmethod
    def open(self, q: Tensor, samples: list[int] | slice, place: Place) -> Tensor:
        """Queries of these samples on the context tokens and the source: (b, n, d)."""

    # A closed direction: softmax(q Kc^T / sqrt(dh)) Vc, which the other stream cannot change.
    def anchored(self, q: Tensor, place: Place | None) -> Tensor:
        place = None if place is None else place._replace(keys=None)
        if self.folded:
            k = self.anchor.k
            if place is not None:
                tap(self.options, "attention", q, k.expand(len(q), -1, -1), self.heads, place)
            return read_anchor(q, k, fold_out(self.modules.o, self.anchor.v, None, self.heads), self.heads)
        k, v = (x.expand(q.shape[0], -1, -1) for x in self.anchor)  # (b, c, d)
        return attend(q, k, v, self.heads, self.options, place)

    def projected(self, made: Tensor) -> Tensor:
        return made if self.folded else self.modules.o(made)

    def keys_and_values(self, samples: list[int] | slice) -> KV:
        if self.kept is not None:
            return self.kept.of(samples)
        return self.modules.source(self.source[samples], self.way.tables.keys)


class ToWindows(Reading):
    """A2V: the queries of each latent frame see their own window of audio tokens."""

    folds_open = True

    def _in_view(self, seen: int) -> int:
        return max(min(stop, seen) - start for start, stop in self.way.ranges)

    def open(self, q: Tensor, samples: list[int] | slice, place: Place) -> Tensor:
        kv = self.keys_and_values(samples)
        ranges, heads = self.way.ranges, self.heads
        if not self.folded:
            return frames_to_windows(q, kv, self.anchor, ranges, heads, self.options, place)
        out = torch.empty_like(q)
        folded = fold_out(self.modules.o, self.anchor.v, kv.v, heads)
        anchor = self.anchor.k.expand(len(q), -1, -1)
        for frame, (start, stop) in zip(_frames(q, len(ranges)), ranges, strict=True):
            window = slice(start, stop)
            k = torch.cat([anchor, kv.k[:, window]], dim=1)
            here = place._replace(queries=frame, keys=window)
            tap(self.options, "attention", q[:, frame], k, heads, here)
            out[:, frame] = read_both(q[:, frame], k, folded, window, heads)
        return out


class ToFrames(Reading):
    """V2A: the queries of each audio token see the tokens of the latent frame nearest to it."""

    def _in_view(self, seen: int) -> int:
        return seen // len(self.way.ranges)

    def open(self, q: Tensor, samples: list[int] | slice, place: Place) -> Tensor:
        ranges, heads = self.way.ranges, self.heads
        counts = self._counts(q)
        # Values that are kept are projected already.
        if self.kept is not None or not values_are_last(self.modules.v, self.options, *counts, heads):
            kv = self.keys_and_values(samples)
            return tokens_to_frames(q, kv, self.anchor, ranges, heads, self.options, place)
        kv = self.modules.unprojected(self.source[samples], self.way.tables.keys)
        context = self.modules.normed_context(q)
        anchor = self.anchor.k.expand(len(q), -1, -1)
        mixed = q.new_empty(len(q), heads, q.shape[1], kv.v.shape[2])
        for frame, (start, stop) in zip(_frames(kv.k, len(ranges)), ranges, strict=True):
            if stop > start:
                asking = q[:, start:stop]
                k = torch.cat([anchor, kv.k[:, frame]], dim=1)
                here = place._replace(queries=slice(start, stop), keys=frame)
                tap(self.options, "attention", asking, k, heads, here)
                mixed[:, :, start:stop] = mix(asking, k, (context, kv.v[:, frame]), heads)
        return project_last(self.modules.v, mixed)


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
