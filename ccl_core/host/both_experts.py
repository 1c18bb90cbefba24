"""A MODEL whose low-noise expert is there by key too, for nodes that merge, save and extract.

The low-noise expert is a second patcher that hangs on the first as an attachment (experts.py), and the host's
nodes know one patcher. Here that patcher shows the weights that the other has of its own, under keys with a
`low_noise` in them, and hands on what is done to these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import comfy.utils
import torch
from comfy.model_patcher import (
    LazyCastingParam,
    LazyCastingParamPiece,
    LazyCastingQuantizedParam,
    ModelPatcher,
)
from comfy.quant_ops import QuantizedTensor
from torch import Tensor

KEY = "ccl_low_noise"
MODEL = "diffusion_model."
SHARED = ("diffusion_model.audio.", "diffusion_model.interaction.")
MARK = "low_noise"
Callbacks = comfy.patcher_extension.CallbacksMP


@dataclass(frozen=True)
class LowNoise:
    """The attachment: the expert for sigmas below the boundary.

    compiled: what compiles this expert, by the wrapper that compiles the other one; one entry, kept between
    runs.
    """

    patcher: ModelPatcher
    boundary: float
    compiled: dict[Callable[..., Any], Callable[..., Any]] = field(default_factory=dict)


def low_noise_of(patcher: ModelPatcher) -> ModelPatcher | None:
    """The low-noise expert of a MODEL, None for a MODEL with one expert. Clone it before you change it."""
    attached = patcher.get_attachment(KEY)
    return None if attached is None else attached.patcher


def with_low_noise(patcher: ModelPatcher, low: ModelPatcher) -> ModelPatcher:
    """Give a clone of a MODEL with two experts a changed clone of its low-noise expert; returns the clone."""
    patcher.set_attachments(KEY, replace(patcher.get_attachment(KEY), patcher=low))
    return patcher


def show_both(patcher: ModelPatcher) -> None:
    """Let a MODEL show both experts by key, and every clone of it."""
    patcher.__class__ = _showing_both(type(patcher))
    # Nodes find the module of a key by its path. No child of the module: the host would load both at once.
    low = low_noise_of(patcher).model.diffusion_model
    patcher.model.diffusion_model.__dict__[MARK] = low
    if not patcher.get_callbacks(Callbacks.ON_CLONE, KEY):
        patcher.add_callback_with_key(Callbacks.ON_CLONE, KEY, _show_both_of_clone)


def _show_both_of_clone(patcher: ModelPatcher, clone: ModelPatcher) -> None:  # noqa: ARG001 - the host's callback
    # A clone without dynamic VRAM is of another class, and of a model of its own.
    show_both(clone)


@cache
def _showing_both(kind: type[ModelPatcher]) -> type[ModelPatcher]:
    return kind if issubclass(kind, BothExperts) else type(kind.__name__, (BothExperts, kind), {})


class BothExperts:
    """The methods of a ModelPatcher that go by key.

    Patches of a weight of the low-noise expert have its key with `low_noise` before the last name, so that
    what chooses a strength by the beginning of a key (ModelMergeWAN2_1) treats both experts alike.
    """

    def add_patches(self, patches: Mapping[Any, Any], *strengths: Any, **named: Any) -> list[Any]:
        theirs = {key: _key_in_low(key) for key in patches}
        high = {key: value for key, value in patches.items() if theirs[key] is None}
        placed = super().add_patches(high, *strengths, **named)
        low = {theirs[key]: value for key, value in patches.items() if theirs[key] is not None}
        if not low:
            return placed
        found = self._own_low().add_patches(low, *strengths, **named)
        return placed + [key for key, own in theirs.items() if own in found]

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, list[Any]]:
        high = super().get_key_patches(filter_prefix)
        low = low_noise_of(self).get_key_patches(filter_prefix)
        found = {key: value for key, value in high.items() if _key_in_low(key) is None}
        return found | {_marked(key): low[key] for key in _own_keys(low)}

    def model_state_dict(self, filter_prefix: str | None = None) -> dict[str, Tensor]:
        low = low_noise_of(self)
        # Values with the patches of another clone of it.
        if low.model.current_weight_patches_uuid not in (None, low.patches_uuid):
            comfy.model_management.unload_model_and_clones(low)
        theirs = low.model_state_dict(filter_prefix)
        own = {f"{MODEL}{MARK}.{key.removeprefix(MODEL)}": theirs[key] for key in _own_keys(theirs)}
        return super().model_state_dict(filter_prefix) | own

    def patch_weight_to_device(self, key: str, *args: Any, **kwargs: Any) -> Any:
        own = _key_in_low(key)
        if own is None:
            return super().patch_weight_to_device(key, *args, **kwargs)
        return low_noise_of(self).patch_weight_to_device(own, *args, **kwargs)

    def model_state_dict_for_saving(
        self, model: torch.nn.Module | None = None, prefix: str = ""
    ) -> dict[str, Tensor]:
        high = super().model_state_dict_for_saving(model, prefix)
        low = _weights_to_save(low_noise_of(self))
        return high | {f"{MARK}.{key}": value for key, value in low.items()}

    def _own_low(self) -> ModelPatcher:
        """The low-noise expert, for changes: a clone has that of its original until then."""
        low = low_noise_of(self)
        if self.__dict__.get("ccl_own_low") is not low:
            low = low.clone()
            with_low_noise(self, low)
            self.ccl_own_low = low
        return low


class _Piece(LazyCastingParamPiece):
    """A part of a quantised weight that is patched as it is written; the host's own cannot hold integers."""

    def __new__(cls, caster: LazyCastingQuantizedParam, key: str, tensor: Tensor) -> _Piece:  # noqa: ARG004
        return torch.nn.Parameter.__new__(cls, tensor, requires_grad=False)


def _weights_to_save(low: ModelPatcher) -> dict[str, Tensor]:
    """The weights that the low-noise expert has of its own, by our names, with its patches.

    They are patched one by one as they are written: the host has made room for the other expert.
    """
    comfy.model_management.unload_model_and_clones(low)
    plain = low.model.diffusion_model.state_dict()
    made = {key: plain[key.removeprefix(MODEL)] for key in _own_keys(map(MODEL.__add__, plain))}
    for key in _own_keys(low.patches):
        # Of a block's bare parameters the host runs and writes the original.
        if key.endswith((".weight", ".bias")):
            made.update(_patched(low, key, made))
    return {key.removeprefix(MODEL): value for key, value in made.items()}


def _patched(low: ModelPatcher, key: str, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A weight, or the parts of a quantised one, that the host patches when it is written."""
    weight = comfy.utils.get_attr(low.model, key)
    if not isinstance(weight, QuantizedTensor):
        return {key: LazyCastingParam(low, key, weight)}
    caster = LazyCastingQuantizedParam(low, key)
    return {part: _Piece(caster, part, plain[part]) for part in weight.state_dict(key) if part in plain}


def _own_keys(keys: Iterable[str]) -> list[str]:
    """Keys of the video stream, which is each expert's own."""
    return [key for key in keys if key.startswith(MODEL) and not key.startswith(SHARED)]


def _marked(key: str) -> str:
    *path, name = key.split(".")
    return ".".join((*path, MARK, name))


def _key_in_low(key: Any) -> Any:
    """The low-noise expert's key for one that names that expert, anywhere; None for another one."""
    # A patch of a part of a weight has a key of the name, the part, and a function of it.
    if isinstance(key, tuple):
        own = _key_in_low(key[0])
        return None if own is None else (own, *key[1:])
    names = key.split(".")
    if MARK not in names:
        return None
    names.remove(MARK)
    return ".".join(names)
