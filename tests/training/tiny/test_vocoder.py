"""training/vocoder.py: what the loss rewards, what is drawn, and that a saved file is an audio VAE."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ccl_pack.ccl_core.host.vae.audio import VocosVAE, load_audio_vae_file
from ccl_pack.ccl_core.model.audio.vocos import Vocos
from ccl_pack.ccl_core.training.tiny import vocoder
from ccl_pack.ccl_core.training.tiny.progress import Progress

RECIPE = vocoder.VocoderRecipe(steps=2, clips=4, batch=2, threads=1)
LOUD = vocoder.VocoderRecipe(batch=24, soft_share=0, bed_share=0, silent_share=0)


@pytest.fixture(scope="module")
def pool() -> vocoder.Pool:
    return vocoder.Pool.draw(seed=1, count=8, frames=45)


def level(sound: torch.Tensor) -> torch.Tensor:
    """Root mean square over time, in dB of full scale."""
    return 20 * sound.square().mean(-1).sqrt().clamp(min=1e-9).log10()


def test_a_pool_holds_both_worlds(pool: vocoder.Pool) -> None:
    assert pool.waveforms.shape == (16, 45000)
    # A silent object alone makes no sound.
    assert sum(map(bool, pool.onsets[:8])) >= 6
    assert not any(pool.onsets[8:])


def test_pieces_begin_anywhere_and_hold_one_of_the_known_onsets() -> None:
    rng = np.random.default_rng(0)
    onsets = [2_000, 30_000, 44_000]
    begins = [vocoder.begin_of(rng, onsets, 16_000, 45_000) for _ in range(60)]
    for begin in begins:
        assert 0 <= begin <= 45_000 - 16_000
        assert any(begin <= onset < begin + 16_000 for onset in onsets)
    assert len({begin % 500 for begin in begins}) > 40
    assert np.ptp([vocoder.begin_of(rng, [], 16_000, 45_000) for _ in range(60)]) > 20_000


def test_a_batch_has_pieces_of_both_worlds_at_full_level(pool: vocoder.Pool) -> None:
    pieces = vocoder.draw_pieces(pool, np.random.default_rng(0), LOUD)
    assert pieces.real.shape == (24, 32 * 500)
    peaks = pieces.real.abs().amax(1)
    # A person pauses, and an object may be silent.
    heard = peaks[peaks > 0]
    assert len(heard) >= 12 and heard.min() > 0.08


def test_pieces_are_soft_silent_or_over_a_bed_as_the_recipe_says(pool: vocoder.Pool) -> None:
    soft = vocoder.draw_pieces(pool, np.random.default_rng(0), replace(LOUD, soft_share=1))
    assert level(soft.real).min() < -50 and level(soft.real).max() > -35
    assert soft.level.min() == pytest.approx(0.03)
    bed = vocoder.draw_pieces(pool, np.random.default_rng(0), replace(LOUD, silent_share=1, bed_share=1))
    assert -75 < level(bed.real).min() < level(bed.real).max() < -34
    silent = vocoder.draw_pieces(pool, np.random.default_rng(0), replace(LOUD, silent_share=1))
    assert silent.real.abs().max() == 0


def test_losses_are_least_for_the_sound_itself(pool: vocoder.Pool) -> None:
    head = Vocos(vocoder.TINY, operations=torch.nn).head
    pieces = vocoder.draw_pieces(pool, np.random.default_rng(0), LOUD)
    real, near, late = (
        head.analysis(sound).abs() for sound in (pieces.real, 0.9 * pieces.real, pieces.real.roll(800))
    )
    levels = partial(vocoder.level_loss, bank=torch.ones(513, 1))
    for loss in (vocoder.magnitude_loss, levels):
        assert loss(real, real) == 0
        assert loss(late, real) > loss(near, real) > 0


def test_the_level_loss_is_in_nepers() -> None:
    loud = 50 * torch.rand(2, 513, 20)
    assert vocoder.level_loss(loud / np.e, loud, torch.eye(513)).item() == pytest.approx(1, abs=0.01)


def test_the_level_of_a_band_is_that_of_its_power_wherever_that_lies() -> None:
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    real = torch.tensor([3.0, 4.0, 1.0])[None, :, None]
    assert vocoder.level_loss(torch.tensor([5.0, 0.0, 1.0])[None, :, None], real, bank) == 0
    assert vocoder.level_loss(torch.tensor([1.0, 4.0, 3.0])[None, :, None], real, bank) > 0.5


def test_silence_has_a_finite_gradient() -> None:
    made = torch.zeros(1, 513, 4, requires_grad=True)
    silence = torch.zeros(1, 513, 4)
    (vocoder.magnitude_loss(made, silence) + vocoder.level_loss(made, silence, torch.eye(513))).backward()
    assert torch.isfinite(made.grad).all()


def test_training_saves_an_audio_vae(tmp_path: Path) -> None:
    vae = load_audio_vae_file(str(vocoder.train_vocoder(tmp_path / "new" / "vocoder.safetensors", RECIPE)))
    assert isinstance(vae, VocosVAE)
    assert vae.config == vocoder.TINY
    pool = vocoder.Pool.draw(RECIPE.seed, RECIPE.clips, RECIPE.frames)
    latent = vae.encode(pool.waveforms[..., None])
    assert latent.shape == (8, 128, 90)
    assert latent.mean().abs() < 1e-3
    # Silence is the most common value and must lie close to the rest.
    assert -2 < latent.min() < -0.2
    assert latent.max() < 8


def test_every_band_hears_something() -> None:
    bank = Vocos(vocoder.TINY, operations=torch.nn).feature_extractor.mel_spec["mel_scale"].fb
    assert bank.sum(0).min() > 1


def test_training_is_repeatable_and_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole, halves = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    vocoder.train_vocoder(whole, RECIPE)
    # The schedule follows the total: a half is a step of two.
    killed = Progress.advance

    def stop(progress: Progress, loss: float) -> None:
        killed(progress, loss)
        progress.save()
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "advance", stop)
        vocoder.train_vocoder(halves, RECIPE)
    assert not halves.exists()
    assert vocoder.train_vocoder(halves, RECIPE).read_bytes() == whole.read_bytes()
