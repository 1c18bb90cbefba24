"""Configurations of the published models, for benchmarks that need their sizes and no weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ccl_pack.ccl_core.config import CCLConfig


def ovi() -> CCLConfig:
    """Ovi at its published size."""
    from ccl_pack.ccl_core.config import CCLConfig, FusionOptions, InteractionConfig, StreamConfig
    from ccl_pack.ccl_core.families import FAMILIES

    sizes = {
        "dim": 3072,
        "ffn_dim": 14336,
        "num_heads": 24,
        "num_layers": 30,
        "text_dim": 4096,
        "text_len": 512,
    }
    return CCLConfig(
        video=StreamConfig(in_dim=48, out_dim=48, **sizes),
        audio=StreamConfig(in_dim=20, out_dim=20, patch_size=(1, 1, 1), stem_dim=8192, **sizes),
        interaction=InteractionConfig("fusion", tuple(range(30)), FusionOptions()),
        family="ovi",
        **FAMILIES["ovi"].published,
    )


def mova() -> CCLConfig:
    """MOVA at its published size."""
    from ccl_pack.ccl_core.config import BridgeOptions, CCLConfig, InteractionConfig, StreamConfig
    from ccl_pack.ccl_core.families import FAMILIES

    return CCLConfig(
        video=StreamConfig(36, 16, 5120, 13824, 40, 40, 4096),
        audio=StreamConfig(128, 128, 1536, 8960, 12, 30, 4096, patch_size=(1, 1, 1), rope="token"),
        interaction=InteractionConfig("bridge", tuple(range(30)), BridgeOptions()),
        family="mova",
        **FAMILIES["mova"].published,
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


def uniavgen() -> CCLConfig:
    """UniAVGen at the size of its paper: Wan 2.2 5B, audio on the template of Wan 2.1 1.3B, 7.1 B in all.

    Which layers "interleaved" means is not printed, every other one here; the text features are F5-TTS's.
    """
    from ccl_pack.ccl_core.config import AsymmetricOptions, CCLConfig, InteractionConfig, StreamConfig
    from ccl_pack.ccl_core.families import FAMILIES

    speech = {"text_dim": 512, "speech_blocks": 4, "references": True}
    return CCLConfig(
        video=StreamConfig(48, 48, 3072, 14336, 24, 30, 4096, references=True),
        audio=StreamConfig(100, 100, 1536, 8960, 12, 30, patch_size=(1, 1, 1), **speech),
        interaction=InteractionConfig("asymmetric", tuple(range(0, 30, 2)), AsymmetricOptions()),
        family="uniavgen",
        **FAMILIES["uniavgen"].published,
    )
