"""Where and how two streams may meet in a block (design section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from comfy.ldm.flux.math import apply_rope1
from torch import Tensor

from ...alignment.tarp import Tarp
from ..streams import StreamBlock, StreamState, temporal_freqs

EPS = 1e-6  # of every norm in Wan and in the published couplings
Routes = bool | tuple[bool, ...]
Tables = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Link:
    """What one forward pass knows about the coupling.

    tarp: alignment of the streams, None where one is absent. a2v_freqs: rotary tables (video queries, audio keys) in
    the head width of the video stream; v2a_freqs: (audio queries, video keys) in that of the audio stream.
    a2v_open, v2a_open: the DCR route of each direction, one bool or one per sample.
    """

    tarp: Tarp | None
    a2v_freqs: Tables | None
    v2a_freqs: Tables | None
    a2v_open: Routes
    v2a_open: Routes
    options: dict[str, Any]


class Interaction(torch.nn.Module):
    """A layer without coupling, and the base of every kind: override the place at which the streams meet.

    A stream that is absent is None, and so is the block of one that has ended. Both directions read the states as they
    are when the place is reached.

    routed: the kind has an anchor that the task of a run may route a direction to (DCR); the others know open and off.
    rotates_halves: its RoPE pairs the two halves of a head, by a kernel of the host that has no gradient.
    """

    routed: ClassVar[bool] = False
    rotates_halves: ClassVar[bool] = False

    @staticmethod
    def rotary(
        model: Any, video: StreamState | None, audio: StreamState | None, tarp: Tarp | None, options: dict[str, Any]
    ) -> tuple[Tables | None, Tables | None]:
        """Tables of a2v and v2a: both streams on the three axes of Wan's RoPE, sound at (its time, 0, 0)."""
        a2v = v2a = None
        if video is not None:
            keys = None if audio is None else temporal_freqs(model, tarp.audio_positions, video.tokens.device)
            a2v = (video.freqs[:, video.main], keys)
        if audio is not None:
            device, keys = audio.tokens.device, None
            queries = temporal_freqs(model.audio, tarp.audio_positions, device)
            if video is not None:
                table = model.audio.rope_encode(
                    *video.grid, device=device, dtype=torch.float32, transformer_options=options
                )
                keys = table[:, : video.main.stop - video.main.start]
            v2a = (queries, keys)
        return a2v, v2a

    def before_block(self, video: StreamState | None, audio: StreamState | None, link: Link) -> None:
        """Before self-attention, on the raw hidden states (MOVA's bridge, UniAVGen's asymmetric aligners)."""

    def text_attention(
        self,
        blocks: tuple[StreamBlock | None, StreamBlock | None],
        video: StreamState | None,
        audio: StreamState | None,
        link: Link,  # noqa: ARG002 - read by kinds that fuse inside text attention
    ) -> None:
        """In place of both text attentions (Ovi's fusion shares their queries and output projection)."""
        for block, state in zip(blocks, (video, audio), strict=True):
            if block is not None:
                state.tokens = block.text_attention(state)

    def after_text(self, video: StreamState | None, audio: StreamState | None, link: Link) -> None:
        """After text attention, before the feed-forward (CCL's cross-modal context attention)."""


class CrossAttention(torch.nn.Module):
    """The modules of one direction: queries from a stream x, keys and values from a normalised stream y."""

    def __init__(self, dim: int, source_dim: int, heads: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.heads = heads
        self.norm_y = operations.LayerNorm(source_dim, EPS, **factory)
        self.q = operations.Linear(dim, dim, **factory)
        self.k = operations.Linear(source_dim, dim, **factory)
        self.v = operations.Linear(source_dim, dim, **factory)
        self.o = operations.Linear(dim, dim, **factory)
        self.norm_q = operations.RMSNorm(dim, eps=EPS, elementwise_affine=True, **factory)
        self.norm_k = operations.RMSNorm(dim, eps=EPS, elementwise_affine=True, **factory)


def rotate(x: Tensor, freqs: Tensor, heads: int) -> Tensor:
    """Wan's RoPE, in interleaved pairs."""
    return apply_rope1(x.unflatten(2, (heads, -1)), freqs).flatten(2)  # (b, n, d)
