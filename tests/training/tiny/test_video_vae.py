"""The VAE trainer: its one-pass run is the host's chunked one, and normalisation does not change what is
decoded.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from comfy.latent_formats import Wan21
from comfy.ldm.wan.vae import WanVAE
from comfy.sd import VAE
from safetensors.torch import load_file

from ccl_pack.ccl_core.training.tiny import video_vae
from ccl_pack.ccl_core.training.world import scene


@pytest.fixture
def vae() -> WanVAE:
    torch.manual_seed(0)
    return video_vae.build_vae(8)


def pixels(frames: int) -> torch.Tensor:
    source = scene.clips(4, frames=max(17, frames))
    return video_vae.pixels_of(np.stack([next(source).frames[:frames, 16:48, 16:48] for _ in range(4)]))


@pytest.mark.parametrize("frames", [1, 5, 9, 13])
@torch.no_grad()
def test_one_pass_equals_the_hosts_chunks(vae: WanVAE, frames: int) -> None:
    wanted = vae.encode(pixels(frames))
    made, _ = video_vae.encode_moments(vae, pixels(frames))
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(video_vae.decode(vae, wanted), vae.decode(wanted), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_normalisation_gives_the_hosts_statistics_and_the_same_pictures(vae: WanVAE) -> None:
    x = pixels(9)
    before = vae.decode(vae.encode(x))
    video_vae.fold_normalisation(vae, x, floor=0.0)
    latent = vae.encode(x)
    unit = Wan21().process_in(latent)
    assert unit.mean((0, 2, 3, 4)).abs().max() < 0.05
    assert (unit.std((0, 2, 3, 4)) - 1).abs().max() < 0.05
    torch.testing.assert_close(vae.decode(latent), before, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_dead_channel_is_not_blown_up(vae: WanVAE) -> None:
    vae.conv1.weight[3] *= 1e-3
    video_vae.fold_normalisation(vae, pixels(9))
    spread = Wan21().process_in(vae.encode(pixels(9))).std((0, 2, 3, 4))
    assert spread[3] < 0.05
    assert (spread > 0.5).sum() >= 14


def test_training_learns_and_writes_a_file_the_host_loads(tmp_path: Path) -> None:
    recipe = video_vae.VideoVAERecipe(
        width=8,
        steps=25,
        minutes=2,
        pool=8,
        windows=((2, 5, 32),),
        last_windows=((1, 5, 64),),
        first_share=0.5,
        threads=1,
    )
    path = video_vae.train_video_vae(tmp_path / "vae.safetensors", recipe)
    loaded = VAE(sd=load_file(path))
    clip = next(scene.clips(8, frames=17)).frames[:5]
    latent = loaded.encode(torch.from_numpy(clip) / 255)
    assert latent.shape == (1, 16, 2, 8, 8)
    assert loaded.decode(latent).shape == (1, 5, 64, 64, 3)
    trained, fresh = video_vae.build_vae(8), video_vae.build_vae(8)
    trained.load_state_dict(load_file(path))
    assert video_vae.psnr(trained, pixels(9)) > video_vae.psnr(fresh, pixels(9)) + 3
