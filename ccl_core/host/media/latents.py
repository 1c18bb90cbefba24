"""AV latents: the host's latent dict, taken apart and put together.

This file and `pair.py` know NestedTensor. In a mask 1 is generate and 0 is keep. A latent without audio means
that the audio is absent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import comfy.model_management
import torch
from comfy.latent_formats import LatentFormat
from comfy.model_patcher import ModelPatcher

from ...alignment.agreement import disagreement
from ...alignment.sizing import AVSize, Grid, exact_fps, pinned_at
from ...config import CCLConfig
from ..out_of_memory import require_ram
from .pair import Pair

# What this file reads and writes of a latent dict. `fps` is this pack's; nodes of the host carry it along.
KEYS = ("samples", "noise_mask", "fps")
# Audio tokens a second: of cutting and joining, which count in seconds.
AUDIO_RATE = "audio_rate"


@dataclass(frozen=True, eq=False)
class AVLatent:
    """Both streams of a latent dict; `rest` carries the entries that only other nodes read."""

    video: torch.Tensor  # (b, c, t, h, w)
    audio: torch.Tensor | None = None  # (b, c, a)
    video_mask: torch.Tensor | None = None
    audio_mask: torch.Tensor | None = None
    fps: float | None = None
    rest: dict[str, Any] = field(default_factory=dict)


def split(latent: dict[str, Any]) -> AVLatent:
    """Read a LATENT: an AV latent, or a plain Wan video latent. ValueError for anything else."""
    samples = latent["samples"]
    streams = list(samples.unbind()) if samples.is_nested else [samples]
    if any(stream.is_nested for stream in streams):
        raise ValueError(
            "a pair of video and audio stands in the place of a stream of the latent: take it apart with "
            "LTXVSeparateAVLatent before LTXVConcatAVLatent joins it with another"
        )
    if len(streams) > 2 or streams[0].ndim != 5:
        shapes = [tuple(stream.shape) for stream in streams]
        raise ValueError(
            f"the latent holds tensors of shape {shapes}; wanted a video latent (b, c, t, h, w), alone or "
            "followed by one audio latent: make it with CCLEmptyAVLatent, or join a video and an audio "
            "latent with LTXVConcatAVLatent"
        )
    masks = _masks(latent.get("noise_mask"))
    audio = streams[1] if len(streams) == 2 else None
    if audio is not None and audio.shape[0] != streams[0].shape[0]:
        raise ValueError(
            f"the latent has {streams[0].shape[0]} videos and {audio.shape[0]} sounds: "
            "use the same batch size for both"
        )
    rest = {name: value for name, value in latent.items() if name not in KEYS}
    return AVLatent(streams[0], audio, masks[0], None if audio is None else masks[1], latent.get("fps"), rest)


def join(av: AVLatent) -> dict[str, Any]:
    """The LATENT that the host samples: nested if there is audio, else plain."""
    latent = dict(av.rest)
    latent["samples"] = av.video if av.audio is None else Pair([av.video, av.audio])
    if av.fps is not None:
        latent["fps"] = av.fps
    if av.audio is None and av.video_mask is not None:
        latent["noise_mask"] = av.video_mask
    # The host tells the masks of a nested one by their places, so both streams get one.
    elif av.video_mask is not None or av.audio_mask is not None:
        video_mask = ones_mask(av.video) if av.video_mask is None else av.video_mask
        latent["noise_mask"] = Pair(
            [video_mask, ones_mask(av.audio) if av.audio_mask is None else av.audio_mask]
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
    """The latent's own rate, else the typed one; ValueError if neither is there, or they differ."""
    if av.fps is None and not typed:
        raise ValueError(
            "the latent does not say its frame rate (it was not made by CCLEmptyAVLatent): type it "
            "into the fps input instead of 0"
        )
    if av.fps is None:
        return exact_fps(typed)
    rate = exact_fps(av.fps)
    # In the steps of the input.
    if typed and abs(exact_fps(typed) - rate) > Fraction(1, 1000):
        raise ValueError(
            f"fps is {typed:g}, and the latent was made for {float(rate):g} fps: set fps to 0. For another "
            "rate make the latent with it, in CCLEmptyAVLatent"
        )
    return rate


def require_agreement(av: AVLatent, fps: Fraction, audio_rate: Fraction) -> None:
    """ValueError where the streams cover different seconds. audio_rate: tokens a second."""
    if av.audio is None:
        return
    fault = disagreement(av.video.shape[2], av.audio.shape[2], fps, audio_rate)
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


def _masks(mask: Any) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if mask is None:
        return None, None
    if not mask.is_nested:
        return mask, None
    masks = [*mask.unbind(), None]
    return masks[0], masks[1]
