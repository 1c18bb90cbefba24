"""Files in, MODEL / CLIP / VAE out: read, identify, assemble, configure, check, build, in this order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ...config import CCLConfig
from ...notices import notice
from ..base_model import CCLModelConfig
from ..experts import attach_low_noise
from ..memory_report import sample_with_advice
from ..out_of_memory import advising
from ..run import sample_in_run
from ..vae.audio import load_audio_vae
from ..vae.sockets import require_audio_vae, require_video_vae, token_rate
from ..vae.text_encoder import load_text_encoder
from ..vae.video import load_video_vae
from .assemble import Assembly, assemble
from .check import check, check_keys, check_types, wanted_tensors
from .configure import boundary_of, configure
from .identify import ModelFile, identify, identify_files, section
from .quantised import check_layers
from .read import ModelPaths, naming, read, read_files


def load_model(
    path: str, model_options: dict[str, Any] | None = None, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The MODEL of one file (or first shard) that holds a whole one.

    disable_dynamic: without the host's dynamic VRAM.
    """
    file = identify(read(path))
    if not file.content.whole:
        raise ValueError(f"{file.name} is {file.content.description}: {file.content.advice}")
    return _load({"video": file}, ModelPaths(path), model_options or {}, disable_dynamic)


def load_files(
    paths: ModelPaths, model_options: dict[str, Any] | None = None, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The MODEL of several files; ValueError where they do not belong together."""
    return _load(identify_files(read_files(paths)), paths, model_options or {}, disable_dynamic)


def load_expert(
    paths: ModelPaths,
    model_options: dict[str, Any],
    low_noise: bool,
    audio_vae: comfy.sd.VAE | None = None,
    disable_dynamic: bool = False,
) -> comfy.model_patcher.ModelPatcher:
    """One expert of those files alone: the host calls this to have the patcher without dynamic VRAM.

    audio_vae: of an all-in-one file, which the model carries for CheckpointSave.
    """
    assembly, config = put_together(identify_files(read_files(paths)))
    patcher = _build_expert(assembly, config, paths, model_options, low_noise, disable_dynamic)
    patcher.model.audio_vae = audio_vae
    return patcher


def load_checkpoint(
    path: str, embedding_directory: Any = None
) -> tuple[Any, comfy.sd.CLIP, comfy.sd.VAE, comfy.sd.VAE]:
    """MODEL, CLIP, video VAE and audio VAE of an all-in-one file."""
    file = read(path)
    text = file.bundle("text_encoders.", "text encoder")
    video_vae = file.bundle("vae.", "video VAE")
    audio_vae = file.bundle("audio_vae.", "audio VAE")
    files = {"video": identify(file)}
    _, config = put_together(files)
    # The model last: it is the largest, and each part is checked before there is memory for it.
    with naming(file.name):
        clip = load_text_encoder(text, config.text_encoder, embedding_directory=embedding_directory)
        sound = load_audio_vae(audio_vae, file.metadata)
        picture = load_video_vae(video_vae, file.metadata)
        require_video_vae(picture, config.video.out_dim)
        require_audio_vae(sound, config.audio_latent.channels)
        _require_rate(sound, config)
    model = _load(files, ModelPaths(path), {}, False)
    # CheckpointSave of the host knows one VAE, that of the picture.
    model.model.audio_vae = sound
    model.cached_patcher_init = (load_expert, (ModelPaths(path), {}, False, sound))
    return model, clip, picture, sound


def _require_rate(sound: comfy.sd.VAE, config: CCLConfig) -> None:
    """ValueError unless the audio VAE makes the tokens of a second that the model was trained with."""
    latent = config.audio_latent
    if token_rate(sound) != latent.rate:
        raise ValueError(
            f"its audio VAE makes {float(token_rate(sound)):g} tokens a second, its ccl_config states "
            f"{float(latent.rate):g}: the file is mixed up, get it again"
        )


def put_together(files: Mapping[str, ModelFile]) -> tuple[Assembly, CCLConfig]:
    """The files of a model by their roles as one checked set of tensors, and its configuration."""
    assembly = assemble(files)
    config = configure(files, assembly)
    check(assembly, config)
    return assembly, config


def _load(
    files: Mapping[str, ModelFile], paths: ModelPaths, options: dict[str, Any], disable_dynamic: bool
) -> comfy.model_patcher.ModelPatcher:
    assembly, config = put_together(files)
    patcher = _build_expert(assembly, config, paths, options, False, disable_dynamic)
    if config.expert_boundary is not None and not assembly.low_noise:
        notice(
            f"{assembly.sources['video']} is one of two video experts; without the other, below a sigma of "
            f"{config.expert_boundary} it runs where it was not trained. CCLModelAssembler takes the other "
            "one as low_noise_model."
        )
    if assembly.low_noise:
        low_noise = _build_expert(assembly, config, paths, options, True, disable_dynamic)
        attach_low_noise(patcher, low_noise, boundary_of(config))
    return patcher


def _build_expert(
    assembly: Assembly,
    config: CCLConfig,
    paths: ModelPaths,
    options: dict[str, Any],
    low_noise: bool,
    disable_dynamic: bool,
) -> comfy.model_patcher.ModelPatcher:
    """The patcher of one video expert."""
    # The high-noise expert stands first.
    expert = assembly.experts()[1 if low_noise else 0]
    name = expert.sources["video"]
    with advising(f"loading {name}", lambda: "Choose a smaller file (fp8, int8 or GGUF), or close programs"):
        patcher = build(expert.sd, config, name, _gguf(assembly, options), disable_dynamic)
    # ModelPatcher.clone(disable_dynamic=True) and deepclone_multigpu call this to build the model again.
    patcher.cached_patcher_init = (load_expert, (paths, options, low_noise))
    return patcher


def _gguf(assembly: Assembly, options: dict[str, Any]) -> dict[str, Any]:
    """The options, with the layers and the patcher of ComfyUI-GGUF where a file is of that kind."""
    if not assembly.gguf:
        return options
    # Imported here: only a GGUF file needs the pack that this module looks for.
    from . import gguf

    # Both formats need layers of their own, and a model has layers of one kind.
    quantised = next((key for key in assembly.sd if key.endswith(".comfy_quant")), None)
    if quantised is not None:
        raise ValueError(
            f"{assembly.sources[section(quantised)]} is quantised and another file is GGUF: choose files in "
            "one of the two formats, or unquantised ones beside GGUF"
        )
    return {"custom_operations": gguf.operations(), "patcher_class": gguf.patcher_class()} | options


def build_model(
    sd: Mapping[str, Tensor],
    config: CCLConfig,
    name: str,
    metadata: dict[str, str] | None = None,
    model_options: dict[str, Any] | None = None,
    disable_dynamic: bool = False,
) -> comfy.model_patcher.ModelPatcher:
    """A patcher from tensors under our names that no file holds, all of which are checked.

    name: for messages. metadata: may list quantised layers, as in the host's files. model_options: see
    `build`.
    """
    options = model_options or {}
    if options.get("custom_operations") is None:
        sd, _ = comfy.utils.convert_old_quants(dict(sd), "", metadata=metadata)
        check_layers(sd, name)
        check_types(sd, name)
    check_keys(sd, wanted_tensors(config), name)
    return build(sd, config, name, options, disable_dynamic)


def build(
    sd: Mapping[str, Tensor],
    config: CCLConfig,
    name: str,
    options: Mapping[str, Any],
    disable_dynamic: bool = False,
) -> comfy.model_patcher.ModelPatcher:
    """A patcher from checked tensors.

    options: those of the host's `load_diffusion_model` (`dtype`, `custom_operations`, `fp8_optimizations`),
    and `patcher_class`.
    """
    sd = dict(sd)
    model_config = CCLModelConfig(config)
    model_config.quant_config = comfy.utils.detect_layer_quantization(sd, "")
    model_config.custom_operations = options.get("custom_operations")
    load_device = comfy.model_management.get_torch_device()
    _choose_dtypes(model_config, sd, options.get("dtype"), load_device, name)
    if options.get("fp8_optimizations", False):
        model_config.optimizations["fp8"] = True

    model = model_config.get_model(sd)
    dynamic = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher_class = options.get("patcher_class", dynamic)
    patcher = patcher_class(
        model, load_device=load_device, offload_device=comfy.model_management.unet_offload_device()
    )
    if options.get("dtype") is None:
        _keep_wider(model.diffusion_model, sd)
    model.load_model_weights(sd, "", assign=patcher.is_dynamic())
    for key, wrapper in (("ccl_advice", sample_with_advice), ("ccl", sample_in_run)):
        patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, key, wrapper)
    return patcher


def _choose_dtypes(
    model_config: CCLModelConfig,
    sd: dict[str, Tensor],
    dtype: torch.dtype | None,
    device: torch.device,
    name: str,
) -> None:
    """Weight and compute dtype as the host's `load_diffusion_model_state_dict` chooses them."""
    supported = model_config.supported_inference_dtypes
    if dtype is torch.float16 and dtype not in supported:
        raise ValueError(
            f"{name} cannot run in fp16, whose range its values exceed (black frames): "
            "choose default, bf16 or fp8 as weight_dtype"
        )
    # A quantised weight says nothing of the type to compute in: the host then takes the first one supported.
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
    """Keep the width of tensors that the files hold in more than 8 bits, where most of the weights are fp8.

    The host makes all parameters of the type that most tensors have and copies into them: an fp8 Wan beside a
    bf16 audio stream would round that to fp8 without a scale.
    """
    for key, parameter in model.named_parameters():
        if parameter.dtype in comfy.model_management.FLOAT8_TYPES and sd[key].dtype.itemsize > 1:
            parameter.data = torch.empty_like(parameter, dtype=sd[key].dtype)
