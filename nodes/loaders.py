"""CCLCheckpointLoader, CCLModelLoader, CCLModelAssembler: a joint model from one file or from its parts."""

from __future__ import annotations

from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from ..ccl_core.families import FAMILIES
from ..ccl_core.host.files.build import load_checkpoint, load_files, load_model
from ..ccl_core.host.files.read import GGUF, ModelPaths, without_later_shards
from .files import path_of, safetensors_in
from .inputs import files_of_families, phrases, titles
from .node import CCLNode

# The choices of the host's UNETLoader, and bf16 and fp16 for files in another precision.
DTYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
    "bf16": {"dtype": torch.bfloat16},
    "fp16": {"dtype": torch.float16},
}
MODELS = "diffusion_models"
# `get_filename_list` leaves GGUF out. Under this name the host lists and caches it from the same folders.
MODELS_GGUF = "ccl_gguf"
folder_paths.folder_names_and_paths[MODELS_GGUF] = (folder_paths.folder_names_and_paths[MODELS][0], {GGUF})
NONE = "none"


def _models() -> list[str]:
    return without_later_shards({*safetensors_in(MODELS), *folder_paths.get_filename_list(MODELS_GGUF)})


def _path(name: str) -> str:
    return path_of(MODELS, name)


def _optional_path(name: str) -> str | None:
    return None if name == NONE else _path(name)


def dtype_tooltip() -> str:
    narrow = [family.title for family in FAMILIES.values() if not family.fp16]
    return (
        "How weights are kept in memory. default: as in the file; always right for quantised files and GGUF. "
        "fp8 halves a bf16 model at some loss of quality. fp16 is refused for "
        f"{' and '.join(narrow)}, which exceed its range."
    )


def _dtype_input() -> io.Combo.Input:
    return io.Combo.Input(
        "weight_dtype", options=list(DTYPES), default="default", advanced=True, tooltip=dtype_tooltip()
    )


def _part_input(name: str, models: list[str], tooltip: str, none: str) -> io.Combo.Input:
    """A part of a model. none: what the choice of no file means."""
    return io.Combo.Input(
        name,
        options=[NONE, *models],
        default=NONE,
        tooltip=f"{tooltip} {files_of_families(name)} {NONE}: {none}.",
    )


def _model_output() -> io.Model.Output:
    return io.Model.Output(
        "model", tooltip="The joint model: works in every sampler, for video alone and with audio."
    )


class CCLCheckpointLoader(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLCheckpointLoader",
            display_name="Load Audio-Video Checkpoint (CCL)",
            category="CCL/loaders",
            description="Loads a joint audio-video model with its text encoder and both VAEs from one file.",
            search_aliases=[
                "load ccl",
                "ccl-tiny",
                "audio video checkpoint",
                "checkpoint with sound",
                "load checkpoint",
            ],
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=safetensors_in("checkpoints"),
                    tooltip=f"An all-in-one file in models/checkpoints. {files_of_families('ckpt_name')}",
                )
            ],
            outputs=[
                _model_output(),
                io.Clip.Output("clip", tooltip="The text encoder of both streams."),
                io.Vae.Output("video_vae", tooltip="Encodes and decodes frames."),
                io.Vae.Output("audio_vae", tooltip="Encodes and decodes sound."),
            ],
        )

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        path = path_of("checkpoints", ckpt_name)
        return io.NodeOutput(*load_checkpoint(path, folder_paths.get_folder_paths("embeddings")))


class CCLModelLoader(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLModelLoader",
            display_name=f"Load {titles()} Model",
            category="CCL/loaders",
            description="Loads a joint audio-video model from one file, without its encoders and VAEs.",
            search_aliases=[
                *(
                    "load audio video model",
                    "video model with sound",
                    "twin tower",
                    "load diffusion model",
                    "gguf",
                ),
                *phrases("load {model} model", "{model} model", "{model} gguf", "{model} fp8"),
            ],
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=_models(),
                    tooltip=f"A file in models/diffusion_models. {files_of_families('unet_name')} Shards "
                    "stand as their first; .gguf needs the pack ComfyUI-GGUF.",
                ),
                _dtype_input(),
            ],
            outputs=[_model_output()],
        )

    @classmethod
    def execute(cls, unet_name: str, weight_dtype: str = "default") -> io.NodeOutput:
        return io.NodeOutput(load_model(_path(unet_name), DTYPES[weight_dtype]))


class CCLModelAssembler(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        models = _models()
        return io.Schema(
            node_id="CCLModelAssembler",
            display_name=f"Assemble {titles()} Model",
            category="CCL/loaders",
            description="Builds a joint audio-video model from files of its parts: any Wan with an audio "
            "stream and an interaction, or the parts of a published model.",
            search_aliases=[
                *(
                    "assemble model",
                    "merge towers",
                    "wan with sound",
                    "wan audio",
                    "add sound to wan",
                    "twin tower",
                ),
                *phrases("assemble {model}", "{model} parts"),
            ],
            inputs=[
                io.Combo.Input(
                    "video_model",
                    options=models,
                    tooltip="The video stream, in models/diffusion_models. "
                    f"{files_of_families('video_model')}",
                ),
                _part_input("audio_stream", models, "The audio stream.", "the video file holds it"),
                _part_input("interaction", models, "What couples the streams.", "the other files hold it"),
                _part_input(
                    "low_noise_model",
                    models,
                    "The second video expert, for the low noise levels.",
                    "one expert",
                ),
                _dtype_input(),
            ],
            outputs=[_model_output()],
        )

    @classmethod
    def execute(
        cls,
        video_model: str,
        audio_stream: str = NONE,
        interaction: str = NONE,
        low_noise_model: str = NONE,
        weight_dtype: str = "default",
    ) -> io.NodeOutput:
        paths = ModelPaths(
            video=_path(video_model),
            audio=_optional_path(audio_stream),
            interaction=_optional_path(interaction),
            low_noise=_optional_path(low_noise_model),
        )
        return io.NodeOutput(load_files(paths, DTYPES[weight_dtype]))
