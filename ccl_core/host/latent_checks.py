"""Latents and masks that a model cannot sample, refused in a sentence before the host or torch stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.model_base
import torch
from comfy.context_windows import IndexListContextHandler

# Of the latents (b, c, t, h, w) and (b, c, a).
NDIM = {"video": 5, "audio": 3}


def require_shapes(model: Any, shapes: Sequence[Sequence[int]]) -> None:
    """ValueError unless a joint model can sample a latent of these shapes, whichever sampler it came to."""
    channels = {"video": model.latent_format.latent_channels, "audio": model.ccl_config.audio_latent.channels}
    if len(shapes) > len(channels):
        raise ValueError(f"latent_image: got {len(shapes)} latents in one, this model wants video and audio")
    for (name, wanted), shape in zip(channels.items(), shapes, strict=False):
        ndim = NDIM[name]
        if len(shape) != ndim or shape[1] != wanted or 0 in shape:
            raise ValueError(
                f"latent_image: the {name} latent has the shape {tuple(shape)}, this model wants {ndim} "
                f"dimensions, none of them 0, and {wanted} channels: make it with CCLEmptyAVLatent or "
                "CCLEncodeAV and the VAEs of the same model"
            )


def refuse_windows_of_a_batch(options: Mapping[str, Any], shapes: Sequence[Sequence[int]]) -> None:
    """ValueError where context windows of the host would cut more than one clip, in frames and in clips."""
    handler = options.get("context_handler")
    if not isinstance(handler, IndexListContextHandler):
        return
    clips, frames = shapes[0][0], shapes[0][2]
    # `evaluate_context_windows` takes the times of the batch, (b,), for those of the frames.
    if clips > 1 and handler.dim == 2 and frames > handler.context_length:
        raise ValueError(
            f"latent_image: got {clips} clips of {frames} latent frames, and the context windows of ComfyUI "
            f"({handler.context_length} frames) take one clip: make the latent with batch_size 1, or take "
            "the context windows off"
        )


def check_latent(model: Any, latent: Any) -> None:
    """Refuse a latent the model cannot sample, naming the input `latent_image` and the remedy."""
    streams = latent.unbind() if latent.is_nested else [latent]
    for name, samples in zip(("video", "audio"), streams, strict=False):
        if samples.is_nested:
            raise ValueError(
                f"latent_image: a pair of video and audio stands in the place of its {name}: take it apart "
                "with LTXVSeparateAVLatent before LTXVConcatAVLatent joins it with another"
            )
        if not torch.isfinite(samples).all():
            raise ValueError(f"latent_image: the {name} latent holds NaN or infinite values: make it again")
    config = getattr(model, "ccl_config", None)
    if config is None:
        if len(streams) > 1 and isinstance(model, comfy.model_base.WAN21):
            raise ValueError(
                "latent_image: got video and audio, but this model makes video only: load a joint model"
            )
        return
    require_shapes(model, [samples.shape for samples in streams])


def check_sound_mask(latent: Any, mask: Any) -> None:
    """Refuse a mask with height and width on a sound (b, c, a), at which the host stops in words of torch."""
    if mask is None or not (mask.is_nested and latent.is_nested):
        return
    sounds, masks = latent.unbind()[1:], mask.unbind()[1:]
    for sound, of_sound in zip(sounds, masks, strict=False):
        if sound.ndim == 3 and of_sound.ndim != 3:
            raise ValueError(
                f"latent_image: the mask of the sound has the shape {tuple(of_sound.shape)}, and a sound has "
                "no height and width: put SetLatentNoiseMask behind the video_latent alone; CCLEncodeAV "
                "makes the mask that keeps a sound"
            )
