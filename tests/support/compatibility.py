"""The table of docs/compatibility.md: what a node does to plain Wan it does to the video of a joint model.

A row is a node with values that have an effect. Two numbers, both parts of the largest value: how far it
moves plain Wan, and how far the video of a pair is from that, on a coupling that adds nothing.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_cfg import CFGNorm, CFGZeroStar
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from comfy_extras.nodes_custom_sampler import CFGOverride
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_eps import EpsilonScaling
from comfy_extras.nodes_fresca import FreSca
from comfy_extras.nodes_mahiro import Mahiro
from comfy_extras.nodes_model_advanced import ModelSamplingSD3, RescaleCFG
from comfy_extras.nodes_rope import ScaleROPE
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT, SkipLayerGuidanceDiTSimple
from comfy_extras.nodes_tcfg import TCFG
from torch import Tensor

from ccl_pack.ccl_core.config import OPTIONS
from support.tiny import av_latent, conditioning
from support.uncoupled import model_of, sample, two_experts, wan_of

# A checkout of https://github.com/kijai/ComfyUI-KJNodes, whose rows are measured where it is named.
KJNODES = "CCL_KJNODES"
EXPERTS = "low-noise expert"
COLUMNS = (*OPTIONS, EXPERTS)
Patch = Callable[[ModelPatcher], ModelPatcher]


@dataclass(frozen=True)
class Row:
    """A node. moves: it changes the result. bound: of the distance to plain Wan. steps: of the run."""

    node: str
    patch: Patch
    moves: bool = True
    bound: float = 2e-6
    steps: int = 2
    # Of the column of the second video expert, where it has another one.
    bound_of_experts: float | None = None
    # It is for the video expert of high noise, as on the first of two MODELs of plain Wan.
    of_high: bool = False
    # What plain Wan needs beside the node to be right under it.
    mend_wan: Patch | None = None


def _lora(model: ModelPatcher) -> ModelPatcher:
    """LoraLoaderModelOnly with a LoRA of the video's weights."""
    down = torch.randn(2, 48, generator=torch.Generator().manual_seed(4))
    up = torch.randn(64, 2, generator=torch.Generator().manual_seed(5))
    name = "diffusion_model.blocks.0.ffn.0"
    lora = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    return comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0.0)[0]


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
    Row("LoraLoaderModelOnly", _lora, of_high=True),
    Row("Mahiro", lambda model: Mahiro.execute(model).args[0]),
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


@cache
def kjnodes() -> tuple[types.ModuleType, types.ModuleType]:
    """Its two files of nodes, as the host would load them: their server has to be there."""
    import server

    folder = Path(os.environ[KJNODES]).resolve()
    server.PromptServer(asyncio.new_event_loop())
    for name, place in (("kjnodes", folder), ("kjnodes.nodes", folder / "nodes")):
        package = types.ModuleType(name)
        package.__path__ = [str(place)]
        sys.modules[name] = package
    names = ("kjnodes.nodes.model_optimization_nodes", "kjnodes.nodes.nodes")
    return tuple(importlib.import_module(name) for name in names)


def video() -> dict[str, Any]:
    return {"samples": av_latent()["samples"].unbind()[0]}


OF_KJNODES = [
    Row(
        "WanVideoNAG",
        lambda model: kjnodes()[0].WanVideoNAG().patch(model, conditioning(21), 11.0, 0.25, 2.5)[0],
        # It embeds its negative text with the expert that it sees.
        bound_of_experts=0.1,
    ),
    Row(
        "WanVideoEnhanceAVideoKJ",
        lambda model: kjnodes()[0].WanVideoEnhanceAVideoKJ().enhance(model, 2.0, video())[0],
    ),
    Row(
        "ApplyRifleXRoPE_WanVideo",
        lambda model: kjnodes()[1].ApplyRifleXRoPE_WanVideo().patch(model, video(), 3)[0],
    ),
    Row(
        "WanChunkFeedForward",
        lambda model: kjnodes()[0].WanChunkFeedForward.execute(model, 2, 4).args[0],
        moves=False,
    ),
]


def rows() -> list[Row]:
    """The host's, and those of the packs that are at hand."""
    return ROWS + (OF_KJNODES if os.environ.get(KJNODES) else [])


@cache
def pair_of(column: str) -> tuple[ModelPatcher, ModelPatcher]:
    """A joint model and the plain Wan that its video is."""
    if column == EXPERTS:
        joint, low = two_experts()
        return joint, wan_of(low)
    joint = model_of(column, fresh=True)
    return joint, wan_of(joint)


@dataclass(frozen=True)
class Measured:
    """moved: plain Wan by the node. apart: the video of a pair from plain Wan under the node."""

    moved: float
    apart: float


def measured(row: Row, column: str) -> Measured:
    joint, wan = pair_of(column)
    # From half the noise on only the low-noise expert runs.
    run = {"steps": row.steps, "denoise": 0.5 if column == EXPERTS else 1.0}
    right = wan if row.mend_wan is None else row.mend_wan(wan)
    patched = wan if row.of_high and column == EXPERTS else row.patch(right)
    wanted = sample(patched, sound=False, **run)[0]
    moved = distance(wanted, sample(wan, sound=False, **run)[0])
    return Measured(moved, distance(sample(row.patch(joint), **run)[0], wanted))


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def bound_of(row: Row, column: str) -> float:
    return row.bound_of_experts if column == EXPERTS and row.bound_of_experts is not None else row.bound
