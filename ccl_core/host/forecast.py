"""What a run will take, said on the sampler as it starts: passes, their cost, and whether memory suffices."""

from __future__ import annotations

from typing import Any

from ..cost import pass_work, relative_cost
from ..guidance import Branch, StreamWeights, branch_weights
from ..memory import Machine
from ..notices import LOGGER, notice, told
from .base_model import CCLModel
from .guider import AVGuider, folded, read_by
from .media.latents import split
from .memory import Plan, run_of_latent
from .memory_report import verdict_words

Weights = dict[Branch, StreamWeights]


def tell_of_run(guider: AVGuider, latent: dict[str, Any], steps: int) -> None:
    """On the node that runs; what does not fit is a message of the page too."""
    try:
        text, fits = forecast(guider, latent, steps)
    # A run ends by its own faults, which say more, and never by a text about it.
    except Exception:
        LOGGER.debug("no forecast of this run", exc_info=True)
        return
    (told if fits else notice)(text)


def forecast(
    guider: AVGuider, latent: dict[str, Any], steps: int, machine: Machine | None = None
) -> tuple[str, bool]:
    """Passes, cost and memory in words, and whether the run fits by the plan. machine: not this one."""
    weights = branch_weights(guider.mode, guider.settings)
    model = guider.model_patcher
    if not isinstance(model.model, CCLModel):
        coupled = guider.coupled and latent["samples"].is_nested
        return f"{_passes(folded(weights, coupled))}.\n{_details(guider, steps)}", True
    plan = Plan(model, latent, guider.mode, machine)
    run = run_of_latent(split(latent))
    weights = read_by(folded(weights, not run.alone), run)
    kept = run.given if plan.kept(plan.clip) else None
    whole = pass_work(plan.config, plan.clip)
    work = {stream: whole[stream] for stream in whole if stream != kept and stream not in run.absent}
    fits, verdict = plan.verdict.fit, verdict_words(plan)
    lines = [
        # The canvas shows two lines of some thirty letters; the others are reached by scrolling.
        f"{_passes(weights)}, {relative_cost(weights, work):.1f}x the work.",
        f"{verdict[0].upper()}{verdict[1:].rstrip('.')}.",
        *([] if fits == "whole" else ["Memory Plan (CCL) says what helps."]),
        *([f"The given {kept} is computed once."] if kept else []),
        _details(guider, steps),
    ]
    return "\n".join(lines), fits != "none"


def _passes(weights: Weights) -> str:
    return f"{len(weights)} passes per step" if len(weights) > 1 else "1 pass per step"


def _details(guider: AVGuider, steps: int) -> str:
    ranges = any(
        scale.start > 0 or scale.end < 1 or scale.least_sigma > 0 for scale in guider.settings.values()
    )
    where = ", in the part of the run where it counts" if ranges else ""
    return f"Guidance {guider.mode}{where}, {steps} steps. 1x is a step without guidance."
