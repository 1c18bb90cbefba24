"""What a loaded model will take in this machine's memory, in words: the report of CCLMemoryPlan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import comfy.ldm.wan.model
import comfy.model_management
import comfy.quant_ops
import comfy.sample
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ..alignment.timeline import frames_of
from ..guidance import MODES
from ..memory import (
    Clip,
    Demand,
    Kernels,
    Machine,
    Verdict,
    calls,
    judge,
    parameters,
    shorter,
    smaller,
    step_bytes,
)
from .experts import low_noise_of
from .guider import check_latent
from .media.latents import model_grid, split

GIB = 2**30
# A host after 0.30 calls activation and down-projection as one, and so holds the input of both.
HELD_ACTIVATION = hasattr(comfy.ldm.wan.model, "WanFeedForward")
WIDE = 1.25  # bytes per parameter above which a file in fp8 is much smaller


@dataclass(frozen=True)
class Weights:
    """Bytes of the weights of each part as they are loaded, and of what is moved at once.

    idle: the low-noise expert, which waits while the other one works and shares all but video with it.
    largest: name and bytes of the biggest layer, with its copy in the precision of computing where that is another.
    layer: bytes of the biggest joint layer, which dynamic loading brings in as a whole.
    """

    parts: dict[str, int]
    idle: int
    largest: tuple[str, int]
    layer: int

    @property
    def active(self) -> int:
        return sum(self.parts.values())


def weights_of(model: ModelPatcher) -> Weights:
    """Sizes of a loaded joint model."""
    net, low = model.model.diffusion_model, low_noise_of(model)
    layers = range(max(len(net.blocks), len(net.audio.blocks)))
    return Weights(
        parts=_parts(net),
        idle=0 if low is None else _parts(low.model.diffusion_model)["video"],
        largest=max(_layers(net, _compute_dtype(model)), key=lambda layer: layer[1]),
        layer=max(sum(map(comfy.model_management.module_size, _joint_layer(net, i))) for i in layers),
    )


def _parts(net: torch.nn.Module) -> dict[str, int]:
    own = {part: comfy.model_management.module_size(getattr(net, part)) for part in ("audio", "interaction")}
    return {"video": comfy.model_management.module_size(net) - sum(own.values()), **own}


def _layers(net: torch.nn.Module, dtype: torch.dtype) -> Iterator[tuple[str, int]]:
    for name, module in net.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None:
            cast = isinstance(weight, comfy.quant_ops.QuantizedTensor) or weight.dtype != dtype
            copy = math.prod(weight.shape) * dtype.itemsize if cast else 0
            yield name, comfy.model_management.module_size(module) + copy


def _joint_layer(net: Any, i: int) -> list[torch.nn.Module]:
    blocks = [blocks[i] for blocks in (net.blocks, net.audio.blocks) if i < len(blocks)]
    return [*blocks, net.interaction[str(i)]] if str(i) in net.interaction else blocks


def _compute_dtype(model: ModelPatcher) -> torch.dtype:
    return model.get_model_object("manual_cast_dtype") or model.model.get_dtype()


def kernels_of(model: ModelPatcher) -> Kernels:
    """How the host computes on the model's device."""
    on_gpu = comfy.model_management.is_device_cuda(model.load_device)
    backend = comfy.quant_ops.ck.registry.get_capable_backend("apply_rope1")
    fused_rope = on_gpu and backend != "eager"
    return Kernels(_compute_dtype(model).itemsize, on_gpu, fused_rope, HELD_ACTIVATION)


def clip_of(model: ModelPatcher, latent: dict[str, Any]) -> Clip:
    """The latent as the sampler will see it. ValueError for one of another model."""
    ratios = latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], *ratios)
    check_latent(model.model, samples)
    av = split({**latent, "samples": samples})
    return Clip(
        video=tuple(av.video.shape[2:]),
        audio=0 if av.audio is None else av.audio.shape[-1],
        batch=av.video.shape[0],
        video_times=_times(av.video_mask, av.video),
        audio_times=_times(av.audio_mask, av.audio),
    )


def _times(mask: torch.Tensor | None, latent: torch.Tensor | None) -> int:
    """Diffusion times that the tokens of a stream have under a mask: one per frame, or one for each value in it."""
    if mask is None or latent is None:
        return 1
    mask = comfy.utils.reshape_mask(mask, latent.shape)  # (b, c, t, h, w) or (b, c, a)
    if mask.ndim == 5 and torch.equal(mask.amin(dim=(3, 4)), mask.amax(dim=(3, 4))):
        return latent.shape[2]
    return len(mask.unique())


def machine_of(model: ModelPatcher) -> Machine:
    """Memory of the model's device and of the host now. What the host's loaded models take counts as free."""
    memory, device = comfy.model_management, model.load_device
    cpu = torch.device("cpu")
    name = memory.get_torch_device_name(device)
    ram = {"ram_free": memory.get_free_memory(cpu), "ram_total": memory.get_total_memory(cpu)}
    if device.type in ("cpu", "mps"):
        return Machine(name, **ram)
    evictable = sum(other.loaded_size() for other in memory.loaded_models() if other.load_device == device)
    return Machine(
        name,
        **ram,
        vram_free=memory.get_free_memory(device) + evictable,
        vram_total=memory.get_total_memory(device),
        vram_reserve=memory.extra_reserved_memory(),
    )


def host_bytes(model: ModelPatcher, clip: Clip) -> int:
    """What the host takes a step to need, by which it decides how many passes to batch."""
    (t, h, w), batch = clip.video, clip.batch * clip.passes
    if not clip.audio:
        return int(model.model.memory_required([batch, 1, t, h, w]))
    positions = t * h * w + clip.audio
    packed = positions * model.model.latent_format.latent_channels  # a packed latent before its shapes are known
    return int(model.model.memory_required([batch, 1, packed]))


class Plan:
    """The numbers of one model, latent and guidance mode on one machine."""

    def __init__(self, model: ModelPatcher, latent: dict[str, Any], mode: str, machine: Machine | None = None) -> None:
        self.grid = model_grid(model)  # refuses a model without an audio stream
        self.model, self.mode, self.config = model, mode, model.model.ccl_config
        self.machine = machine_of(model) if machine is None else machine
        self.weights, self.kernels = weights_of(model), kernels_of(model)
        one_pass = clip_of(model, latent)
        self.passes = calls(mode, coupled=one_pass.audio > 0)
        batched = replace(one_pass, passes=max(self.passes))
        self.clip = batched if host_bytes(model, batched) * 1.5 < self._free_for_steps(one_pass) else one_pass
        self.verdict = self.judged(self.clip)

    def _free_for_steps(self, one_pass: Clip) -> float:
        """Bytes that the host finds free when it decides on a batch, half as much again as its estimate of it."""
        machine = self.machine
        if machine.vram_free is None:
            return machine.ram_free
        if self.model.is_dynamic():
            return machine.vram_free
        return max(machine.vram_free - self.weights.active, host_bytes(self.model, one_pass) + machine.vram_reserve)

    def demand(self, clip: Clip, shrink: float = 1.0) -> Demand:
        """What a clip wants, the weights `shrink` times as large."""
        weights, memory = self.weights, comfy.model_management
        ahead = weights.layer if self.model.is_dynamic() else weights.largest[1]  # what each stream brings in
        moved = weights.largest[1] + memory.NUM_STREAMS * ahead
        if memory.vram_state is memory.VRAMState.HIGH_VRAM:
            moved = weights.active  # the host offloads nothing
        step = step_bytes(self.config, clip, self.kernels)
        return Demand(int(weights.active * shrink), step, int(moved * shrink))

    def judged(self, clip: Clip, shrink: float = 1.0) -> Verdict:
        return judge(self.demand(clip, shrink), self.machine)

    def runs(self, mode: str) -> int:
        """Calls of the model in one step, as many passes at a time as now."""
        return sum(-(-passes // self.clip.passes) for passes in calls(mode, self.clip.audio > 0))


def report(model: ModelPatcher, latent: dict[str, Any], mode: str, machine: Machine | None = None) -> str:
    """The plan in words. machine: another than this one, as `machine_of` describes it."""
    plan = Plan(model, latent, mode, machine)
    help_lines = [f"- {line}" for line in _advice(plan)]
    return "\n".join(
        [
            *_weight_lines(plan),
            *_step_lines(plan),
            *_machine_lines(plan),
            _verdict_line(plan),
            *(["What helps:", *help_lines] if help_lines else []),
            "Not counted: text encoder and VAEs, which work before and after. Decode Audio-Video (CCL) has tiling.",
        ]
    )


def _weight_lines(plan: Plan) -> list[str]:
    weights, counts = plan.weights, parameters(plan.config)
    lines = [f"Weights: {_size(weights.active)}, {sum(counts.values()):,} parameters"]
    for part, held in weights.parts.items():
        lines.append(f"  {part}: {_size(held)} ({counts[part]:,} x {held / counts[part]:.2f} bytes)")
    if weights.idle:
        lines.append(f"  low-noise video expert: {_size(weights.idle)}, takes turns with the first and waits in RAM")
    name, held = weights.largest
    return [*lines, f"  biggest layer: {_size(held)} ({name}), which has to fit beside the step"]


def _step_lines(plan: Plan) -> list[str]:
    t, h, w = plan.clip.video
    step = step_bytes(plan.config, plan.clip, plan.kernels)
    audio = f" and {plan.clip.audio:,} of audio" if plan.clip.audio else ", no audio"
    return [
        f"Latent: {plan.clip.batch} x {t} x {h} x {w}, {plan.clip.video_tokens(plan.config):,} video tokens{audio}",
        f"Guidance {plan.mode}: {sum(plan.passes)} passes per step, {plan.clip.passes} at a time",
        f"A step takes {_size(step)} beside the weights (ComfyUI estimates {_size(host_bytes(plan.model, plan.clip))})",
    ]


def _machine_lines(plan: Plan) -> list[str]:
    machine, weights, verdict = plan.machine, plan.weights, plan.verdict
    ram = f"RAM: {_size(machine.ram_free)} of {_size(machine.ram_total)} free"
    if machine.vram_free is None:
        return [f"Device: {machine.name}, no VRAM of its own", ram]
    free = f"{_size(machine.vram_free)} of {_size(machine.vram_total)} free or ComfyUI's to free"
    kept = weights.idle + {"whole": 0, "offload": verdict.streamed, "none": weights.active}[verdict.fit]
    return [f"VRAM of {machine.name}: {free}", f"{ram}; {_size(kept)} of weights stay there"]


def _verdict_line(plan: Plan) -> str:
    verdict, place = plan.verdict, "RAM" if plan.machine.vram_free is None else "VRAM"
    if verdict.fit == "none":
        return f"Verdict: does not fit, {place} is {_size(verdict.missing)} short"
    if verdict.fit == "whole":
        return f"Verdict: fits whole in {place}"
    per_step = plan.runs(plan.mode) * verdict.streamed
    held = plan.weights.active + plan.weights.idle
    disk = f" The weights of {_size(held)} exceed RAM, so part of them is read from disk in each step."
    return (
        f"Verdict: runs with offloading, {_size(verdict.streamed)} of weights are streamed in each call of the model, "
        f"{_size(per_step)} per step." + (disk if held > plan.machine.ram_total else "")
    )


def _advice(plan: Plan) -> Iterator[str]:
    """What would improve the verdict, with the numbers that do."""
    if plan.verdict.fit == "whole":
        return
    clip, wanted = plan.clip, {"none": ("offload", "whole"), "offload": ("whole",)}[plan.verdict.fit]
    result = "fits" if plan.verdict.fit == "none" else "keeps the weights in VRAM"

    def fits(clip: Clip) -> bool:
        return plan.judged(clip).fit in wanted

    width = plan.weights.active / sum(parameters(plan.config).values())
    if width > WIDE and (lighter := plan.judged(clip, 1 / width)) != plan.verdict:
        gain = f", which {result}" if lighter.fit in wanted else ""
        then, now = _size(plan.weights.active / width), _size(plan.weights.active)
        yield f"the model in fp8 takes {then} instead of {now}{gain}"
    if clip.batch > 1 and fits(replace(clip, batch=1)):
        yield f"one clip at a time instead of {clip.batch} {result}"
    if (short := next(filter(fits, shorter(clip)), None)) is not None:
        now, then = (frames_of(c.video[0]) for c in (clip, short))
        yield f"a length of {then} frames instead of {now} {result}"
    if (small := next(filter(fits, smaller(clip, plan.grid.patch)), None)) is not None:
        now, then = ([side * plan.grid.spatial_stride for side in c.video[:0:-1]] for c in (clip, small))
        yield f"a size of {then[0]} x {then[1]} instead of {now[0]} x {now[1]} pixels {result}"
    runs = {name: plan.runs(name) for name in MODES}
    if plan.verdict.fit == "offload" and runs[plan.mode] > min(runs.values()):
        names = [name for name, count in runs.items() if count == min(runs.values())]
        yield f"guidance {', '.join(names)}: {min(runs.values())} calls of the model per step, now {runs[plan.mode]}"


def _size(held: float) -> str:
    for unit, name in ((GIB, "GiB"), (2**20, "MiB")):
        if held >= unit:
            return f"{held / unit:.2f} {name}"
    return f"{held / 2**10:.1f} KiB"
