"""The VAE trainer: its one-pass run is the host's chunked one, and normalisation does not change what is
decoded.
"""

from functools import partial
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


def small(**changes: object) -> video_vae.VideoVAERecipe:
    sizes = {"width": 8, "minutes": 2, "pool": 8, "windows": ((2, 5, 32),), "last_windows": ((1, 5, 64),)}
    return video_vae.VideoVAERecipe(**{**sizes, "first_share": 0.5, "measured": 6, **changes})


def network(path: Path) -> WanVAE:
    vae = video_vae.build_vae(8)
    vae.load_state_dict(load_file(path))
    return vae


def test_an_error_counts_by_the_weight_of_its_pixel() -> None:
    wanted = torch.zeros(1, 3, 1, 2, 2)
    made = wanted.clone()
    made[..., 0, 0] = 0.5
    weight = torch.ones(1, 1, 1, 2, 2)
    heavy = weight.clone()
    heavy[..., 0, 0] = 10
    loss = partial(video_vae.reconstruction_loss, made, wanted)
    assert video_vae.reconstruction_loss(wanted, wanted, heavy) == 0
    assert loss(heavy) > 5 * loss(weight)
    torch.testing.assert_close(loss(10 * weight), 10 * loss(weight))


def test_training_learns_and_writes_a_file_the_host_loads(tmp_path: Path) -> None:
    path = video_vae.train_video_vae(tmp_path / "vae.safetensors", small(steps=25))
    loaded = VAE(sd=load_file(path))
    clip = next(scene.clips(8, frames=17)).frames[:5]
    latent = loaded.encode(torch.from_numpy(clip) / 255)
    assert latent.shape == (1, 16, 2, 8, 8)
    assert loaded.decode(latent).shape == (1, 5, 64, 64, 3)
    assert video_vae.psnr(network(path), pixels(9)) > video_vae.psnr(video_vae.build_vae(8), pixels(9)) + 3


def test_a_stopped_training_goes_on_and_one_that_is_over_only_writes_its_file(tmp_path: Path) -> None:
    path = video_vae.train_video_vae(tmp_path / "vae.safetensors", small(steps=4))
    first = network(path)
    video_vae.train_video_vae(path, small(steps=6))
    state = torch.load(tmp_path / "vae.state.pt", weights_only=True)
    assert state["step"] == 6
    assert not torch.equal(network(path).conv1.weight, first.conv1.weight)
    finished = path.read_bytes()
    path.unlink()
    assert video_vae.train_video_vae(path, small(steps=6)).read_bytes() == finished


def test_training_begins_from_a_file(tmp_path: Path) -> None:
    start = video_vae.train_video_vae(tmp_path / "first.safetensors", small(steps=25))
    still = small(steps=1, muon_rate=0.0, adam_rate=0.0)
    other = video_vae.train_video_vae(tmp_path / "next.safetensors", still, start)
    x = pixels(5)
    with torch.no_grad():
        made, wanted = (vae.decode(vae.encode(x)) for vae in map(network, (other, start)))
    torch.testing.assert_close(made, wanted, atol=0.05, rtol=0)


@torch.no_grad()
def test_the_latent_is_normalised_over_both_worlds(tmp_path: Path) -> None:
    x = video_vae.whole_clips(5, 8)
    video_vae.export_video_vae(video_vae.build_vae(8), tmp_path / "vae.safetensors", x)
    latent = Wan21().process_in(network(tmp_path / "vae.safetensors").encode(x))
    spread = latent.std((0, 2, 3, 4))
    assert ((spread - 1).abs() < 0.1).sum() >= 12
    assert spread.max() < 1.1


def test_a_decoder_trained_alone_keeps_the_latent_bit_for_bit(tmp_path: Path) -> None:
    start = video_vae.train_video_vae(tmp_path / "first.safetensors", small(steps=25))
    alone = small(steps=25, **video_vae.DECODER)
    path = video_vae.train_video_vae(tmp_path / "next.safetensors", alone, start)
    x = pixels(5)
    with torch.no_grad():
        before, after = (network(each) for each in (start, path))
        assert torch.equal(before.encode(x), after.encode(x))
    assert video_vae.psnr(after, pixels(9)) > video_vae.psnr(before, pixels(9))
    with pytest.raises(ValueError, match="got none: name it as start"):
        video_vae.train_video_vae(tmp_path / "none.safetensors", alone)
