"""The VAE of an input: whether it is for video or audio and fits the latent, and its rates."""

from __future__ import annotations

from fractions import Fraction

from comfy.sd import VAE

from ...alignment.timeline import TEMPORAL_STRIDE


def require_video_vae(vae: VAE, channels: int) -> None:
    """ValueError unless this VAE reads and writes video latents of so many channels."""
    _require_weights(vae, "video_vae")
    # The host's `latent_dim`: axes behind the channels, 1 for sound, 2 for images, 3 for video.
    if vae.latent_dim != 3:
        kind = "an audio VAE" if vae.latent_dim == 1 else "an image VAE"
        raise ValueError(
            f"the video_vae input holds {kind} (its latent has {vae.latent_dim} axes): connect the model's "
            "video VAE, a Wan VAE"
        )
    if vae.latent_channels != channels:
        raise ValueError(
            f"the video latent has {channels} channels, the VAE in video_vae makes {vae.latent_channels}: "
            "connect the VAE of the latent's model "
            "(16 channels: Wan 2.1 VAE, 48 channels: Wan 2.2 VAE)"
        )
    stride = vae.temporal_compression_decode()
    if stride != TEMPORAL_STRIDE:
        raise ValueError(
            f"the VAE in video_vae makes a latent frame of {stride} frames, a joint model's holds "
            f"{TEMPORAL_STRIDE}: connect the VAE of the latent's model, a Wan VAE"
        )


def require_audio_vae(vae: VAE, channels: int | None = None) -> None:
    """ValueError unless this VAE reads and writes audio latents (b, c, a). channels: theirs, where known."""
    _require_weights(vae, "audio_vae")
    if vae.latent_dim != 1:
        kind = "a video VAE" if vae.latent_dim == 3 else "a VAE for images or for audio with a second axis"
        raise ValueError(
            f"the audio_vae input holds {kind} (its latent has {vae.latent_dim} axes): connect the model's "
            "audio VAE, for example from "
            "CCLCheckpointLoader or CCLAudioVAELoader"
        )
    if channels is not None and vae.latent_channels != channels:
        raise ValueError(
            f"the audio latent has {channels} channels, the VAE in audio_vae makes {vae.latent_channels}: "
            "connect the audio VAE of the latent's model"
        )


def input_sample_rate(vae: VAE) -> int:
    """The rate its encoder wants."""
    return int(vae.audio_sample_rate)


def output_sample_rate(vae: VAE) -> int:
    """The rate its decoder delivers."""
    # Only the host's LTX-2 audio VAE gives another rate than it takes, and has the first attribute.
    return int(getattr(vae, "audio_sample_rate_output", vae.audio_sample_rate))


def token_rate(vae: VAE) -> Fraction:
    """Audio tokens per second."""
    # The host states MMAudio's hop as the float 1411.2 (samples at 44.1 kHz), which is 7056/5.
    return Fraction(input_sample_rate(vae)) / Fraction(vae.downscale_ratio).limit_denominator(1000)


def _require_weights(vae: VAE, slot: str) -> None:
    if vae is None or vae.first_stage_model is None:
        raise ValueError(
            f"the {slot} input is empty: its checkpoint holds no such VAE, load one with VAELoader or "
            "CCLAudioVAELoader"
        )


def require_connected(vae: VAE | None, slot: str, what: str) -> VAE:
    """The VAE of an optional input, or a ValueError that names what needs it."""
    if vae is None:
        raise ValueError(
            f"{slot} is not connected, but {what} needs it: connect the model's {slot.split('_')[0]} VAE"
        )
    return vae
