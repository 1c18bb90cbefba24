"""What a MODEL was published with: the row of its family."""

from __future__ import annotations

from typing import Any

import comfy.model_base
from comfy.model_patcher import ModelPatcher

from ..families import FAMILIES
from ..families.base import Family, Preset, Sampling
from ..guidance import default_settings

# For a model that no row describes, such as LTX-2: plain guidance, and what the host's KSampler starts with.
UNKNOWN = Sampling(mode="cfg", settings=default_settings("cfg"), steps=20, sampler_name="euler")


def family_of(model: ModelPatcher) -> Family | None:
    """The row of a joint model, that of Wan for a video model of its kind, None for any other model."""
    config: Any = getattr(model.model, "ccl_config", None)
    if config is not None:
        return FAMILIES[config.family]
    return FAMILIES["wan"] if isinstance(model.model, comfy.model_base.WAN21) else None


def sampling_of(model: ModelPatcher) -> Sampling:
    family = family_of(model)
    return UNKNOWN if family is None else family.sampling


def preset_of(model: ModelPatcher) -> Preset:
    """The usual size of a joint model, of Wan where its family was published in no size of its own."""
    return _presets_of(model)[0]


def longest_frames_of(model: ModelPatcher) -> int:
    """Pixel frames of the longest clips of its usual kind that a joint model was trained with."""
    own = FAMILIES[model.model.ccl_config.family].presets
    presets = _presets_of(model)
    return max(preset.frames for preset in presets if preset in own or preset is presets[0])


def _presets_of(model: ModelPatcher) -> list[Preset]:
    """The sizes of the family that fit this model, the usual one first, and those of Wan."""
    config = model.model.ccl_config
    presets = [*FAMILIES[config.family].presets, *FAMILIES["wan"].presets]
    return [preset for preset in presets if preset.video_dim in (None, config.video.dim)]


def skipped_layers_of(model: ModelPatcher) -> tuple[int, ...]:
    """What the negative passes of the family leave out, as far as this model has those layers."""
    config: Any = getattr(model.model, "ccl_config", None)
    if config is None:
        return ()
    count = max(config.video.num_layers, config.audio.num_layers)
    return tuple(layer for layer in sampling_of(model).skip_layers if layer < count)
