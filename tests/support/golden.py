"""Golden fixtures of the public reference implementations, and the configuration their metadata states."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ccl_pack.ccl_core.config import (
    AudioLatentConfig,
    BridgeOptions,
    CCLConfig,
    FusionOptions,
    InteractionConfig,
    StreamConfig,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"


def read(case: str) -> tuple[dict, dict]:
    """Tensors and the `info` metadata of one case."""
    with safe_open(FIXTURES / f"{case}_dev.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        return tensors, json.loads(file.metadata()["info"])


def stream(info: dict, **more: Any) -> StreamConfig:
    """The constructor arguments of a reference tower under our names."""
    patch = tuple(info["patch_size"]) if len(info["patch_size"]) == 3 else (1, 1, 1)
    same = ("in_dim", "out_dim", "dim", "ffn_dim", "num_heads", "num_layers", "text_dim", "freq_dim")
    return StreamConfig(**{name: info[name] for name in same}, patch_size=patch, **more)


def ovi_config(info: dict, stem_dim: int) -> CCLConfig:
    video, audio = info["config"]["video_model"], info["config"]["audio_model"]
    return CCLConfig(
        fps=Fraction(24),
        video=stream(video, text_len=video["text_len"]),
        audio=stream(audio, text_len=audio["text_len"], stem_dim=stem_dim),
        interaction=InteractionConfig("fusion", tuple(range(video["num_layers"])), FusionOptions()),
        audio_latent=AudioLatentConfig("mmaudio", audio["in_dim"], Fraction(125, 4), 16000),
        clock="linear",
        clock_scale=audio["temporal_rope_scaling_factor"],
        family="ovi",
    )


def mova_config(info: dict) -> CCLConfig:
    config = info["config"]
    audio, bridge = config["audio_dit"], config["dual_tower_bridge"]
    return CCLConfig(
        fps=Fraction(config["video_fps"]),
        video=stream(config["video_dit"]),
        audio=stream(audio, rope="token"),
        interaction=InteractionConfig("bridge", tuple(range(bridge["audio_layers"])), BridgeOptions()),
        audio_latent=AudioLatentConfig("dac", audio["in_dim"], Fraction(bridge["audio_fps"]), 48000),
        family="mova",
    )
