"""The bridge, the coupling of MOVA (arXiv 2602.08794): cross-attention before the blocks, on the raw hidden states.

    x + scale * o Attn(R q(x), R k(norm y), v(norm y)),  both directions from the states before the layer

Its RoPE pairs the two halves of a head and counts time in audio tokens: token j at j, latent frame i at
i * audio tokens per latent frame, wherever in the frame.
"""

from __future__ import annotations

from typing import Any

import comfy.quant_ops
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...alignment.tarp import Tarp
from ...config import CCLConfig
from ..streams import StreamState, rotary_table
from .base import CrossAttention, Interaction, Link, Tables

TEMPORAL_STRIDE = 4  # pixel frames per latent frame of Wan's VAEs


class Conditioner(CrossAttention):
    """One direction: queries from the stream x, which is not normalised, keys and values from the stream y."""

    def forward(self, x: Tensor, y: Tensor, freqs: Tables, options: dict[str, Any]) -> Tensor:
        own_freqs, source_freqs = freqs
        y = self.norm_y(y)
        q = _rotate_halves(self.norm_q(self.q(x)), own_freqs, self.heads)
        k = _rotate_halves(self.norm_k(self.k(y)), source_freqs, self.heads)
        return self.o(optimized_attention(q, k, self.v(y), heads=self.heads, transformer_options=options))  # (b, x, d)


class Bridge(Interaction):
    """Both directions of one layer. The options a2v_scale and v2a_scale weigh them, 1 as published."""

    rotates_halves = True

    def __init__(self, config: CCLConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        video, audio = config.video, config.audio
        heads = [stream.dim // width for stream, width in zip((video, audio), head_widths(config), strict=True)]
        self.a2v = Conditioner(video.dim, audio.dim, heads[0], operations, **factory)
        self.v2a = Conditioner(audio.dim, video.dim, heads[1], operations, **factory)

    @staticmethod
    def rotary(
        model: Any,
        video: StreamState | None,
        audio: StreamState | None,
        tarp: Tarp | None,
        options: dict[str, Any],  # noqa: ARG004
    ) -> tuple[Tables | None, Tables | None]:
        if video is None or audio is None:
            return None, None
        config, device = model.ccl_config, video.tokens.device
        per_frame = float(config.audio_latent.rate * TEMPORAL_STRIDE / config.fps)
        spatial = (video.main.stop - video.main.start) // len(tarp.a2v)
        frames = torch.arange(len(tarp.a2v), device=device)
        if config.interaction.options.first_frame_bias:
            frames = (frames - 3 / TEMPORAL_STRIDE).clamp(min=0)  # one pixel frame, then whole strides
        tokens = torch.arange(audio.tokens.shape[1], device=device)

        def tables(width: int) -> tuple[Tensor, Tensor]:
            of_frames = rotary_table(frames * per_frame, width)
            return of_frames.repeat_interleave(spatial, dim=1), rotary_table(tokens, width)

        widths = head_widths(config)
        of_width = {width: tables(width) for width in set(widths)}
        return of_width[widths[0]], of_width[widths[1]][::-1]

    def before_block(self, video: StreamState | None, audio: StreamState | None, link: Link) -> None:
        if video is None or audio is None:
            return
        v, a = video.tokens[:, video.main], audio.tokens
        scales = link.options.get("a2v_scale", 1.0), link.options.get("v2a_scale", 1.0)
        if link.v2a_open:
            audio.tokens = a + scales[1] * self.v2a(a, v, link.v2a_freqs, link.options)
        if link.a2v_open:
            video.add(scales[0] * self.a2v(v, a, link.a2v_freqs, link.options))


def head_widths(config: CCLConfig) -> list[int]:
    """Of the video's queries and of the audio's."""
    width = config.interaction.options.head_width
    return [width or stream.dim // stream.num_heads for stream in (config.video, config.audio)]


def _rotate_halves(x: Tensor, freqs: Tensor, heads: int) -> Tensor:
    x = x.unflatten(2, (heads, -1))  # (b, n, heads, d / heads)
    return comfy.quant_ops.ck.apply_rope_split_half1(x, freqs).flatten(2)
