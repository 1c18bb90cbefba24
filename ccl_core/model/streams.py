"""One stream of the joint model: the host's Wan transformer, cut so that two streams can meet inside a block.

Axes: b batch, n tokens (v video, a audio), d width, t latent frames, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.ldm.common_dit
import comfy.model_management
import torch
from comfy.ldm.flux.math import rope
from comfy.ldm.wan.model import WanAttentionBlock, WanModel, repeat_e, sinusoidal_embedding_1d
from torch import Tensor

from ..config import StreamConfig


@dataclass
class StreamState:
    """What one stream carries through the blocks."""

    latent: Tensor  # (b, c, t, h, w), padded
    tokens: Tensor  # (b, n, d)
    time: Tensor  # (b, 1 or t or n, d), for the head
    modulation: Tensor  # (b, 1 or t or n, 6, d)
    freqs: Tensor  # rotary table of the tokens
    context: Tensor  # (b, text, d)
    context_img_len: int | None
    grid: torch.Size  # t, h, w of the patches, extra frames included
    main: slice  # the tokens of the latent itself, without references before or after it
    options: dict[str, Any]  # transformer_options as this stream's attention sees them

    def add(self, delta: Tensor) -> None:
        """A residual on the tokens of the latent itself: (b, main, d)."""
        if delta.shape[1] == self.tokens.shape[1]:
            self.tokens = self.tokens + delta
        else:
            before, own, after = (
                self.tokens[:, : self.main.start],
                self.tokens[:, self.main],
                self.tokens[:, self.main.stop :],
            )
            self.tokens = torch.cat([before, own + delta, after], dim=1)


class StreamBlock(WanAttentionBlock):
    """The host's block as three calls. `forward` stays the host's and equals them in a row."""

    def modulate(self, state: StreamState) -> tuple[Tensor, ...]:
        """Shift, scale and gate of self-attention, then of the feed-forward, each (b, 1 or t or n, d)."""
        own = comfy.model_management.cast_to(self.modulation, dtype=state.tokens.dtype, device=state.tokens.device)
        return (own.unsqueeze(0) + state.modulation).unbind(2)

    def self_attention(self, state: StreamState, modulation: tuple[Tensor, ...]) -> Tensor:
        x = state.tokens.contiguous()
        shift, scale, gate = (repeat_e(e, x) for e in modulation[:3])
        y = self.self_attn(
            torch.addcmul(shift, self.norm1(x), 1 + scale), state.freqs, transformer_options=state.options
        )
        return torch.addcmul(x, y, gate)  # (b, n, d)

    def text_attention(self, state: StreamState) -> Tensor:
        x = self.norm3(state.tokens)
        return self.add_text(
            state,
            self.cross_attn(x, state.context, context_img_len=state.context_img_len, transformer_options=state.options),
        )

    def add_text(self, state: StreamState, delta: Tensor) -> Tensor:
        """The residual of text attention, and the host's patches behind it."""
        x = state.tokens + delta
        for patch in state.options.get("patches", {}).get("attn2_patch", ()):
            x = patch({"x": x, "transformer_options": state.options})
        return x  # (b, n, d)

    def feed_forward(self, state: StreamState, modulation: tuple[Tensor, ...]) -> Tensor:
        x = state.tokens
        shift, scale, gate = (repeat_e(e, x) for e in modulation[3:])
        y = self.ffn(torch.addcmul(shift, self.norm2(x), 1 + scale))
        return torch.addcmul(x, y, gate)  # (b, n, d)


class Stream(WanModel):
    """A Wan transformer whose forward is `embed`, the blocks, `unembed`; the parameters keep Wan's names."""

    def __init__(self, config: StreamConfig, **factory: Any) -> None:
        super().__init__(wan_attn_block_class=StreamBlock, **config.wan_arguments(), **factory)
        self.config = config

    def embed(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        freqs: Tensor,
        options: dict[str, Any],
        frames: int,
        clip_fea: Tensor | None = None,
    ) -> StreamState:
        """Patchify a padded latent (b, c, t, h, w), of which the first `frames` are to be denoised.

        timestep: (b,) or one per latent frame (b, t) or per token (b, n). clip_fea: CLIP vision states of Wan 2.1 i2v.
        """
        latent, x = x, self.patchify(x)  # (b, d, t, h, w)
        grid = options["grid_sizes"] = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)  # (b, n, d)
        time = self.time_embedding(sinusoidal_embedding_1d(self.freq_dim, timestep.flatten()).to(dtype=x.dtype))
        time = time.reshape(timestep.shape[0], -1, time.shape[-1])  # (b, 1 or t or n, d)
        context, context_img_len = self._embed_context(context, clip_fea)
        return StreamState(
            latent=latent,
            tokens=x,
            time=time,
            modulation=self.time_projection(time).unflatten(2, (6, self.dim)),
            freqs=freqs,
            context=context,
            context_img_len=context_img_len,
            grid=grid,
            main=slice(0, frames * grid[1] * grid[2]),
            options=options,
        )

    def patchify(self, x: Tensor) -> Tensor:
        return self.patch_embedding(x.float()).to(x.dtype)

    def _embed_context(self, context: Tensor, clip_fea: Tensor | None) -> tuple[Tensor, int | None]:
        # Rows of zeros up to `text_len` are text to the models that have one.
        missing = (self.config.text_len or 0) - context.shape[1]
        if missing > 0:
            context = torch.nn.functional.pad(context, (0, 0, 0, missing))
        context = self.text_embedding(context)
        if clip_fea is None:
            return context, None
        if self.img_emb is not None:
            context = torch.concat([self.img_emb(clip_fea), context], dim=1)
        return context, clip_fea.shape[-2]

    def unembed(self, state: StreamState) -> Tensor:
        return self.unpatchify(self.head(state.tokens, state.time), state.grid)  # (b, c, t, h, w)


class VideoStream(Stream):
    """The video stream with the host's conditioning of Wan: CLIP vision, reference latent, in-context latents."""

    def embed_video(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        options: dict[str, Any],
        time_dim_concat: Tensor | None = None,
        **conds: Any,
    ) -> StreamState:
        """x: (b, c, t, h, w) of any size; odd sizes are padded here and cropped by `unembed_video`."""
        frames, height, width = x.shape[2:]
        x = comfy.ldm.common_dit.pad_to_patch_size(x, self.patch_size)
        if time_dim_concat is not None:
            x = torch.cat([x, comfy.ldm.common_dit.pad_to_patch_size(time_dim_concat, self.patch_size)], dim=2)
        reference = conds.get("reference_latent") if self.ref_conv is not None else None
        length = x.shape[2] + (reference is not None)
        freqs = self.rope_encode(length, height, width, device=x.device, dtype=x.dtype, transformer_options=options)
        state = self.embed(x, timestep, context, freqs, options, frames, conds.get("clip_fea"))
        if reference is not None:
            self._prepend_reference(state, reference)
        for source, latent in enumerate(conds.get("context_latents") or (), start=1):
            self._append_latent(state, latent, source)
        return state

    def _prepend_reference(self, state: StreamState, reference: Tensor) -> None:
        tokens = self.ref_conv(reference).flatten(2).transpose(1, 2)  # (b, h*w, d)
        state.tokens = torch.concat((tokens, state.tokens), dim=1)
        state.main = slice(tokens.shape[1], tokens.shape[1] + state.main.stop)

    def _append_latent(self, state: StreamState, latent: Tensor, source: int) -> None:
        latent = comfy.ldm.common_dit.pad_to_patch_size(latent, self.patch_size)
        tokens = self.patch_embedding(latent.float().to(state.tokens.device)).to(state.tokens.dtype)
        state.tokens = torch.cat([state.tokens, tokens.flatten(2).transpose(1, 2)], dim=1)
        freqs = self.rope_encode(
            *latent.shape[-3:],
            device=latent.device,
            dtype=latent.dtype,
            transformer_options=state.options,
            source_id=source,
        )
        state.freqs = torch.cat([state.freqs, freqs], dim=1)

    def unembed_video(self, state: StreamState, shape: torch.Size) -> Tensor:
        """The velocity of the latent itself, cropped to the shape (b, c, t, h, w) that came in."""
        frames, height, width = shape[2:]
        state.tokens = state.tokens[:, state.main.start :][:, : state.grid[0] * state.grid[1] * state.grid[2]]
        return self.unembed(state)[:, :, :frames, :height, :width]


class GatedConvStem(torch.nn.Sequential):
    """The audio stem of Ovi: a convolution, SiLU, and a gated convolution MLP, all over 7 tokens (arXiv 2510.01284)."""

    def __init__(self, config: StreamConfig, operations: Any, **factory: Any) -> None:
        super().__init__(
            operations.Conv1d(config.in_dim, config.dim, 7, padding=3, **factory),
            torch.nn.SiLU(),
            GatedConv(config.dim, config.stem_dim, operations, **factory),
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., 0, 0])[..., None, None]  # (b, c, a, 1, 1) -> (b, d, a, 1, 1)


class GatedConv(torch.nn.Module):
    def __init__(self, dim: int, hidden: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.w1 = operations.Conv1d(dim, hidden, 7, padding=3, bias=False, **factory)
        self.w2 = operations.Conv1d(hidden, dim, 7, padding=3, bias=False, **factory)
        self.w3 = operations.Conv1d(dim, hidden, 7, padding=3, bias=False, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(torch.nn.functional.silu(self.w1(x)) * self.w3(x))  # (b, d, a)


class AudioStream(Stream):
    """The audio stream: a Wan transformer over a latent of one column, positions given by TARP or the token's index."""

    def __init__(self, config: StreamConfig, operations: Any, **factory: Any) -> None:
        super().__init__(config, operations=operations, **factory)
        if config.stem_dim:
            self.patch_embedding = GatedConvStem(config, operations, **factory)

    def patchify(self, x: Tensor) -> Tensor:
        # The host keeps Wan's small patch embedding in float32; the stem is half a billion weights.
        return self.patch_embedding(x) if self.config.stem_dim else super().patchify(x)

    def embed_audio(
        self, x: Tensor, timestep: Tensor, context: Tensor, positions: tuple[float, ...], options: dict[str, Any]
    ) -> StreamState:
        """x: (b, c, a); positions: temporal RoPE position per token, in latent frames of the video."""
        if self.config.rope == "token":
            freqs = rotary_table(torch.arange(x.shape[-1], device=x.device), self.dim // self.num_heads)
        else:
            freqs = temporal_freqs(self, positions, x.device)
        return self.embed(x[..., None, None], timestep, context, freqs, options, x.shape[-1])

    def unembed_audio(self, state: StreamState) -> Tensor:
        return self.unembed(state)[..., 0, 0]  # (b, c, a)


def rotary_table(positions: Tensor, width: int) -> Tensor:
    """Rotary table of one axis over a whole head of this width: positions (n,) -> (1, n, 1, width / 2, 2, 2)."""
    return rope(positions[None], width, 10000)[:, :, None]


def temporal_freqs(stream: WanModel, positions: tuple[float, ...], device: torch.device) -> Tensor:
    """Rotary table of tokens at (position, 0, 0), for the head width of `stream`. float32: positions are fractions."""
    ids = torch.zeros(1, len(positions), 3, device=device, dtype=torch.float32)  # (1, a, 3)
    ids[0, :, 0] = torch.tensor(positions, device=device, dtype=torch.float32)
    return stream.rope_embedder(ids).movedim(1, 2)
