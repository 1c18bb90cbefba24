"""What a person gave, which a latent remembers under `source`: Decode puts it back as it was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from comfy.sd import VAE

from ...alignment.timeline import frames_of
from ..vae.sockets import input_sample_rate
from .latents import AVLatent
from .picture import Film, Picture
from .sound_file import read_sound

KEY = "source"
HOW = {"crop": "cropped", "pad": "with black bars", "stretch": "stretched"}


@dataclass(frozen=True, eq=False)
class Source:
    """The originals of the streams that are given whole.

    picture: at its own rate and size. sound: an AUDIO, or a film that has it. image_fit: how the frames met
    the size of the latent. shapes: of both latents, which a node may cut later.
    """

    picture: Picture | None = None
    sound: dict[str, Any] | Film | None = None
    image_fit: str = "crop"
    shapes: tuple[torch.Size | None, torch.Size | None] = (None, None)


def remember(av: AVLatent, source: Source) -> AVLatent:
    """The latent with the originals in it, if there are any."""
    if source.picture is None and source.sound is None:
        return av
    return replace(av, rest={**av.rest, KEY: replace(source, shapes=_shapes(av))})


def source_of(av: AVLatent) -> Source:
    """The originals that are in the latent still: a node may have cut it, or taken a mask away, since."""
    source = av.rest.get(KEY, Source())
    video, audio = (ours == theirs for ours, theirs in zip(source.shapes, _shapes(av), strict=True))
    picture = source.picture if video and _kept_whole(av.video_mask) else None
    sound = source.sound if audio and _kept_whole(av.audio_mask) else None
    return replace(source, picture=picture, sound=sound)


def _kept_whole(mask: torch.Tensor | None) -> bool:
    return mask is not None and not mask.any()


def _shapes(av: AVLatent) -> tuple[torch.Size, torch.Size | None]:
    return av.video.shape, None if av.audio is None else av.audio.shape


def original_sound(sound: dict[str, Any] | Film, seconds: Fraction) -> dict[str, Any]:
    """An AUDIO of the original at its own rate, at most so long."""
    if isinstance(sound, Film):
        read = read_sound(sound.file, sound.start, min(sound.seconds, seconds))
        return {"waveform": read.waveform[None], "sample_rate": read.sample_rate, "layout": read.layout}
    count = int(seconds * sound["sample_rate"])
    return {**sound, "waveform": sound["waveform"][..., :count]}


def report(av: AVLatent, fps: Fraction | None, video_vae: VAE | None, audio_vae: VAE | None) -> str:
    """What was done with the originals, in a line for each stream, and what is made. fps: of the latent."""
    source = av.rest.get(KEY, Source())
    lines = []
    if source.picture is not None:
        lines.append(_picture_line(source, av, fps or source.picture.fps, video_vae))
    if source.sound is not None:
        lines.append(f"Sound kept: {_sound_of(source.sound)} -> {input_sample_rate(audio_vae)} Hz")
    masks = {"picture": av.video_mask, "sound": av.audio_mask}
    if av.audio is None:
        del masks["sound"]
    made = [name for name, mask in masks.items() if not _kept_whole(mask)]
    lines.append(f"To be made: {' and '.join(made)}" if made else "Nothing is to be made: all of it is given")
    return "\n".join(lines)


def _picture_line(source: Source, av: AVLatent, fps: Fraction, vae: VAE) -> str:
    picture = source.picture
    side = vae.spacial_compression_encode()
    width, height = av.video.shape[-1] * side, av.video.shape[-2] * side
    own = picture.sides
    fitted = "" if own[0] * height == own[1] * width else f" {HOW[source.image_fit]}"
    room = frames_of(av.video.shape[2]) / fps
    whole = picture.seconds
    used = f"{float(whole):.2f} s" if whole <= room else f"first {float(room):.2f} of {float(whole):.2f} s"
    name = picture.name if isinstance(picture, Film) else "images"
    rates = f"{float(picture.fps):.5g} -> {float(fps):.5g} fps"
    return f"Picture kept: {name}, {used}, {own[0]}x{own[1]} -> {width}x{height}{fitted}, {rates}"


def _sound_of(sound: dict[str, Any] | Film) -> str:
    """Name and length of a sound."""
    if isinstance(sound, Film):
        return f"{sound.name}, {float(sound.seconds):.2f} s"
    rate = int(sound["sample_rate"])
    return f"audio, {sound['waveform'].shape[-1] / rate:.2f} s, {rate}"
