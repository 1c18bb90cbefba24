"""References of a speaker as latents: a picture, and the beginning of a voice (UniAVGen)."""

from __future__ import annotations

import math
from typing import Any

import torch
from comfy.sd import VAE
from torch import Tensor

from ...notices import told
from ..vae.sockets import input_sample_rate, require_audio_vae, require_video_vae, token_rate
from .encode import encoded, fit_images, mask_of, require_image_batch, waveform_of
from .latents import AVLatent

# Of a voice, from its beginning.
VOICE_SECONDS = 1


def reference_image(av: AVLatent, vae: VAE, image: Tensor) -> Tensor:
    """Pictures (n, h, w, 3), one for all clips or one for each, cut to the latent's size: (n, c, 1, h, w).

    ValueError for another number.
    """
    require_video_vae(vae, av.video.shape[1])
    require_image_batch(image, "image")
    clips = av.video.shape[0]
    if len(image) not in (1, clips):
        raise ValueError(
            f"image holds {len(image)} pictures, wanted 1, or one for each of {clips} clips: take one out "
            "with ImageFromBatch"
        )
    side = vae.spacial_compression_encode()
    fitted = fit_images(image, av.video.shape[-1] * side, av.video.shape[-2] * side, "crop")
    return torch.cat([encoded(vae, one) for one in fitted.split(1)])


def kept_first_frame(av: AVLatent) -> Tensor | None:
    """The first latent frame (b, c, 1, h, w) where a mask keeps all of it, else None.

    Wan's video VAE makes it of the first frame alone. Of an absent video it is zeros, and no reference.
    """
    first = av.video[:, :, :1]
    kept = av.video_mask is not None and not mask_of(av.video, av.video_mask)[:, :, 0].any()
    return first.clone() if kept and first.any() else None


def reference_voice(av: AVLatent, vae: VAE, audio: dict[str, Any]) -> Tensor:
    """The beginning of a voice, an AUDIO, one for all clips or one for each: (b, c, a).

    ValueError for one that is shorter.
    """
    require_audio_vae(vae, None if av.audio is None else av.audio.shape[1])
    rate = input_sample_rate(vae)
    waveform = waveform_of(audio, rate, vae.output_channels, av.video.shape[0], "voice")
    seconds = waveform.shape[-1] / rate
    if seconds < VOICE_SECONDS:
        raise ValueError(
            f"voice is {seconds:.2f} s long, wanted {VOICE_SECONDS} s of a reference voice: give more of it"
        )
    if seconds > VOICE_SECONDS:
        told(f"voice is {seconds:.2f} s long: the model hears its first {VOICE_SECONDS} s")
    return encode_voice(vae, waveform[..., : VOICE_SECONDS * rate])


def encode_voice(vae: VAE, waveform: Tensor) -> Tensor:
    """The whole tokens (b, c, a) of a waveform (b, channels, n) of VOICE_SECONDS."""
    return vae.encode(waveform.movedim(1, -1))[:, :, : math.floor(VOICE_SECONDS * token_rate(vae))]
