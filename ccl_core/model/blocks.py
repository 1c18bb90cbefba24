"""The host's Wan block with three places at which another stream may be met.

The audio block runs inside the forward of the video block, and the interaction inside both, so each module of
a layer is entered once, through its forward: torch.compile by block, prefetch, FSDP and object patches all
act there.

Axes: b batch, n tokens of the stream, k distinct diffusion times, d width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import comfy.model_management
import torch
from comfy.ldm.wan.model import WanAttentionBlock, WanI2VCrossAttention, WanT2VCrossAttention
from torch import Tensor

from .attention import Place, attend
from .rotary import rotate
from .spans import add_to_span
from .sparse import of_self_attention
from .times import Rows, gated, modulated


class Beside(NamedTuple):
    """Keys and values that text attention reads beside the text, in the query and output projection it has.

    k, v: (b, m, d), k rotated. table: rotary table of the tokens that ask, which are those of the span.
    """

    k: Tensor
    v: Tensor
    table: Tensor
    span: slice
    place: Place


class TextAttention(WanT2VCrossAttention):
    """The host's text attention, o(Attn(q, text)), which may read a second source beside the text.

    o(Attn(q, text) + Attn(R q, R k, v)) is Ovi's fusion (arXiv 2510.01284): both share q and o.
    """

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        transformer_options: dict[str, Any] = {},  # noqa: B006 - the host's signature
        beside: Beside | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if beside is None:
            return super().forward(x, context, transformer_options=transformer_options, **kwargs)
        q = self.norm_q(self.q(x))
        text = self._text(q, context, transformer_options)
        second = second_source(q, beside, self.num_heads, transformer_options)
        return self.o(add_to_span(text, beside.span, second))  # (b, n, d)

    def _text(self, q: Tensor, context: Tensor, options: dict[str, Any]) -> Tensor:
        return attend(q, self.norm_k(self.k(context)), self.v(context), self.num_heads, options)


class ImageTextAttention(WanI2VCrossAttention):
    """The host's attention to CLIP vision tokens and text (Wan 2.1 i2v), with the same second source."""

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        context_img_len: int,
        transformer_options: dict[str, Any] = {},  # noqa: B006 - the host's signature
        beside: Beside | None = None,
    ) -> Tensor:
        if beside is None:
            return super().forward(x, context, context_img_len, transformer_options=transformer_options)
        heads = self.num_heads
        options = transformer_options
        image, text = context[:, :context_img_len], context[:, context_img_len:]
        q = self.norm_q(self.q(x))
        of_text = attend(q, self.norm_k(self.k(text)), self.v(text), heads, options)
        of_image = attend(q, self.norm_k_img(self.k_img(image)), self.v_img(image), heads, options)
        second = second_source(q, beside, heads, options)
        return self.o(add_to_span(of_text + of_image, beside.span, second))  # (b, n, d)


def second_source(q: Tensor, beside: Beside, heads: int, options: dict[str, Any]) -> Tensor:
    """Attention of the tokens that may ask, q (b, n, d), on what stands beside the text."""
    q = rotate(q[:, beside.span], beside.table, heads)
    return attend(q, beside.k, beside.v, heads, options, beside.place)


OWN_ATTENTION = {WanT2VCrossAttention: TextAttention, WanI2VCrossAttention: ImageTextAttention}
Meeting = Callable[[Tensor, Tensor], tuple[Any, Any]]


class StreamBlock(WanAttentionBlock):
    """A Wan block. Without a meeting it is the host's block, with one time per token where `rows` says so."""

    def let_read_beside(self) -> None:
        """Let the text attention read a second source: the same parameters, another forward."""
        # Not in every block: patches for Wan look for its own classes (KJNodes).
        self.cross_attn.__class__ = OWN_ATTENTION[type(self.cross_attn)]

    def forward(
        self,
        x: Tensor,
        e: Tensor,
        freqs: Tensor,
        context: Tensor,
        context_img_len: int | None = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006 - the host's signature
        rows: Rows = None,
        other: Any = None,
        before_block: Meeting | None = None,
        inside_text: Meeting | None = None,
        after_text: Meeting | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The new tokens (b, n, d); with a meeting, also what the meeting made of `other`.

        e: (b, k, 6, d). rows: which of the k times a token has (times.py). other: tokens of the other stream.
        before_block(x, other) and after_text(x, other) give both streams' tokens,
        inside_text(x, other) gives keys and values beside the text (or None) and `other`.
        """
        if before_block is not None:
            x, other = before_block(x, other)
        own = comfy.model_management.cast_to(self.modulation, dtype=x.dtype, device=x.device)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (own.unsqueeze(0) + e).unbind(
            2
        )  # (b, k, d) each
        # Self-attention with AdaLN: x + gate SA((1 + scale) LN x + shift).
        x = x.contiguous()  # LayerNorm would copy otherwise
        y = modulated(self.norm1(x), shift, scale, rows)
        y = self.self_attn(y, freqs, transformer_options=of_self_attention(transformer_options))
        x = gated(x, y, gate, rows)
        del y  # as large as x, and not needed beside what follows
        # Text attention, without a gate. In Ovi the other stream is read here too.
        beside = None
        if inside_text is not None:
            beside, other = inside_text(x, other)
        x = x + self._read_text(self.norm3(x), context, context_img_len, transformer_options, beside)
        for patch in transformer_options.get("patches", {}).get("attn2_patch", ()):
            x = patch({"x": x, "transformer_options": transformer_options})
        if after_text is not None:
            x, other = after_text(x, other)
        # Feed-forward: x + gate FF((1 + scale) LN x + shift).
        y = self.ffn(modulated(self.norm2(x), ffn_shift, ffn_scale, rows))
        x = gated(x, y, ffn_gate, rows)
        alone = before_block is None and inside_text is None and after_text is None
        return x if alone else (x, other)

    def _read_text(
        self,
        x: Tensor,
        context: Tensor,
        image_length: int | None,
        options: dict[str, Any],
        beside: Beside | None,
    ) -> Tensor:
        """Text attention, always entered through its forward, which may be somebody's patch."""
        attention = self.cross_attn
        given = {"context_img_len": image_length, "transformer_options": options}
        if beside is None:
            return attention(x, context, **given)
        if not is_patched(attention):
            return attention(x, context, beside=beside, **given)
        # The patch knows no second source: its share of the output projection is added, the bias once.
        q = attention.norm_q(attention.q(x))
        second = second_source(q, beside, attention.num_heads, options)
        zero = torch.zeros_like(second[:1, :1])
        return add_to_span(
            attention(x, context, **given), beside.span, attention.o(second) - attention.o(zero)
        )


def is_patched(attention: torch.nn.Module) -> bool:
    """Whether somebody put another forward on this module.

    By function: the host, taking an object patch off, leaves our own bound method in the instance.
    """
    own = attention.__dict__.get("forward")
    return own is not None and getattr(own, "__func__", None) is not type(attention).forward
