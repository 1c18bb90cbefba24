"""Where and how two streams may meet in a block (design section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...tarp import Tarp
from ..streams import StreamBlock, StreamState

Routes = bool | tuple[bool, ...]


@dataclass(frozen=True)
class Link:
    """What one forward pass knows about the coupling.

    tarp: alignment of the streams, None where one is absent. a2v_freqs: rotary tables (video queries, audio keys) in
    the head width of the video stream; v2a_freqs: (audio queries, video keys) in that of the audio stream.
    a2v_open, v2a_open: the DCR route of each direction, one bool or one per sample.
    """

    tarp: Tarp | None
    a2v_freqs: tuple[Tensor, Tensor | None] | None
    v2a_freqs: tuple[Tensor, Tensor | None] | None
    a2v_open: Routes
    v2a_open: Routes
    options: dict[str, Any]


class Interaction(torch.nn.Module):
    """A layer without coupling, and the base of every kind: override the place at which the streams meet.

    A stream that is absent is None, and so is the block of one that has ended. Both directions read the states as they
    are when the place is reached.
    """

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
