"""A checkpoint whose video VAE lacks weights, or holds values that no network can use, has to be refused.

The host's VAE loads what is there (strict=False): the rest of the network stays random.
"""

from __future__ import annotations

from collections.abc import Callable

from checkpoint import CCL_TINY, FOLDER

# isort: split
# The host's modules are there once the pack is loaded.
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ccl_pack.ccl_core.host.files.build import load_checkpoint

Weights = dict[str, Tensor]


def without_upsampling(weights: Weights) -> Weights:
    return {key: value for key, value in weights.items() if not key.startswith("vae.decoder.up")}


def with_nan(weights: Weights) -> Weights:
    key = next(key for key in weights if key.startswith("vae.decoder") and key.endswith("residual.2.weight"))
    return weights | {key: weights[key] * float("nan")}


def of_whole_numbers(weights: Weights) -> Weights:
    key = "blocks.0.self_attn.q.weight"
    return weights | {key: weights[key].to(torch.int8)}


def outcome(change: Callable[[Weights], Weights]) -> str:
    path = FOLDER / "changed.safetensors"
    with safe_open(CCL_TINY, "pt") as file:
        save_file(change(load_file(CCL_TINY)), path, file.metadata())
    try:
        load_checkpoint(str(path))
    except Exception as error:
        return f"ok: {type(error).__name__}: {error}"
    return "FAULT: loads without a word"


for change in (without_upsampling, with_nan, of_whole_numbers):
    print(change.__name__, outcome(change))
