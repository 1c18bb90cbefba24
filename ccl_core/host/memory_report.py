"""The memory plan of a loaded model in words: the report of CCLMemoryPlan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import comfy.nested_tensor
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..alignment.timeline import frames_of
from ..guidance import MODES
from ..memory import Clip, Machine, parameters, shorter, smaller, step_bytes
from .memory import Plan, host_bytes
from .out_of_memory import advising
from .run import unpack

GIB = 2**30
# Bytes per parameter above which a file in fp8 is much smaller: fp8 with its scales and norms has about 1.1.
WIDE = 1.25
# What a run that found no memory is told to aim at, as a part of the step that the plan counted.
AIM = 0.75


def report(model: ModelPatcher, latent: dict[str, Any], mode: str, machine: Machine | None = None) -> str:
    """The plan in words. machine: another than this one, as `machine_of` describes it."""
    plan = Plan(model, latent, mode, machine)
    help_lines = [f"- {line}" for line in _advice(plan)]
    return "\n".join(
        [
            *_weight_lines(plan),
            *_step_lines(plan),
            *_machine_lines(plan),
            f"Verdict: {verdict_words(plan)}",
            *(["What helps:", *help_lines] if help_lines else []),
            "Not counted: text encoder and VAEs, which work before and after. "
            "Decode Audio-Video (CCL) has tiling.",
        ]
    )


def sample_with_advice(
    executor: Any,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Wrapper of the host's OUTER_SAMPLE: memory that runs out ends with the advice of the plan."""
    guider = executor.class_obj
    shapes = kwargs["latent_shapes"]

    def advice() -> str:
        latent = {"samples": _nested(latent_image, shapes)}
        if denoise_mask is not None:
            latent["noise_mask"] = _nested(denoise_mask, shapes)
        return after_out_of_memory(guider.model_patcher, latent, getattr(guider, "mode", "cfg"))

    with advising("sampling", advice):
        return executor(noise, latent_image, sampler, sigmas, denoise_mask, *args, **kwargs)


def _nested(packed: Tensor, shapes: Sequence[Sequence[int]]) -> Any:
    streams = unpack(packed, shapes)
    return comfy.nested_tensor.NestedTensor(streams) if len(streams) > 1 else streams[0]


def after_out_of_memory(
    model: ModelPatcher, latent: dict[str, Any], mode: str, machine: Machine | None = None
) -> str:
    """What the plan says of a run that found no memory, and what helps, even where the plan let it fit."""
    plan = Plan(model, latent, mode, machine)
    if plan.verdict.fit == "none":
        counted = "and that is more than there is"
        short = plan
    else:
        counted = f"which should have fitted: the run took more than that, so aim at {AIM:.0%} of a step"
        short = Plan(model, latent, mode, _too_small(plan))
    helps = [f"- {line}" for line in _advice(short)]
    return "\n".join(
        [
            *_step_lines(plan),
            *_machine_lines(plan),
            f"Weights take {_size(plan.weights.active)}, {counted}.",
            "What helps:",
            *helps,
            "- other programs that use this memory: close them",
            "Memory Plan (CCL) says it before a run.",
        ]
    )


def _too_small(plan: Plan) -> Machine:
    """The machine with so little memory that a step fits at the part AIM of what one pass takes."""
    demand = plan.demand(replace(plan.clip, passes=1))  # the host batches no more where memory is short
    machine = plan.machine
    room = int(demand.step * AIM) + demand.buffer
    if machine.vram_free is None:
        return replace(machine, ram_free=room)
    return replace(machine, vram_free=room + machine.vram_reserve)


def _weight_lines(plan: Plan) -> list[str]:
    weights = plan.weights
    counts = parameters(plan.config)
    lines = [f"Weights: {_size(weights.active)}, {sum(counts.values()):,} parameters"]
    for part, held in weights.parts.items():
        lines.append(f"  {part}: {_size(held)} ({counts[part]:,} x {held / counts[part]:.2f} bytes)")
    if weights.idle:
        lines.append(
            f"  low-noise video expert: {_size(weights.idle)}, takes turns with the first and waits in RAM"
        )
    name, held = weights.largest
    return [*lines, f"  biggest layer: {_size(held)} ({name}), which has to fit beside the step"]


def _step_lines(plan: Plan) -> list[str]:
    clip = plan.clip
    t, h, w = clip.video
    tokens = clip.video_tokens(plan.config)
    audio = f" and {clip.audio:,} of audio" if clip.audio else ", no audio"
    step = _size(step_bytes(plan.config, clip, plan.kernels))
    estimate = _size(host_bytes(plan.model, clip))
    return [
        f"Latent: {clip.batch} x {t} x {h} x {w}, {tokens:,} video tokens{audio}",
        f"Guidance {plan.mode}: {sum(plan.passes)} passes per step, {clip.passes} at a time",
        f"A step takes {step} beside the weights (ComfyUI estimates {estimate})",
        *_kept_lines(plan),
    ]


def _kept_lines(plan: Plan) -> list[str]:
    """What a run keeps of a given stream, and where."""
    layers = plan.kept(plan.clip)
    if not layers:
        return []
    within = plan.kept_layers_in_vram
    where = f"{within} of {len(layers)} layers in VRAM, the rest in pinned RAM"
    if within in (0, len(layers)):
        where = "in VRAM" if within else "in pinned RAM, from which each call copies it layer by layer"
    if plan.machine.vram_free is None:
        where = "in RAM"
    given = plan.clip.given
    held = _size(sum(layers))
    return [f"The given {given} is computed once, and {held} of it kept {where}"]


def _machine_lines(plan: Plan) -> list[str]:
    machine = plan.machine
    weights = plan.weights
    verdict = plan.verdict
    ram = f"RAM: {_size(machine.ram_free)} of {_size(machine.ram_total)} free"
    if machine.vram_free is None:
        return [f"Device: {machine.name}, no VRAM of its own", ram]
    free = f"{_size(machine.vram_free)} of {_size(machine.vram_total)} free or ComfyUI's to free"
    kept = weights.idle + {"whole": 0, "offload": verdict.streamed, "none": weights.active}[verdict.fit]
    return [f"VRAM of {machine.name}: {free}", f"{ram}; {_size(kept)} of weights stay there"]


def verdict_words(plan: Plan) -> str:
    """Whether it fits, and what is streamed or missing if not."""
    verdict = plan.verdict
    place = "RAM" if plan.machine.vram_free is None else "VRAM"
    if verdict.fit == "none":
        return f"does not fit, {place} is {_size(verdict.missing)} short"
    if verdict.fit == "whole":
        return f"fits whole in {place}"
    per_step = plan.runs(plan.mode) * verdict.streamed
    held = plan.weights.active + plan.weights.idle
    disk = f" The weights of {_size(held)} exceed RAM, so part of them is read from disk in each step."
    return (
        f"runs with offloading, {_size(verdict.streamed)} of weights are streamed in each call of "
        f"the model, {_size(per_step)} per step." + (disk if held > plan.machine.ram_total else "")
    )


def _advice(plan: Plan) -> list[str]:
    """What would improve the verdict, with the numbers that do, the least loss first."""
    if plan.verdict.fit == "whole":
        return []
    lines = (
        _in_fp8(plan),
        _one_clip_at_a_time(plan),
        _in_fewer_frames(plan),
        _in_fewer_pixels(plan),
        _with_fewer_calls(plan),
    )
    return [line for line in lines if line is not None]


def _result(plan: Plan) -> str:
    """What a better verdict means."""
    return "fits" if plan.verdict.fit == "none" else "keeps the weights in VRAM"


def _in_fp8(plan: Plan) -> str | None:
    """The model at one byte per parameter, where that streams less even if the verdict stays."""
    width = plan.weights.active / sum(parameters(plan.config).values())
    if width <= WIDE or plan.judged(plan.clip, 1 / width) == plan.verdict:
        return None
    gain = f", which {_result(plan)}" if plan.improves(plan.clip, 1 / width) else ""
    then = _size(plan.weights.active / width)
    return f"the model in fp8 takes {then} instead of {_size(plan.weights.active)}{gain}"


def _one_clip_at_a_time(plan: Plan) -> str | None:
    batch = plan.clip.batch
    if batch == 1 or not plan.improves(replace(plan.clip, batch=1)):
        return None
    return f"one clip at a time instead of {batch} {_result(plan)}"


def _in_fewer_frames(plan: Plan) -> str | None:
    short = next(filter(plan.improves, shorter(plan.clip)), None)
    if short is None:
        return None
    now = frames_of(plan.clip.video[0])
    return f"a length of {frames_of(short.video[0])} frames instead of {now} {_result(plan)}"


def _in_fewer_pixels(plan: Plan) -> str | None:
    small = next(filter(plan.improves, smaller(plan.clip, plan.grid.patch)), None)
    if small is None:
        return None
    now = _pixels(plan, plan.clip)
    return f"a size of {_pixels(plan, small)} instead of {now} pixels {_result(plan)}"


def _pixels(plan: Plan, clip: Clip) -> str:
    """Width x height of a clip."""
    _, height, width = clip.video
    stride = plan.grid.spatial_stride
    return f"{width * stride} x {height * stride}"


def _with_fewer_calls(plan: Plan) -> str | None:
    """The modes of guidance with the fewest calls. They stream less and fit no better."""
    runs = {name: plan.runs(name) for name in MODES}
    fewest = min(runs.values())
    now = runs[plan.mode]
    if plan.verdict.fit != "offload" or now == fewest:
        return None
    names = ", ".join(name for name, count in runs.items() if count == fewest)
    return f"guidance {names}: {fewest} calls of the model per step, now {now}"


def _size(held: float) -> str:
    for unit, name in ((GIB, "GiB"), (2**20, "MiB")):
        if held >= unit:
            return f"{held / unit:.2f} {name}"
    return f"{held / 2**10:.1f} KiB"
