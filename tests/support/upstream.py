"""Tiny models under the names of the published checkpoints: ours turned back into those of Ovi and of
MOVA.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ccl_pack.ccl_core.config import (
    BridgeOptions,
    CCLConfig,
    FusionOptions,
    InteractionConfig,
    StreamConfig,
)
from ccl_pack.ccl_core.families import FAMILIES

FUSION = {"k": "k_fusion", "v": "v_fusion", "norm_y": "pre_attn_norm_fusion", "norm_k": "norm_k_fusion"}
TOWERS = {"a2v": "video_model", "v2a": "audio_model"}
CONDITIONERS = {"a2v": "audio_to_video_conditioners", "v2a": "video_to_audio_conditioners"}


def ovi_config(width: int = 48, heads: int = 2, layers: int = 2, text_len: int = 9) -> CCLConfig:
    video = StreamConfig(
        in_dim=48, out_dim=48, dim=width, ffn_dim=64, num_heads=heads, num_layers=layers, text_dim=24,
        freq_dim=32, text_len=text_len,
    )  # fmt: skip
    return CCLConfig(
        video=video,
        audio=replace(video, in_dim=20, out_dim=20, patch_size=(1, 1, 1), stem_dim=32),
        interaction=InteractionConfig("fusion", tuple(range(layers)), FusionOptions()),
        family="ovi",
        **FAMILIES["ovi"].published,
    )


def mova_config(
    width: int = 64, audio_width: int = 32, head: int = 16, layers: int = 3, paired: int = 2
) -> CCLConfig:
    video = StreamConfig(
        in_dim=36, out_dim=16, dim=width, ffn_dim=64, num_heads=width // head, num_layers=layers, text_dim=24,
        freq_dim=32,
    )  # fmt: skip
    return CCLConfig(
        video=video,
        audio=replace(
            video, in_dim=128, out_dim=128, dim=audio_width, num_heads=audio_width // head, num_layers=paired,
            patch_size=(1, 1, 1), rope="token",
        ),
        interaction=InteractionConfig("bridge", tuple(range(paired)), BridgeOptions()),
        family="mova",
        **FAMILIES["mova"].published,
    )  # fmt: skip


def ovi_name(key: str) -> str:
    parts = key.split(".")
    if parts[0] == "interaction":
        _, layer, direction, module, *rest = parts
        return ".".join([TOWERS[direction], "blocks", layer, "cross_attn", FUSION[module], *rest])
    tower, own = ("audio_model", key[6:]) if parts[0] == "audio" else ("video_model", key)
    return (
        f"{tower}.{own}.modulation"
        if own.startswith("blocks.") and own.endswith(".modulation")
        else f"{tower}.{own}"
    )


def mova_name(key: str) -> str:
    """With the name of the part before a dot, as in a file of all parts."""
    parts = key.split(".")
    if parts[0] == "interaction":
        _, layer, direction, module, *rest = parts
        inner = "y_norm" if module == "norm_y" else f"inner.{module}"
        return ".".join(["dual_tower_bridge", CONDITIONERS[direction], layer, inner, *rest])
    return f"audio_dit.{key[6:]}" if parts[0] == "audio" else f"video_dit.{key}"


def ovi(sd: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {ovi_name(key): value for key, value in sd.items()}


def mova(sd: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The audio patch embedding is a convolution over time alone."""
    renamed = {mova_name(key): value for key, value in sd.items()}
    renamed["audio_dit.patch_embedding.weight"] = renamed["audio_dit.patch_embedding.weight"][..., 0, 0]
    return renamed
