"""One stream of the joint model: the host's Wan transformer, cut so that two streams can meet inside a block.

Axes: b batch, n tokens, k distinct diffusion times, d width, t latent frames, h w grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import comfy.ldm.common_dit
import torch
from comfy.ldm.wan.model import WanModel, sinusoidal_embedding_1d
from torch import Tensor

from ..config import StreamConfig
from .blocks import StreamBlock
from .spans import Spans
from .sparse import GRID, Grid
from .times import Rows, Times, clean_in_front, kept_tokens, of_tokens, times_of


class StreamPass(NamedTuple):
    """What the blocks of one stream read in a pass beside its tokens, the same in every layer."""

    latent: Tensor  # (b, c, t, h, w), padded
    grid: tuple[int, int, int]  # t, h, w of the patches, extra frames included
    spans: Spans
    time: Tensor  # (b, k, d), for the head
    e: Tensor  # (b, k, 6, d)
    rows: Rows  # which of the k times a token has
    freqs: Tensor  # rotary table of the tokens
    context: Tensor  # (b, text, d)
    context_img_len: int | None
    options: dict[str, Any]  # transformer_options as this stream's attention sees them
    kept: Tensor | None = None  # (b, n), tokens whose latent is kept, where a mask keeps a part of it

    def arguments(self) -> dict[str, Any]:
        """The arguments of the stream's blocks."""
        return {
            "e": self.e,
            "rows": self.rows,
            "freqs": self.freqs,
            "context": self.context,
            "context_img_len": self.context_img_len,
            "transformer_options": self.options,
        }


class Stream(WanModel):
    """A Wan transformer whose forward is `embed`, the blocks, `unembed`; the parameters keep Wan's names."""

    def __init__(self, config: StreamConfig, **factory: Any) -> None:
        super().__init__(wan_attn_block_class=StreamBlock, **config.wan_arguments(), **factory)
        self.config = config

    def patchify(self, x: Tensor) -> Tensor:
        # As the host's WanModel.forward_orig, which keeps this small convolution in float32.
        return self.patch_embedding(x.float()).to(x.dtype)

    def embed_times(self, times: Times, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The table of times (b, k) for the head, (b, k, d), and for the blocks, (b, k, 6, d)."""
        # 6: shift, scale and gate of self-attention, then of the feed-forward.
        waves = sinusoidal_embedding_1d(self.freq_dim, times.values.flatten()).to(dtype=dtype)
        time = self.time_embedding(waves).reshape(*times.values.shape, -1)
        return time, self.time_projection(time).unflatten(2, (6, self.dim))

    def embed_text(self, context: Tensor, clip_fea: Tensor | None = None) -> tuple[Tensor, int | None]:
        """The text (b, text, text_dim) in the stream's width, after the CLIP vision states if there are any.

        ValueError for a text of another width than this stream was trained on.
        """
        if context.shape[-1] != self.text_dim:
            raise ValueError(
                f"got a text of width {context.shape[-1]}, this stream reads texts of width {self.text_dim}: "
                "use the text encoder of this model, for each stream its own"
            )
        # Ovi was trained on texts padded with zeros before the MLP, and its attention reads the padding.
        missing = (self.config.text_len or 0) - context.shape[1]
        if missing > 0:
            context = torch.nn.functional.pad(context, (0, 0, 0, missing))
        context = self.text_embedding(context)
        if clip_fea is None:
            return context, None
        if self.img_emb is not None:
            context = torch.concat([self.img_emb(clip_fea), context], dim=1)
        return context, clip_fea.shape[-2]

    def unembed(self, tokens: Tensor, of: StreamPass) -> Tensor:
        """Tokens of the grid (b, t*h*w, d) -> their velocity (b, c, t, h, w)."""
        # The head modulates by the time of each token, so its rows are those of the grid alone.
        start = of.spans.seen.start
        rows = of.rows[start : start + tokens.shape[1]] if torch.is_tensor(of.rows) else of.rows
        return self.unpatchify(self.head(tokens, of_tokens(of.time, rows)), of.grid)


class VideoStream(Stream):
    """The video stream with the host's conditions of Wan: CLIP vision, reference and in-context latents."""

    def embed_video(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        options: dict[str, Any],
        time_dim_concat: Tensor | None = None,
        **conds: Any,
    ) -> tuple[Tensor, StreamPass]:
        """Tokens (b, n, d) of a latent (b, c, t, h, w) of any size, and what its blocks read.

        Odd sizes are padded here and cropped by `unembed_video`. timestep: (b,), per latent frame or per
        token.
        """
        x = comfy.ldm.common_dit.pad_to_patch_size(x, self.patch_size)
        # Tokens of the latent itself: `time_dim_concat` (subjects of the host's Phantom) stands behind it.
        own = math.prod(x.shape[2:]) // math.prod(self.patch_size)
        if time_dim_concat is not None:
            x = torch.cat(
                [x, comfy.ldm.common_dit.pad_to_patch_size(time_dim_concat, self.patch_size)], dim=2
            )
        patches = self.patchify(x)  # (b, d, t, h, w)
        grid = options["grid_sizes"] = patches.shape[2:]
        before = self._reference(conds.get("reference_latent"))
        after = [self._in_context(latent, x) for latent in conds.get("context_latents") or ()]
        tokens = _joined([*before, _flat(patches), *after])

        start = sum(part.shape[1] for part in before)
        rope = {"device": x.device, "dtype": x.dtype, "transformer_options": options}
        tables = self._tables(x.shape[2:], conds.get("reference_latent") if before else None, rope)
        # As WanModel._forward: `source_id` turns the table of each in-context latent further.
        for source, latent in enumerate(conds.get("context_latents") or (), start=1):
            tables.append(self.rope_encode(*_padded_size(latent, self.patch_size), source_id=source, **rope))
        clean = start if self.config.references else 0
        times = times_of(timestep, own, start - clean, tokens.shape[1] - start - own)
        if clean:
            times = clean_in_front(times, clean, tokens.shape[1] - clean)
        time, e = self.embed_times(times, tokens.dtype)
        text, image_length = self.embed_text(context, conds.get("clip_fea"))
        span = slice(start, start + own)
        options[GRID] = Grid(start, (own // math.prod(grid[1:]), *grid[1:]))
        freqs = _joined(tables)
        spans, rows, kept = Spans(span, span), times.rows, kept_tokens(times)
        made = StreamPass(x, grid, spans, time, e, rows, freqs, text, image_length, options, kept)
        return tokens, made

    def _reference(self, latent: Tensor | None) -> list[Tensor]:
        """Tokens of a reference image (b, c, h, w), which stand before those of the video."""
        if latent is None:
            return []
        if self.config.references:
            frame = comfy.ldm.common_dit.pad_to_patch_size(latent[:, :, None], self.patch_size)
            return [_flat(self.patchify(frame))]
        return [] if self.ref_conv is None else [_flat(self.ref_conv(latent))]

    def _tables(self, size: Sequence[int], reference: Tensor | None, rope: dict[str, Any]) -> list[Tensor]:
        """Rotary tables of the reference and of the video, (t, h, w) cells with the padding."""
        # A reference of the latent's own kind is of any size, one latent frame before the video.
        if reference is not None and self.config.references:
            of_frame = _padded_size(reference[:, :, None], self.patch_size)
            return [self.rope_encode(*of_frame, t_start=-1, **rope), self.rope_encode(*size, **rope)]
        # As WanModel._forward: it counts as one more latent frame in front.
        frames, height, width = size
        return [self.rope_encode(frames + (reference is not None), height, width, **rope)]

    def _in_context(self, latent: Tensor, x: Tensor) -> Tensor:
        """Tokens of a reference latent (Bernini), which stand after those of the video."""
        latent = comfy.ldm.common_dit.pad_to_patch_size(latent, self.patch_size)
        return _flat(self.patch_embedding(latent.float().to(x.device)).to(x.dtype))

    def unembed_video(self, tokens: Tensor, of: StreamPass, shape: torch.Size) -> Tensor:
        """The velocity of the latent itself, cropped to the shape (b, c, t, h, w) that came in."""
        frames, height, width = shape[2:]
        t, h, w = of.grid
        tokens = tokens[:, of.spans.seen.start :][:, : t * h * w]
        return self.unembed(tokens, of)[:, :, :frames, :height, :width]


def _flat(patches: Tensor) -> Tensor:
    return patches.flatten(2).transpose(1, 2)  # (b, d, ...) -> (b, n, d)


def _joined(parts: list[Tensor]) -> Tensor:
    """One tensor (b, n, ...) of the parts; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _padded_size(latent: Tensor, patch: Sequence[int]) -> list[int]:
    return [-(-size // step) * step for size, step in zip(latent.shape[-3:], patch, strict=True)]
