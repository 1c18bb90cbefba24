"""Configurations of the published models, for benchmarks that need their sizes and no weights."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ccl_pack.ccl_core.config import CCLConfig


def ovi() -> CCLConfig:
    """Ovi at its published size."""
    from ccl_pack.ccl_core.config import AudioLatentConfig, CCLConfig, FusionOptions, InteractionConfig, StreamConfig

    sizes = {"dim": 3072, "ffn_dim": 14336, "num_heads": 24, "num_layers": 30, "text_dim": 4096, "text_len": 512}
    return CCLConfig(
        fps=Fraction(24),
        video=StreamConfig(in_dim=48, out_dim=48, **sizes),
        audio=StreamConfig(in_dim=20, out_dim=20, patch_size=(1, 1, 1), stem_dim=8192, **sizes),
        interaction=InteractionConfig("fusion", tuple(range(30)), FusionOptions()),
        audio_latent=AudioLatentConfig("mmaudio", 20, Fraction(125, 4), 16000),
        clock="linear",
        clock_scale=0.19676,
        shift=5.0,
        family="ovi",
    )


def mova() -> CCLConfig:
    """MOVA at its published size."""
    from ccl_pack.ccl_core.config import AudioLatentConfig, BridgeOptions, CCLConfig, InteractionConfig, StreamConfig

    return CCLConfig(
        fps=Fraction(24),
        video=StreamConfig(36, 16, 5120, 13824, 40, 40, 4096),
        audio=StreamConfig(128, 128, 1536, 8960, 12, 30, 4096, patch_size=(1, 1, 1), rope="token"),
        interaction=InteractionConfig("bridge", tuple(range(30)), BridgeOptions()),
        audio_latent=AudioLatentConfig("dac", 128, Fraction(50), 48000),
        expert_boundary=0.9,
        family="mova",
    )


def ccl_14b() -> CCLConfig:
    """CCL on Wan 2.1 14B t2v, the audio stream as wide as MOVA's."""
    from ccl_pack.ccl_core.config import CCAOptions, InteractionConfig

    model = mova()
    return replace(
        model,
        video=replace(model.video, in_dim=16),
        interaction=InteractionConfig("cca", tuple(range(30)), CCAOptions()),
        expert_boundary=None,
        family="ccl",
    )
