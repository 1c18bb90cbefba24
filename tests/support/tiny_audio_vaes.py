"""Tiny DAC and MMAudio files with random weights: real classes, real key names, the host's own sizes made
small.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import comfy.ops
import pytest
import torch
from comfy.ldm.mmaudio.vae import autoencoder
from comfy.ldm.mmaudio.vae.vae import VAE as MelVAE

from ccl_pack.ccl_core.host.vae.mmaudio import fold_magnitudes, fold_weight_norms, mel_tensors
from ccl_pack.ccl_core.model.audio.dac import DAC, DACConfig

DAC_CONFIG = DACConfig(
    encoder_dim=4,
    encoder_rates=(2, 3, 4),
    latent_dim=6,
    decoder_dim=32,
    decoder_rates=(4, 3, 2),
    sample_rate=48000,
)
MEL_VAE_WIDTH, VOCODER_WIDTH = 8, 64

StateDict = dict[str, torch.Tensor]


def dac_file(config: DACConfig = DAC_CONFIG, seed: int = 0) -> StateDict:
    """Random weights small enough that rounding does not grow on its way through; alphas away from 0."""
    generator = torch.Generator().manual_seed(seed)
    shapes = DAC(config, device="meta", operations=comfy.ops.disable_weight_init).state_dict()
    return {
        key: 0.5 + torch.rand(value.shape, generator=generator)
        if key.endswith("alpha")
        else 0.5 * torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5
        for key, value in shapes.items()
    }


@contextmanager
def small_mmaudio() -> Iterator[None]:
    """The host's MMAudio class with narrow layers; its sizes are written into its constructor."""
    vocoder = autoencoder.BigVGANVocoder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            autoencoder, "VAE_16k", lambda: MelVAE(data_dim=80, embed_dim=20, hidden_dim=MEL_VAE_WIDTH)
        )
        patch.setattr(
            autoencoder,
            "BigVGANVocoder",
            lambda sizes: vocoder({**sizes, "upsample_initial_channel": VOCODER_WIDTH}),
        )
        yield


def mmaudio_published(seed: int = 0) -> tuple[StateDict, StateDict]:
    """What v1-16.pth and the `generator` of best_netG.pt hold: raw convolutions, weight norms, no
    prefixes.
    """
    mel_vae, vocoder = _published(seed)
    return dict(mel_vae), dict(vocoder)


@cache
def _published(seed: int) -> tuple[StateDict, StateDict]:
    generator = torch.Generator().manual_seed(seed)
    network = autoencoder.AudioAutoencoder(mode="16k")
    mel_vae: StateDict = {}
    vocoder: StateDict = {}
    for key, value in network.state_dict().items():
        part, _, name = key.partition(".")
        if part == "vae":
            mel_vae[name] = (
                torch.randn(value.shape, generator=generator) if key.endswith(".weight") else value.clone()
            )
            if "learnable_gain" in key:
                mel_vae[name] = torch.tensor(0.25)
        elif part == "vocoder":
            vocoder |= _normed(name, value, generator)
    return mel_vae, vocoder


def mmaudio_folded(seed: int = 0) -> StateDict:
    """The same under the host's names, as it wants it."""
    mel_vae, vocoder = mmaudio_published(seed)
    mel_vae, vocoder = fold_magnitudes(mel_vae), fold_weight_norms(vocoder)
    prefixed = {f"vae.{key}": value for key, value in mel_vae.items()}
    return prefixed | {f"vocoder.{key}": value for key, value in vocoder.items()} | mel_tensors()


def _normed(name: str, value: torch.Tensor, generator: torch.Generator) -> StateDict:
    layer = name.removesuffix(".weight")
    if name.endswith("filter"):
        return {name: value.clone()}
    if layer == name:
        return {name: 0.1 * torch.randn(value.shape, generator=generator)}
    direction = torch.randn(value.shape, generator=generator)
    magnitude = 0.5 + torch.rand(value.shape[0], 1, 1, generator=generator)
    return {f"{layer}.weight_g": magnitude, f"{layer}.weight_v": direction}
