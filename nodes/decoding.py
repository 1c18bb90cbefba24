"""AV latents into frames, sound, and a video of both."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import comfy.model_management
import torch
from comfy.sd import VAE
from comfy_api.latest import InputImpl, Types, io

from ..ccl_core.host.media.damage import Decoded, usable
from ..ccl_core.host.media.decode import SILENCE_RATE, Tiling, decode_audio, decode_video, silence
from ..ccl_core.host.media.latents import AVLatent, frame_rate, require_finite, split
from ..ccl_core.host.vae.sockets import output_sample_rate, require_connected
from .inputs import latent_fps_input, tiling_input
from .node import CCLNode, known_choices


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
                *("video with audio", "combine video audio", "save video with sound"),
            ],
            inputs=[
                io.Latent.Input(
                    "latent", tooltip="The sampled latent. A plain Wan video latent gives a silent video."
                ),
                io.Vae.Input("video_vae", tooltip="The model's video VAE."),
                io.Vae.Input(
                    "audio_vae",
                    optional=True,
                    tooltip="The model's audio VAE. Only a latent without audio part can do without it.",
                ),
                tiling_input(),
                latent_fps_input(),
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
    ) -> io.NodeOutput:
        # Checked before a decode, which takes minutes, and which hides NaN in black frames.
        av = split(latent)
        require_finite(av, "latent")
        rate = frame_rate(av, fps)
        if av.audio is not None:
            require_connected(audio_vae, "audio_vae", "a latent with an audio part")
        clips = decode_video(video_vae, av.video, _tiling(video_vae, tiling))  # (b, f, h, w, 3)
        comfy.model_management.throw_exception_if_processing_interrupted()
        audio = _sound(av, audio_vae, Fraction(clips.shape[1]) / rate)
        parts = [Decoded("picture", clips, av.video, video_vae)]
        if av.audio is not None:
            parts.append(Decoded("sound", audio["waveform"], av.audio, audio_vae))
        clips, *waveform = usable(*parts)
        if waveform:
            audio = {**audio, "waveform": waveform[0]}
        # IMAGE and VIDEO of the host have no batch of clips: they follow one another, and their sounds too.
        images = clips.flatten(0, 1)
        joined = {**audio, "waveform": torch.cat(list(audio["waveform"]), dim=-1)[None]}
        video = InputImpl.VideoFromComponents(
            Types.VideoComponents(images=images, audio=joined, frame_rate=rate)
        )
        return io.NodeOutput(images, audio, video)


def _tiling(vae: VAE, choice: dict[str, Any]) -> Tiling | None:
    if choice["tiling"] == "off":
        return None
    return Tiling.from_pixels(
        vae, choice["tile_size"], choice["overlap"], choice["temporal_size"], choice["temporal_overlap"]
    )


def _sound(av: AVLatent, vae: VAE | None, seconds: Fraction) -> dict[str, Any]:
    if av.audio is not None:
        return decode_audio(vae, av.audio, seconds)
    rate = SILENCE_RATE if vae is None else output_sample_rate(vae)
    return silence(av.video.shape[0], seconds, rate)
