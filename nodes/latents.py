"""AV latents: make an empty one, and write given material into it."""

from __future__ import annotations

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from comfy_api.latest import io

from ..ccl_core.alignment.sizing import size_av
from ..ccl_core.host.media.encode import IMAGE_FITS, LENGTH_FITS, Fit, add_audio, write_audio, write_images
from ..ccl_core.host.media.latents import empty, frame_rate, join, model_grid, require_finite, split
from ..ccl_core.host.published import preset_of
from ..ccl_core.host.vae.sockets import require_connected
from .inputs import (
    CUSTOM,
    FROM_MODEL,
    fps_input,
    latent_fps_input,
    length_input,
    phrases,
    size_input,
    trained_sizes,
)
from .node import CCLNode, known_choices

CATEGORY = "CCL/latent"


class CCLEmptyAVLatent(CCLNode):
    """Zeros for both streams, sized by the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLEmptyAVLatent",
            display_name="Empty Audio-Video Latent (CCL)",
            category=CATEGORY,
            description="An empty latent for video and sound of the same length, in the sizes that the model "
            "can make.",
            search_aliases=[
                *(
                    "empty av latent",
                    "empty latent with sound",
                    "empty latent audio video",
                    "text to video with sound",
                ),
                *phrases("empty {model} latent", "{model} latent"),
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The joint model the latent is for. It fixes the latent grid, the audio tokens "
                    "per second and the default fps.",
                ),
                size_input(),
                length_input(),
                io.Int.Input(
                    "batch_size", default=1, min=1, max=64, tooltip="How many clips to make at once."
                ),
                fps_input(
                    "Frames per second. 0 is the rate the model was trained at: leave it unless you know why."
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent", tooltip="Video and audio latent of the same duration; it carries its fps."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, model: Any = None, size: Any = None, length: Any = None) -> bool | str:
        return known_choices(cls, model=model, size=size, length=length)

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        size: dict[str, Any],
        length: dict[str, Any],
        batch_size: int,
        fps: float = 0.0,
    ) -> io.NodeOutput:
        grid = model_grid(model)
        config = model.model.ccl_config
        # The API does not hold a prompt to the limits of a widget that is linked.
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: give at least 1")
        wanted = _sides_and_length(model, size, length)
        sized = size_av(grid, **wanted, fps=fps or None)
        av = empty(sized, config.video.out_dim, config.audio_latent.channels, batch_size)
        return io.NodeOutput(join(av))


def _sides_and_length(model: ModelPatcher, size: dict[str, Any], length: dict[str, Any]) -> dict[str, Any]:
    """Width, height, and seconds or frames; what the choices leave to the model comes from a preset."""
    # from model and custom are no titles of presets, so the lookup misses them.
    preset = trained_sizes().get(size["size"]) or preset_of(model)
    sides = size if size["size"] == CUSTOM else {"width": preset.width, "height": preset.height}
    unit = length["length"]
    amount = {"frames": preset.frames} if unit == FROM_MODEL else {unit: length[unit]}
    return {"width": sides["width"], "height": sides["height"], **amount}


def _socket_inputs() -> list[io.Input]:
    return [
        io.Latent.Input(
            "latent",
            tooltip="The latent to write into; it sets the size and the length. From Empty Audio-Video "
            "Latent (CCL), or a plain Wan video latent.",
        ),
        io.Vae.Input(
            "video_vae", optional=True, tooltip="The model's video VAE. Needed for images and start_image."
        ),
        io.Vae.Input(
            "audio_vae",
            optional=True,
            tooltip="The model's audio VAE. Needed for audio; with a plain Wan latent it adds the audio "
            "part.",
        ),
        io.Image.Input(
            "images",
            optional=True,
            tooltip="Frames of a given video, at the latent's fps, from its first frame on. They are kept.",
        ),
        io.Image.Input(
            "start_image",
            optional=True,
            tooltip="The first frame (or the first few) of the video to be generated.",
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
    ]


class CCLEncodeAV(CCLNode):
    """Given images, a start image or a sound, written into a latent and kept while the rest is generated."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLEncodeAV",
            display_name="Encode Audio-Video (CCL)",
            category=CATEGORY,
            description=(
                "Writes what you give (images, a start image, a sound) into an audio-video latent and keeps "
                "it; everything else is generated. "
                "Images alone: sound for a video. A sound alone: video for a sound. It also adds sound to a "
                "plain Wan video latent."
            ),
            search_aliases=[
                *("sound for video", "add sound", "add sound to video", "add audio to video", "soundtrack"),
                *(
                    "video to audio",
                    "foley",
                    "dubbing",
                    "sound effects",
                    "video for sound",
                    "video for music",
                ),
                *(
                    "audio to video",
                    "music video",
                    "lip sync",
                    "lipsync",
                    "talking head",
                    "image to video with sound",
                ),
            ],
            inputs=[*_socket_inputs(), *_fit_inputs(), latent_fps_input()],
            outputs=[
                io.Latent.Output(
                    "latent", tooltip="The latent with the given material inside and a mask that keeps it."
                )
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
        audio: dict[str, Any] | None = None,
        fps: float = 0.0,
    ) -> io.NodeOutput:
        av = split(latent)
        require_finite(av, "latent")
        if images is not None and start_image is not None:
            raise ValueError("images already holds the first frame: disconnect either images or start_image")
        if av.audio is None and audio_vae is not None:
            av = add_audio(av, audio_vae, frame_rate(av, fps))
        fit = Fit(image_fit, length_fit)
        if images is not None:
            vae = require_connected(video_vae, "video_vae", "images")
            av = write_images(av, vae, images, fit)
        if start_image is not None:
            vae = require_connected(video_vae, "video_vae", "start_image")
            # Whatever length_fit says: the frames behind the start are what is wanted.
            av = write_images(av, vae, start_image, Fit(image_fit, "generate"))
        if audio is not None:
            vae = require_connected(audio_vae, "audio_vae", "audio")
            av = write_audio(av, vae, audio, fit)
        return io.NodeOutput(join(av))
