"""Tiny VAEs with random weights: the host's Wan 2.1 VAE and a Vocos vocoder at the sizes of the tiny
model. Each is made outside inference mode, whoever asks first: a test that tracks gradients can use it too.
"""

from __future__ import annotations

from functools import cache

import comfy.sd
import torch
from comfy.ldm.wan.vae import WanVAE

from ccl_pack.ccl_core.host.vae.audio import VocosVAE
from ccl_pack.ccl_core.model.audio.vocos import Vocos, VocosConfig

SAMPLE_RATE, HOP, MELS = 16000, 500, 8


@cache
@torch.inference_mode(False)
def video_vae(seed: int = 0) -> comfy.sd.VAE:
    """16 channels, stride 8, 4 frames per latent frame, found by the host's own loader."""
    torch.manual_seed(seed)
    module = WanVAE(dim=4, z_dim=16, num_res_blocks=2, temperal_downsample=[False, True, True])
    return comfy.sd.VAE(sd={name: _weight(name, value.shape) for name, value in module.state_dict().items()})


def _weight(name: str, shape: torch.Size) -> torch.Tensor:
    if name.endswith("gamma"):
        return torch.ones(shape)
    return (
        torch.randn(shape) / max(1, shape[1:].numel()) ** 0.5 if len(shape) > 1 else 0.1 * torch.randn(shape)
    )


@cache
@torch.inference_mode(False)
def audio_vae(seed: int = 0, mels: int = MELS) -> VocosVAE:
    """32 tokens a second, mono, 16 kHz."""
    torch.manual_seed(seed)
    config = VocosConfig(
        sample_rate=SAMPLE_RATE,
        hop=HOP,
        mels=mels,
        mel_n_fft=2000,
        n_fft=2000,
        dim=16,
        intermediate_dim=24,
        layers=2,
        padding="same",
    )
    return VocosVAE(Vocos(config, operations=torch.nn).state_dict(), config)


@cache
@torch.inference_mode(False)
def image_vae() -> comfy.sd.VAE:
    """TAESD, a VAE of the wrong kind for either slot."""
    from comfy.taesd.taesd import TAESD

    return comfy.sd.VAE(sd=TAESD().state_dict())


def release() -> None:
    """Forget them: a patcher that lives until the interpreter ends complains on stderr."""
    for vae in (video_vae, audio_vae, image_vae):
        vae.cache_clear()


def frames(count: int, height: int = 32, width: int = 32, channels: int = 3, seed: int = 3) -> torch.Tensor:
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(seed))


def sound(samples: int, rate: int = SAMPLE_RATE, channels: int = 1, batch: int = 1, seed: int = 4) -> dict:
    noise = torch.rand(batch, channels, samples, generator=torch.Generator().manual_seed(seed))
    return {"waveform": noise - 0.5, "sample_rate": rate}
