"""The VAEs of LTX-2 as ComfyUI loads them, at small sizes and with random weights."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch
from comfy.ldm.lightricks.vae.audio_vae import AudioVAE
from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE
from comfy.sd import VAE

# Eight frames and 32 pixels a side in a cell, as LTX-2's own: patches of 4 x 4 and three halvings.
VIDEO = {
    "_class_name": "CausalVideoAutoencoder",
    "dims": 3,
    "latent_channels": 128,
    "encoder_base_channels": 8,
    "decoder_base_channels": 8,
    "encoder_blocks": [
        ["compress_all", {}],
        ["compress_all", {}],
        ["compress_all", {}],
        ["res_x", {"num_layers": 1}],
    ],
    "decoder_blocks": [
        ["res_x", {"num_layers": 1}],
        ["compress_all", {"residual": True, "multiplier": 1}],
        ["compress_all", {"residual": True, "multiplier": 1}],
        ["compress_all", {"residual": True, "multiplier": 1}],
        ["res_x", {"num_layers": 1}],
    ],
    "norm_layer": "pixel_norm",
    "patch_size": 4,
    "latent_log_var": "uniform",
}
# 16000 Hz, a mel frame of 160 samples, four of them a token: 25 a second, of 8 channels and 16 frequencies.
AUDIO = {
    "model": {
        "params": {
            "sampling_rate": 16000,
            "ddconfig": {
                "ch": 8,
                "out_ch": 2,
                "ch_mult": [1, 1, 1],
                "num_res_blocks": 1,
                "attn_resolutions": [],
                "in_channels": 2,
                "resolution": 256,
                "z_channels": 8,
                "double_z": True,
                "mel_bins": 64,
                "norm_type": "pixel",
                "causality_axis": "height",
                "mid_block_add_attention": False,
                "attn_type": "vanilla",
            },
        }
    },
}
VOCODER = {"upsample_initial_channel": 32}


@cache
@torch.inference_mode(False)
def ltx_audio_vae() -> VAE:
    metadata = {"config": json.dumps({"audio_vae": AUDIO, "vocoder": VOCODER})}
    return VAE(sd=_random(AudioVAE(metadata)), metadata=metadata)


@cache
@torch.inference_mode(False)
def ltx_video_vae() -> VAE:
    return VAE(sd=_random(VideoVAE(config=VIDEO)), metadata={"config": json.dumps({"vae": VIDEO})})


def _random(module: torch.nn.Module) -> dict[str, Any]:
    """Small weights, statistics that change nothing."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, value in module.state_dict().items():
        weights[name] = 0.05 * torch.randn(value.shape, generator=generator)
        if name.endswith("-of-means"):
            weights[name] = torch.full(value.shape, float(name.endswith("std-of-means")))
    return weights
