"""The asymmetric interaction of UniAVGen (arXiv 2511.03334), before self-attention, with a face mask.

    A2V  v + M o(H_v + Attn(R q(H_v), R k(W), v(W))),  W: H_a in the window of the latent frame
    V2A  a + o(H_a + Attn(R q(H_a), C_k, C_v)),  C = (1 - alpha) X_i + alpha X_{i+1}
    X_k = R k(M H_v),  X_v = v(M H_v),  M = sigmoid(m(LN v))

Its options make two other forms of it: all of the sound for W, and one frame or all of the video for C.
H is LN of a stream's tokens. The text prints neither a norm nor a position code; norms of queries and keys
are Wan's. `o` acts on H too, as printed, and starts at zero: a fresh model is its two streams.

Axes: b batch, v video tokens, a audio tokens, t latent frames, s spatial tokens of a frame, d width.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ...alignment import asymmetric
from ...alignment.asymmetric import AsymmetricPlan
from ...alignment.plan import Ranges
from ...alignment.timeline import Timeline
from ...config import CCLConfig
from ..attention import TAPS, Place, attend, tap
from ..rotary import Tables, rotate, time_table
from ..spans import add_to_span
from ..streams import Stream, StreamPass
from .base import EPS, KV, CrossAttention, Interaction, Link, Way

# The transformer option that changes the face mask: a callable (mask, transformer options) -> mask.
FACE_MASK = "ccl_face_mask"


class Meeting(CrossAttention):
    """One direction: queries of the stream x on keys and values of the stream y, both normalised."""

    def __init__(self, dim: int, source_dim: int, heads: int, operations: Any, **factory: Any) -> None:
        super().__init__(dim, source_dim, heads, operations, **factory)
        self.norm_x = operations.LayerNorm(dim, EPS, **factory)

    # H_x and R q(H_x).
    def query(self, x: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor]:
        h = self.norm_x(x)
        return h, self._placed(self.norm_q(self.q(h)), table)  # (b, x, d) twice

    # R k(M H_y) and v(M H_y), for every token that somebody may read.
    def source(self, y: Tensor, table: Tensor | None, mask: Tensor | None = None) -> KV:
        h = self.norm_y(y)
        h = h if mask is None else h * mask
        return KV(self._placed(self.norm_k(self.k(h)), table), self.v(h))  # (b, y, d) twice

    def _placed(self, x: Tensor, table: Tensor | None) -> Tensor:
        return x if table is None else rotate(x, table, self.heads)


class FaceMask(torch.nn.Module):
    """M = sigmoid(m(LN v)): how far each video token takes part, (b, v, d) -> (b, v, 1)."""

    def __init__(self, dim: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.norm = operations.LayerNorm(dim, EPS, **factory)
        self.project = operations.Linear(dim, 1, **factory)

    def forward(self, v: Tensor) -> Tensor:
        return torch.sigmoid(self.project(self.norm(v)))


class Asymmetric(Interaction):
    """Both directions of the coupling in one layer. A closed direction adds nothing."""

    place = "before_block"
    routed = True

    def __init__(self, config: CCLConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        video, audio = config.video, config.audio
        self.a2v = Meeting(video.dim, audio.dim, video.num_heads, operations, **factory)
        self.v2a = Meeting(audio.dim, video.dim, audio.num_heads, operations, **factory)
        # Of both directions; among the weights of a2v, as the video is what it looks at.
        self.has_mask = config.interaction.options.face_mask
        if self.has_mask:
            self.a2v.face = FaceMask(video.dim, operations, **factory)

    @staticmethod
    def plan(config: CCLConfig, timeline: Timeline) -> AsymmetricPlan:
        return asymmetric.plan(timeline, config.interaction.options)

    @staticmethod
    def tables(
        config: CCLConfig,
        video: Stream,
        audio: Stream,
        video_pass: StreamPass | None,
        audio_pass: StreamPass | None,
        plan: AsymmetricPlan | None,
        device: torch.device,
    ) -> tuple[Tables, Tables]:
        """As in every coupling on Wan's axes; of v2a by how far a token is from its place, if it has one."""
        if plan is None or not config.interaction.options.clock_inside:
            return Tables(None, None), Tables(None, None)
        a2v, v2a = Interaction.tables(config, video, audio, video_pass, audio_pass, plan, device)
        if not plan.readers:
            return a2v, v2a
        keys = None
        # What a token reads lies at one time: the keys need the place in the picture alone, and are the same
        # for every frame.
        if video_pass is not None:
            _, height, width = video_pass.grid
            table = audio.rope_encode(
                1, height, width, device=device, dtype=torch.float32, transformer_options={}
            )
            keys = table.repeat(1, len(plan.frame_positions), *[1] * (table.ndim - 2))
        return a2v, Tables(time_table(audio, plan.lags, device), keys)

    def forward(
        self, v: Tensor | None, a: Tensor | None, link: Link, kept: KV | None = None
    ) -> tuple[Tensor | KV | None, ...]:
        """New tokens of both streams. With `link.keep` an absent one's place holds what it would read.

        With `link.hear` a third value is what the audio read.
        """
        to_v = to_a = mask = None
        if v is not None and self.has_mask:
            mask = self._mask(v[:, link.video.spans.seen], link.options)
        heard = self._source(v, mask, link) if link.hear else kept
        if v is not None:
            to_v = _added(link.way("a2v"), v, self._from_windows(v, a, mask, link, kept))
        elif link.keep:
            to_v = self.a2v.source(a[:, link.audio.spans.seen], link.a2v.keys)
        if a is not None:
            to_a = _added(link.way("v2a"), a, self._from_frames(a, v, mask, link, heard))
        elif link.keep:
            to_a = self._source(v, mask, link)
        return (to_v, to_a, heard) if link.hear else (to_v, to_a)

    # X_k and X_v of the video.
    def _source(self, v: Tensor, mask: Tensor | None, link: Link) -> KV:
        return self.v2a.source(v[:, link.video.spans.seen], link.v2a.keys, mask)

    def _mask(self, v: Tensor, options: dict[str, Any]) -> Tensor:
        """M, (b, v, 1), as somebody wants it."""
        mask = self.a2v.face(v)
        tap(options, "face_mask", mask)
        change = options.get(FACE_MASK)
        return mask if change is None else change(mask, options)

    # M o(H_v + Attn(R q(H_v), R k(W), v(W)))
    def _from_windows(
        self, v: Tensor, a: Tensor | None, mask: Tensor | None, link: Link, kept: KV | None
    ) -> Tensor | None:
        way = link.way("a2v")
        if way.route is False or (a is None and kept is None):
            return None
        h, q = self.a2v.query(v[:, way.updated], way.tables.queries)
        kv = self.a2v.source(a[:, way.seen], way.tables.keys) if kept is None else kept
        read = read_windows(q, kv, link.plan.windows, self.a2v.heads, link.options, way.place())
        delta = self.a2v.o(h + read)
        return delta if mask is None else delta * mask

    # o(H_a + Attn(R q(H_a), C_k, C_v))
    def _from_frames(
        self, a: Tensor, v: Tensor | None, mask: Tensor | None, link: Link, kept: KV | None
    ) -> Tensor | None:
        way = link.way("v2a")
        if way.route is False or (v is None and kept is None):
            return None
        h, q = self.v2a.query(a[:, way.updated], way.tables.queries)
        kv = self._source(v, mask, link) if kept is None else kept
        return self.v2a.o(h + read_frames(q, kv, link.plan, self.v2a.heads, link.options, way.place()))


def _added(way: Way, x: Tensor, delta: Tensor | None) -> Tensor:
    """x with what a direction adds to the tokens that it may write, for samples on an open route."""
    if delta is None:
        return x
    if way.route is not True:
        delta = delta * torch.tensor(way.route, device=x.device).view(-1, 1, 1)
    if way.kept is not None:
        delta = delta * ~way.kept[..., None]
    return add_to_span(x, way.updated, delta)


def read_windows(
    q: Tensor, kv: KV, windows: tuple[Ranges, ...], heads: int, options: dict[str, Any], place: Place
) -> Tensor:
    """A2V: the queries of each latent frame in q (b, t*s, d) read their window of k, v (b, a, d)."""
    spatial = q.shape[1] // len(windows)
    out = torch.empty_like(q)
    for i, window in enumerate(windows):
        frame = slice(i * spatial, (i + 1) * spatial)
        spans = tuple(slice(*span) for span in window)
        k, v = (_joined(x, spans) for x in kv)
        here = place._replace(queries=frame, keys=spans)
        out[:, frame] = attend(q[:, frame], k, v, heads, options, here)
    return out  # (b, t*s, d)


def _joined(x: Tensor, spans: tuple[slice, ...]) -> Tensor:
    return torch.cat([x[:, span] for span in spans], dim=1)


def read_frames(
    q: Tensor, kv: KV, plan: AsymmetricPlan, heads: int, options: dict[str, Any], place: Place
) -> Tensor:
    """V2A: each audio token in q (b, a, d) reads k, v (b, t*s, d), all or blended to its place."""
    if not plan.readers:
        return attend(q, kv.k, kv.v, heads, options, place)
    spatial = kv.k.shape[1] // len(plan.frame_positions)
    out = torch.empty_like(q)
    alphas = torch.tensor(plan.alphas, device=q.device, dtype=q.dtype)
    for i, first, stop in plan.readers:
        k, v = (_blended(x, i, spatial, alphas[first:stop]) for x in kv)  # (b*n, s, d) twice
        asking = rearrange(q[:, first:stop], "b n d -> (b n) 1 d")
        read = attend(asking, k, v, heads, options)
        out[:, first:stop] = rearrange(read, "(b n) 1 d -> b n d", n=stop - first)
        _tell(q, k, i, (first, stop), heads, options, place)
    return out  # (b, a, d)


# (1 - alpha) X_i + alpha X_{i+1}
def _blended(x: Tensor, i: int, spatial: int, alphas: Tensor) -> Tensor:
    own = x[:, None, i * spatial : (i + 1) * spatial]  # (b, 1, s, d)
    # The last frame has none behind it, and its tokens have alpha 0.
    following = x[:, None, (i + 1) * spatial : (i + 2) * spatial]
    following = following if following.shape[2] else own
    return torch.lerp(own, following, alphas.to(x.dtype).view(1, -1, 1, 1)).flatten(0, 1)


def _tell(
    q: Tensor, k: Tensor, i: int, tokens: tuple[int, int], heads: int, options: dict[str, Any], place: Place
) -> None:
    """Tell an observer of the attention: each token asks by itself, its keys count as those of frame i."""
    if "attention" not in options.get(TAPS, {}):
        return
    by_token = rearrange(k, "(b n) s d -> n b s d", b=len(q))
    keys = slice(i * k.shape[1], (i + 1) * k.shape[1])
    for token, own in zip(range(*tokens), by_token, strict=True):
        queries = slice(token, token + 1)
        tap(options, "attention", q[:, queries], own, heads, place._replace(queries=queries, keys=keys))
