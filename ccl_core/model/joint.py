"""The joint model: a Wan video stream at the root, an audio stream, and an interaction per layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import comfy.model_prefetch
import torch
from torch import Tensor

from ..alignment.timeline import Timeline
from ..config import CCLConfig
from .audio_stream import AudioStream
from .heard import HEARD, HEARING, Source
from .interactions import INTERACTIONS, Link
from .interactions.base import Routes
from .kept import Kept, kept_of
from .layer import Layer, patched_after, run_or_replaced
from .sparse import GRID
from .streams import StreamPass, VideoStream

# Patches written for the video tokens of Wan must not meet audio tokens.
VIDEO_ONLY_OPTIONS = ("patches", "patches_replace", "grid_sizes", GRID)


@dataclass(frozen=True)
class Inputs:
    """What comes into a pass; audio is None where the latent has none."""

    video: Tensor  # (b, c, t, h, w)
    audio: Tensor | None  # (b, c, a)
    video_time: Tensor
    audio_time: Tensor
    video_text: Tensor
    audio_text: Tensor
    routes: tuple[Routes, Routes]
    options: dict[str, Any]
    conds: dict[str, Any] = field(default_factory=dict)  # of the video stream alone
    audio_reference: Tensor | None = None  # (b, c, r)

    def of_video(self) -> list[Tensor]:
        """All that the video stream reads."""
        beside = [value for value in self.conds.values() if torch.is_tensor(value)]
        context = self.conds.get("context_latents") or ()
        return [self.video, self.video_time, self.video_text, *beside, *context]

    def of_audio(self) -> list[Tensor]:
        """All that the audio stream reads."""
        beside = [] if self.audio_reference is None else [self.audio_reference]
        return [self.audio, self.audio_time, self.audio_text, *beside]


class Interactions(torch.nn.ModuleDict):
    """The interaction of each coupled layer, by the layer's number: `3` or `"3"`."""

    # The host's LoraLoaderBypass walks a key with `module[int(part)]`. A ModuleList would number from 0 on.
    def __getitem__(self, layer: int | str) -> torch.nn.Module:
        return super().__getitem__(str(layer))

    def __contains__(self, layer: int | str) -> bool:
        return super().__contains__(str(layer))


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
        # Channels of the video latent, by the name that models of the host have for them (RenormCFG).
        self.in_channels = config.video.out_dim
        self.audio = AudioStream(config.audio, operations, **factory)
        self.kind = INTERACTIONS[config.interaction.kind]
        if self.kind.place == "inside_text":
            for block in (*self.blocks, *self.audio.blocks):
                block.let_read_beside()
        self.interaction = Interactions()
        for i in config.interaction.layers:
            self.interaction[str(i)] = self.kind(config, operations, **factory)

    def forward(
        self, x: Tensor | list[Tensor], timestep: Any, context: Tensor, **kwargs: Any
    ) -> Tensor | list[Tensor]:
        """As `_forward`, inside the host's DIFFUSION_MODEL wrappers.

        They see the audio as (b, 1, c, a): the host's EasyCache cuts dimension 1 of both latents to as many
        channels as the video has. They see copies: EasyCache adds in place what it kept, and in float32 these
        are the numbers that the sampler goes on with.
        """
        if torch.is_tensor(x):
            return super().forward(x.clone(), timestep, context, **kwargs)
        streams = [x[0].clone(), x[1][:, None].clone()]
        video, audio = super().forward(streams, timestep, context, **kwargs)
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
        audio_reference: Tensor | None = None,
        **conds: Any,
    ) -> Tensor | list[Tensor]:
        """Velocities of the streams that came in, in their shapes; one that does not run gives zeros.

        timestep: one tensor for both streams or one each, (b,) or per latent frame or per token.
        audio_context: text of the audio stream, by default the video's. audio_reference: latent of a
        reference sound (b, c, r), for a stream that takes one. video_concat: channels beside the
        video latent (Wan i2v). routes: DCR routes (a2v, v2a) of the task, one bool or one per sample. The
        options run_vx and run_ax leave a stream out, a2v_cross_attn and v2a_cross_attn close a direction (the
        host's flags, as LTX-2 has them).
        """
        conds |= {"clip_fea": clip_fea, "time_dim_concat": time_dim_concat, "video_concat": video_concat}
        video, audio = (x, None) if torch.is_tensor(x) else (x[0], x[1][:, 0])
        video_time, audio_time = (timestep, timestep) if torch.is_tensor(timestep) else timestep
        audio_text = context if audio_context is None else audio_context
        routes = self._routes(routes, transformer_options)
        texts = context, audio_text
        reference = audio_reference if self.audio.config.references else None
        inputs = Inputs(
            video, audio, video_time, audio_time, *texts, routes, transformer_options, conds, reference
        )
        made_video, made_audio = self._velocities(inputs)
        return made_video if audio is None else [made_video, made_audio[:, None]]

    def timeline(self, latent_frames: int, audio_tokens: int, first: int = 0) -> Timeline:
        """Both streams on the model's clock; `first` is the latent frame at which a context window starts."""
        return Timeline.of(self.ccl_config, latent_frames, audio_tokens, first)

    def _routes(self, routes: tuple[Routes, Routes], options: dict[str, Any]) -> tuple[Routes, Routes]:
        """The routes of the task, where the kind has an anchor, less the directions that the pass closes."""
        a2v, v2a = routes if self.kind.routed else (True, True)
        a2v = a2v if options.get("a2v_cross_attn", True) else False
        v2a = v2a if options.get("v2a_cross_attn", True) else False
        return a2v, v2a

    def _velocities(self, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """Velocity of each stream, zeros for one that does not run. What a given one hands out is kept."""
        run_video = inputs.options.get("run_vx", True)
        run_audio = inputs.audio is not None and inputs.options.get("run_ax", True)
        kept = kept_of(inputs.options)
        read = hear = None
        if kept is None:
            read, hear = self._step(inputs, run_video and run_audio)
            # What a sound reads of a video's pass stands for the video.
            run_video = run_video and HEARD not in inputs.options
        else:
            given_video = kept.stream == "video"
            # A given video is read by v2a, given audio by a2v.
            into_other = inputs.routes[1 if given_video else 0]
            if run_video and run_audio and into_other is not False:
                self._fill(kept, inputs, given_video)
                read = kept
            run_video = run_video and not given_video
            run_audio = run_audio and given_video
        video = audio = None
        if run_video or run_audio:
            video, audio = self._pass(inputs, run_video, run_audio, read=read, hear=hear)
        video = torch.zeros_like(inputs.video) if video is None else video
        if audio is None and inputs.audio is not None:
            audio = torch.zeros_like(inputs.audio)
        return video, audio

    @staticmethod
    def _step(inputs: Inputs, both: bool) -> tuple[Source | None, Kept | None]:
        """What the audio reads of an earlier pass of the video, and what gets what it reads in this one.

        both: streams run.
        """
        heard, hearing = (inputs.options.get(name) for name in (HEARD, HEARING))
        if inputs.routes[1] is False or not both:
            return None, None
        if heard is not None:
            return heard.of(inputs.options), None
        return None, None if hearing is None else hearing.begin(inputs.options)

    def _fill(self, kept: Kept, inputs: Inputs, given_video: bool) -> None:
        """Run the given stream alone, unless what it hands out is kept already."""
        basis = inputs.of_video() if given_video else inputs.of_audio()
        if kept.is_of(basis):
            return
        kept.begin()
        # With options of its own: a compiled block would trace again for what a pass leaves in them.
        alone = replace(inputs, options=dict(inputs.options))
        self._pass(alone, given_video, not given_video, fill=kept)
        kept.settle(basis)

    def _pass(
        self,
        inputs: Inputs,
        run_video: bool,
        run_audio: bool,
        fill: Kept | None = None,
        read: Source | None = None,
        hear: Kept | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Velocities of the streams that run.

        fill: gets what the one stream that runs hands out. read: has what a stream that does not run would.
        hear: gets what the audio reads.
        """
        v, video = self._embed_video(inputs) if run_video else (None, None)
        a, audio = self._embed_audio(inputs) if run_audio else (None, None)
        link = self._link(inputs, video, audio, fill is not None, read is not None)
        link = link if hear is None else replace(link, hear=True)
        layers = self._layers(link)
        device = inputs.video.device
        queue = self._prefetch(layers, device, inputs.options)
        # The loop stands here, so that no frame holds the tokens from before it.
        for i, layer in enumerate(layers):
            # Waits for the weights of this layer and starts on those of the next; None at the end lets go.
            comfy.model_prefetch.prefetch_queue_pop(queue, device, layer)
            skipped = i in inputs.options.get("skip_layers", ())
            # Skip layer guidance: Ovi's negative pass leaves layer 11 out for both streams.
            if not skipped:
                _tell_layer(i, link)
                source = None if read is None else read.take(i, device)
                v, a, *heard = run_or_replaced(i, layer, v, a, link, source)
            if hear is not None:
                hear.put(None if skipped else heard[0])
            if fill is not None:
                v, a = _put(fill, v, a, link, skipped)
            if video is not None and not skipped:
                v = patched_after(inputs.options, video, v, i)
        comfy.model_prefetch.prefetch_queue_pop(queue, device, None)
        # Whoever fills wants no velocity.
        if fill is not None:
            return None, None
        made_video = None if video is None else self.unembed_video(v, video, inputs.video.shape)
        made_audio = None if audio is None else self.audio.unembed_audio(a, audio)
        return made_video, made_audio

    def _embed_video(self, inputs: Inputs) -> tuple[Tensor, StreamPass]:
        conds = dict(inputs.conds)
        # Wan i2v: the mask and the latent of the start image, as further channels (WAN21.concat_cond).
        beside = conds.pop("video_concat")
        latent = inputs.video if beside is None else torch.cat([inputs.video, beside], dim=1)
        return self.embed_video(latent, inputs.video_time, inputs.video_text, inputs.options, **conds)

    def _embed_audio(self, inputs: Inputs) -> tuple[Tensor, StreamPass]:
        timeline = self._timeline_of(inputs)
        positions = timeline.audio_positions
        reference = inputs.audio_reference
        if reference is not None:
            # In front of the sound, on the same clock.
            positions = (*timeline.positions_before(reference.shape[-1]), *positions)
        options = {key: value for key, value in inputs.options.items() if key not in VIDEO_ONLY_OPTIONS}
        read = inputs.audio_time, inputs.audio_text, positions, options, reference
        return self.audio.embed_audio(inputs.audio, *read)

    def _timeline_of(self, inputs: Inputs) -> Timeline:
        # The host's context windows: only one that starts at 0 holds the short first frame.
        window = inputs.options.get("context_window")
        first = 0 if window is None else window.index_list[0]
        return self.timeline(inputs.video.shape[2], inputs.audio.shape[-1], first)

    def _link(
        self, inputs: Inputs, video: StreamPass | None, audio: StreamPass | None, keep: bool, is_kept: bool
    ) -> Link:
        # A video that runs alone reads no sound, unless it hands its keys out or reads kept ones.
        plan = None
        if inputs.audio is not None and (audio is not None or keep or is_kept):
            plan = self.kind.plan(self.ccl_config, self._timeline_of(inputs))
        tables = self.kind.tables(self.ccl_config, self, self.audio, video, audio, plan, inputs.video.device)
        return Link(video, audio, plan, *tables, *inputs.routes, inputs.options, keep)

    def _layers(self, link: Link) -> list[Layer]:
        """All layers; the deeper stream runs its last ones alone. What hands out ends with the coupling.

        Looked up at each pass: a compiled block stands in `blocks` for the length of a call only.
        """
        streams = (self, link.video), (self.audio, link.audio)
        depth = max(len(stream.blocks) for stream, running in streams if running is not None)
        if link.keep:
            depth = min(depth, max(self.ccl_config.interaction.layers) + 1)
        return [self._layer(i, link) for i in range(depth)]

    @staticmethod
    def _prefetch(layers: list[Layer], device: torch.device, options: dict[str, Any]) -> Any:
        """The host's queue of the layers whose weights are brought in ahead."""
        # Names and values that the host's WanModel sets, for patches that count blocks.
        options["total_blocks"] = len(layers)
        options["block_type"] = "double"
        modules = [torch.nn.ModuleList(layer.modules) for layer in layers]
        return comfy.model_prefetch.make_prefetch_queue(modules, device, options)

    def _layer(self, i: int, link: Link) -> Layer:
        """The modules of layer i that run in this pass."""
        video = self.blocks[i] if link.video is not None and i < len(self.blocks) else None
        audio = self.audio.blocks[i] if link.audio is not None and i < len(self.audio.blocks) else None
        coupled = i in self.interaction  # a ModuleDict has no `get`
        return Layer(video, audio, self.interaction[i] if coupled else None)


def _tell_layer(i: int, link: Link) -> None:
    """Put the number of the layer where patches and observers look for it."""
    link.options["block_index"] = i
    if link.audio is not None:
        link.audio.options["block_index"] = i


def _put(kept: Kept, v: Any, a: Any, link: Link, skipped: bool) -> tuple[Tensor | None, Tensor | None]:
    """The tokens of the one stream that runs, without what the layer put in the other one's place."""
    if skipped:
        kept.put(None)
    else:
        kept.put(v if link.video is None else a)
    return (None, a) if link.video is None else (v, None)
