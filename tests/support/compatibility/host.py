"""Nodes of the host that patch a model, with values that have an effect."""

from __future__ import annotations

from typing import Any

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_cfg import CFGNorm, CFGZeroStar
from comfy_extras.nodes_context_windows import LTXVContextWindowsNode, WanContextWindowsManualNode
from comfy_extras.nodes_custom_sampler import CFGOverride
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_eps import EpsilonScaling
from comfy_extras.nodes_fresca import FreSca
from comfy_extras.nodes_lt import ModelSamplingLTXV
from comfy_extras.nodes_mahiro import Mahiro
from comfy_extras.nodes_model_advanced import ModelSamplingSD3, RescaleCFG
from comfy_extras.nodes_rope import ScaleROPE
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT, SkipLayerGuidanceDiTSimple
from comfy_extras.nodes_tcfg import TCFG
from torch import Tensor

from support.compatibility.table import Row
from support.tiny import av_latent


def with_lora(model: ModelPatcher) -> ModelPatcher:
    """LoraLoaderModelOnly with a LoRA of the video's weights."""
    return comfy.sd.load_lora_for_models(model, None, lora_of(model), 0.5, 0.0)[0]


def lora_of(model: ModelPatcher) -> dict[str, Tensor]:
    layer = model.model.diffusion_model.blocks[0].ffn[0]
    down = torch.randn(2, layer.in_features, generator=torch.Generator().manual_seed(4))
    up = torch.randn(layer.out_features, 2, generator=torch.Generator().manual_seed(5))
    name = "diffusion_model.blocks.0.ffn.0"
    return {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}


def _copied(model: ModelPatcher) -> ModelPatcher:
    """EasyCache adds in place to the latent of a pass, in float32 that of the sampler. In half precision the
    host's cast makes a copy.
    """

    def on_a_copy(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return executor(x.clone(), *args, **kwargs)

    mended = model.clone()
    mended.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "copied", on_a_copy)
    return mended


def _windows(model: ModelPatcher) -> ModelPatcher:
    return WanContextWindowsManualNode.execute(
        model, 5, 1, "standard_static", 1, False, "pyramid", False
    ).args[0]


def _ltx_windows(model: ModelPatcher) -> ModelPatcher:
    """Its lengths are frames of LTX-2, eight to a latent frame: windows of two latent frames, one shared."""
    return LTXVContextWindowsNode.execute(model, 9, 8, "standard_static", "pyramid", False).args[0]


ROWS = [
    Row("APG", lambda model: APG.execute(model, 1.0, 2.0, -0.5).args[0]),
    Row("CFGNorm", lambda model: CFGNorm.execute(model, 1.0).args[0]),
    Row("CFGOverride", lambda model: CFGOverride.execute(model, 1.5, 0.0, 1.0).args[0]),
    Row("CFGZeroStar", lambda model: CFGZeroStar.execute(model).args[0]),
    Row(
        "EasyCache",
        lambda model: EasyCacheNode.execute(model, 5.0, 0.0, 1.0, False).args[0],
        steps=6,
        mend_wan=_copied,
    ),
    Row("EpsilonScaling", lambda model: EpsilonScaling.execute(model, 1.05).args[0]),
    Row("FreSca", lambda model: FreSca.execute(model, 1.0, 1.5, 1).args[0]),
    Row("LazyCache", lambda model: LazyCacheNode.execute(model, 100.0, 0.0, 1.0, False).args[0], steps=6),
    Row("LoraLoaderModelOnly", with_lora, of_high=True),
    Row("LTXVContextWindows", _ltx_windows),
    Row("Mahiro", lambda model: Mahiro.execute(model).args[0]),
    Row("ModelSamplingLTXV", lambda model: ModelSamplingLTXV.execute(model, 4.0, 2.0, av_latent()).args[0]),
    Row("ModelSamplingSD3", lambda model: ModelSamplingSD3().patch(model, 9.0)[0]),
    Row("RescaleCFG", lambda model: RescaleCFG().patch(model, 0.7)[0]),
    Row("ScaleROPE", lambda model: ScaleROPE.execute(model, 2.0, 1.0, 0.5, 0.0, 1.5, 2.0).args[0]),
    Row(
        "SkipLayerGuidanceDiT", lambda m: SkipLayerGuidanceDiT.execute(m, 2.0, 0.0, 1.0, "1", "", 0.5).args[0]
    ),
    Row(
        "SkipLayerGuidanceDiTSimple",
        lambda m: SkipLayerGuidanceDiTSimple.execute(m, 0.0, 1.0, "1", "").args[0],
    ),
    Row("TCFG", lambda model: TCFG.execute(model).args[0]),
    Row("WanContextWindowsManual", _windows),
]
