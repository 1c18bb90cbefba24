"""Empty AV latents, in the sizes of a model."""

from __future__ import annotations

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import Input, io

from ..ccl_core.alignment.sizing import AVSize, Grid, exact_fps, sides_like, size_av
from ..ccl_core.host.media.latents import empty, join, model_grid
from ..ccl_core.host.published import longest_frames_of, preset_of
from ..ccl_core.notices import notice, told
from .inputs import (
    CUSTOM,
    FROM_MATERIAL,
    FROM_MODEL,
    fps_input,
    length_input,
    phrases,
    size_input,
    trained_sizes,
)
from .material import Material
from .node import CCLNode, known_choices

# Seconds; a smaller change of a length is no news.
ROUNDED = 0.001


class CCLEmptyAVLatent(CCLNode):
    """Zeros for both streams, sized by the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLEmptyAVLatent",
            display_name="Empty Audio-Video Latent (CCL)",
            category="CCL/latent",
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
                    "Frames per second. 0: the rate the model was trained at. Leave it unless you know why.",
                    source="model",
                ),
                *_material_inputs(),
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
        video: Input.Video | None = None,
        images: torch.Tensor | None = None,
        audio: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        grid = model_grid(model)
        config = model.model.ccl_config
        # The API does not hold a prompt to the limits of a widget that is linked.
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: give at least 1")
        rate = exact_fps(fps) if fps else grid.fps
        material = Material(video, images, audio, rate)
        _tell_of_unused(material, size, length)
        wanted = _sides_and_length(model, grid, size, length, material)
        sized = size_av(grid, **wanted, fps=rate)
        _tell_of_size(wanted, sized)
        _tell_of_length(sized, model)
        av = empty(sized, config.video.out_dim, config.audio_latent.channels, batch_size)
        return io.NodeOutput(join(av))


def _material_inputs() -> list[io.Input]:
    use = f"Its proportions and its length are used where size or length is {FROM_MATERIAL}."
    return [
        io.Video.Input("video", optional=True, tooltip=f"A video that gets a sound or a picture. {use}"),
        io.Image.Input("images", optional=True, tooltip=f"Frames at the rate in fps. {use}"),
        io.Audio.Input(
            "audio",
            optional=True,
            tooltip=f"A sound. Its length is used where length is {FROM_MATERIAL} and no video is there.",
        ),
    ]


def _sides_and_length(
    model: ModelPatcher, grid: Grid, size: dict[str, Any], length: dict[str, Any], material: Material
) -> dict[str, Any]:
    """Width, height, and seconds or frames; what the choices leave to the model comes from a preset."""
    # No other choice is the title of a preset, so the lookup misses them.
    preset = trained_sizes().get(size["size"]) or preset_of(model)
    width, height = preset.width, preset.height
    if size["size"] == CUSTOM:
        width, height = size["width"], size["height"]
    if size["size"] == FROM_MATERIAL:
        width, height = sides_like(grid, material.sides(), width * height)
    unit = length["length"]
    if unit == FROM_MATERIAL:
        return {"width": width, "height": height, "seconds": material.seconds()}
    amount = {"frames": preset.frames} if unit == FROM_MODEL else {unit: length[unit]}
    return {"width": width, "height": height, **amount}


def _tell_of_unused(material: Material, size: dict[str, Any], length: dict[str, Any]) -> None:
    if material.names and FROM_MATERIAL not in (size["size"], length["length"]):
        notice(
            f"{material.names} is not used here: choose {FROM_MATERIAL} in size or length, or take the link "
            "away. Encode Audio-Video (CCL) writes it into the latent"
        )


def _tell_of_size(wanted: dict[str, Any], sized: AVSize) -> None:
    """Tell of the size and length that became another one on the grid of the model."""
    changed = []
    if (wanted["width"], wanted["height"]) != (sized.width, sized.height):
        changed.append(f"{wanted['width']}x{wanted['height']} became {sized.width}x{sized.height}")
    if abs(wanted.get("seconds", sized.video_seconds) - sized.video_seconds) > ROUNDED:
        changed.append(f"{float(wanted['seconds']):g} s became {float(sized.video_seconds):.2f} s")
    if wanted.get("frames", sized.frames) != sized.frames:
        changed.append(f"{wanted['frames']} frames became {sized.frames}")
    if changed:
        told(f"{', '.join(changed)}: the nearest that the latent can hold")


def _tell_of_length(sized: AVSize, model: ModelPatcher) -> None:
    """Tell of a clip that is more than half longer than what the model was trained with."""
    trained = longest_frames_of(model)
    if 2 * sized.frames > 3 * trained:
        rate = float(sized.fps)
        notice(
            f"the clip has {sized.frames} frames at {rate:g} fps, the model was trained with {trained} "
            f"({trained / rate:.1f} s): in one pass it takes more memory, and picture or sound may drift or "
            "stop. Take Loop Sampler (CCL), which makes it in windows, make it shorter (Video Slice cuts a "
            "film), or put WAN Context Windows (Manual) on the model"
        )
