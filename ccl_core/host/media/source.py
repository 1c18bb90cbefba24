"""What a person gave, which a latent remembers under `source`: Decode puts it back as it was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from comfy.sd import VAE

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
    the size of the latent. latents: of both streams, which a node may cut or change later.
    """

    picture: Picture | None = None
    sound: dict[str, Any] | Film | None = None
    image_fit: str = "crop"
    latents: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)


def remember(av: AVLatent, source: Source) -> AVLatent:
    """The latent with the originals in it, and without those it had before."""
    rest = {name: value for name, value in av.rest.items() if name != KEY}
    if source.picture is None and source.sound is None:
        return replace(av, rest=rest)
    return replace(av, rest={**rest, KEY: replace(source, latents=(av.video, av.audio))})


def source_of(av: AVLatent) -> Source:
    """The originals that are in the latent still: a node may have changed it, or taken a mask away, since."""
    source = av.rest.get(KEY, Source())
    video, audio = source.latents
    picture = source.picture if _kept_whole(av.video_mask) and _same(av.video, video) else None
    sound = source.sound if _kept_whole(av.audio_mask) and _same(av.audio, audio) else None
    return replace(source, picture=picture, sound=sound)


def lost_of(av: AVLatent) -> list[str]:
    """What the latent was given whole and does not hold any more: picture, sound."""
    before, now = av.rest.get(KEY, Source()), source_of(av)
    return [name for name in ("picture", "sound") if getattr(before, name) and not getattr(now, name)]


def _kept_whole(mask: torch.Tensor | None) -> bool:
    return mask is not None and not mask.any()


def _same(now: torch.Tensor | None, before: torch.Tensor | None) -> bool:
    """Whether a stream holds what was encoded, each clip of a batch of it too."""
    if now is None or before is None or now.shape[1:] != before.shape[1:]:
        return False
    return torch.equal(now, before[:1].to(now).expand_as(now))


def original_sound(sound: dict[str, Any] | Film, seconds: Fraction) -> dict[str, Any]:
    """An AUDIO of the original at its own rate, at most so long."""
    if isinstance(sound, Film):
        read = read_sound(sound.file, sound.start, min(sound.seconds, seconds))
        return {"waveform": read.waveform[None], "sample_rate": read.sample_rate, "layout": read.layout}
    count = int(seconds * sound["sample_rate"])
    return {**sound, "waveform": sound["waveform"][..., :count]}


def report(
    av: AVLatent, source: Source, fps: Fraction | None, video_vae: VAE | None, audio_vae: VAE | None
) -> str:
    """What was done with the originals of a source, in a line for each, and what is made of the latent.

    fps: of the latent. The VAEs: those that encoded the originals.
    """
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
    room = av.grid.video.before(av.video.shape[2]) / fps
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
