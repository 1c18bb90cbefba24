"""The joint model: a Wan video stream at the root, an audio stream, and an interaction per layer (design section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_prefetch
import torch
from torch import Tensor

from ..alignment.tarp import Tarp, align
from ..config import CCLConfig
from .interactions import INTERACTIONS, Interaction, Link
from .interactions.base import Routes
from .streams import AudioStream, StreamState, VideoStream

# Patches written for the video tokens of Wan must not meet audio tokens.
VIDEO_ONLY_OPTIONS = ("patches", "patches_replace", "grid_sizes")


@dataclass(frozen=True)
class Switches:
    """The host's per-pass flags, as LTX-2 has them: which streams run, which directions are open."""

    run_vx: bool
    run_ax: bool
    a2v: Routes
    v2a: Routes

    @classmethod
    def read(cls, options: dict[str, Any], routes: tuple[Routes, Routes]) -> Switches:
        a2v, v2a = routes
        return cls(
            run_vx=options.get("run_vx", True),
            run_ax=options.get("run_ax", True),
            a2v=a2v if options.get("a2v_cross_attn", True) else False,
            v2a=v2a if options.get("v2a_cross_attn", True) else False,
        )


class JointModel(VideoStream):
    """Denoises a video latent (b, c, t, h, w) alone, or a pair of it and an audio latent (b, c, a)."""

    def __init__(
        self,
        config: CCLConfig,
        image_model: str | None = None,  # noqa: ARG002 - the host hands on its unet_config
        dtype: torch.dtype | None = None,
        device: Any = None,
        operations: Any = None,
    ) -> None:
        factory = {"dtype": dtype, "device": device}
        super().__init__(config.video, operations=operations, **factory)
        self.ccl_config = config
        self.audio = AudioStream(config.audio, operations, **factory)
        self.kind = INTERACTIONS[config.interaction.kind]
        self.interaction = torch.nn.ModuleDict(
            {str(i): self.kind(config, operations, **factory) for i in config.interaction.layers}
        )
        self.uncoupled = Interaction()

    def forward(self, x: Tensor | list[Tensor], timestep: Any, context: Tensor, **kwargs: Any) -> Tensor | list[Tensor]:
        """As `_forward`, inside the host's DIFFUSION_MODEL wrappers.

        They see the audio as (b, 1, c, a): EasyCache cuts dimension 1 of both latents to the number of video channels.
        """
        if torch.is_tensor(x):
            return super().forward(x, timestep, context, **kwargs)
        video, audio = super().forward([x[0], x[1][:, None]], timestep, context, **kwargs)
        return [video, audio[:, 0]]

    def _forward(
        self,
        x: Tensor | list[Tensor],
        timestep: Tensor | tuple[Tensor, Tensor],
        context: Tensor,
        clip_fea: Tensor | None = None,
        time_dim_concat: Tensor | None = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006 - the host's signature
        audio_context: Tensor | None = None,
        video_concat: Tensor | None = None,
        routes: tuple[Routes, Routes] = (True, True),
        **conds: Any,
    ) -> Tensor | list[Tensor]:
        """Velocities of the streams that came in, in their shapes; one switched off by run_vx / run_ax gives zeros.

        timestep: one tensor for both streams or one each, (b,) or per latent frame or per token. audio_context: text of
        the audio stream, by default the video's. video_concat: channels beside the video latent (Wan i2v).
        routes: DCR routes (a2v, v2a) of the task, one bool or one per sample.
        """
        alone = torch.is_tensor(x)
        video_latent, audio_latent = (x, None) if alone else (x[0], x[1][:, 0])
        video_time, audio_time = (timestep, timestep) if torch.is_tensor(timestep) else timestep
        switches = Switches.read(transformer_options, routes if self.kind.routed else (True, True))

        video = audio = tarp = None
        if switches.run_vx:
            latent = video_latent if video_concat is None else torch.cat([video_latent, video_concat], dim=1)
            video = self.embed_video(
                latent, video_time, context, transformer_options, time_dim_concat, clip_fea=clip_fea, **conds
            )
        if audio_latent is not None and switches.run_ax:
            window = transformer_options.get("context_window")
            first = 0 if window is None else window.index_list[0]
            tarp = self.align(video_latent.shape[2], audio_latent.shape[-1], first)
            options = {key: value for key, value in transformer_options.items() if key not in VIDEO_ONLY_OPTIONS}
            audio_text = context if audio_context is None else audio_context
            audio = self.audio.embed_audio(audio_latent, audio_time, audio_text, tarp.audio_positions, options)

        tables = self.kind.rotary(self, video, audio, tarp, transformer_options)
        link = Link(tarp, *tables, switches.a2v, switches.v2a, transformer_options)
        self._blocks(video, audio, link, transformer_options)
        video_out = torch.zeros_like(video_latent) if video is None else self.unembed_video(video, video_latent.shape)
        if alone:
            return video_out
        audio_out = torch.zeros_like(audio_latent) if audio is None else self.audio.unembed_audio(audio)
        return [video_out, audio_out[:, None]]

    def align(self, latent_frames: int, audio_tokens: int, first: int = 0) -> Tarp:
        """TARP on the model's clock; `first` is the latent frame at which a context window starts."""
        config = self.ccl_config
        return align(config.clock, latent_frames, audio_tokens, first, config.clock_scale)

    def _blocks(
        self, video: StreamState | None, audio: StreamState | None, link: Link, options: dict[str, Any]
    ) -> None:
        """All layers; the deeper stream runs its last ones alone."""
        layers = [self._layer(i, video, audio) for i in range(max(self._depths(video, audio)))]
        device = (video or audio).tokens.device
        queue = comfy.model_prefetch.make_prefetch_queue(
            [torch.nn.ModuleList(filter(None, layer)) for layer in layers], device, options
        )
        replace = options.get("patches_replace", {}).get("dit", {})
        options["total_blocks"] = len(layers)
        options["block_type"] = "double"
        for i, layer in enumerate(layers):
            comfy.model_prefetch.prefetch_queue_pop(queue, device, layer)
            if i in options.get("skip_layers", ()):
                continue
            options["block_index"] = i
            if audio is not None:
                audio.options["block_index"] = i
            if video is not None and ("double_block", i) in replace:
                _replaced(replace[("double_block", i)], layer, video, audio, link)
            else:
                run_layer(layer, video, audio, link)
            if video is not None:
                _patch_after(options, video, i)
        comfy.model_prefetch.prefetch_queue_pop(queue, device, None)

    def _depths(self, video: StreamState | None, audio: StreamState | None) -> list[int]:
        return [len(stream.blocks) for stream, state in ((self, video), (self.audio, audio)) if state is not None]

    def _layer(self, i: int, video: StreamState | None, audio: StreamState | None) -> tuple[Any, Any, Interaction]:
        """Layer i: the video block, the audio block and their interaction; a stream that ended or is absent is None."""
        video_block = self.blocks[i] if video is not None and i < len(self.blocks) else None
        audio_block = self.audio.blocks[i] if audio is not None and i < len(self.audio.blocks) else None
        coupled = str(i) in self.interaction
        return video_block, audio_block, self.interaction[str(i)] if coupled else self.uncoupled


def run_layer(
    layer: tuple[Any, Any, Interaction], video: StreamState | None, audio: StreamState | None, link: Link
) -> None:
    """One joint layer: the coupling at its place in the block of each stream that has one."""
    *blocks, interaction = layer
    interaction.before_block(video, audio, link)
    streams = [
        (block, state, block.modulate(state))
        for block, state in zip(blocks, (video, audio), strict=True)
        if block is not None
    ]
    for block, state, modulation in streams:
        state.tokens = block.self_attention(state, modulation)
    interaction.text_attention(blocks, video, audio, link)
    interaction.after_text(video, audio, link)
    for block, state, modulation in streams:
        state.tokens = block.feed_forward(state, modulation)


def _replaced(
    patch: Any, layer: tuple[Any, Any, Interaction], video: StreamState, audio: StreamState | None, link: Link
) -> None:
    """The host's `patches_replace["dit"]`: the patch sees the video tokens, the audio goes along inside the block."""

    def original_block(args: dict[str, Any]) -> dict[str, Any]:
        video.tokens, video.context, video.modulation, video.freqs = args["img"], args["txt"], args["vec"], args["pe"]
        run_layer(layer, video, audio, link)
        return {"img": video.tokens}

    args = {
        "img": video.tokens,
        "txt": video.context,
        "vec": video.modulation,
        "pe": video.freqs,
        "transformer_options": video.options,
    }
    video.tokens = patch(args, {"original_block": original_block})["img"]


def _patch_after(options: dict[str, Any], video: StreamState, i: int) -> None:
    for patch in options.get("patches", {}).get("double_block", ()):
        args = {"img": video.tokens, "x": video.latent, "vec": video.time, "block_index": i}
        video.tokens = patch(args | {"img_offset": video.main.start, "transformer_options": options})["img"]
