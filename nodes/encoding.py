"""A person's own material, written into a latent and kept while the rest is generated."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from comfy.sd import VAE
from comfy_api.latest import Input, io

from ..ccl_core.alignment.sizing import exact_fps
from ..ccl_core.host.media.encode import (
    IMAGE_FITS,
    LENGTH_FITS,
    Fit,
    add_audio,
    write_end,
    write_images,
    write_picture,
    write_sound,
)
from ..ccl_core.host.media.latents import (
    AVLatent,
    frame_rate,
    join,
    require_agreement,
    require_finite,
    split,
)
from ..ccl_core.host.media.picture import Film, Frames, Picture
from ..ccl_core.host.media.source import Source, remember, report, source_of
from ..ccl_core.host.vae.sockets import require_audio_vae, require_connected, token_rate
from ..ccl_core.notices import told
from .inputs import fps_input
from .material import UNCONNECTED, connected_sound, picture_of, sound_of
from .node import CCLNode

# What may stay of a video.
PICTURE, SOUND = "picture", "sound"
KEPT = (PICTURE, SOUND, "picture and sound")


def _socket_inputs() -> list[io.Input]:
    return [
        io.Latent.Input(
            "latent",
            tooltip="The latent to write into; it sets the size and the length. From Empty Audio-Video "
            "Latent (CCL), of LTX-2 or MiniMax H3, or a plain video latent.",
        ),
        io.Vae.Input(
            "video_vae", optional=True, tooltip="The model's video VAE. Needed for images and start_image."
        ),
        io.Vae.Input(
            "audio_vae",
            optional=True,
            tooltip="The model's audio VAE. Needed for audio; with a plain video latent it adds the audio "
            "part.",
        ),
        io.Video.Input(
            "video",
            optional=True,
            tooltip="A video file, from its start on. keep says which part of it stays. It is brought to the "
            "rate and size of the latent, and Decode puts the original back.",
        ),
        io.Image.Input(
            "images",
            optional=True,
            tooltip="Frames of a given video, at the rate in fps, from its first frame on. They are kept.",
        ),
        io.Image.Input(
            "start_image",
            optional=True,
            tooltip="The first frame (or the first few) of the video to be generated.",
        ),
        io.Image.Input(
            "end_image",
            optional=True,
            tooltip="The last frame (or the last few) of the video to be generated.",
        ),
        io.Audio.Input(
            "audio",
            optional=True,
            tooltip="A given sound, from the first frame on, kept. Any sample rate; mono, stereo, 5.1 ...",
        ),
    ]


def _fit_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "image_fit",
            options=list(IMAGE_FITS),
            default="crop",
            tooltip="Images of another shape: crop the middle, pad with black, or stretch.",
        ),
        io.Combo.Input(
            "length_fit",
            options=list(LENGTH_FITS),
            default="pad",
            tooltip="Material that is too short: pad (repeat the last image, add silence), generate the "
            "missing part, or refuse. Too long is trimmed (refuse: an error).",
        ),
        fps_input(
            "Frames per second of images, and of a latent that does not say its own (a plain Wan latent). 0: "
            "the latent's. A video says its own rate."
        ),
        io.Combo.Input(
            "keep",
            options=list(KEPT),
            default=PICTURE,
            optional=True,
            tooltip="What stays of video: its picture (a sound is made for it), its sound (a picture is made "
            "for it), or both (for masks and continuations).",
        ),
    ]


class CCLEncodeAV(CCLNode):
    """Given images, a start image or a sound, written into a latent and kept while the rest is generated."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLEncodeAV",
            display_name="Encode Audio-Video (CCL)",
            category="CCL/latent",
            description=(
                "Writes what you give (images, a start image, a sound) into an audio-video latent and keeps "
                "it; everything else is generated. A video or images alone: sound for them. A sound alone: "
                "video for it. It also adds sound to a plain Wan video latent."
            ),
            search_aliases=[
                *("sound for video", "add sound", "add sound to video", "add audio to video", "soundtrack"),
                *("video to audio", "foley", "dub", "dubbing", "sound effects", "sync sound"),
                *("video for sound", "video for music", "audio to video", "music video"),
                *("lip sync", "lipsync", "talking head", "image to video with sound"),
                *("start image", "end image", "first frame", "last frame"),
                *("vae encode audio", "waveform to latent"),
            ],
            inputs=[*_socket_inputs(), *_fit_inputs()],
            outputs=[
                io.Latent.Output(
                    "latent", tooltip="The latent with the given material inside and a mask that keeps it."
                ),
                io.String.Output("report", tooltip="What was done with the material; also on the node."),
            ],
        )

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        image_fit: str,
        length_fit: str,
        video_vae: VAE | None = None,
        audio_vae: VAE | None = None,
        images: torch.Tensor | None = None,
        start_image: torch.Tensor | None = None,
        audio: dict[str, Any] | None = UNCONNECTED,
        fps: float = 0.0,
        video: Input.Video | None = None,
        keep: str = PICTURE,
        end_image: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        audio = connected_sound(audio, "audio")
        av = split(latent)
        require_finite(av, "latent")
        own = _own_rate(av, fps, images)
        if own is not None:
            av = replace(av, fps=float(own))
        ends = {"start_image": start_image, "end_image": end_image}
        picture = _given_picture(video, keep, images, ends, exact_fps(fps) if fps else own)
        sound = _given_sound(video, keep, audio)
        before = source_of(av)
        if av.audio is None and audio_vae is not None:
            av = add_audio(av, audio_vae, own or frame_rate(av, fps))
        if audio_vae is not None and own is not None:
            require_audio_vae(audio_vae, grid=av.grid)
            require_agreement(av, own, token_rate(audio_vae))
        fit = Fit(image_fit, length_fit)
        if picture is not None:
            vae = require_connected(video_vae, "video_vae", "video" if images is None else "images")
            # A video says its rate, so that of the latent has to be known too.
            rate = own or (picture.fps if video is None else frame_rate(av, fps))
            av = write_picture(av, vae, picture, rate, fit)
        if start_image is not None:
            vae = require_connected(video_vae, "video_vae", "start_image")
            # Whatever length_fit says: the frames behind the start are what is wanted.
            av = write_images(av, vae, start_image, Fit(image_fit, "generate"))
        if end_image is not None:
            av = write_end(av, require_connected(video_vae, "video_vae", "end_image"), end_image, fit)
        if sound is not None:
            vae = require_connected(audio_vae, "audio_vae", "audio" if audio is not None else "video")
            av = write_sound(av, vae, sound, fit)
        old = before.picture if start_image is None and end_image is None else None
        av = remember(av, Source(picture or old, sound or before.sound, image_fit))
        text = report(av, Source(picture, sound, image_fit), own, video_vae, audio_vae)
        told(text)
        return io.NodeOutput(join(av), text)


def _own_rate(av: AVLatent, typed: float, images: torch.Tensor | None) -> Fraction | None:
    """The rate of the latent, None where nothing says it."""
    says = av.fps or av.grid.fps
    # Images do not say their rate, so that a typed one is theirs where the latent has its own.
    return frame_rate(av, typed if images is None or says is None else 0.0) if says or typed else None


def _given_picture(
    video: Input.Video | None,
    keep: str,
    images: torch.Tensor | None,
    ends: dict[str, torch.Tensor | None],
    rate: Fraction | None,
) -> Picture | None:
    """The one picture that is given whole; ValueError where there are two, or one and an end of it."""
    taken = video is not None and keep != SOUND
    given = [name for name, there in (("video", taken), ("images", images is not None)) if there]
    whole = len(given)
    given += [name for name, images_of_end in ends.items() if images_of_end is not None]
    if whole and len(given) > 1:
        raise ValueError(
            f"{' and '.join(given)} both hold frames of one place: disconnect one of them"
            + (f", or set keep to {SOUND}" if taken else "")
        )
    if taken:
        return picture_of(video)
    # Without any rate the images are taken to be at that of the latent.
    return None if images is None else Frames(images, rate or Fraction(1))


def _given_sound(
    video: Input.Video | None, keep: str, audio: dict[str, Any] | None
) -> dict[str, Any] | Film | None:
    if video is None or keep == PICTURE:
        return audio
    if audio is not None:
        raise ValueError(f"video and audio both hold a sound: disconnect audio, or set keep to {PICTURE}")
    return sound_of(video)
