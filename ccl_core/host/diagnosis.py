"""Why a model predicts NaN, looked for at the first pass of a run and at its end, before a decoder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from .files.values import all_finite, not_finite

FP16 = "it computes in fp16, whose range its values exceed: choose bf16 or default as weight_dtype"
OTHER = (
    "inputs and weights are finite, so a patch of the model or an attention kernel made it: take patches "
    "off, or start ComfyUI with --use-pytorch-cross-attention"
)

BETWEEN = (
    "every pass predicts numbers from numbers, so guidance, the sampler or a patch around a pass made it: "
    "choose lower scales or another sampler, or take guidance patches off"
)


@dataclass
class Watch:
    """Whether each pass of a run was given numbers and made numbers.

    notes: the model of a pass; its sigma and both answers as 0 or 1, (3,), read at the end of the run alone.
    """

    notes: list[tuple[Any, Tensor]] = field(default_factory=list)

    def note(self, model: Any, sigma: Tensor, given: Tensor, made: Tensor) -> None:
        answers = [torch.isfinite(value).all().to(sigma) for value in (given, made)]
        self.notes.append((model, torch.stack([sigma.max(), *answers])))


def require_finite_prediction(prediction: Tensor, model: Any, given: Mapping[str, Any]) -> None:
    """ValueError with the likeliest cause where a prediction holds NaN or infinity.

    model: the host's, which has just run. given: its inputs by name.
    """
    if not all_finite(prediction):
        raise ValueError(
            f"the model predicts NaN or infinity, so nothing can come of this run: {_cause(model, given)}"
        )


def require_finite_result(samples: Tensor, watch: Watch) -> None:
    """ValueError with the first pass that failed, and the likeliest cause, where the result is not finite."""
    if not all_finite(samples):
        raise ValueError(f"the run ends in NaN or infinity: {_first_fault(watch)}")


def _first_fault(watch: Watch) -> str:
    for number, (model, note) in enumerate(watch.notes, 1):
        sigma, given, made = note.tolist()
        where = f"pass {number} of {len(watch.notes)}, at noise level {sigma:.3g}, "
        if not given:
            return f"{where}is the first that is given it, and {BETWEEN}"
        if not made:
            return f"{where}is the first that predicts it. {_cause(model, {})}"
    return BETWEEN


def _cause(model: Any, given: Mapping[str, Any]) -> str:
    # What was given, what was added to the weights, then the weights: each makes the next look broken.
    broken = [name for name, value in given.items() if isinstance(value, Tensor) and not all_finite(value)]
    if broken:
        return (
            f"its input {broken[0]} holds them already. Make it again, with a text encoder or VAE that is "
            "whole"
        )
    patched = [key for key, values in _patches(model) if not_finite(values)]
    if patched:
        return f"a LoRA holds them for {patched[0]}. Choose another LoRA, or download it again"
    damaged = not_finite(model.diffusion_model.state_dict())
    if damaged:
        return (
            f"{len(damaged)} weights of {_files(model)} hold them, the first is {damaged[0]}. "
            "The file is damaged, download it again"
        )
    computed = model.manual_cast_dtype or model.get_dtype()
    return FP16 if computed is torch.float16 else OTHER


def _patches(model: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The tensors of each patch by the key of its weight."""
    patches = getattr(model.current_patcher, "patches", {})
    for key, entries in patches.items():
        for entry in entries:
            # An entry is (strength, adapter or tuple of tensors, ...).
            values = getattr(entry[1], "weights", entry[1])
            held = values if isinstance(values, tuple | list) else [values]
            yield key, {str(i): value for i, value in enumerate(held) if isinstance(value, Tensor)}


def _files(model: Any) -> str:
    """The files of a model, as its patcher builds it again."""
    made = getattr(model.current_patcher, "cached_patcher_init", None)
    if made is None:
        return "the model"
    paths = [path for path in asdict(made[1][0]).values() if path is not None]
    return ", ".join(os.path.basename(path) for path in paths)
