"""CCLCheckpointLoader, CCLModelLoader, CCLModelAssembler: a joint model from one file or from its parts."""

from __future__ import annotations

from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from ..ccl_core.host.files.build import load_checkpoint, load_files, load_model
from ..ccl_core.host.files.read import GGUF, SAFETENSORS, ModelPaths, without_later_shards

DTYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
    "bf16": {"dtype": torch.bfloat16},
    "fp16": {"dtype": torch.float16},
}
DTYPE_TOOLTIP = (
    "How weights are kept in memory. default: as in the file; always right for quantised files and GGUF. fp8 halves a "
    "bf16 model at some loss of quality. fp16 suits Wan, not Ovi and MOVA, which exceed its range."
)
MODELS = "diffusion_models"
# The host lists no GGUF files. A kind of its own over the same folders lets its cache do it.
MODELS_GGUF = "ccl_gguf"
folder_paths.folder_names_and_paths[MODELS_GGUF] = (folder_paths.folder_names_and_paths[MODELS][0], {GGUF})
NONE = "none"


def _files(folder: str) -> list[str]:
    return [name for name in folder_paths.get_filename_list(folder) if name.lower().endswith(SAFETENSORS)]


def _models() -> list[str]:
    return without_later_shards({*_files(MODELS), *folder_paths.get_filename_list(MODELS_GGUF)})


def _path(name: str) -> str:
    return folder_paths.get_full_path_or_raise(MODELS, name)


def _dtype_input() -> io.Combo.Input:
    return io.Combo.Input("weight_dtype", options=list(DTYPES), default="default", advanced=True, tooltip=DTYPE_TOOLTIP)


def _model_output() -> io.Model.Output:
    return io.Model.Output("model", tooltip="The joint model: works in every sampler, for video alone and with audio.")


class CCLCheckpointLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLCheckpointLoader",
            display_name="Load Checkpoint (CCL)",
            category="CCL/loaders",
            description="Loads a joint audio-video model with its text encoder and both VAEs from one file.",
            search_aliases=["ccl", "audio video model", "ccl-tiny", "twin tower"],
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=_files("checkpoints"),
                    tooltip="An all-in-one CCL file in models/checkpoints. ccl-tiny.safetensors comes with this pack.",
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
        path = folder_paths.get_full_path_or_raise("checkpoints", ckpt_name)
        return io.NodeOutput(*load_checkpoint(path, folder_paths.get_folder_paths("embeddings")))


class CCLModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLModelLoader",
            display_name="Load Model (CCL)",
            category="CCL/loaders",
            description="Loads a joint audio-video model (CCL, Ovi, MOVA in one file) without its encoders and VAEs.",
            search_aliases=["ccl", "ovi", "mova", "audio video model", "twin tower", "unet", "gguf"],
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=_models(),
                    tooltip=(
                        "A CCL or Ovi file in models/diffusion_models, or MOVA repacked into one. Shards stand as "
                        "their first; .gguf needs the pack ComfyUI-GGUF."
                    ),
                ),
                _dtype_input(),
            ],
            outputs=[_model_output()],
        )

    @classmethod
    def execute(cls, unet_name: str, weight_dtype: str = "default") -> io.NodeOutput:
        return io.NodeOutput(load_model(_path(unet_name), DTYPES[weight_dtype]))


class CCLModelAssembler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        models = _models()
        return io.Schema(
            node_id="CCLModelAssembler",
            display_name="Assemble Model (CCL)",
            category="CCL/loaders",
            description=(
                "Builds a joint audio-video model from files of its parts: Wan with an audio stream and an "
                "interaction, Ovi in two files, MOVA as published."
            ),
            search_aliases=["ccl", "ovi", "mova", "wan", "audio video model", "twin tower", "merge towers"],
            inputs=[
                io.Combo.Input(
                    "video_model",
                    options=models,
                    tooltip=(
                        "The video stream, in models/diffusion_models: Wan 2.1 or 2.2 (text or image to video), the "
                        "video file of Ovi, or MOVA's video_dit. Of two experts the one for high noise."
                    ),
                ),
                io.Combo.Input(
                    "audio_stream",
                    options=[NONE, *models],
                    default=NONE,
                    tooltip=(
                        "The audio stream: CCL's, the audio file of Ovi, or MOVA's audio_dit. none: the video file "
                        "holds it."
                    ),
                ),
                io.Combo.Input(
                    "interaction",
                    options=[NONE, *models],
                    default=NONE,
                    tooltip=(
                        "What couples the streams: CCL's interaction or MOVA's dual_tower_bridge. none: the other "
                        "files hold it, as Ovi's do."
                    ),
                ),
                io.Combo.Input(
                    "low_noise_model",
                    options=[NONE, *models],
                    default=NONE,
                    tooltip=(
                        "The second video expert, for the low noise levels: MOVA's video_dit_2, or the low-noise file "
                        "of Wan 2.2 A14B. none: one expert."
                    ),
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
        chosen = (None if name == NONE else _path(name) for name in (audio_stream, interaction, low_noise_model))
        return io.NodeOutput(load_files(ModelPaths(_path(video_model), *chosen), DTYPES[weight_dtype]))
