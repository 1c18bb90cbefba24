"""Files in, MODEL / CLIP / VAE out (design section 7).

What a file holds, whether it is whole, and the patchers built from it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ..config import CCLConfig
from ..model.interactions import INTERACTIONS
from ..model.joint import JointModel
from .audio_vae import load_audio_vae
from .base_model import CCLModelConfig, sample_streams
from .text_encoder import load_text_encoder

PARTS = ("text_encoders.", "vae.", "audio_vae.")
MODEL_PREFIX = "model.diffusion_model."
# Written beside a quantised weight; which of them a layer has depends on the format.
QUANT_SUFFIXES = (
    ".comfy_quant",
    ".weight_scale",
    ".weight_scale_2",
    ".input_scale",
    ".pre_quant_scale",
    ".scale_weight",
    ".scale_input",
)
OTHER_FILES = {
    "decoder.head.0.gamma": "a Wan VAE: use Load VAE",
    "backbone.embed.weight": "a Vocos vocoder: use CCL Audio VAE Loader",
    "encoder.block.0.layer.0.SelfAttention.q.weight": "a T5 text encoder: use Load CLIP",
    "head.modulation": "a Wan model without an audio stream: use Load Diffusion Model",
}


@dataclass(frozen=True)
class CheckpointFile:
    """A read file: its tensors by part ("" is the model), its metadata and its name for messages."""

    name: str
    parts: dict[str, dict[str, Tensor]]
    metadata: dict[str, str]

    @property
    def config(self) -> CCLConfig:
        return CCLConfig.from_json(self.metadata["ccl_config"])

    def part(self, prefix: str, content: str) -> dict[str, Tensor]:
        if not self.parts[prefix]:
            raise ValueError(
                f"{self.name} holds no {content} (no keys under {prefix!r}): it is no all-in-one checkpoint. "
                "Load the model with CCL Model Loader, the rest with Load CLIP, Load VAE and CCL Audio VAE Loader"
            )
        return self.parts[prefix]


def read(path: str) -> CheckpointFile:
    """Read a CCL safetensors file; ValueError says what else the file is and what to do."""
    sd, metadata = read_tensors(path)
    name = os.path.basename(path)
    metadata = metadata or {}
    if "ccl_config" not in metadata:
        raise ValueError(
            f"{name} is {_describe(sd)}. Wanted: a CCL checkpoint, which has a ccl_config entry in its metadata"
        )
    parts = {prefix: _take(sd, prefix) for prefix in PARTS}
    parts[""] = {key.removeprefix(MODEL_PREFIX): value for key, value in sd.items()}
    return CheckpointFile(name, parts, metadata)


def read_tensors(path: str) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """All tensors and the metadata of a safetensors file."""
    name = os.path.basename(path)
    if not path.endswith((".safetensors", ".sft")):
        raise ValueError(
            f"{name} is not a safetensors file: files of other formats can run code when loaded. Convert it first"
        )
    try:
        return comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    except FileNotFoundError as error:
        raise ValueError(
            f"{name} is gone from {os.path.dirname(path)}: refresh the node list and choose the file again"
        ) from error
    except Exception as error:  # the host wraps every kind of damage differently
        raise ValueError(
            f"{name} cannot be read as safetensors ({error}): it is damaged or cut off, download it again"
        ) from error


def load_model(
    path: str, model_options: dict[str, Any] | None = None, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The MODEL of a CCL file, on the host's dynamic VRAM unless `disable_dynamic`."""
    return build_model(read(path), path, model_options or {}, disable_dynamic)


def load_checkpoint(
    path: str, embedding_directory: Any = None
) -> tuple[Any, comfy.sd.CLIP, comfy.sd.VAE, comfy.sd.VAE]:
    """MODEL, CLIP, video VAE and audio VAE of an all-in-one file."""
    file = read(path)
    text = file.part("text_encoders.", "text encoder")
    video_vae = file.part("vae.", "video VAE")
    audio_vae = file.part("audio_vae.", "audio VAE")
    model = build_model(file, path, {}, False)
    clip = load_text_encoder(text, file.config.text_encoder, embedding_directory=embedding_directory)
    return model, clip, comfy.sd.VAE(sd=video_vae, metadata=file.metadata), load_audio_vae(audio_vae, file.metadata)


def build_model(
    file: CheckpointFile, path: str, model_options: dict[str, Any], disable_dynamic: bool
) -> comfy.model_patcher.ModelPatcher:
    config = file.config
    if config.interaction.kind not in INTERACTIONS:
        raise ValueError(
            f"{file.name} has the interaction {config.interaction.kind!r}, known are {', '.join(INTERACTIONS)}: "
            "update the pack"
        )
    sd, metadata = file.parts[""], file.metadata
    custom_operations = model_options.get("custom_operations")
    if custom_operations is None:
        sd, metadata = comfy.utils.convert_old_quants(sd, "", metadata=metadata)
    check_keys(sd, JointModel(config, device="meta", operations=comfy.ops.disable_weight_init).state_dict(), file.name)

    model_config = CCLModelConfig(config)
    model_config.quant_config = comfy.utils.detect_layer_quantization(sd, "")
    model_config.custom_operations = custom_operations
    load_device = comfy.model_management.get_torch_device()
    _choose_dtypes(model_config, sd, model_options.get("dtype"), load_device)
    if model_options.get("fp8_optimizations", False):
        model_config.optimizations["fp8"] = True

    model = model_config.get_model(sd)
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=load_device, offload_device=comfy.model_management.unet_offload_device())
    model.load_model_weights(sd, "", assign=patcher.is_dynamic())
    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, "ccl", sample_streams)
    patcher.cached_patcher_init = (load_model, (path, model_options))
    return patcher


def check_keys(sd: dict[str, Tensor], wanted: dict[str, Tensor], name: str) -> None:
    """Every key the model wants is there in its shape, and nothing else; ValueError names the first fault."""
    for key, value in wanted.items():
        if key not in sd:
            raise ValueError(f"{name} lacks {key} {tuple(value.shape)}: the file is incomplete or of another model")
        found, layer = sd[key].shape, key.removesuffix(".weight")
        quantised = f"{layer}.comfy_quant" in sd
        if (found[:1] != value.shape[:1]) if quantised else (found != value.shape):
            raise ValueError(f"{name}: {key} has shape {tuple(found)}, its ccl_config wants {tuple(value.shape)}")
    extra = [key for key in sd if key not in wanted and not key.endswith(QUANT_SUFFIXES)]
    if extra:
        raise ValueError(
            f"{name} holds {len(extra)} unknown keys, the first is {extra[0]}: "
            "the file is of another model or a newer pack"
        )


def _choose_dtypes(
    model_config: CCLModelConfig, sd: dict[str, Tensor], dtype: torch.dtype | None, device: torch.device
) -> None:
    """The host's choice of weight and compute dtype, as its own loader of diffusion models makes it."""
    supported = model_config.supported_inference_dtypes
    quantised = model_config.quant_config is not None
    if dtype is None:
        dtype = comfy.model_management.unet_dtype(
            model_params=comfy.utils.calculate_parameters(sd),
            supported_dtypes=supported,
            weight_dtype=None if quantised else comfy.utils.weight_dtype(sd),
        )
    manual_cast = comfy.model_management.unet_manual_cast(None if quantised else dtype, device, supported)
    model_config.set_inference_dtype(dtype, manual_cast, device=device)


def _take(sd: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    keys = [key for key in sd if key.startswith(prefix)]
    return {key.removeprefix(prefix): sd.pop(key) for key in keys}


def _describe(sd: dict[str, Tensor]) -> str:
    if any(".lora_" in key for key in sd):
        return "a LoRA: use Load LoRA"
    return next(
        (text for key, text in OTHER_FILES.items() if key in sd or MODEL_PREFIX + key in sd),
        f"a file of an unknown kind ({len(sd)} tensors)",
    )
