"""AV latents into frames, sound, and a video of both."""

from __future__ import annotations

import math
import os
import uuid
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy.sd import VAE
from comfy_api.latest import Input, InputImpl, Types, io

from ..ccl_core.alignment.timeline import samples_of
from ..ccl_core.host.media.damage import Decoded, usable
from ..ccl_core.host.media.decode import (
    SILENCE_RATE,
    Tiling,
    decode_audio,
    decode_video,
    fit_samples,
    silence,
)
from ..ccl_core.host.media.encode import read_picture
from ..ccl_core.host.media.latents import AVLatent, frame_rate, require_agreement, require_finite, split
from ..ccl_core.host.media.listening import tell_of_sound
from ..ccl_core.host.media.picture import Film, Frames, first_seconds
from ..ccl_core.host.media.remux import save_both, save_with_picture, save_with_sound, written
from ..ccl_core.host.media.source import Source, lost_of, original_sound, source_of
from ..ccl_core.host.media.states import is_absent
from ..ccl_core.host.vae.channels import to_channels
from ..ccl_core.host.vae.sockets import (
    output_sample_rate,
    require_audio_vae,
    require_connected,
    require_video_vae,
    token_rate,
)
from ..ccl_core.notices import notice, told
from .inputs import latent_fps_input, tiling_input
from .node import CCLNode, known_choices

ORIGINAL, DECODED = "original", "decoded"


class CCLDecodeAV(CCLNode):
    """Both VAEs at once, and a video whose streams are equally long."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLDecodeAV",
            display_name="Decode Audio-Video (CCL)",
            category="CCL/latent",
            description="Decodes an audio-video latent into frames, a sound of exactly their duration, and a "
            "video of both.",
            search_aliases=[
                *("decode audio video", "vae decode with sound", "latent to video", "video with sound"),
                *("video with audio", "combine video audio", "save video with sound", "preview sound"),
                *("waveform", "latent to sound", "vae decode audio", "preview video with sound"),
            ],
            inputs=[
                io.Latent.Input(
                    "latent",
                    tooltip="The sampled latent, of LTX-2 too. A plain video latent gives a silent video.",
                ),
                io.Vae.Input("video_vae", tooltip="The model's video VAE."),
                io.Vae.Input(
                    "audio_vae",
                    optional=True,
                    tooltip="The model's audio VAE. Only a latent without audio part can do without it.",
                ),
                tiling_input(),
                latent_fps_input(),
                io.Combo.Input(
                    "given",
                    options=[ORIGINAL, DECODED],
                    default=ORIGINAL,
                    optional=True,
                    tooltip="What Encode Audio-Video (CCL) was given. original: video has its own frames or "
                    "sound, copied from the file without loss. decoded: what the VAE makes of the latent.",
                ),
            ],
            outputs=[
                io.Image.Output("images", tooltip="The frames; clips of a batch one after another."),
                io.Audio.Output(
                    "audio",
                    tooltip="The sound, as long as the frames; one for each clip of the batch. Silence if "
                    "the latent has no audio part.",
                ),
                io.Video.Output(
                    "video",
                    tooltip="Frames and sound together, for SaveVideo; clips of a batch one after another.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, latent: Any = None, tiling: Any = None) -> bool | str:
        return known_choices(cls, latent=latent, tiling=tiling)

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        video_vae: VAE,
        tiling: dict[str, Any],
        audio_vae: VAE | None = None,
        fps: float = 0.0,
        given: str = ORIGINAL,
    ) -> io.NodeOutput:
        # Checked before a decode, which takes minutes, and which hides NaN in black frames.
        av = split(latent)
        require_finite(av, "latent")
        if is_absent(av, "audio"):
            av = replace(av, audio=None, audio_mask=None)
        rate = frame_rate(av, fps)
        if av.audio is not None:
            require_connected(audio_vae, "audio_vae", "a latent with an audio part")
            require_audio_vae(audio_vae, av.audio.shape[1], av.grid)
            require_agreement(av, rate, token_rate(audio_vae))
        require_video_vae(video_vae, av.video.shape[1], av.grid)
        source = _originals(av, given)
        clips = _clips(av, source, video_vae, tiling, rate)  # (b, f, h, w, 3)
        comfy.model_management.throw_exception_if_processing_interrupted()
        seconds = clips.shape[1] / rate
        audio = _sound(av, source, audio_vae, seconds)
        clips, audio = _usable(av, source, clips, audio, video_vae, audio_vae)
        if av.audio is not None and source.sound is None:
            channels = audio["waveform"].shape[1]
            tell_of_sound(audio["waveform"], audio["sample_rate"], _given_sound(av, seconds, channels))
        # IMAGE and VIDEO of the host have no batch of clips: they follow one another, and their sounds too.
        images = clips.flatten(0, 1)
        joined = {**audio, "waveform": torch.cat(list(audio["waveform"]), dim=-1)[None]}
        return io.NodeOutput(images, audio, _video(source, images, joined, rate, seconds))


def _originals(av: AVLatent, given: str) -> Source:
    """What of the originals is put back: all there is for one clip, nothing for a batch of clips."""
    source = source_of(av) if given == ORIGINAL else Source()
    lost = lost_of(av) if given == ORIGINAL else []
    if lost:
        told(
            f"The original {' and '.join(lost)} is not put back: the latent was cut, joined or changed since "
            "Encode. What comes is decoded"
        )
    if av.video.shape[0] > 1 and (source.picture or source.sound):
        notice(
            f"{av.video.shape[0]} clips follow one another in video, so what was given is the decoded latent "
            "in each. Make one clip at a time to have the original put back"
        )
        return Source()
    return source


def _clips(av: AVLatent, source: Source, vae: VAE, tiling: dict[str, Any], rate: Fraction) -> torch.Tensor:
    """The frames; of a given picture those that were encoded, which needs no decoding."""
    side = vae.spacial_compression_decode()
    height, width = (cells * side for cells in av.video.shape[-2:])
    count = av.grid.video.before(av.video.shape[2])
    if is_absent(av, "video"):
        return av.video.new_zeros(av.video.shape[0], count, height, width, 3)
    if source.picture is None:
        return decode_video(vae, av.video, _tiling(vae, tiling), av.grid)
    return read_picture(source.picture, rate, count, width, height, source.image_fit)[None]


def _sound(av: AVLatent, source: Source, vae: VAE | None, seconds: Fraction) -> dict[str, Any]:
    """An AUDIO of exactly this duration."""
    if source.sound is not None:
        audio = original_sound(source.sound, seconds)
        wanted = samples_of(seconds, audio["sample_rate"])
        return {**audio, "waveform": fit_samples(audio["waveform"], wanted)}
    if av.audio is not None:
        return decode_audio(vae, av.model_audio, seconds, av.grid)
    return silence(av.video.shape[0], seconds, SILENCE_RATE if vae is None else output_sample_rate(vae))


def _given_sound(av: AVLatent, seconds: Fraction, channels: int) -> tuple[torch.Tensor, int] | None:
    """The sound (b, channels, n) that the latent was made of, and its rate."""
    sound = source_of(av).sound
    if sound is None:
        return None
    audio = original_sound(sound, seconds)
    waveform = to_channels(audio["waveform"].float(), channels, audio.get("layout"))
    return waveform, int(audio["sample_rate"])


def _usable(
    av: AVLatent,
    source: Source,
    clips: torch.Tensor,
    audio: dict[str, Any],
    video_vae: VAE,
    audio_vae: VAE | None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Both streams without what a VAE made wrong; see damage.py."""
    parts = {}
    if source.picture is None:
        parts["picture"] = Decoded("picture", clips, av.video, video_vae)
    if av.audio is not None and source.sound is None:
        parts["sound"] = Decoded("sound", audio["waveform"], av.audio, audio_vae)
    made = dict(zip(parts, usable(*parts.values()), strict=True))
    return made.get("picture", clips), {**audio, "waveform": made.get("sound", audio["waveform"])}


def _video(
    source: Source, images: torch.Tensor, audio: dict[str, Any], rate: Fraction, seconds: Fraction
) -> Input.Video:
    """A VIDEO with the originals in it, so far as the clip goes; what a file has is copied from it."""
    picture, sound, write = source.picture, source.sound, None
    if isinstance(picture, Film) and isinstance(sound, Film):
        write = partial(save_both, first_seconds(picture, seconds), first_seconds(sound, seconds))
    elif isinstance(picture, Film):
        film = first_seconds(picture, seconds)
        audio = {
            **audio,
            "waveform": audio["waveform"][..., : samples_of(film.seconds, audio["sample_rate"])],
        }
        write = partial(save_with_sound, film, audio)
    elif isinstance(picture, Frames):
        # H.264 wants even sides.
        height, width = (side // 2 * 2 for side in picture.images.shape[1:3])
        images = picture.images[: math.ceil(seconds * picture.fps), :height, :width]
        rate = picture.fps
    if isinstance(sound, Film) and not isinstance(picture, Film):
        write = partial(save_with_picture, images, rate, first_seconds(sound, seconds))
    if write is not None:
        path = temporary_file()
        if written(write, path):
            return InputImpl.VideoFromFile(path)
    return InputImpl.VideoFromComponents(Types.VideoComponents(images=images, audio=audio, frame_rate=rate))


def temporary_file() -> str:
    """A new path among the host's temporary files. Its SaveVideo copies the packets of what lies there."""
    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, f"ccl_{uuid.uuid4().hex}.mp4")


def _tiling(vae: VAE, choice: dict[str, Any]) -> Tiling | None:
    if choice["tiling"] == "off":
        return None
    return Tiling.from_pixels(
        vae, choice["tile_size"], choice["overlap"], choice["temporal_size"], choice["temporal_overlap"]
    )
