"""One pass of Ovi in the order of work of its published code, to count what that moves.

A transcription of `ovi/modules/fusion.py` and `model.py` of character-ai/Ovi at 5b69b25, one GPU, inference:
every op that moves numbers, in its type, with attention as a call that is not counted. Names and structure
are ours.

Axes: b batch, n tokens of the stream that works, m tokens of the other one, h heads, d width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

KIND: dict[str, Any] = {"dtype": torch.bfloat16, "device": "meta"}
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Stream:
    """One of the two transformers: its width, and the grid of its tokens, (t, h, w) or (n,)."""

    dim: int
    ffn: int
    heads: int
    grid: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return math.prod(self.grid)


def linear(x: Tensor, out: int) -> Tensor:
    return F.linear(x, torch.empty(out, x.shape[-1], **KIND), torch.empty(out, **KIND))


def layer_norm(x: Tensor, affine: bool = False) -> Tensor:
    weight = [torch.empty(x.shape[-1], **KIND) for _ in range(2)] if affine else [None, None]
    return F.layer_norm(x, x.shape[-1:], *weight, 1e-6)


# WanRMSNorm, four passes over the tokens.
def rms_norm(x: Tensor) -> Tensor:
    normed = x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + 1e-6)
    return normed * torch.empty(x.shape[-1], **KIND)


# rope_apply_3d and rope_apply_1d: in complex128, sample by sample, the table of the grid put together anew.
def rope(x: Tensor, stream: Stream) -> Tensor:
    half = x.shape[3] // 2
    made = []
    for sample in x:
        pairs = torch.view_as_complex(sample.to(torch.float64).reshape(*sample.shape[:2], -1, 2))
        table = _rope_table(stream, half)
        rotated = pairs[:, :, : table.shape[-1]] * table
        if len(stream.grid) == 1:
            rotated = torch.cat([rotated, pairs[:, :, table.shape[-1] :]], dim=2)
        real = torch.view_as_real(rotated).flatten(2)
        made.append(torch.cat([real, sample[stream.tokens :]]))
    return torch.stack(made).bfloat16()


def _rope_table(stream: Stream, half: int) -> Tensor:
    kind = {"dtype": torch.complex128, "device": "meta"}
    widths = half - 2 * (half // 3), half // 3, half // 3
    # The sound turns the pairs of Wan's axis of time alone.
    if len(stream.grid) == 1:
        return torch.empty(stream.tokens, 1, widths[0], **kind)
    parts = []
    for axis, width in enumerate(widths):
        shape = [1, 1, 1, width]
        shape[axis] = stream.grid[axis]
        parts.append(torch.empty(shape, **kind).expand(*stream.grid, width))
    return torch.cat(parts, dim=-1).reshape(stream.tokens, 1, -1)


def by_head(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:2], heads, -1)


def modulation(e: Tensor) -> list[Tensor]:
    """Shift, scale and gate of both halves of a block, each (b, n, 1, d): for every token, in every block."""
    return list((torch.empty(1, 6, e.shape[-1], **KIND) + e).chunk(6, dim=2))


def self_attention(x: Tensor, e: list[Tensor], stream: Stream, attend: Attention) -> Tensor:
    y = layer_norm(x) * (1 + e[1].squeeze(2)) + e[0].squeeze(2)
    q, k = (by_head(rms_norm(linear(y, stream.dim)), stream.heads) for _ in range(2))
    v = by_head(linear(y, stream.dim), stream.heads)
    y = linear(attend(rope(q, stream), rope(k, stream), v).flatten(2), stream.dim)
    return x + y * e[2].squeeze(2)


def text_and_feed_forward(
    x: Tensor, e: list[Tensor], text: Tensor, other: Tensor, streams: tuple[Stream, Stream], attend: Attention
) -> Tensor:
    """Text attention with the other stream beside it, then the feed-forward."""
    own, theirs = streams
    y = layer_norm(x, affine=True)
    q = by_head(rms_norm(linear(y, own.dim)), own.heads)
    k, v = by_head(rms_norm(linear(text, own.dim)), own.heads), by_head(linear(text, own.dim), own.heads)
    read = attend(q, k, v)
    other = layer_norm(other, affine=True)
    k = by_head(rms_norm(linear(other, own.dim)), own.heads)
    v = by_head(linear(other, own.dim), own.heads)
    read = read + attend(rope(q, own), rope(k, theirs), v)
    x = x + linear(read.flatten(2), own.dim)
    y = layer_norm(x) * (1 + e[4].squeeze(2)) + e[3].squeeze(2)
    y = linear(F.gelu(linear(y, own.ffn), approximate="tanh"), own.dim)
    return x + y * e[5].squeeze(2)


def layers(video: Stream, audio: Stream, count: int, batch: int, text: int, attend: Attention) -> None:
    """So many layers of both streams on meta tensors. A time for every token, also without an image."""
    v, a = (torch.empty(batch, stream.tokens, stream.dim, **KIND) for stream in (video, audio))
    of_v, of_a = (torch.empty(*x.shape[:2], 6, x.shape[2], **KIND) for x in (v, a))
    texts = [torch.empty(batch, text, stream.dim, **KIND) for stream in (video, audio)]
    for _ in range(count):
        e_a, e_v = modulation(of_a), modulation(of_v)
        a = self_attention(a, e_a, audio, attend)
        v = self_attention(v, e_v, video, attend)
        before = a
        a = text_and_feed_forward(a, e_a, texts[1], v, (audio, video), attend)
        torch.eq(before, a)  # an assertion of the published code
        v = text_and_feed_forward(v, e_v, texts[0], before, (video, audio), attend)
