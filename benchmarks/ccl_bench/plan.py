"""What the plan of CCLMemoryPlan expects of a benchmark's row, also of a model that is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ccl_pack.ccl_core.config import CCLConfig
    from ccl_pack.ccl_core.memory import Machine

GB = 10**9


def planned(model: ModelPatcher, latent: dict[str, Any], machine: Machine | None = None) -> dict[str, float]:
    """GB of VRAM and RAM at the peak of a run under cfg; none where the plan says that it does not fit."""
    from ccl_pack.ccl_core.host.memory import Plan

    plan = Plan(model, latent, "cfg", machine)
    device, verdict = plan.machine, plan.verdict
    if device.vram_free is None or verdict.fit == "none":
        return {}
    kept = plan.kept(plan.clip)
    within = sum(kept[: plan.kept_layers_in_vram])
    # Weights fill what the step and what is kept leave of the card.
    most = device.vram_free - device.vram_reserve
    vram = min(most, plan.weights.active + plan.demand(plan.clip).step + within)
    streamed = verdict.streamed
    ram = plan.weights.idle + streamed + sum(kept) - within
    return {"plan_vram_gb": round(vram / GB, 2), "plan_ram_gb": round(ram / GB, 2)}


def planned_on(config: CCLConfig, weights: str, latent_of: Any, limit_gb: float) -> dict[str, float]:
    """The same for a card of so many GB and a model without weights, on the meta device."""
    import torch
    from comfy.model_patcher import ModelPatcher

    from ccl_pack.ccl_core.host.base_model import CCLModelConfig
    from ccl_pack.ccl_core.memory import Machine

    description = CCLModelConfig(config)
    # int8 has a byte per number as well.
    stored = torch.bfloat16 if weights == "bf16" else torch.float8_e4m3fn
    description.set_inference_dtype(stored, torch.bfloat16)
    model = description.get_model({}, device="meta")
    patcher = ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
    latent = latent_of(patcher)
    # Its kernels are those of the card; nothing is computed there.
    patcher.load_device = torch.device("cuda", 0)
    free = int(limit_gb * GB)
    machine = Machine("card", 2**40, 2**40, vram_free=free, vram_total=free)
    return planned(patcher, latent, machine)
