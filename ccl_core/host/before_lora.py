"""The weights that a MODEL had before its LoRA, for some passes in a run of the MODEL with it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import comfy.model_management
from comfy.model_patcher import ModelPatcher

from .both_experts import SHARED, low_noise_of


class BeforeLora:
    """The video of a run as the model before its LoRA would have it; audio and coupling keep theirs.

    before: a MODEL of the same file. ValueError for another one.
    """

    def __init__(self, before: ModelPatcher, guider: Any) -> None:
        if not before.is_clone(guider.model_patcher):
            raise ValueError(
                "model_without_lora is another model than that of the guider: connect the same one, from "
                "in front of its LoRA loader"
            )
        self.before, self.patcher = before, guider.model_patcher
        self.known: dict[str | None, ModelPatcher] = {}

    @contextlib.contextmanager
    def loaded(self, experts: Any) -> Iterator[None]:
        """In the place of the expert that is active, or of the one that there is."""
        name, active = (None, self.patcher) if experts is None else (experts.name, experts.active)
        if name not in self.known:
            own = low_noise_of(self.before) if name == "low" else self.before
            self.known[name] = _with_video_of(own, active)
        _load(self.known[name], experts)
        try:
            yield
        finally:
            _load(active, experts)


def _with_video_of(before: ModelPatcher, active: ModelPatcher) -> ModelPatcher:
    """A clone of a patcher whose video has the patches of another one."""
    made = active.clone()
    shared = {key: value for key, value in active.patches.items() if key.startswith(SHARED)}
    own = {key: list(value) for key, value in before.patches.items() if not key.startswith(SHARED)}
    made.patches = own | shared
    # The host tells weights apart by it.
    made.patches_uuid = uuid.uuid5(before.patches_uuid, str(active.patches_uuid))
    # Of LoRA loaders that leave the weights alone.
    made.injections = before.injections
    return made


def _load(patcher: ModelPatcher, experts: Any) -> None:
    comfy.model_management.load_models_gpu([patcher])
    patcher.pre_run()
    if experts is not None:
        experts.loaded()
