"""LoRA files on a joint model: which name means which weight, and a strength for each part (design section 8).

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
MOVA = ("video_dit.", "video_dit_2.", "audio_dit.", "dual_tower_bridge.")
# Public names of the couplings, by weight. Ovi keeps them in the blocks of the stream that asks.
FUSION = {"k": "k_fusion", "v": "v_fusion", "norm_y": "pre_attn_norm_fusion", "norm_k": "norm_k_fusion"}
FUSION_STREAMS = {"a2v": ("", "video_model."), "v2a": ("audio_model.",)}
BRIDGE_SIDES = {"a2v": "audio_to_video_conditioners", "v2a": "video_to_audio_conditioners"}
# Names of diffusers' WanTransformer3DModel, by Wan's; those of a block after its number.
DIFFUSERS = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
DIFFUSERS_BLOCK = {
    f"{wan}.{part}": f"{theirs}.{name}"
    for wan, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
    for part, name in {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}.items()
} | {
    "self_attn.norm_q": "attn1.norm_q",
    "self_attn.norm_k": "attn1.norm_k",
    "cross_attn.norm_q": "attn2.norm_q",
    "cross_attn.norm_k": "attn2.norm_k",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}
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

    Names are the host's for Wan, those of other trainers of Wan, of Ovi, of MOVA and our own. `experts`: the model has
    two video experts, and the target of a name that means one of them starts with TARGETS of that expert.
    """
    names = comfy.lora.model_lora_keys_unet(model, {})
    for key in model.state_dict():
        if key.startswith(MODEL) and key.endswith((".weight", "modulation")):
            stem = key.removeprefix(MODEL).removesuffix(".weight")
            for expert, name in _names(stem, model.ccl_config.interaction.kind, experts):
                names |= {prefix + name: expert + key for prefix in PREFIXES}
                names |= {prefix + name.replace(".", "_"): expert + key for prefix in FLAT_PREFIXES}
    return names


def _names(stem: str, kind: str, experts: bool) -> Iterator[tuple[str, str]]:
    """(expert prefix of the target, name without the trainer's prefix) of one weight."""
    yield "", stem
    part = _part(stem)
    if part == "coupling":
        yield from (("", name) for name in _coupling_names(stem, kind))
    elif part == "audio":
        stem = stem.removeprefix("audio.")
        yield "", f"audio_model.{_as_ovi(stem)}"
        yield "", f"audio_dit.{stem}"
    else:
        yield "", _as_diffusers(stem)
        yield "", f"video_model.{_as_ovi(stem)}"
        yield TARGETS[HIGH] if experts else "", f"video_dit.{stem}"
        if experts:
            yield TARGETS[LOW], f"video_dit_2.{stem}"
            yield TARGETS[LOW], f"low_noise.{stem}"


def _coupling_names(stem: str, kind: str) -> Iterator[str]:
    _, layer, side, weight = stem.split(".", 3)
    if kind == "fusion":
        yield from (f"{stream}blocks.{layer}.cross_attn.{FUSION[weight]}" for stream in FUSION_STREAMS[side])
    elif kind == "bridge":
        inner = "y_norm" if weight == "norm_y" else f"inner.{weight}"
        yield f"dual_tower_bridge.{BRIDGE_SIDES[side]}.{layer}.{inner}"


def _as_ovi(stem: str) -> str:
    return f"{stem}.modulation" if stem.startswith("blocks.") and stem.endswith(".modulation") else stem


def _as_diffusers(stem: str) -> str:
    if not stem.startswith("blocks."):
        return DIFFUSERS.get(stem, stem)
    _, number, rest = stem.split(".", 2)
    return f"blocks.{number}.{DIFFUSERS_BLOCK.get(rest, rest)}"


def _part(stem: str) -> str:
    return next(part for prefix, part in PARTS.items() if stem.startswith(prefix))


def _with_alpha(lora: dict[str, Tensor], metadata: dict[str, str], name: str) -> dict[str, Tensor]:
    """MOVA's trainers keep one alpha for the whole file; the host looks for one beside each pair."""
    if "alpha" not in metadata:
        return dict(lora)
    try:
        alpha = torch.tensor(float(metadata["alpha"]))
    except ValueError as error:
        raise ValueError(
            f"{name} has the alpha {metadata['alpha']!r} in its metadata, wanted a number: convert it again"
        ) from error
    stems = {DOWN.sub("", key) for key in lora if DOWN.search(key) and any(part in key for part in MOVA)}
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
