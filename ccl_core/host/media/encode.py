"""Images and audio into an AV latent: fit them to its size, encode, and mark what was given as kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import comfy.model_management
import comfy.utils
import torch
import torchaudio
from comfy.sd import VAE

from ...alignment.sizing import audio_tokens_of, pinned_at
from ...alignment.time_grid import WAN, Steps
from ...alignment.timeline import HALF
from ...notices import notice, told
from ..out_of_memory import advising
from ..vae.channels import to_channels
from ..vae.sockets import input_sample_rate, require_audio_vae, require_video_vae, token_rate
from .latents import AUDIO_RATE, AVLatent, ones_mask
from .picture import Film, Frames, Picture
from .source import original_sound

IMAGE_FITS = ("crop", "pad", "stretch")
LENGTH_FITS = ("pad", "generate", "refuse")


@dataclass(frozen=True)
class Fit:
    """How given material meets the latent's size. What is too long is trimmed, unless `length` is "refuse".

    image: one of IMAGE_FITS. length: one of LENGTH_FITS.
    """

    image: str
    length: str


def write_images(av: AVLatent, vae: VAE, images: torch.Tensor, fit: Fit) -> AVLatent:
    """Encode frames (f, h, w, c), at the rate of the latent, into the first latent frames and keep them."""
    require_image_batch(images)
    return write_picture(av, vae, Frames(images, Fraction(1)), Fraction(1), fit)


def write_picture(av: AVLatent, vae: VAE, picture: Picture, fps: Fraction, fit: Fit) -> AVLatent:
    """Encode a picture, at the frame rate of the latent, into the first latent frames and keep them."""
    require_video_vae(vae, av.video.shape[1], av.grid)
    frames = av.grid.video.before(av.video.shape[2])
    used, given = _fit_length(count_at(picture, fps), frames, fit.length, av.grid.video)
    side = vae.spacial_compression_encode()
    images = read_picture(picture, fps, used, av.video.shape[-1] * side, av.video.shape[-2] * side, fit.image)
    # The VAE encodes clips of the lengths of its model alone.
    whole = frames if given == av.video.shape[2] else av.grid.video.before(av.grid.video.covering(used))
    images = torch.cat([images, images[-1:].expand(whole - used, -1, -1, -1)])
    return _with_kept(av, encoded(vae, images)[:, :, :given], slice(given))


def write_end(av: AVLatent, vae: VAE, images: torch.Tensor, fit: Fit) -> AVLatent:
    """Encode frames (f, h, w, c), at the rate of the latent, into the last latent frames and keep them."""
    require_video_vae(vae, av.video.shape[1], av.grid)
    require_image_batch(images)
    steps, length, count = av.grid.video, av.video.shape[2], images.shape[0]
    # Whole latent frames from the end on.
    given = length - steps.filled(max(0, steps.before(length) - count))
    if given >= length:
        raise ValueError(
            f"end_image holds {count} frames and the latent {steps.before(length)}: give fewer, or make the "
            "latent longer"
        )
    # Two latent frames and more in front of them, in which nothing moves: the VAE looks back. As many more as
    # put the end of a cycle where that of the latent has it.
    clip = given + 2 + (length - given - 2) % len(steps.cycle)
    lead = images[:1].expand(steps.before(clip) - count, -1, -1, -1)
    side = vae.spacial_compression_encode()
    images = fit_images(
        torch.cat([lead, images]), av.video.shape[-1] * side, av.video.shape[-2] * side, fit.image
    )
    return _with_kept(av, encoded(vae, images)[:, :, -given:], slice(length - given, length))


def encoded(vae: VAE, images: torch.Tensor) -> torch.Tensor:
    """Frames (f, h, w, 3) as a latent (1, c, t, h, w)."""
    with advising(
        f"encoding {images.shape[0]} frames of {images.shape[2]} x {images.shape[1]}",
        lambda: "Give fewer or smaller frames, or close other programs that use this memory",
    ):
        encoded = vae.encode(images)
    comfy.model_management.throw_exception_if_processing_interrupted()
    return encoded


def _with_kept(av: AVLatent, encoded: torch.Tensor, where: slice) -> AVLatent:
    """The latent with these latent frames in it, kept."""
    video, mask = av.video.clone(), mask_of(av.video, av.video_mask)
    video[:, :, where] = encoded.to(video)
    mask[:, :, where] = 0
    return replace(av, video=video, video_mask=mask)


def count_at(picture: Picture, fps: Fraction) -> int:
    """Frames of a picture at another rate, the last one perhaps not full."""
    return max(1, int(picture.seconds * fps + HALF))


def read_picture(
    picture: Picture, fps: Fraction, count: int, width: int, height: int, how: str
) -> torch.Tensor:
    """So many frames of a picture (count, height, width, 3) at this rate and size, read a few at a time."""
    images = torch.empty(count, height, width, 3)
    done = 0
    for chunk in picture.at(fps, count):
        comfy.model_management.throw_exception_if_processing_interrupted()
        images[done : done + chunk.shape[0]] = fit_images(chunk, width, height, how)
        done += chunk.shape[0]
    return images


def write_sound(av: AVLatent, vae: VAE, sound: dict[str, Any] | Film, fit: Fit) -> AVLatent:
    """Encode an AUDIO, or the sound of a film as far as the latent reaches, and keep it."""
    if not isinstance(sound, Film):
        return write_audio(av, vae, sound, fit)
    require_audio_vae(vae, av.audio.shape[1], av.grid)
    token = 1 / token_rate(vae)  # seconds
    room = av.audio.shape[2] * token
    if sound.seconds > room + token:
        seconds = f"{sound.name} is {float(sound.seconds):.3f} s long, the latent {float(room):.3f} s"
        if fit.length == "refuse":
            raise ValueError(f"{seconds}: trim the video to that, or set length_fit to pad or generate")
        notice(f"{seconds}: the rest of the sound is cut off. Make the latent as long to use it")
    return write_audio(av, vae, original_sound(sound, room), fit)


def write_audio(av: AVLatent, vae: VAE, audio: dict[str, Any], fit: Fit) -> AVLatent:
    """Encode a sound into the first audio tokens and keep them."""
    tokens = av.audio.shape[2]
    require_audio_vae(vae, av.audio.shape[1], av.grid)
    rate = input_sample_rate(vae)
    # Samples of a token: 7056/5 for MMAudio.
    hop = Fraction(rate) / token_rate(vae)
    waveform = waveform_of(audio, rate, vae.output_channels, av.audio.shape[0])
    _tell_of_silence(waveform, rate)
    count, wanted = waveform.shape[-1], math.ceil(tokens * hop)
    waveform, given = _fit_waveform(waveform, tokens, hop, rate, fit.length)
    _tell_of_length(count, wanted, hop, wanted / av.video.shape[2], rate, fit.length)
    with advising(
        f"encoding {waveform.shape[-1] / rate:.2f} s of sound",
        lambda: "Give a shorter sound, or close other programs that use this memory",
    ):
        padded = _uncropped(waveform, vae)
        encoded = vae.encode(padded.movedim(1, -1)).movedim(av.grid.audio_axis, 2)
    comfy.model_management.throw_exception_if_processing_interrupted()
    # A VAE may round the last token up or down, and Vocos with center padding has one more at the end.
    more = (padded.shape[-1] - waveform.shape[-1]) / hop
    if not max(given, tokens - 2) <= encoded.shape[2] <= tokens + 2 + more:
        raise ValueError(
            f"the VAE in audio_vae made {encoded.shape[2]} tokens of {waveform.shape[-1] / rate:.3f} s, "
            f"the latent has {tokens}: connect the audio VAE of the latent's model"
        )
    latent = av.audio.clone()
    mask = mask_of(av.audio, av.audio_mask)
    latent[:, :, :given] = encoded[:, :, :given].to(latent)
    mask[:, :, :given] = 0
    return replace(av, audio=latent, audio_mask=mask)


def _uncropped(waveform: torch.Tensor, vae: VAE) -> torch.Tensor:
    """The waveform with silence behind it where `VAE.encode` would crop it, at both of its ends."""
    if not vae.crop_input:
        return waveform
    return torch.nn.functional.pad(waveform, (0, -waveform.shape[-1] % vae.spacial_compression_encode()))


def add_audio(av: AVLatent, vae: VAE, fps: Fraction) -> AVLatent:
    """Give a plain video latent an empty audio stream of its own duration."""
    require_audio_vae(vae, grid=av.grid)
    rate = token_rate(vae)
    if av.grid is WAN:
        tokens = audio_tokens_of(av.video.shape[2], fps, rate, pinned_at(fps, rate))
    else:
        tokens = av.grid.tokens(av.grid.video.before(av.video.shape[2]) / fps * rate)
    # The time of an AVLatent's sound is its third axis.
    others = [size for size in av.grid.audio_sizes if size is not None]
    audio = av.video.new_zeros(av.video.shape[0], vae.latent_channels, tokens, *others)
    return replace(av, audio=audio, fps=float(fps), rest={**av.rest, AUDIO_RATE: float(rate)})


def fit_images(images: torch.Tensor, width: int, height: int, how: str) -> torch.Tensor:
    """Scale (f, h, w, c) to the size: centre crop, letterbox in black, or stretch."""
    # An alpha channel is left out, a grey image gets three equal channels.
    rgb = images[..., :3] if images.shape[-1] >= 3 else images[..., :1].expand(*images.shape[:-1], 3)
    rgb = rgb.movedim(-1, 1)  # (f, 3, h, w)
    if rgb.shape[-2:] != (height, width):
        rgb = _letterboxed(rgb, width, height) if how == "pad" else _scaled(rgb, width, height, how == "crop")
    return rgb.movedim(1, -1)  # (f, height, width, 3)


def _letterboxed(rgb: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """The whole image (f, 3, h, w) in the middle of a black one of this size."""
    scale = min(width / rgb.shape[-1], height / rgb.shape[-2])
    inner_width = max(1, round(rgb.shape[-1] * scale))
    inner_height = max(1, round(rgb.shape[-2] * scale))
    left = (width - inner_width) // 2
    top = (height - inner_height) // 2
    right = width - inner_width - left
    bottom = height - inner_height - top
    inner = _scaled(rgb, inner_width, inner_height, crop=False)
    return torch.nn.functional.pad(inner, (left, right, top, bottom))


def _scaled(rgb: torch.Tensor, width: int, height: int, crop: bool) -> torch.Tensor:
    """The image (f, 3, h, w) at this size, cropped to its shape first or stretched."""
    # "bilinear" reads only four pixels for each new one, which flickers where an image shrinks.
    method = "area" if width < rgb.shape[-1] and height < rgb.shape[-2] else "bilinear"
    return comfy.utils.common_upscale(rgb, width, height, method, "center" if crop else "disabled")


def _fit_length(count: int, frames: int, length: str, steps: Steps) -> tuple[int, int]:
    """How many of so many frames are used, and the number of whole latent frames that they fill."""
    # Within a latent frame it is the rounding of a latent as long as the material.
    full = max(steps.cycle)
    if length == "refuse" and (count > frames or frames - count >= full):
        raise ValueError(
            f"images or video hold {count} frames at its rate, the latent {frames}: give {frames}, or set "
            "length_fit to pad or generate"
        )
    if count > frames:
        left = f"the last {count - frames} are left out. Make the latent as long to use them"
        notice(f"{count} frames for a latent of {frames}: {left}")
    if count >= frames or length == "generate":
        given = steps.filled(min(count, frames))
        used = steps.before(given)
        if used < count < frames:
            left = f"the last {count - used} are left out. Give {used} or {steps.before(given + 1)}"
            notice(f"{count} frames fill {used}, as a latent frame is whole or not there: {left}")
        return used, given
    how = "Choose generate in length_fit to have the rest made"
    # Within a latent frame it is the rounding of a latent as long as the material.
    tell = told if frames - count < full else notice
    tell(f"{count} frames for a latent of {frames}: the last one fills the rest. {how}")
    return count, steps.filled(frames)


def _fit_waveform(
    waveform: torch.Tensor, tokens: int, hop: Fraction, rate: int, length: str
) -> tuple[torch.Tensor, int]:
    """The waveform (b, ch, n) that fills all tokens, and the number of tokens that were given."""
    count = waveform.shape[-1]
    wanted = math.ceil(tokens * hop)
    # Within one token: a sound as long as the video ends somewhere in the last one.
    if length == "refuse" and abs(count - wanted) > hop:
        raise ValueError(
            f"audio is {count / rate:.3f} s long, the latent {wanted / rate:.3f} s: trim it to that, or set "
            "length_fit to pad or generate"
        )
    given = tokens if length != "generate" else min(tokens, math.floor(count / hop))
    if given == 0:
        raise ValueError(
            f"audio is {count / rate * 1000:.1f} ms long, one audio token is {float(hop) / rate * 1000:.1f} "
            "ms: give a longer sound"
        )
    return torch.nn.functional.pad(waveform[..., :wanted], (0, max(0, wanted - count))), given


def _tell_of_length(count: int, wanted: int, hop: Fraction, frame: float, rate: int, length: str) -> None:
    """Tell what is cut off or added.

    count, wanted, hop, frame: samples of the sound, of the latent, of a token and of a latent frame. Less
    than a token is the rounding of a sound as long as the video, less than a latent frame that of a latent as
    long as the sound.
    """
    seconds = f"audio is {count / rate:.3f} s long, the latent {wanted / rate:.3f} s"
    if count - wanted > hop:
        notice(f"{seconds}: the rest of the sound is cut off. Make the latent as long to use it")
    if wanted - count > hop and length == "pad":
        tell = told if wanted - count < frame else notice
        tell(f"{seconds}: silence is added. Choose generate in length_fit to have the rest made")


def _tell_of_silence(waveform: torch.Tensor, rate: int) -> None:
    if not waveform.any():
        notice(
            f"all {waveform.shape[-1] / rate:.2f} s of audio are digital silence, which the model takes "
            "for a given sound. Leave the sound out to have one made"
        )


def waveform_of(
    audio: dict[str, Any], rate: int, channels: int, batch: int, name: str = "audio"
) -> torch.Tensor:
    """An AUDIO at the VAE's rate and channel count, one for each sample of the batch.

    ValueError for one without samples, of another batch, or with numbers that are not finite.
    """
    waveform = audio["waveform"]
    own_rate = int(audio["sample_rate"])
    if waveform.ndim != 3 or waveform.shape[-1] == 0 or waveform.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {tuple(waveform.shape)}, wanted (batch, channels, samples) with samples in "
            "it: the file may hold no sound, choose another one"
        )
    if own_rate <= 0:
        raise ValueError(f"{name} has a sample rate of {own_rate} Hz: load it again with LoadAudio")
    if waveform.shape[0] not in (1, batch):
        raise ValueError(
            f"{name} is a batch of {waveform.shape[0]}, the latent one of {batch}: give one sound, or one "
            "for each sample of the latent"
        )
    if not torch.isfinite(waveform).all():
        raise ValueError(f"{name} holds NaN or infinite values: load or generate it again")
    # The host's own nodes state no layout.
    waveform = to_channels(waveform.float(), channels, audio.get("layout"))
    if own_rate != rate:
        waveform = torchaudio.functional.resample(waveform, own_rate, rate)
    return waveform.expand(batch, -1, -1)


def require_image_batch(images: torch.Tensor, name: str = "images") -> None:
    """ValueError unless an IMAGE holds pictures of finite numbers."""
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"{name} has shape {tuple(images.shape)}, wanted (frames, height, width, channels) with frames "
            "in it: check the node that made them"
        )
    if not torch.isfinite(images).all():
        raise ValueError(f"{name} holds NaN or infinite values: load or decode them again")


def mask_of(samples: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The mask of a stream in one channel and full size, which may be written to."""
    full = ones_mask(samples)
    return full if mask is None else comfy.utils.reshape_mask(mask, full.shape).to(full).clone()
