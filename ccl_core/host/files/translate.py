"""The keys of a file under our names, whichever family's names it has, and every quantised layer in one form.

Our names are those of JointModel: the video stream under Wan's names at the root, `audio.` + Wan's names,
`interaction.{i}.a2v.` and `interaction.{i}.v2a.`; beside them `low_noise.` + Wan's names for a second expert.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterable, Mapping

import comfy.utils
import torch
from torch import Tensor

from ...families import FAMILIES
from ...families.base import Renames
from .read import quantised_layers

# Before the keys of a model in an all-in-one file, as the host's CheckpointSave writes it.
MODEL_PREFIX = "model.diffusion_model."
# What torch's wrappers, trainers and diffusers put around a whole model.
WRAPPERS = ("module", "model", "net", "diffusion_model", "transformer", "dit", "_orig_mod")


def translate(
    tensors: Mapping[str, Tensor], name: str, metadata: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """The tensors of a file under our names, every quantised layer with `.comfy_quant`.

    name: the file's, for messages. metadata: may list quantised layers. ValueError for two keys of one
    meaning, and for weights that have no place here.
    """
    sd = bare(tensors)
    _tell_of_prefix(tensors, sd, name)
    _as_layers(sd, metadata or {}, name)
    sd = _convert_quants(sd)
    renamed: dict[str, Tensor] = {}
    for (key, ours), value in zip(our_names(sd).items(), sd.values(), strict=True):
        if ours in renamed:
            raise ValueError(
                f"{name} holds {ours} twice, under different names (one is {key}): the file is mixed up, get "
                "it again"
            )
        renamed[ours] = value
    _drop_neutral_scales(renamed, name)
    patch = renamed.get("audio.patch_embedding.weight")
    # MOVA's audio embedding is a convolution over time alone. Ours has a height and a width of 1, as Wan's.
    if patch is not None and patch.ndim == 3:
        renamed["audio.patch_embedding.weight"] = patch[..., None, None]
    return renamed


def bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file without what stands before the keys of a whole model."""
    sd = {key.removeprefix(MODEL_PREFIX): value for key, value in tensors.items()}
    # One wrapper may stand around another, such as that of torch.compile around a trainer's.
    while wrapper := _wrapper(sd):
        sd = {key.removeprefix(wrapper): value for key, value in sd.items()}
    return sd


def _tell_of_prefix(tensors: Mapping[str, Tensor], sd: Mapping[str, Tensor], name: str) -> None:
    """Log what was taken off the keys; ValueError where some stand in the file with it and without."""
    if len(sd) < len(tensors):
        key = next(key for key in tensors if MODEL_PREFIX + key in tensors)
        raise ValueError(
            f"{name} holds {key} twice, once behind {MODEL_PREFIX!r}: the file is mixed up, get it again"
        )
    stripped = [(key, ours) for key, ours in zip(tensors, sd, strict=True) if key != ours]
    if stripped:
        key, ours = stripped[0]
        logging.info(
            "%s: %r is taken off %d of %d keys", name, key.removesuffix(ours), len(stripped), len(sd)
        )


def _wrapper(keys: Collection[str]) -> str:
    """What a trainer's wrapper of a module wrote before every key; nothing where it is not before all."""
    first, _, _ = next(iter(keys), "").partition(".")
    wrapper = f"{first}."
    return wrapper if first in WRAPPERS and all(key.startswith(wrapper) for key in keys) else ""


def our_names(sd: Mapping[str, Tensor]) -> dict[str, str]:
    """Our name of each bare key of a file."""
    marked = marked_family(sd)
    families = FAMILIES.values() if marked is None else [FAMILIES[marked]]
    renames = tuple(rule for family in families for rule in family.renames_of(sd))
    root = "audio." if _is_audio_at_root(sd) else ""
    return {key: rename(root + key, renames) for key in sd}


def marked_family(keys: Iterable[str]) -> str | None:
    """The family whose published names the interaction's keys have."""
    names = list(keys)
    marked = {name: family.mark for name, family in FAMILIES.items() if family.mark is not None}
    for name, mark in marked.items():
        if any(re.search(mark, key) for key in names):
            return name
    return None


def rename(key: str, renames: Renames | None = None) -> str:
    """A published key, with the prefix of its part, under our name. renames: None tries all families."""
    if renames is None:
        renames = tuple(rule for family in FAMILIES.values() for rule in family.renames_of([key]))
    for pattern, name in renames:
        key = re.sub(pattern, name, key)
    return key


def _is_audio_at_root(sd: Mapping[str, Tensor]) -> bool:
    """Whether the file is an audio stream alone, with Wan's names at the root."""
    patch = sd.get("patch_embedding.weight")
    return "patch_embedding.2.w1.weight" in sd or (
        "head.modulation" in sd and patch is not None and patch.ndim == 3
    )


def _as_layers(sd: dict[str, Tensor], metadata: Mapping[str, str], name: str) -> None:
    """Put what the metadata says of quantised layers beside their weights, under `.comfy_quant`."""
    for layer, entry in quantised_layers(metadata, name).items():
        layer = layer.removeprefix(MODEL_PREFIX)
        # The list of an all-in-one file names the layers of its text encoder too.
        if f"{layer}.weight" in sd:
            sd[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(entry).encode()), dtype=torch.uint8)


def _convert_quants(sd: dict[str, Tensor]) -> dict[str, Tensor]:
    """The host's conversion of scaled fp8 from before `.comfy_quant`, for the whole and each marked part."""
    # Such files have a tensor `scaled_fp8` as their mark, and `scale_weight` beside each weight.
    for mark in [key for key in sd if key == "scaled_fp8" or key.endswith(".scaled_fp8")]:
        sd, _ = comfy.utils.convert_old_quants(sd, mark.removesuffix("scaled_fp8"))
    return sd


def _drop_neutral_scales(sd: dict[str, Tensor], name: str) -> None:
    """Drop the strength of a bridge, which is 1 where it was not trained; ValueError for another."""
    for key in [key for key in sd if key == "condition_scale" or key.endswith(".condition_scale")]:
        strength = sd.pop(key).float()
        if not torch.all(strength == 1):
            raise ValueError(
                f"{name}: {key} is {strength.flatten().tolist()}, wanted 1: "
                "bridges with a trained strength are not supported. Use the published bridge"
            )
