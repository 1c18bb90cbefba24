"""AV latents: the host's latent dict, taken apart and put together.

This file, `pair.py` and `latent_file.py` know NestedTensor. In a mask 1 is generate and 0 is keep. A latent
without audio means that the audio is absent.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy.latent_formats import LatentFormat
from comfy.model_patcher import ModelPatcher

from ...alignment.agreement import disagreement
from ...alignment.sizing import AVSize, Grid, exact_fps, exact_rate, pinned_at
from ...alignment.time_grid import GRIDS, WAN, TimeGrid, grid_of_shapes
from ...config import CCLConfig
from ..out_of_memory import require_ram
from .pair import Pair

# What this file reads and writes of a latent dict. `fps` is this pack's; nodes of the host carry it along.
KEYS = ("samples", "noise_mask", "fps")
# Audio tokens a second: of cutting and joining, which count in seconds.
AUDIO_RATE = "audio_rate"


@dataclass(frozen=True, eq=False)
class AVLatent:
    """Both streams of a latent dict; `rest` carries the entries that only other nodes read.

    The time of both streams is their third axis, whatever the axes of the model's sound; `join` puts it back.
    """

    video: torch.Tensor | None  # (b, c, t, h, w)
    audio: torch.Tensor | None = None  # (b, c, a) or, of other models, (b, c, a, n)
    video_mask: torch.Tensor | None = None
    audio_mask: torch.Tensor | None = None
    fps: float | None = None
    rest: dict[str, Any] = field(default_factory=dict)
    grid: TimeGrid = WAN

    def shape(self, stream: str) -> tuple[int, ...]:
        """The shape of a stream as the model and its VAE have it."""
        return tuple((self.video if stream == "video" else self.model_audio).shape)

    @property
    def model_audio(self) -> torch.Tensor:
        """The audio with its axes as the model and its VAE have them."""
        return _moved(self.audio, 2, self.grid.audio_axis)


def split(latent: dict[str, Any]) -> AVLatent:
    """Read a LATENT: an AV latent, or a plain video latent. ValueError for anything else."""
    av = read(latent)
    if av.video is None:
        raise ValueError(_unknown([av.shape("audio")]))
    return av


def read(latent: dict[str, Any]) -> AVLatent:
    """As `split`, and of a sound alone too, whose video is None then."""
    samples = latent["samples"]
    streams = list(samples.unbind()) if samples.is_nested else [samples]
    if any(stream.is_nested for stream in streams):
        raise ValueError(
            "a pair of video and audio stands in the place of a stream of the latent: take it apart with "
            "LTXVSeparateAVLatent before LTXVConcatAVLatent joins it with another"
        )
    video, audio, *_ = [None, *streams] if len(streams) == 1 and streams[0].ndim != 5 else [*streams, None]
    shapes = [None if stream is None else tuple(stream.shape) for stream in (video, audio)]
    grid = grid_of_shapes(*shapes)
    if len(streams) > 2 or grid is None:
        raise ValueError(_unknown([tuple(stream.shape) for stream in streams]))
    if None not in shapes and audio.shape[0] != video.shape[0]:
        raise ValueError(
            f"the latent has {video.shape[0]} videos and {audio.shape[0]} sounds: use the same batch size "
            "for both"
        )
    video_mask, audio_mask = _masks(latent.get("noise_mask"), video is not None)
    rest = {name: value for name, value in latent.items() if name not in KEYS}
    return AVLatent(
        video,
        None if audio is None else _moved(audio, grid.audio_axis, 2),
        video_mask,
        _audio_mask(audio, audio_mask, grid),
        latent.get("fps"),
        rest,
        grid,
    )


def _unknown(shapes: list[tuple[int, ...]]) -> str:
    sounds = ", ".join(f"{grid.audio_form} ({grid.name})" for grid in GRIDS)
    return (
        f"the latent holds tensors of shape {shapes}; wanted a video latent (b, c, t, h, w), alone or "
        f"followed by one audio latent of the same model, {sounds}: make it with CCLEmptyAVLatent, or join a "
        "video and an audio latent with LTXVConcatAVLatent"
    )


def _audio_mask(audio: torch.Tensor | None, mask: torch.Tensor | None, grid: TimeGrid) -> torch.Tensor | None:
    """The mask of a sound with its time as third axis."""
    if audio is None or mask is None or grid.audio_axis == 2:
        return None if audio is None else mask
    full = comfy.utils.reshape_mask(mask, ones_mask(audio).shape)
    return _moved(full, grid.audio_axis, 2)


def _moved(stream: torch.Tensor, axis: int, to: int) -> torch.Tensor:
    return stream if axis == to else stream.movedim(axis, to)


def join(av: AVLatent) -> dict[str, Any]:
    """The LATENT that the host samples: nested if there are both streams, else plain."""
    latent = dict(av.rest)
    if av.fps is not None:
        latent["fps"] = av.fps
    streams = {"video": av.video, "audio": None if av.audio is None else av.model_audio}
    there = {name: stream for name, stream in streams.items() if stream is not None}
    masks = {"video": av.video_mask, "audio": av.audio_mask}
    if av.audio_mask is not None:
        masks["audio"] = _moved(av.audio_mask, 2, av.grid.audio_axis)
    if len(there) == 1:
        (stream,) = there
        latent["samples"] = there[stream]
        return latent if masks[stream] is None else {**latent, "noise_mask": masks[stream]}
    latent["samples"] = Pair(there.values())
    if av.video_mask is not None or av.audio_mask is not None:
        # The host tells the masks of a nested one by their places, so both streams get one.
        latent["noise_mask"] = Pair(
            ones_mask(stream) if masks[name] is None else masks[name] for name, stream in there.items()
        )
    return latent


def empty(size: AVSize, video_channels: int, audio_channels: int, batch: int) -> AVLatent:
    """Zeros of this size where the host wants its latents to lie."""
    cells = video_channels * size.latent_frames * size.latent_height * size.latent_width
    require_ram(
        4 * batch * (cells + audio_channels * size.audio_tokens),  # bytes of float32
        f"latents of {batch} x {size.frames} frames of {size.width} x {size.height} pixels",
        "choose a smaller size, length or batch_size",
    )
    device = comfy.model_management.intermediate_device()
    video = torch.zeros(
        batch, video_channels, size.latent_frames, size.latent_height, size.latent_width, device=device
    )
    audio = torch.zeros(batch, audio_channels, size.audio_tokens, device=device)
    rate = float(size.audio_tokens / size.audio_seconds)
    return AVLatent(video, audio, fps=float(size.fps), rest={AUDIO_RATE: rate})


def ones_mask(samples: torch.Tensor) -> torch.Tensor:
    """A mask that generates everything, one channel wide, which the host repeats over all channels."""
    return torch.ones_like(samples[:, :1])


def model_grid(model: ModelPatcher) -> Grid:
    """The grid of a loaded joint model; ValueError for a model without an audio stream."""
    config = getattr(model.model, "ccl_config", None)
    if config is None:
        raise ValueError(
            f"the model input holds a {type(model.model).__name__}, which has no audio stream: load a joint "
            "model with CCLCheckpointLoader or CCLModelLoader (a plain Wan latent gets its audio part from "
            "CCLEncodeAV)"
        )
    return grid_of(config, model.model.latent_format)


def grid_of(config: CCLConfig, latent_format: LatentFormat) -> Grid:
    """The grid of a model of this configuration."""
    return Grid(
        fps=config.fps,
        spatial_stride=latent_format.spacial_downscale_ratio,
        patch=config.video.patch_size[-1],
        audio_rate=config.audio_latent.rate,
        sample_rate=config.audio_latent.sample_rate,
        # CCL's formula gives each latent frame the same whole number of tokens.
        exact_c=config.clock == "uniform",
        pinned=pinned_at(config.fps, config.audio_latent.rate),
    )


def frame_rate(av: AVLatent, typed: float) -> Fraction:
    """The latent's own rate, or that of its model, else the typed one; ValueError if none is there, or they
    differ.
    """
    own = av.grid.fps if av.fps is None else av.fps
    if own is None and not typed:
        why = "it was not made by CCLEmptyAVLatent" if av.grid is WAN else f"those of {av.grid.name} do not"
        raise ValueError(
            f"the latent does not say its frame rate ({why}): type it into the fps input instead of 0"
        )
    if own is None:
        return exact_fps(typed)
    rate = exact_fps(own)
    # In the steps of the input.
    if typed and abs(exact_fps(typed) - rate) > Fraction(1, 1000):
        raise ValueError(
            f"fps is {typed:g}, and the latent was made for {float(rate):g} fps: set fps to 0. For another "
            "rate make the latent with it, in CCLEmptyAVLatent"
        )
    return rate


def with_audio_rate(av: AVLatent, audio_rate: float) -> AVLatent:
    """The latent with the audio tokens a second that were typed for it.

    ValueError where it states others, its model has others, or its video does not last as long by them.
    """
    stated = av.rest.get(AUDIO_RATE) or av.grid.audio_rate
    if not audio_rate or (stated and abs(audio_rate - stated) <= 0.001):
        return av
    if stated:
        raise ValueError(
            f"audio_rate is {audio_rate:g}, and the latent has {float(stated):g} audio tokens a second: set "
            "audio_rate to 0"
        )
    return replace(av, rest={**av.rest, AUDIO_RATE: audio_rate})


def timed(av: AVLatent, fps: float, audio_rate: float) -> tuple[AVLatent, Fraction | None]:
    """The latent with the rates that were typed for it, and its frames a second, None for a sound alone.

    ValueError where it does not say its rate and none is typed, or it says another.
    """
    av = with_audio_rate(av, audio_rate)
    if av.video is None:
        return av, None
    rate = frame_rate(av, fps)
    if audio_rate:
        require_agreement(av, rate, exact_rate(audio_rate))
    return (replace(av, fps=float(rate)) if av.fps is None else av), rate


def require_agreement(av: AVLatent, fps: Fraction, audio_rate: Fraction) -> None:
    """ValueError where the streams cover different seconds. audio_rate: tokens a second."""
    if av.audio is None:
        return
    fault = disagreement(av.video.shape[2], av.audio.shape[2], fps, audio_rate, av.grid.video)
    if fault is not None:
        raise ValueError(
            f"{fault}: a node before this one cut or joined one of the two alone. Make the latent by "
            "CCLEmptyAVLatent, or cut both parts to the same seconds"
        )


def require_finite(av: AVLatent, where: str) -> None:
    """ValueError if a stream holds NaN or infinity, which no model or decoder recovers from."""
    for name, stream in (("video", av.video), ("audio", av.audio)):
        if stream is not None and not torch.isfinite(stream).all():
            raise ValueError(
                f"the {name} part of {where} holds NaN or infinite values: a node before this one made them. "
                "Sample again with another weight_dtype or a lower guidance scale"
            )


def _masks(mask: Any, has_video: bool) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if mask is None:
        return None, None
    if not mask.is_nested:
        return (mask, None) if has_video else (None, mask)
    masks = [*mask.unbind(), None]
    return masks[0], masks[1]
