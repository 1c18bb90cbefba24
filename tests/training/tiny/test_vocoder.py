"""training/vocoder.py: what the loss rewards, what is drawn, and that a saved file is an audio VAE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ccl_pack.ccl_core.host.vae.audio import VocosVAE, load_audio_vae_file
from ccl_pack.ccl_core.training.tiny import vocoder

RECIPE = vocoder.VocoderRecipe(steps=2, clips=8, batch=2, threads=1)


@pytest.fixture(scope="module")
def pool() -> vocoder.Pool:
    return vocoder.Pool.draw(seed=1, count=8, frames=45)


def test_every_piece_holds_an_onset_where_it_says(pool: vocoder.Pool) -> None:
    pieces, onsets = vocoder.draw_pieces(pool, np.random.default_rng(0), vocoder.VocoderRecipe(batch=16))
    assert pieces.shape == (16, 32 * 500)
    for piece, samples in zip(pieces, onsets, strict=True):
        assert samples
        for sample in samples:
            assert piece[sample : sample + 160].abs().max() > 0.05
    phases = {sample % 500 for samples in onsets for sample in samples}
    assert len(phases) > 10


def test_loss_is_least_for_the_sound_itself(pool: vocoder.Pool) -> None:
    spectral = vocoder.SpectralLoss((128, 512), 16000)
    real, onsets = vocoder.draw_pieces(pool, np.random.default_rng(0), RECIPE)
    late = torch.roll(real, 800, dims=-1)
    assert spectral(real, real) == 0
    assert spectral(late, real) > spectral(real * 0.9, real) > 0
    assert vocoder.onset_loss(real, real, onsets) == 0
    assert vocoder.onset_loss(late, real, onsets) > vocoder.onset_loss(real * 0.9, real, onsets)


def test_silence_has_a_finite_gradient() -> None:
    made = torch.zeros(1, 4000, requires_grad=True)
    vocoder.SpectralLoss((128, 512), 16000)(made, torch.zeros(1, 4000)).backward()
    assert torch.isfinite(made.grad).all()


def test_training_saves_an_audio_vae(tmp_path: Path) -> None:
    vae = load_audio_vae_file(str(vocoder.train_vocoder(tmp_path / "new" / "vocoder.safetensors", RECIPE)))
    assert isinstance(vae, VocosVAE)
    assert vae.config == vocoder.TINY
    pool = vocoder.Pool.draw(RECIPE.seed, RECIPE.clips, RECIPE.frames)
    latent = vae.encode(pool.waveforms[..., None])
    assert latent.shape == (8, 32, 90)
    assert latent.mean().abs() < 1e-3
    # Silence is the most common value and must lie close to the rest.
    assert -1.5 < latent.min() < -0.2
    assert latent.max() < 8


def test_training_is_repeatable(tmp_path: Path) -> None:
    first, second = (
        vocoder.train_vocoder(tmp_path / name, RECIPE).read_bytes()
        for name in ("a.safetensors", "b.safetensors")
    )
    assert first == second


def test_evaluation_tells_an_untrained_file(tmp_path: Path) -> None:
    report = vocoder.evaluate(
        vocoder.train_vocoder(tmp_path / "vocoder.safetensors", RECIPE), seed=5, clips=2
    )
    assert set(report) == {
        "recall",
        "precision",
        "within_30ms",
        "error_ms_median",
        "error_ms_max",
        "sound_right",
    }
    assert report["recall"] < 0.9 or report["precision"] < 0.9
