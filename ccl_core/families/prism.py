"""Prism (arXiv 2610.05416): MOVA trained further at 720p to 2K, with both video experts in one file.

Its modules, sizes and forward are MOVA's; keys, sampling and prompts are its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from ..repository import REPOSITORY
from .base import DIRECTIONS, MODEL, Content, Download, Preset, PromptStyle, Renames
from .mova import MOVA, RENAMES
from .wan import NEGATIVE

JOINT_BLOCK = re.compile(r"fusion_blocks\.(\d+)\.")
SIZES = {"480p": (848, 480), "720p": (1280, 720), "1080p": (1920, 1072), "2K": (2560, 1440)}
# Its scripts stop Wan's negative prompt behind these words.
LAST_AVOIDED = "多余的手指"


def renames(keys: Collection[str]) -> Renames:
    """From the published one-file layout, or from MOVA's parts, to our names."""
    joint = {int(match[1]) for key in keys if (match := JOINT_BLOCK.match(key))}
    coupled = max(joint, default=-1) + 1
    return (
        (r"^fusion_blocks\.(\d+)\.video_block\.", r"blocks.\1."),
        (r"^fusion_blocks\.(\d+)\.audio_block\.", r"audio.blocks.\1."),
        (r"^fusion_blocks\.(\d+)\.(a2v|v2a)_conditioner\.", r"interaction.\1.\2."),
        # Behind the layers with a coupling, counted from 0.
        (r"^remaining_video_blocks\.(\d+)\.", lambda match: f"blocks.{coupled + int(match[1])}."),
        *RENAMES,
    )


PRISM = replace(
    MOVA,
    title="Prism",
    mark=r"^fusion_blocks\.\d+\.a2v_conditioner\.",
    # Of repacks in four files, under the names of MOVA's parts.
    metadata_mark="prism.",
    renames=renames,
    contents=(Content(MODEL, "a Prism model"), Content(DIRECTIONS, "the bridge of Prism")),
    other_files=dict.fromkeys(
        ("a2v_conditioner.inner.q.weight", "video_block.self_attn.q.weight"),
        "one block of Prism, of a repack with a file for each block: use the published file, or a repack in "
        "one file or in four",
    ),
    foreign_keys={
        ".prism_scale": "Prism in fp8 with a scale per row, and ComfyUI's fp8 has one for a whole weight. "
        "Use a repack in int8, or make an fp8 or int8 file of the published one with "
        f"scripts/convert_model.py of {REPOSITORY}"
    },
    # The video's was published for 480p; at 720p it is 7, at 1080p 9 to 13, at 2K 13 to 17.
    published={**MOVA.published, "shift": 9.0, "audio_shift": 7.0},
    lora=replace(
        MOVA.lora,
        joint_blocks={
            "video": ("fusion_blocks.{layer}.video_block", "remaining_video_blocks.{later}"),
            "audio": ("fusion_blocks.{layer}.audio_block", "audio_dit.blocks.{layer}"),
        },
        coupling={
            direction: (*names, f"fusion_blocks.{{layer}}.{direction}_conditioner.{{weight}}")
            for direction, names in MOVA.lora.coupling.items()
        },
    ),
    prompts=(
        PromptStyle(
            "Prism",
            speech=("<speech>", "</speech>"),
            # Captions of its training began with the sound of the place.
            audio=("Continuous <sfx>", "</sfx>"),
            gap=". ",
            audio_first=True,
            inline=("sfx", "music", "text", "lyrics"),
        ),
    ),
    presets=(
        *(Preset(f"Prism {name}", long, short, frames=205) for name, (long, short) in SIZES.items()),
        *(Preset(f"Prism {name} portrait", short, long, frames=205) for name, (long, short) in SIZES.items()),
    ),
    downloads=tuple(
        Download(
            "FrancisRing/Prism",
            (f"{name}/diffusion_pytorch_model.safetensors",),
            65.3,
            "MIT, its parts of MOVA Apache-2.0",
        )
        for name in ("preview_alpha", "preview_beta")
    ),
    files={
        "unet_name": "the published file, which holds both experts",
        "video_model": "video_dit of a repack in four files",
        "audio_stream": "its audio_dit",
        "interaction": "its dual_tower_bridge",
        "low_noise_model": "its video_dit_2",
    },
    sampling=replace(MOVA.sampling, negative=NEGATIVE[: NEGATIVE.index(LAST_AVOIDED) + len(LAST_AVOIDED)]),
)
