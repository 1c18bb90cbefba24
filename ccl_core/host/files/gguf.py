"""GGUF files, read and run by the pack ComfyUI-GGUF when it is installed.

The host has no GGUF of its own. Reader, layers that dequantise on the fly and patcher are those of that pack
(city96/ComfyUI-GGUF), found through the host's registry of loaded nodes.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

NODE = "UnetLoaderGGUF"
# What this file uses of the pack, which states no version of what it offers.
WANTED = ("gguf_sd_loader", "GGMLOps", "GGUFModelPatcher")


def read(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a GGUF file as the pack holds them, matrices still quantised, and its `ccl_config`.

    ValueError where the pack is not there or refuses the file.
    """
    name = os.path.basename(path)
    pack = _pack(name)
    try:
        sd = pack.gguf_sd_loader(path)
        config = _ccl_config(pack, path)
    except Exception as error:  # the pack lets the faults of its reader through as they are
        raise ValueError(
            f"ComfyUI-GGUF cannot read {name} ({error}): it is damaged, or its general.architecture is not "
            "one the pack knows (Wan, Ovi and MOVA carry wan). Download it again, or use fp8 or int8 "
            "safetensors"
        ) from error
    # The pack exports its layers but not these functions, which stand in the module of the layers.
    ops = sys.modules[pack.GGMLOps.__module__]
    # The pack's layers multiply with quantised matrices only. Convolutions, modulations and context tokens
    # are read as plain tensors.
    for key, value in sd.items():
        if ops.is_quantized(value) and not (key.endswith(".weight") and len(value.shape) == 2):
            sd[key] = torch.Tensor(ops.dequantize_tensor(value, torch.float32))
    return sd, {} if config is None else {"ccl_config": config}


def operations() -> Any:
    """The pack's layers, for the host's `custom_operations`."""
    return _pack().GGMLOps


def patcher_class() -> type:
    """The pack's ModelPatcher. It applies LoRA where a weight is dequantised, and has no dynamic VRAM."""
    return _pack().GGUFModelPatcher


def _pack(name: str = "the model") -> ModuleType:
    # The server has the host's module `nodes` loaded. An import outside a server would load all of its nodes.
    registry = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {})
    if NODE not in registry:
        raise ValueError(
            f"{name} is a GGUF file, and the pack ComfyUI-GGUF, which reads those, is not loaded: install "
            "ComfyUI-GGUF in ComfyUI Manager and restart, or use fp8 or int8 safetensors instead"
        )
    pack = sys.modules[registry[NODE].__module__]
    lacking = [name for name in WANTED if not hasattr(pack, name)]
    if lacking:
        raise ValueError(
            f"the node {NODE} comes from {pack.__name__}, which has no {', '.join(lacking)}: "
            "wanted is the pack ComfyUI-GGUF by city96. Update it, or use fp8 or int8 safetensors"
        )
    return pack


def _ccl_config(pack: ModuleType, path: str) -> str | None:
    # `gguf_sd_loader` returns no metadata of other packs, so the file's header is read once more.
    loader = sys.modules[pack.gguf_sd_loader.__module__]
    return loader.get_field(loader.gguf.GGUFReader(path), "ccl_config", str)
