"""CCLCheckpointLoader and CCLModelLoader: a joint model from an all-in-one file, or from a file of its own."""

from __future__ import annotations

from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from ..ccl_core.host.checkpoint import load_checkpoint, load_model

DTYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}


def _files(folder: str) -> list[str]:
    return [name for name in folder_paths.get_filename_list(folder) if name.lower().endswith((".safetensors", ".sft"))]


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
                    "checkpoint",
                    options=_files("checkpoints"),
                    tooltip="An all-in-one CCL file in models/checkpoints. ccl-tiny.safetensors comes with this pack.",
                )
            ],
            outputs=[
                io.Model.Output(
                    "model", tooltip="The joint model: works in every sampler, for video alone and with audio."
                ),
                io.Clip.Output("clip", tooltip="The text encoder of both streams."),
                io.Vae.Output("video_vae", tooltip="Encodes and decodes frames."),
                io.Vae.Output("audio_vae", tooltip="Encodes and decodes sound."),
            ],
        )

    @classmethod
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("checkpoints", checkpoint)
        return io.NodeOutput(*load_checkpoint(path, folder_paths.get_folder_paths("embeddings")))


class CCLModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLModelLoader",
            display_name="Load Model (CCL)",
            category="CCL/loaders",
            description="Loads a joint audio-video model from a file that holds the model only.",
            search_aliases=["ccl", "audio video model", "twin tower", "unet"],
            inputs=[
                io.Combo.Input(
                    "model_name", options=_files("diffusion_models"), tooltip="A CCL file in models/diffusion_models."
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(DTYPES),
                    default="default",
                    advanced=True,
                    tooltip=(
                        "How weights are kept in memory. default: as in the file. "
                        "fp8 halves a bf16 model at some loss of quality."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    "model", tooltip="The joint model: works in every sampler, for video alone and with audio."
                )
            ],
        )

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str = "default") -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("diffusion_models", model_name)
        return io.NodeOutput(load_model(path, DTYPES[weight_dtype]))
