"""Inputs that several nodes share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..ccl_core.alignment.timeline import TEMPORAL_STRIDE
from ..ccl_core.families import FAMILIES
from ..ccl_core.families.base import Preset

FROM_MODEL = "from model"
FROM_MATERIAL = "from material"
CUSTOM = "custom"


def titles(separator: str = " / ") -> str:
    """The joint models of the pack, for display names, by which people search."""
    return separator.join(family.title for family in FAMILIES.values() if family.coupling)


def phrases(*patterns: str) -> list[str]:
    """What people type to find a node: each pattern with the name of each model in the place of {model}."""
    names = [family.title.lower() for family in FAMILIES.values() if family.coupling]
    return [pattern.format(model=name) for pattern in patterns for name in names]


def files_of_families(name: str) -> str:
    """For the tooltip of the input of this name: what to choose in it for each family."""
    rows = [f"{family.title}: {family.files[name]}." for family in FAMILIES.values() if name in family.files]
    return " ".join(rows)


def model_input(tooltip: str = "A joint model") -> io.Model.Input:
    return io.Model.Input("model", tooltip=f"{tooltip} ({titles(', ')}).")


def fps_input(tooltip: str, source: str = "latent") -> io.Float.Input:
    """Frames per second where somebody wants others than those of the source: 0 leaves it to that."""
    return io.Float.Input(
        "fps",
        display_name=f"fps (0: from {source})",
        default=0.0,
        min=0.0,
        max=240.0,
        step=0.001,
        optional=True,
        advanced=True,
        tooltip=tooltip,
    )


def latent_fps_input() -> io.Float.Input:
    return fps_input(
        "0: the latent's own rate. Type one only for a latent that does not say its fps (a plain Wan latent, "
        "one of LTX-2)."
    )


def audio_rate_input() -> io.Float.Input:
    return io.Float.Input(
        "audio_rate",
        display_name="audio_rate (0: from latent)",
        default=0.0,
        min=0.0,
        max=100000.0,
        step=0.0001,
        optional=True,
        advanced=True,
        tooltip="Audio tokens a second. 0: the latent's own, or its model's. Type them only for a sound "
        "alone that does not say them.",
    )


def any_latent_tooltip() -> str:
    return "An audio-video latent of any model (LTX-2 and MiniMax H3 too), or a video or a sound alone."


def seconds_input(name: str, default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=0.0, max=600.0, step=0.05, round=0.001, tooltip=tooltip)


def side_input(name: str) -> io.Int.Input:
    return io.Int.Input(
        name,
        # Wan's 480p. All joint models so far make sides of multiples of 16 or 32.
        default={"width": 832, "height": 480}[name],
        min=16,
        max=16384,
        step=16,
        tooltip=f"{name.capitalize()} in pixels; rounded down to the model's grid.",
    )


def size_input() -> io.DynamicCombo.Input:
    presets = [io.DynamicCombo.Option(title, []) for title in trained_sizes()]
    return io.DynamicCombo.Input(
        "size",
        options=[
            io.DynamicCombo.Option(FROM_MODEL, []),
            io.DynamicCombo.Option(FROM_MATERIAL, []),
            io.DynamicCombo.Option(CUSTOM, [side_input("width"), side_input("height")]),
            *presets,
        ],
        tooltip=f"{FROM_MODEL}: the size the model was trained at. {FROM_MATERIAL}: about as large, in the "
        f"proportions of video or images. {CUSTOM}: yours. Else the size of that name.",
    )


def trained_sizes() -> dict[str, Preset]:
    """The presets of all families by their titles."""
    return {preset.title: preset for family in FAMILIES.values() for preset in family.presets}


def length_input() -> io.DynamicCombo.Input:
    seconds = io.Float.Input(
        "seconds",
        default=5.0,
        min=0.05,
        max=600.0,
        step=0.05,
        tooltip="Length in seconds. 5 s are 81 frames at 16 fps and 121 at 24 fps.",
    )
    frames = io.Int.Input(
        "frames",
        default=81,
        min=1,
        # 10 minutes at 240 fps, as `alignment/sizing.py` allows.
        max=144000,
        step=TEMPORAL_STRIDE,
        tooltip="Length in frames; rounded up to 4k+1. 1 makes a still image.",
    )
    return io.DynamicCombo.Input(
        "length",
        options=[
            io.DynamicCombo.Option(FROM_MODEL, []),
            io.DynamicCombo.Option(FROM_MATERIAL, []),
            io.DynamicCombo.Option("seconds", [seconds]),
            io.DynamicCombo.Option("frames", [frames]),
        ],
        tooltip=f"{FROM_MODEL}: the length that goes with the size. {FROM_MATERIAL}: that of video, audio or "
        "images. Else seconds or frames; the latent has the next 4k+1 frames that cover them.",
    )


def part_inputs() -> list[io.Float.Input]:
    """A part of a clip, by seconds."""
    return [
        seconds_input("start_time", 0.0, "Where the part starts, in seconds."),
        seconds_input("end_time", 0.0, "Where it ends, in seconds; 0: at the end of the clip."),
    ]


def tiling_input() -> io.DynamicCombo.Input:
    sizes = [
        _tile_input("tile_size", 512, 64, 32, "Side of a tile in pixels."),
        _tile_input("overlap", 64, 0, 32, "Overlap of the tiles in pixels."),
        # Two latent frames at least, since the overlap takes one.
        _tile_input("temporal_size", 64, 2 * TEMPORAL_STRIDE, TEMPORAL_STRIDE, "Frames of a tile."),
        _tile_input(
            "temporal_overlap", 8, TEMPORAL_STRIDE, TEMPORAL_STRIDE, "Overlap of the tiles in frames."
        ),
    ]
    return io.DynamicCombo.Input(
        "tiling",
        options=[io.DynamicCombo.Option("off", []), io.DynamicCombo.Option("on", sizes)],
        tooltip="Decode the video whole, or in tiles if memory is short.",
    )


def _tile_input(name: str, default: int, smallest: int, step: int, tooltip: str) -> io.Int.Input:
    return io.Int.Input(name, default=default, min=smallest, max=4096, step=step, tooltip=tooltip)


def given(values: dict[str, Any], name: str, default: Any) -> Any:
    """The value of an optional input of a dynamic choice."""
    # Where a prompt of the API leaves it out, the host's `build_nested_inputs` gives None, not the default.
    value = values.get(name)
    return default if value is None else value
