"""Files in, MODEL / CLIP / VAE out: tensors checked, types chosen, patchers built (design section 7)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ...config import CCLConfig
from ...model.joint import JointModel
from ..base_model import CCLModelConfig, sample_streams
from ..experts import attach_low_noise
from ..vae.audio import load_audio_vae
from ..vae.text_encoder import load_text_encoder
from .assemble import Assembly, CheckpointFile, Parts, assemble, boundary_of, read, read_parts
from .identify import KINDS, WHOLE, section
from .quantised import FORMAT, SCALES, check_layers

ADVICE = {
    "wan": "use Load Diffusion Model, or couple it with an audio stream in Assemble Model (CCL)",
    "streams": "choose it as the video model of Assemble Model (CCL), and an interaction beside it",
}
ASSEMBLE = "choose it in Assemble Model (CCL), beside the other parts"


def load_model(
    path: str, model_options: dict[str, Any] | None = None, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The MODEL of one file (or first shard): CCL, Ovi, or MOVA repacked; on dynamic VRAM unless `disable_dynamic`."""
    file = read(path)
    if file.kind not in WHOLE:
        raise ValueError(f"{file.name} is {KINDS[file.kind].description}: {ADVICE.get(file.kind, ASSEMBLE)}")
    return _load({"video": file}, Parts(path), model_options or {}, disable_dynamic)


def load_parts(
    parts: Parts, model_options: dict[str, Any] | None = None, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The MODEL of several files; ValueError where they do not belong together."""
    return _load(read_parts(parts), parts, model_options or {}, disable_dynamic)


def load_expert(
    parts: Parts, model_options: dict[str, Any], low_noise: bool, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """One expert of those files alone, as the host rebuilds a patcher that it wants without dynamic VRAM."""
    return _expert(assemble(read_parts(parts)), parts, model_options, low_noise, disable_dynamic)


def load_checkpoint(
    path: str, embedding_directory: Any = None
) -> tuple[Any, comfy.sd.CLIP, comfy.sd.VAE, comfy.sd.VAE]:
    """MODEL, CLIP, video VAE and audio VAE of an all-in-one file."""
    file = read(path)
    text = file.part("text_encoders.", "text encoder")
    video_vae = file.part("vae.", "video VAE")
    audio_vae = file.part("audio_vae.", "audio VAE")
    model = _load({"video": file}, Parts(path), {}, False)
    config = model.model.ccl_config
    clip = load_text_encoder(text, config.text_encoder, embedding_directory=embedding_directory)
    return model, clip, comfy.sd.VAE(sd=video_vae, metadata=file.metadata), load_audio_vae(audio_vae, file.metadata)


def build_model(
    sd: Mapping[str, Tensor],
    config: CCLConfig,
    name: str,
    metadata: dict[str, str] | None = None,
    model_options: dict[str, Any] | None = None,
    disable_dynamic: bool = False,
    names: Mapping[str, str] | None = None,
) -> comfy.model_patcher.ModelPatcher:
    """A patcher from tensors under our names, all of which are checked.

    name: of the file, for messages; names: of the file of each section where there are several. metadata: may list
    quantised layers, as the host's files do. model_options: `dtype`, `custom_operations`, `patcher_class`,
    `fp8_optimizations`.
    """
    options = model_options or {}
    sd, custom_operations = dict(sd), options.get("custom_operations")
    if custom_operations is None:
        sd, _ = comfy.utils.convert_old_quants(sd, "", metadata=metadata)
        check_layers(sd, name, names)
    wanted = JointModel(config, device="meta", operations=comfy.ops.disable_weight_init).state_dict()
    check_keys(sd, wanted, name, names or {})

    model_config = CCLModelConfig(config)
    model_config.quant_config = comfy.utils.detect_layer_quantization(sd, "")
    model_config.custom_operations = custom_operations
    load_device = comfy.model_management.get_torch_device()
    _choose_dtypes(model_config, sd, options.get("dtype"), load_device, name)
    if options.get("fp8_optimizations", False):
        model_config.optimizations["fp8"] = True

    model = model_config.get_model(sd)
    dynamic = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher_class = options.get("patcher_class", dynamic)
    patcher = patcher_class(model, load_device=load_device, offload_device=comfy.model_management.unet_offload_device())
    if options.get("dtype") is None:
        _keep_wider(model.diffusion_model, sd)
    model.load_model_weights(sd, "", assign=patcher.is_dynamic())
    patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, "ccl", sample_streams)
    return patcher


def check_keys(
    sd: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str, names: Mapping[str, str] | None = None
) -> None:
    """Every key the model wants is there in its shape, and nothing else; ValueError names the first fault."""
    names = names or {}
    for key, value in wanted.items():
        file = names.get(section(key), name)
        if key not in sd:
            raise ValueError(f"{file} lacks {key} {tuple(value.shape)}: the file is incomplete or of another model")
        found = sd[key].shape
        quantised = f"{key.removesuffix('.weight')}.comfy_quant" in sd
        if (found[:1] != value.shape[:1]) if quantised else (found != value.shape):
            raise ValueError(
                f"{file}: {key} has shape {tuple(found)}, wanted {tuple(value.shape)}: "
                "the file is damaged, or of another model than the configuration or the other files"
            )
    extra = [key for key in sd if key not in wanted and not _belongs(key, wanted)]
    if extra:
        raise ValueError(
            f"{names.get(section(extra[0]), name)} holds {len(extra)} unknown keys, the first is {extra[0]}: "
            "the file is of another model or a newer pack"
        )


def _belongs(key: str, wanted: Mapping[str, Tensor]) -> bool:
    """Whether a key stands beside a quantised weight of the model."""
    suffix = next((suffix for suffix in (FORMAT, *SCALES) if key.endswith(suffix)), None)
    return suffix is not None and f"{key.removesuffix(suffix)}.weight" in wanted


def _load(
    files: Mapping[str, CheckpointFile], parts: Parts, options: dict[str, Any], disable_dynamic: bool
) -> comfy.model_patcher.ModelPatcher:
    model = assemble(files)
    patcher = _expert(model, parts, options, False, disable_dynamic)
    if model.config.expert_boundary is not None and not model.low_noise:
        logging.warning(
            "%s is one of two video experts; without the other, below a sigma of %s it runs where it was not trained.",
            model.names["video"],
            model.config.expert_boundary,
        )
    if model.low_noise:
        low = _expert(model, parts, options, True, disable_dynamic)
        attach_low_noise(patcher, low, boundary_of(model.config))
    return patcher


def _expert(
    model: Assembly, parts: Parts, options: dict[str, Any], low_noise: bool, disable_dynamic: bool
) -> comfy.model_patcher.ModelPatcher:
    """The patcher of one video expert. The other one's shares the very tensors of its audio and interaction."""
    sd, names = model.sd, model.names
    if low_noise:
        shared = {key: value for key, value in sd.items() if section(key) != "video"}
        sd, names = shared | model.low_noise, names | {"video": names["low_noise"]}
    patcher = build_model(sd, model.config, names["video"], None, _gguf(model, options), disable_dynamic, names)
    patcher.cached_patcher_init = (load_expert, (parts, options, low_noise))
    return patcher


def _gguf(model: Assembly, options: dict[str, Any]) -> dict[str, Any]:
    """The options, with the layers and the patcher of ComfyUI-GGUF where a file is of that kind."""
    if not model.gguf:
        return options
    from . import gguf  # only where ComfyUI-GGUF has read a file

    quantised = next((key for key in model.sd if key.endswith(".comfy_quant")), None)
    if quantised is not None:
        raise ValueError(
            f"{model.names[section(quantised)]} is quantised and another file is GGUF: choose files in one of the two "
            "formats, or unquantised ones beside GGUF"
        )
    return {"custom_operations": gguf.operations(), "patcher_class": gguf.patcher_class()} | options


def _choose_dtypes(
    model_config: CCLModelConfig,
    sd: dict[str, Tensor],
    dtype: torch.dtype | None,
    device: torch.device,
    name: str,
) -> None:
    """The host's choice of weight and compute dtype, as its own loader of diffusion models makes it."""
    supported = model_config.supported_inference_dtypes
    if dtype is torch.float16 and dtype not in supported:
        raise ValueError(
            f"{name} cannot run in fp16, whose range its values exceed (black frames): "
            "choose default, bf16 or fp8 as weight_dtype"
        )
    quantised = model_config.quant_config is not None
    if dtype is None:
        dtype = comfy.model_management.unet_dtype(
            model_params=comfy.utils.calculate_parameters(sd),
            supported_dtypes=supported,
            weight_dtype=None if quantised else comfy.utils.weight_dtype(sd),
        )
    manual_cast = comfy.model_management.unet_manual_cast(None if quantised else dtype, device, supported)
    model_config.set_inference_dtype(dtype, manual_cast, device=device)


def _keep_wider(model: torch.nn.Module, sd: Mapping[str, Tensor]) -> None:
    """Room for what the files hold in more than 8 bits, where most of them is fp8: an audio stream beside an fp8 Wan.

    The host copies into parameters of one type, and fp8 without a scale would round those away.
    """
    for key, parameter in model.named_parameters():
        if parameter.dtype in comfy.model_management.FLOAT8_TYPES and sd[key].dtype.itemsize > 1:
            parameter.data = torch.empty_like(parameter, dtype=sd[key].dtype)
