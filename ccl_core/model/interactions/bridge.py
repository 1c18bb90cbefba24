"""The bridge of MOVA (arXiv 2602.08794): cross-attention before the blocks, on the raw hidden states.

    x + scale * o Attn(R q(x), R k(norm y), v(norm y)),  both directions from the states before the layer

Its RoPE pairs the two halves of a head and counts time in audio tokens: token j at j, latent frame i at
i * audio tokens per latent frame, wherever in the frame.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ...alignment.plan import Plan, in_audio_tokens
from ...alignment.timeline import Timeline
from ...config import CCLConfig
from ..attention import attend
from ..rotary import Tables, axis_table, rotate_halves
from ..spans import add_to_span
from ..streams import Stream, StreamPass
from .base import KV, CrossAttention, Interaction, Link, Way


class Conditioner(CrossAttention):
    """One direction: queries of the stream x, which is not normalised, on keys and values of the stream y."""

    def source(self, y: Tensor, table: Tensor) -> KV:
        y = self.norm_y(y)
        return KV(rotate_halves(self.norm_k(self.k(y)), table, self.heads), self.v(y))  # (b, y, d) twice

    def attend(self, x: Tensor, kv: KV, way: Way, options: dict[str, Any]) -> Tensor:
        q = rotate_halves(self.norm_q(self.q(x)), way.tables.queries, self.heads)
        return self.o(attend(q, *kv, self.heads, options, way.place()))  # (b, x, d)


class Bridge(Interaction):
    """Both directions of one layer. The options a2v_scale and v2a_scale weigh them, 1 as published."""

    place = "before_block"
    rotates_halves = True

    def __init__(self, config: CCLConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        video, audio = config.video, config.audio
        video_width, audio_width = head_widths(config)
        self.a2v = Conditioner(video.dim, audio.dim, video.dim // video_width, operations, **factory)
        self.v2a = Conditioner(audio.dim, video.dim, audio.dim // audio_width, operations, **factory)

    @staticmethod
    def plan(config: CCLConfig, timeline: Timeline) -> Plan:
        return in_audio_tokens(timeline, config.interaction.options.first_frame_bias)

    @staticmethod
    def tables(
        config: CCLConfig,
        video: Stream,  # noqa: ARG004 - of kinds on Wan's axes
        audio: Stream,  # noqa: ARG004
        video_pass: StreamPass | None,
        audio_pass: StreamPass | None,
        plan: Plan | None,
        device: torch.device,
    ) -> tuple[Tables, Tables]:
        """Tables of a2v and v2a on the one axis of time, each in the head width of the stream that asks."""
        if plan is None or audio_pass is None:
            return Tables(None, None), Tables(None, None)
        tokens = _positions(plan.audio_positions, device)
        video_width, audio_width = head_widths(config)
        # An audio that asks kept keys needs no table of theirs.
        if video_pass is None:
            return Tables(None, None), Tables(axis_table(tokens, audio_width), None)
        seen = video_pass.spans.seen
        # All spatial tokens of a latent frame stand at one time.
        spatial = (seen.stop - seen.start) // len(plan.frame_positions)
        # 25 / 3 audio tokens per latent frame in MOVA: the product is taken in float32, as there.
        frames = _positions(plan.frame_positions, device) * float(plan.frame_unit)
        # In MOVA both heads are 128 wide: one pair of tables serves both directions.
        by_width: dict[int, tuple[Tensor, Tensor]] = {}
        for width in {video_width, audio_width}:
            of_frames = axis_table(frames, width).repeat_interleave(spatial, dim=1)
            by_width[width] = of_frames, axis_table(tokens, width)
        of_frames, of_tokens = by_width[audio_width]
        return Tables(*by_width[video_width]), Tables(of_tokens, of_frames)

    def forward(
        self,
        v: Tensor | None,
        a: Tensor | None,
        link: Link,
        kept: KV | None = None,
    ) -> tuple[Tensor | KV | None, ...]:
        """New tokens of both streams, which stay as they are where one of them is absent.

        kept: what the audio reads of a video that does not run. With `link.hear` a third value is what it
        read.
        """
        new_v, new_a, heard = v, a, kept
        if a is not None and (v is not None or kept is not None):
            way = link.way("v2a")
            if way.route:
                heard = _source(self.v2a, way, v) if kept is None else kept
                new_a = self._added(self.v2a, way, a, heard, link)
        if a is not None and v is not None:
            way = link.way("a2v")
            if way.route:
                new_v = self._added(self.a2v, way, v, _source(self.a2v, way, a), link)
        return (new_v, new_a, heard) if link.hear else (new_v, new_a)

    # x + scale * o Attn(R q x, R k LN y, v LN y)
    @staticmethod
    def _added(conditioner: Conditioner, way: Way, x: Tensor, kv: KV, link: Link) -> Tensor:
        # MOVA's forward has these strengths as arguments (a2v_condition_scale and v2a_condition_scale).
        scale = link.options.get(f"{way.direction}_scale", 1.0)
        return add_to_span(
            x, way.updated, scale * conditioner.attend(x[:, way.updated], kv, way, link.options)
        )


def _source(conditioner: Conditioner, way: Way, y: Tensor) -> KV:
    return conditioner.source(y[:, way.seen], way.tables.keys)


def head_widths(config: CCLConfig) -> list[int]:
    """Of the video's queries and of the audio's."""
    width = config.interaction.options.head_width
    return [width or stream.dim // stream.num_heads for stream in (config.video, config.audio)]


def _positions(positions: tuple[Fraction, ...], device: torch.device) -> Tensor:
    return torch.tensor([float(position) for position in positions], device=device)
