"""The VAEs of MiniMax H3 as ComfyUI loads them, of random weights and at small sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

import pytest
import torch
from comfy.ldm.minimax import audio_vae, vae
from comfy.sd import VAE

VIDEO = {"ch": 32, "ch_mult": (1,) * 6, "num_res_blocks": 1}
DECODER = {"num_layers": 1, "heads": 2, "dim_head": 16}
AUDIO = {"encoder_dim": 2, "latent_dim": 64, "decoder_dim": 128}


@contextmanager
def small_h3() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "ViT3DDecoder", partial(vae.ViT3DDecoder, **DECODER))
        patch.setattr(vae, "MiniMaxH3VideoVAE", partial(vae.MiniMaxH3VideoVAE, **VIDEO))
        patch.setattr(audio_vae, "MiniMaxH3AudioVAE", partial(audio_vae.MiniMaxH3AudioVAE, **AUDIO))
        yield


@cache
@torch.inference_mode(False)
def h3_video_vae() -> VAE:
    with small_h3():
        return VAE(sd=_random(vae.MiniMaxH3VideoVAE()))


@cache
@torch.inference_mode(False)
def h3_audio_vae() -> VAE:
    with small_h3():
        return VAE(sd=_random(audio_vae.MiniMaxH3AudioVAE()))


def _random(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Small weights; norms and statistics that change nothing; the filters of the resampling as they are."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, value in module.state_dict().items():
        weights[name] = 0.1 * torch.randn(value.shape, generator=generator)
        if "filter" in name:
            weights[name] = value
        elif name.startswith("latents_"):
            weights[name] = torch.full(value.shape, float(name == "latents_std"))
        elif "norm" in name and name.endswith("weight"):
            weights[name] = torch.ones(value.shape)
    return weights
