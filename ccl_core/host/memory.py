"""What a loaded model will take in this machine's memory, in numbers; `memory_report.py` says it in words."""

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

from ..memory import (
    HOST_MARGIN,
    Clip,
    Demand,
    Kernels,
    Machine,
    Verdict,
    calls,
    judge,
    kept_bytes,
    kept_in_vram,
    open_texts,
    step_bytes,
)
from ..tasks import State
from .experts import low_noise_of
from .latent_checks import check_latent
from .media.latents import AVLatent, model_grid, split
from .run import Run, state_of

# A host after 0.30 calls activation and down-projection as one, and so holds the input of both.
HELD_ACTIVATION = hasattr(comfy.ldm.wan.model, "WanFeedForward")
# The verdicts that would be better than one.
BETTER = {"none": ("offload", "whole"), "offload": ("whole",), "whole": ()}


@dataclass(frozen=True)
class Weights:
    """Bytes of the weights of each part as they are loaded, and of what is moved at once.

    idle: the low-noise expert, which waits while the other one works and shares all but video with it.
    largest: name and bytes of the biggest layer, with its copy where it is computed in another precision.
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
    net = model.model.diffusion_model
    low = low_noise_of(model)
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
        given=run_of_latent(av).given or "",
    )


def run_of_latent(av: AVLatent) -> Run:
    """The states of the streams as a run takes them."""
    audio = State.ABSENT if av.audio is None else state_of(av.audio_mask, av.audio)
    return Run((), state_of(av.video_mask, av.video), audio)


def _times(mask: torch.Tensor | None, latent: torch.Tensor | None) -> int:
    """Distinct diffusion times of a stream's tokens under a mask: one per frame, or one per value in it."""
    if mask is None or latent is None:
        return 1
    mask = comfy.utils.reshape_mask(mask, latent.shape)  # (b, c, t, h, w) or (b, c, a)
    if torch.equal(mask.flatten(1).amin(dim=1), mask.flatten(1).amax(dim=1)):
        return 1
    if mask.ndim == 5 and torch.equal(mask.amin(dim=(3, 4)), mask.amax(dim=(3, 4))):
        return latent.shape[2]
    return len(mask.unique())


def machine_of(model: ModelPatcher) -> Machine:
    """Memory of the model's device and of the host now. What the host's loaded models take counts as free."""
    memory = comfy.model_management
    device = model.load_device
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
    t, h, w = clip.video
    batch = clip.batch * clip.passes
    if not clip.audio:
        return int(model.model.memory_required([batch, 1, t, h, w]))
    positions = t * h * w + clip.audio
    # Outside a run CCLModel.memory_required has no shapes: it takes all numbers for those of the video.
    packed = positions * model.model.latent_format.latent_channels
    return int(model.model.memory_required([batch, 1, packed]))


class Plan:
    """The numbers of one model, latent and guidance mode on one machine."""

    def __init__(
        self, model: ModelPatcher, latent: dict[str, Any], mode: str, machine: Machine | None = None
    ) -> None:
        self.grid = model_grid(model)  # refuses a model without an audio stream
        self.model = model
        self.mode = mode
        self.config = model.model.ccl_config
        self.machine = machine_of(model) if machine is None else machine
        self.weights = weights_of(model)
        self.kernels = kernels_of(model)
        one_pass = clip_of(model, latent)
        self.passes = calls(mode, coupled=one_pass.audio > 0)
        batched = replace(one_pass, passes=max(self.passes))
        self.clip = batched if host_bytes(model, batched) * 1.5 < self._free_for_steps(one_pass) else one_pass
        self.verdict = self.judged(self.clip)

    def _free_for_steps(self, one_pass: Clip) -> float:
        """Bytes that the host finds free when it decides how many passes to batch."""
        machine = self.machine
        if machine.vram_free is None:
            return machine.ram_free
        if self.model.is_dynamic():
            return machine.vram_free
        # load_models_gpu offloads as many weights as one pass and the reserve need.
        least = host_bytes(self.model, one_pass) + machine.vram_reserve
        return max(machine.vram_free - self.weights.active, least)

    def demand(self, clip: Clip, shrink: float = 1.0) -> Demand:
        """What a clip wants, the weights `shrink` times as large."""
        weights = self.weights
        memory = comfy.model_management
        ahead = weights.layer if self.model.is_dynamic() else weights.largest[1]  # what each stream brings in
        moved = weights.largest[1] + memory.NUM_STREAMS * ahead
        if memory.vram_state is memory.VRAMState.HIGH_VRAM:
            moved = weights.active  # the host offloads nothing
        step = step_bytes(self.config, clip, self.kernels)
        if self.machine.vram_free is None:
            step += sum(self.kept(clip))
        return Demand(int(weights.active * shrink), step, int(moved * shrink))

    def kept(self, clip: Clip) -> list[int]:
        """Bytes of each layer that a run keeps of a given stream."""
        return kept_bytes(self.config, clip, open_texts(self.mode), self.kernels.itemsize)

    @property
    def kept_layers_in_vram(self) -> int:
        machine = self.machine
        if machine.vram_free is None:
            return 0
        needed = int(HOST_MARGIN * host_bytes(self.model, self.clip))
        return kept_in_vram(self.kept(self.clip), machine.vram_free - machine.vram_reserve - needed)

    def judged(self, clip: Clip, shrink: float = 1.0) -> Verdict:
        return judge(self.demand(clip, shrink), self.machine)

    def improves(self, clip: Clip, shrink: float = 1.0) -> bool:
        """Whether a clip has a better verdict than the one of this plan."""
        return self.judged(clip, shrink).fit in BETTER[self.verdict.fit]

    def runs(self, mode: str) -> int:
        """Calls of the model in one step, as many passes at a time as now."""
        return sum(-(-passes // self.clip.passes) for passes in calls(mode, self.clip.audio > 0))
