"""The audio stream: a Wan transformer over a latent of one column, and the convolution stem of Ovi."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ..config import StreamConfig
from .rotary import axis_table, time_table
from .spans import Spans
from .speech_text import SpeechText
from .streams import Stream, StreamPass
from .times import clean_in_front, kept_tokens, times_of


class GatedConvStem(torch.nn.Sequential):
    """The patch embedding of Ovi's audio: convolution, SiLU, gated convolutions (arXiv 2510.01284)."""

    def __init__(self, config: StreamConfig, operations: Any, **factory: Any) -> None:
        super().__init__(
            operations.Conv1d(config.in_dim, config.dim, 7, padding=3, **factory),
            torch.nn.SiLU(),
            GatedConv(config.dim, config.stem_dim, operations, **factory),
        )

    def forward(self, x: Tensor) -> Tensor:
        # The host's latent has five axes, a convolution over time has three.
        return super().forward(x[..., 0, 0])[..., None, None]  # (b, c, a, 1, 1) -> (b, d, a, 1, 1)


# SwiGLU, w2(SiLU(w1 x) * w3 x), with convolutions over 7 tokens in the place of projections.
class GatedConv(torch.nn.Module):
    def __init__(self, dim: int, hidden: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.w1 = operations.Conv1d(dim, hidden, 7, padding=3, bias=False, **factory)
        self.w2 = operations.Conv1d(hidden, dim, 7, padding=3, bias=False, **factory)
        self.w3 = operations.Conv1d(dim, hidden, 7, padding=3, bias=False, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(torch.nn.functional.silu(self.w1(x)) * self.w3(x))  # (b, d, a)


class AudioStream(Stream):
    """Positions are those of the clock that both streams share, or the token's index."""

    def __init__(self, config: StreamConfig, operations: Any, **factory: Any) -> None:
        super().__init__(config, operations=operations, **factory)
        if config.stem_dim:
            self.patch_embedding = GatedConvStem(config, operations, **factory)
        if config.speech_blocks:
            self.speech_text = SpeechText(config.text_dim, config.speech_blocks, operations, **factory)

    def patchify(self, x: Tensor) -> Tensor:
        # Ovi's stem has 528 million weights: a float32 copy of them, as of a patch embedding, takes 2 GB.
        return self.patch_embedding(x) if self.config.stem_dim else super().patchify(x)

    def embed_text(self, context: Tensor, clip_fea: Tensor | None = None) -> tuple[Tensor, int | None]:
        """As of any stream; a stream that reads speech takes its bytes (b, n, 1).

        ValueError for a text of another kind.
        """
        if not self.config.speech_blocks:
            return super().embed_text(context, clip_fea)
        if context.shape[-1] != 1:
            raise ValueError(
                f"got a text of width {context.shape[-1]}, the audio stream reads the bytes of a speech: "
                "write the words in CCLPrompt, whose text has both"
            )
        return super().embed_text(self.speech_text(context), clip_fea)

    def embed_audio(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        positions: Sequence[Fraction],
        options: dict[str, Any],
        reference: Tensor | None = None,
    ) -> tuple[Tensor, StreamPass]:
        """Tokens (b, r + a, d) of a latent (b, c, a) behind those of a reference (b, c, r), and what its
        blocks read.

        positions: temporal RoPE position per token of both, in latent frames of the video. timestep: (b,) or
        per token of the latent.
        """
        before = 0 if reference is None else reference.shape[-1]
        x = x if reference is None else torch.cat([reference, x], dim=2)
        latent = x[..., None, None]
        patches = self.patchify(latent)  # (b, d, a, 1, 1)
        grid = options["grid_sizes"] = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2)
        # MOVA's audio tower: token j at j, over the whole head. Elsewhere: (time, 0, 0) on Wan's three axes.
        if self.config.rope == "token":
            table = axis_table(torch.arange(x.shape[-1], device=x.device), self.dim // self.num_heads)
        else:
            table = time_table(self, positions, x.device)
        own = tokens.shape[1] - before
        times = times_of(timestep, own)
        if before:
            times = clean_in_front(times, before, own)
        time, e = self.embed_times(times, tokens.dtype)
        text, _ = self.embed_text(context)
        span = slice(before, before + own)
        spans, rows, kept = Spans(span, span), times.rows, kept_tokens(times)
        return tokens, StreamPass(latent, grid, spans, time, e, rows, table, text, None, options, kept)

    def unembed_audio(self, tokens: Tensor, of: StreamPass) -> Tensor:
        """The velocity (b, c, a)."""
        own = of.spans.seen
        grid = (own.stop - own.start, 1, 1)
        return self.unembed(tokens[:, own], of._replace(grid=grid))[..., 0, 0]
