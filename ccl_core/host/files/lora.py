"""LoRA files on a joint model: which name means which weight, and a strength for each part.

The adapters themselves (LoRA, LoHa, LoKr, DoRA, full differences...) and their arithmetic are the host's.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache
from typing import Any

import comfy.lora
import comfy.lora_convert
import torch
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ...families import FAMILIES, Family
from ...families.base import LoraNames
from ..base_model import CCLModel
from ..experts import low_noise_of, with_low_noise
from .read import SAFETENSORS, read_tensors

BOTH, HIGH, LOW = EXPERTS = ("both", "high noise", "low noise")
# Before the target of a name that means one expert alone.
TARGETS = {HIGH: "high_noise.", LOW: "low_noise."}
MODEL = "diffusion_model."
# What trainers write before the name of a weight, as it stands or with underscores for its dots.
PREFIXES = ("", "diffusion_model.", "model.diffusion_model.", "model.", "transformer.", "base_model.model.")
FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")
PARTS = {"audio.": "audio", "interaction.": "coupling", "": "video"}
DOWN = re.compile(r"\.lora_A(\.default)?(\.weight)?$")


@dataclass(frozen=True)
class Strengths:
    """The factor of a LoRA in each part of the model; at 0 the weights of the part stay as they are."""

    video: float = 1.0
    audio: float = 1.0
    coupling: float = 1.0


def apply_lora(patcher: ModelPatcher, path: str, strengths: Strengths, expert: str = BOTH) -> ModelPatcher:
    """The MODEL with a LoRA file on it, as a clone; the model itself where every strength is 0.

    expert: which video expert of a model with two takes the video part, one of EXPERTS. Raises ValueError if the model
    is of another kind, the file no safetensors, or nothing in it fits.
    """
    if not any(astuple(strengths)):
        return patcher
    if not isinstance(patcher.model, CCLModel):
        raise ValueError(
            f"model: got {type(patcher.model).__name__}, which has no audio stream and no coupling: "
            "load a joint model, or use Load LoRA"
        )
    low = low_noise_of(patcher)
    if low is None and expert != BOTH:
        raise ValueError(f"expert: got {expert!r}, but this model has one video expert: choose {BOTH!r}")
    lora, metadata = read_lora(path)
    name = os.path.basename(path)
    patches = find_patches(patcher.model, lora, metadata, name, low is not None)
    own, others = (_for_expert(patches, which, expert) for which in (HIGH, LOW))
    if not (own or others):
        raise ValueError(f"{name} is for the other video expert than {expert!r}: choose {BOTH!r} as the expert")
    patched = patcher.clone()
    _add_patches(patched, own, strengths)
    if low is not None and others:
        low = low.clone()
        _add_patches(low, others, strengths)
        with_low_noise(patched, low)
    if metadata:
        patched.set_attachments("lora_metadata", metadata)
    return patched


def read_lora(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. The last two files are kept; a changed one is read again."""
    if not path.lower().endswith(SAFETENSORS):
        raise ValueError(
            f"{os.path.basename(path)} is not a safetensors file, and other formats can run code when they are loaded. "
            "Where you trust it, read it with torch's weights_only=True and write its tensors (of MOVA's files the "
            "entry lora_state_dict, and its alpha as metadata) with safetensors.torch.save_file"
        )
    return _read(path, os.path.getmtime(path))


@lru_cache(maxsize=2)
def _read(path: str, changed: float) -> tuple[dict[str, Tensor], dict[str, str]]:  # noqa: ARG001 - part of the key
    return read_tensors(path)


def find_patches(
    model: CCLModel, lora: dict[str, Tensor], metadata: dict[str, str], name: str, experts: bool = False
) -> dict[str, Any]:
    """The host's patches by target (see `key_map`). The log names the keys that mean no weight of this model."""
    converted = comfy.lora_convert.convert_lora(_with_alpha(lora, metadata, name))
    patches = comfy.lora.load_lora(converted, key_map(model, experts))
    if not patches:
        raise ValueError(
            f"{name} holds {len(lora)} tensors such as {min(lora)}, and none is for a weight of this "
            "model. Wanted: a LoRA for this model or for the Wan model it is made of, with names such as "
            "diffusion_model.blocks.0.self_attn.q.lora_A.weight. Choose another file"
        )
    _check_size(patches, model.state_dict(), name)
    return patches


def key_map(model: CCLModel, experts: bool = False) -> dict[str, str]:
    """Every name a LoRA file may have for a weight -> that weight's key, for the host's `load_lora`.

    Names are the host's for Wan, those of the trainers of every family and our own. `experts`: the model has
    two video experts, and the target of a name that means one of them starts with TARGETS of that expert.
    """
    names = comfy.lora.model_lora_keys_unet(model, {})
    family = FAMILIES[model.ccl_config.family]
    for key in model.state_dict():
        if key.startswith(MODEL) and key.endswith((".weight", "modulation")):
            stem = key.removeprefix(MODEL).removesuffix(".weight")
            for expert, name in _names(stem, family, experts):
                names |= {prefix + name: expert + key for prefix in PREFIXES}
                names |= {prefix + name.replace(".", "_"): expert + key for prefix in FLAT_PREFIXES}
    return names


def _names(stem: str, family: Family, experts: bool) -> Iterator[tuple[str, str]]:
    """(expert prefix of the target, name without the trainer's prefix) of one weight of a model of the family."""
    yield "", stem
    part = _part(stem)
    if part == "coupling":
        _, layer, direction, weight = stem.split(".", 3)
        yield from (("", name) for name in family.lora.of_coupling(layer, direction, weight))
        return
    # A LoRA for the towers of one family may be wanted on those of another.
    for known in FAMILIES.values():
        if part == "audio":
            yield from _audio_names(stem.removeprefix("audio."), known.lora)
        else:
            yield from _video_names(stem, known.lora, experts)


def _audio_names(stem: str, lora: LoraNames) -> Iterator[tuple[str, str]]:
    yield from (("", prefix + lora.of_tower(stem)) for prefix in lora.audio)


def _video_names(stem: str, lora: LoraNames, experts: bool) -> Iterator[tuple[str, str]]:
    first = TARGETS[HIGH] if experts and lora.low_noise else ""
    yield from ((first, prefix + lora.of_tower(stem)) for prefix in lora.video)
    if experts:
        yield from ((TARGETS[LOW], prefix + lora.of_tower(stem)) for prefix in lora.low_noise)


def _part(stem: str) -> str:
    return next(part for prefix, part in PARTS.items() if stem.startswith(prefix))


def _with_alpha(lora: dict[str, Tensor], metadata: dict[str, str], name: str) -> dict[str, Tensor]:
    """Some trainers keep one alpha for the whole file; the host looks for one beside each pair."""
    if "alpha" not in metadata:
        return dict(lora)
    try:
        alpha = torch.tensor(float(metadata["alpha"]))
    except ValueError as error:
        raise ValueError(
            f"{name} has the alpha {metadata['alpha']!r} in its metadata, wanted a number: convert it again"
        ) from error
    parts = [part for family in FAMILIES.values() for part in family.lora.whole_file_alpha]
    stems = {DOWN.sub("", key) for key in lora if DOWN.search(key) and any(part in key for part in parts)}
    return {f"{stem}.alpha": alpha for stem in stems} | lora


def _check_size(patches: dict[str, Any], weights: dict[str, Tensor], name: str) -> None:
    """Refuse a LoRA for a model of another width, of which the host would patch nothing but write an error per weight.

    First dimensions only: quantised weights may be packed along the others.
    """
    rows = [
        (target.removeprefix(TARGETS[HIGH]).removeprefix(TARGETS[LOW]), patch.weights[0].shape[0])
        for target, patch in patches.items()
        if isinstance(patch, LoRAAdapter)
    ]
    if rows and all(found != weights[key].shape[0] for key, found in rows):
        key, found = rows[0]
        raise ValueError(
            f"{name} is for a model of another size: {key.removeprefix(MODEL)} has {found} rows in it and "
            f"{weights[key].shape[0]} in this model. Wanted: a LoRA for this model or the Wan model it is made of"
        )


def _for_expert(patches: dict[str, Any], which: str, chosen: str) -> dict[str, Any]:
    """The patches of one expert's patcher; those of audio and coupling, which both share, are the high-noise one's."""
    found = {}
    for target, patch in patches.items():
        key = target.removeprefix(TARGETS[which])
        video = _part(key.removeprefix(MODEL)) == "video"
        if key.startswith(MODEL) and (chosen in (BOTH, which) if video else which == HIGH):
            found[key] = patch
    return found


def _add_patches(patcher: ModelPatcher, patches: dict[str, Any], strengths: Strengths) -> None:
    for part, strength in asdict(strengths).items():
        chosen = {key: patch for key, patch in patches.items() if _part(key.removeprefix(MODEL)) == part}
        if strength and chosen:
            for key in chosen.keys() - set(patcher.add_patches(chosen, strength)):
                logging.warning("NOT LOADED %s", key)
