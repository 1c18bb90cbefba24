"""The VAE of an input: whether it is for video or audio and fits the latent, and its rates."""

from __future__ import annotations

from fractions import Fraction

from comfy.sd import VAE

from ...alignment.time_grid import WAN, TimeGrid

# A length that the latents of every model can have.
LATENT_FRAMES = 12


def require_video_vae(vae: VAE, channels: int, grid: TimeGrid = WAN) -> None:
    """ValueError unless this VAE reads and writes video latents of so many channels, of such a model."""
    _require_weights(vae, "video_vae")
    # The host's `latent_dim`: axes behind the channels, 1 for sound, 2 for images, 3 for video.
    if vae.latent_dim != 3:
        kind = "an audio VAE" if vae.latent_dim == 1 else "an image VAE"
        raise ValueError(
            f"the video_vae input holds {kind} (its latent has {vae.latent_dim} axes): connect the model's "
            f"video VAE, a {grid.name} VAE"
        )
    if vae.latent_channels != channels:
        raise ValueError(
            f"the video latent has {channels} channels, the VAE in video_vae makes {vae.latent_channels}: "
            "connect the VAE of the latent's model "
            "(16 channels: Wan 2.1 VAE, 48 channels: Wan 2.2 VAE)"
        )
    made, wanted = vae.upscale_ratio[0](LATENT_FRAMES), grid.video.before(LATENT_FRAMES)
    if made != wanted:
        raise ValueError(
            f"the VAE in video_vae makes {made} frames of {LATENT_FRAMES} latent frames, {grid.name}'s are "
            f"{wanted}: connect the VAE of the latent's model, a {grid.name} VAE"
        )


def require_audio_vae(vae: VAE, channels: int | None = None, grid: TimeGrid = WAN) -> None:
    """ValueError unless this VAE reads and writes audio latents of this kind of model.

    channels: theirs, where known.
    """
    _require_weights(vae, "audio_vae")
    if vae.latent_dim != len(grid.audio_sizes):
        kind = {3: "a video VAE", 1: "an audio VAE of another model"}.get(
            vae.latent_dim, "a VAE for images or for audio with a second axis"
        )
        raise ValueError(
            f"the audio_vae input holds {kind} (its latent has {vae.latent_dim} axes): connect the audio VAE "
            f"of {grid.name}'s latents {grid.audio_form}, for example from CCLCheckpointLoader or "
            "CCLAudioVAELoader"
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
    # The host's VAEs of LTX-2 and MiniMax H3 say it; their `downscale_ratio` is for tiles.
    stated = getattr(vae.first_stage_model, "latents_per_second", None)
    if stated is not None:
        return Fraction(stated).limit_denominator(1000)
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
