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

from ...config import InteractionConfig
from ...families import FAMILIES
from ...families.base import LoraNames
from ...notices import notice
from ..base_model import CCLModel
from ..experts import low_noise_of, with_low_noise
from .read import SAFETENSORS, read_tensors, require_readable

BOTH = "both"
HIGH = "high noise"
LOW = "low noise"
EXPERTS = (BOTH, HIGH, LOW)
# Before the target of a name that means one expert alone.
TARGETS = {HIGH: "high_noise.", LOW: "low_noise."}
# Before the keys of the host's BaseModel, which a patcher patches.
MODEL = "diffusion_model."
# What trainers write before the name of a weight: "" is DiffSynth's, "transformer." diffusers', and
# "base_model.model." PEFT's.
PREFIXES = ("", "diffusion_model.", "model.diffusion_model.", "model.", "transformer.", "base_model.model.")
# The same before a name with underscores for dots: kohya's and musubi's, OneTrainer's, LyCORIS's.
FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")
# The first prefix that fits a weight names its part; the empty one of Wan's own names fits all.
PARTS = {"audio.": "audio", "interaction.": "coupling", "": "video"}
# PEFT puts the adapter's name before ".weight", and MOVA's trainer leaves ".weight" out.
DOWN = re.compile(r"\.lora_A(\.default)?(\.weight)?$")

# What trainers call the two halves of a pair: LoRA's, diffusers' older ones, LoHa's and LoKr's.
HALVES = (
    ("lora_A", "lora_B"),
    ("lora_down", "lora_up"),
    ("lora.down", "lora.up"),
    ("lora_linear_layer.down", "lora_linear_layer.up"),
    ("hada_w1_a", "hada_w1_b"),
    ("hada_w2_a", "hada_w2_b"),
    ("lokr_w1_a", "lokr_w1_b"),
    ("lokr_w2_a", "lokr_w2_b"),
)

# What the host reads of a name besides the tensors of an adapter.
BESIDE = ("alpha", "dora_scale", "w_norm", "b_norm", "diff", "diff_b", "set_weight")
# Modulations in files of lightx2v, which the host leaves out on every model: nothing that a person can mend.
NEVER_READ = ".diff_m"


@dataclass(frozen=True)
class Strengths:
    """The factor of a LoRA in each part of the model; at 0 the weights of the part stay as they are."""

    video: float = 1.0
    audio: float = 1.0
    coupling: float = 1.0


def apply_lora(patcher: ModelPatcher, path: str, strengths: Strengths, expert: str = BOTH) -> ModelPatcher:
    """The MODEL with a LoRA file on it, as a clone; the model itself where every strength is 0.

    expert: which video expert of a model with two takes the video part, one of EXPERTS. ValueError where the
    model is of another kind, the file is no safetensors file, or nothing in it fits.
    """
    if not any(astuple(strengths)):
        return patcher
    low = _low_noise_of(patcher, expert)
    lora, metadata = read_lora(path)
    name = os.path.basename(path)
    patches = find_patches(patcher.model, lora, metadata, name, low is not None)
    of_high = _for_expert(patches, HIGH, expert)
    of_low = _for_expert(patches, LOW, expert)
    if not (of_high or of_low):
        raise ValueError(
            f"{name} is for the other video expert than {expert!r}: choose {BOTH!r} as the expert"
        )
    patched = patcher.clone()
    _add_patches(patched, of_high, strengths)
    # The low-noise expert is a patcher of its own, which hangs on the other as an attachment.
    if low is not None and of_low:
        low = low.clone()
        _add_patches(low, of_low, strengths)
        with_low_noise(patched, low)
    if metadata:
        # Where the host's `load_lora_for_models` puts it.
        patched.set_attachments("lora_metadata", metadata)
    return patched


def _low_noise_of(patcher: ModelPatcher, expert: str) -> ModelPatcher | None:
    """The low-noise expert, None where the joint model has one; ValueError if `expert` is not there."""
    if not isinstance(patcher.model, CCLModel):
        raise ValueError(
            f"model: got {type(patcher.model).__name__}, which has no audio stream and no coupling: "
            "load a joint model, or use Load LoRA"
        )
    low = low_noise_of(patcher)
    if low is None and expert != BOTH:
        raise ValueError(f"expert: got {expert!r}, but this model has one video expert: choose {BOTH!r}")
    return low


def read_lora(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. The last two are kept; a changed one is read again."""
    if not path.lower().endswith(SAFETENSORS):
        raise ValueError(
            f"{os.path.basename(path)} is not a safetensors file, and other formats can run code when they "
            "are loaded. Where you trust it, read it with torch's weights_only=True and write its tensors "
            "(of MOVA's files the entry lora_state_dict, and its alpha as metadata) with "
            "safetensors.torch.save_file"
        )
    require_readable(path)
    return _read(path, os.path.getmtime(path))


# Two files: LoRAs for two video experts come as a pair. `changed` tells a file that was saved again.
@lru_cache(maxsize=2)
def _read(path: str, changed: float) -> tuple[dict[str, Tensor], dict[str, str]]:  # noqa: ARG001
    return read_tensors(path)


def find_patches(
    model: CCLModel, lora: dict[str, Tensor], metadata: dict[str, str], name: str, experts: bool = False
) -> dict[str, Any]:
    """The host's patches by target (see `key_map`). A notice tells how much is for no weight of it."""
    _check_pairs(lora, name)
    converted = comfy.lora_convert.convert_lora(_with_alpha(lora, metadata, name))
    names = key_map(model, experts)
    patches = comfy.lora.load_lora(converted, names)
    if not patches:
        raise ValueError(
            f"{name} holds {len(lora)} tensors such as {min(lora)}, and none is for a weight of this "
            "model. Wanted: a LoRA for this model or for the Wan model it is made of, with names such as "
            "diffusion_model.blocks.0.self_attn.q.lora_A.weight. Choose another file"
        )
    left = [*_unread(converted, patches, names), *_unfit(patches, model.state_dict(), name)]
    if left:
        notice(
            f"{name}: {len(left)} of its tensors fit no weight of this model and are left out, the first is "
            f"{left[0]}. What fits is used. The LoRA may be for another model, or for more than this one has"
        )
    return patches


def _unread(lora: dict[str, Tensor], patches: dict[str, Any], names: dict[str, str]) -> list[str]:
    """The keys that the host made no patch of; its log names each, and those that it never reads."""
    read = {f"{name}.{what}" for name in names for what in BESIDE}
    for patch in patches.values():
        # Differences are tuples, and their keys are those above.
        read |= set(getattr(patch, "loaded_keys", ()))
    return [key for key in lora if key not in read and not key.endswith(NEVER_READ)]


def _check_pairs(lora: dict[str, Tensor], name: str) -> None:
    """ValueError where one half of a pair is missing: the host leaves such a pair out."""
    halves = [found for one, other in HALVES for found in _lonely(lora, one, other)]
    if halves:
        key, missing = halves[0]
        raise ValueError(
            f"{name} holds half of {len(halves)} of its pairs: {key} without {missing}. "
            "The file is incomplete, download or save it again"
        )


def _lonely(lora: dict[str, Tensor], one: str, other: str) -> Iterator[tuple[str, str]]:
    """Pairs (key, missing key) of the halves `one` and `other`."""
    for here, there in ((one, other), (other, one)):
        # PEFT's trained bias of a layer stands beside one half alone.
        keys = [key for key in lora if here in key and not key.endswith(".bias")]
        partners = {key: key.replace(here, there) for key in keys}
        yield from ((key, partner) for key, partner in partners.items() if partner not in lora)


def key_map(model: CCLModel, experts: bool = False) -> dict[str, str]:
    """Every name a LoRA file may have for a weight -> that weight's key, for the host's `load_lora`.

    Names are the host's for Wan, those of the trainers of every family and our own. `experts`: the model has
    two video experts, and the target of a name that means one of them starts with TARGETS of that expert.
    """
    names = comfy.lora.model_lora_keys_unet(model, {})
    interaction = model.ccl_config.interaction
    for key in model.state_dict():
        # `load_lora` finds a bias (".diff_b") by the name of its weight. A modulation is a bare parameter.
        if key.startswith(MODEL) and key.endswith((".weight", "modulation")):
            names |= _targets(key, interaction, experts)
    return names


def _targets(key: str, interaction: InteractionConfig, experts: bool) -> dict[str, str]:
    """Every name a LoRA file may have for one weight -> the target of its patch."""
    targets: dict[str, str] = {}
    for expert, name in _names(key.removeprefix(MODEL).removesuffix(".weight"), interaction, experts):
        flat = name.replace(".", "_")
        targets |= {prefix + name: expert + key for prefix in PREFIXES}
        targets |= {prefix + flat: expert + key for prefix in FLAT_PREFIXES}
    return targets


def _names(stem: str, interaction: InteractionConfig, experts: bool) -> Iterator[tuple[str, str]]:
    """Pairs for one weight: the expert's prefix of the target, and a name without the trainer's prefix."""
    yield "", stem
    part = _part(stem)
    if part == "coupling":
        # interaction.3.a2v.q: families with one coupling have its weights.
        _, layer, direction, weight = stem.split(".", 3)
        same = [known for known in FAMILIES.values() if known.coupling == interaction.kind]
        for known in same:
            yield from (("", name) for name in known.lora.of_coupling(layer, direction, weight))
        return
    coupled = len(interaction.layers)
    # A LoRA for the towers of one family may be wanted on those of another.
    for known in FAMILIES.values():
        if part == "audio":
            yield from _audio_names(stem.removeprefix("audio."), known.lora, coupled)
        else:
            yield from _video_names(stem, known.lora, experts, coupled)


def _audio_names(stem: str, lora: LoraNames, coupled: int) -> Iterator[tuple[str, str]]:
    yield from (("", prefix + lora.of_tower(stem)) for prefix in lora.audio)
    in_joint = lora.of_joint_block("audio", stem, coupled)
    if in_joint is not None:
        yield "", in_joint


def _video_names(stem: str, lora: LoraNames, experts: bool, coupled: int) -> Iterator[tuple[str, str]]:
    first = TARGETS[HIGH] if experts and lora.low_noise else ""
    yield from ((first, prefix + lora.of_tower(stem)) for prefix in lora.video)
    in_joint = lora.of_joint_block("video", stem, coupled)
    if in_joint is not None:
        yield first, in_joint
    if experts:
        yield from ((TARGETS[LOW], prefix + lora.of_tower(stem)) for prefix in lora.low_noise)


def _part(stem: str) -> str:
    return next(part for prefix, part in PARTS.items() if stem.startswith(prefix))


def _with_alpha(lora: dict[str, Tensor], metadata: dict[str, str], name: str) -> dict[str, Tensor]:
    """The tensors with one alpha beside each pair, as the host wants them.

    MOVA's trainer states one alpha for the whole file.
    """
    if "alpha" not in metadata:
        return dict(lora)
    try:
        alpha = torch.tensor(float(metadata["alpha"]))
    except ValueError as error:
        raise ValueError(
            f"{name} has the alpha {metadata['alpha']!r} in its metadata, wanted a number: convert it again"
        ) from error
    parts = [part for family in FAMILIES.values() for part in family.lora.whole_file_alpha]
    stems = [DOWN.sub("", key) for key in lora if DOWN.search(key) and _holds_any(key, parts)]
    # An alpha that stands beside its pair counts more than that of the file.
    return {f"{stem}.alpha": alpha for stem in stems} | lora


def _holds_any(key: str, parts: list[str]) -> bool:
    return any(part in key for part in parts)


def _unfit(patches: dict[str, Any], weights: dict[str, Tensor], name: str) -> list[str]:
    """Weights that this model lacks or has in another size, of which the host logs an error in the run.

    ValueError for a LoRA of a model of another width, of which no weight fits.
    """
    keys = {
        key.removeprefix(TARGETS[HIGH]).removeprefix(TARGETS[LOW]): patch for key, patch in patches.items()
    }
    absent = [key for key in keys if key not in weights]
    # The first dimension only: quantised weights may be packed along the others.
    rows = {key: patch.weights[0].shape[0] for key, patch in keys.items() if isinstance(patch, LoRAAdapter)}
    other = [key for key, found in rows.items() if found != weights[key].shape[0]]
    # One weight that fits is enough, as for the host: a LoRA may be for more than this model has.
    if other and len(other) == len(rows):
        key = other[0]
        raise ValueError(
            f"{name} is for a model of another size: {key.removeprefix(MODEL)} has {rows[key]} rows in it "
            f"and {weights[key].shape[0]} in this model. Wanted: a LoRA for this model or for the Wan model "
            "it is made of, choose another file"
        )
    return absent + other


def _for_expert(patches: dict[str, Any], which: str, chosen: str) -> dict[str, Any]:
    """The patches for one expert's patcher (`which`). chosen: the expert that takes the video part."""
    found = {}
    for target, patch in patches.items():
        key = target.removeprefix(TARGETS[which])
        # A target of the other expert still begins with that expert's prefix.
        if not key.startswith(MODEL):
            continue
        video = _part(key.removeprefix(MODEL)) == "video"
        # Both experts share the tensors of audio and coupling, which the high-noise expert's patcher patches.
        wanted = chosen in (BOTH, which) if video else which == HIGH
        if wanted:
            found[key] = patch
    return found


def _add_patches(patcher: ModelPatcher, patches: dict[str, Any], strengths: Strengths) -> None:
    for part, strength in asdict(strengths).items():
        chosen = {key: patch for key, patch in patches.items() if _part(key.removeprefix(MODEL)) == part}
        if not (strength and chosen):
            continue
        placed = patcher.add_patches(chosen, strength)
        for key in chosen.keys() - set(placed):
            # The words of the host's `load_lora_for_models`, which people search for.
            logging.warning("NOT LOADED %s", key)
