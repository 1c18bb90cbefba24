"""Nodes of other packs, measured where the environment names a checkout of the pack."""

from __future__ import annotations

import os
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.ldm.wan import model as wan
from comfy.model_patcher import ModelPatcher
from safetensors.torch import save_file
from torch import Tensor

from support.compatibility import gguf
from support.compatibility.checkouts import GGUF, KJNODES, LTXVIDEO, module
from support.compatibility.host import lora_of
from support.compatibility.table import EXPERTS, Patch, Row
from support.tiny import av_latent, conditioning
from support.uncoupled import sample


def video() -> dict[str, Any]:
    return {"samples": av_latent()["samples"].unbind()[0]}


def of_models(node: str) -> Any:
    return getattr(module(KJNODES, "nodes.model_optimization_nodes"), node)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    is_causal: bool = False,
    attn_mask: Any = None,
    tensor_layout: str = "HND",
) -> Tensor:
    """SageAttention's function by torch, without its int8."""
    by_head = tensor_layout == "HND"
    heads = [x if by_head else x.transpose(1, 2) for x in (q, k, v)]
    out = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=attn_mask, is_causal=is_causal)
    return out if by_head else out.transpose(1, 2)


def sage(model: ModelPatcher, kernel: Callable[..., Tensor] = attention) -> ModelPatcher:
    """With a stand-in for the package, which runs on a GPU alone."""
    stand_in = types.ModuleType("sageattention")
    stand_in.sageattn = kernel
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "sageattention", stand_in)
        return of_models("PathchSageAttentionKJ")().patch(model, "auto")[0]


def calls_of_sage(model: ModelPatcher, sound: bool) -> tuple[int, int]:
    """Calls of attention in a run, and those of them that SageAttention computes under its node."""
    asked = computed = 0

    def kernel(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal computed
        computed += 1
        return attention(*args, **kwargs)

    def count(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal asked
        asked += 1
        return optimized_attention(*args, **kwargs)

    # All attention of Wan and of ours is asked for by this name.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wan, "optimized_attention", count)
        sample(sage(model, kernel), sound)
    return asked, computed


def efficient_sage(model: ModelPatcher) -> ModelPatcher:
    """With a stand-in for its kernel, in the precision of the model."""
    ltxv = module(KJNODES, "nodes.ltxv_nodes")
    ltxv._cuda_archs = ltxv._cuda_archs or ["cpu"]
    ltxv._sageattn_int8_fp8_nhd = lambda qkv, _: attention(*(x.half() for x in qkv), tensor_layout="NHD").to(
        qkv[0].dtype
    )
    return ltxv.WanVideoMemoryEfficientSageAttentionPatch.execute(model).args[0]


OF_KJNODES = [
    Row(
        "WanVideoNAG",
        lambda model: of_models("WanVideoNAG")().patch(model, conditioning(21), 11.0, 0.25, 2.5)[0],
        # It embeds its negative text with the expert that it sees.
        bounds={EXPERTS: 0.1},
    ),
    Row(
        "WanVideoEnhanceAVideoKJ",
        lambda model: of_models("WanVideoEnhanceAVideoKJ")().enhance(model, 2.0, video())[0],
    ),
    Row(
        "ApplyRifleXRoPE_WanVideo",
        lambda m: module(KJNODES, "nodes.nodes").ApplyRifleXRoPE_WanVideo().patch(m, video(), 3)[0],
    ),
    Row(
        "WanChunkFeedForward",
        lambda model: of_models("WanChunkFeedForward").execute(model, 2, 4).args[0],
        moves=False,
    ),
    Row("PathchSageAttentionKJ", sage),
    Row(
        "WanVideoMemoryEfficientSageAttentionPatch",
        efficient_sage,
        # It leaves a text attention alone that is not of the host's very class, as Ovi's, which reads the
        # sound too. The stand-in calculates in float16, which has a precision of 5e-4 (2 ** -11).
        bounds={"fusion": 1e-3},
    ),
]


def adain(model: ModelPatcher) -> ModelPatcher:
    patcher = module(LTXVIDEO, "latent_norm").LTXVPerStepAdainPatcher()
    return patcher.patch_model(model, "0.9, 0.5", {"samples": 2.0 * video()["samples"]})[0]


def stat_norm(model: ModelPatcher) -> ModelPatcher:
    patcher = module(LTXVIDEO, "latent_norm").LTXVPerStepStatNormPatcher()
    return patcher.patch_model(model, "0.9, 0.5", 0.1, 2.0, 90.0, True)[0]


def ic_lora(model: ModelPatcher) -> ModelPatcher:
    with tempfile.TemporaryDirectory() as folder:
        save_file(lora_of(model), Path(folder) / "ic.safetensors", {"reference_downscale_factor": "2"})
        folder_paths.add_model_folder_path("loras", folder)
        loader = module(LTXVIDEO, "iclora").LTXICLoRALoaderModelOnly
        try:
            return loader.execute(model, "ic.safetensors", 0.5).args[0]
        finally:
            folder_paths.folder_names_and_paths["loras"][0].remove(folder)


def sampling(node: str) -> Patch:
    tricks = "tricks.nodes.ltx_inverse_model_pred_nodes"
    return lambda model: getattr(module(LTXVIDEO, tricks), node)().patch(model)[0]


OF_LTXVIDEO = [
    Row("LTXVPerStepAdainPatcher", adain),
    Row("LTXVPerStepStatNormPatcher", stat_norm),
    Row("LTXICLoRALoaderModelOnly", ic_lora, of_high=True),
    Row("LTXForwardModelSamplingPred", sampling("LTXForwardModelSamplingPredNode")),
    Row("LTXReverseModelSamplingPred", sampling("LTXReverseModelSamplingPredNode")),
]


PACKS = {KJNODES: OF_KJNODES, LTXVIDEO: OF_LTXVIDEO, GGUF: gguf.ROWS}


def at_hand() -> list[Row]:
    """The rows of the packs that are there."""
    return [row for variable, rows in PACKS.items() if os.environ.get(variable) for row in rows]
