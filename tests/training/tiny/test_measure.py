"""Measures of the codecs: what comes back as it was has the truth's figures, and what does not is told."""

import pytest
import torch

from ccl_pack.ccl_core.training.tiny import measure
from ccl_pack.ccl_core.training.tiny.video_vae import build_vae
from ccl_pack.ccl_core.training.tiny.vocoder import VocoderRecipe, train_vocoder


def same(given: torch.Tensor) -> torch.Tensor:
    return given


def frozen(frames: torch.Tensor) -> torch.Tensor:
    """The first frame all along."""
    return frames[:1].expand_as(frames)


def late(waveforms: torch.Tensor) -> torch.Tensor:
    """A tenth of a second, and 6 dB softer."""
    return 0.5 * waveforms.roll(1600, -1)


def test_pictures_that_come_back_as_they_were_have_the_figures_of_the_truth() -> None:
    shapes = measure.seen_shapes(same, 3, 6)
    assert shapes["shapes_db"] > 90
    assert shapes["colour_right"] == 1
    assert shapes["contacts_met"] > 0.9
    faces = measure.seen_faces(same, 3, 3)
    assert faces["visemes_of_truth"] == 1
    assert faces["mouth_track"] > 0.95


def test_pictures_that_stand_still_lose_contacts_and_visemes() -> None:
    assert measure.seen_shapes(frozen, 3, 6)["contacts_met"] == 0
    faces = measure.seen_faces(frozen, 3, 3)
    assert faces["visemes_of_truth"] < 0.5
    assert faces["mouth_track"] < 0.5


def test_sounds_that_come_back_as_they_were_have_the_figures_of_the_truth() -> None:
    shapes = measure.heard_shapes(same, 3, 6)
    assert shapes["onsets_recall"] > 0.9
    assert shapes["onsets_precision"] > 0.9
    assert shapes["onsets_error_ms_median"] < 5
    speech = measure.heard_speech(same, 3, 3)
    assert speech["pitch_right"] == 1
    assert speech["vowels_right"] > 0.8


def test_sounds_that_come_late_and_soft_are_told() -> None:
    assert measure.heard_shapes(late, 3, 6)["onsets_recall"] < 0.3
    assert measure.level_error(late, torch.randn(2, 16000)) == pytest.approx(6.02, abs=0.01)


def test_video_of_any_size_comes_back_in_its_range() -> None:
    torch.manual_seed(0)
    frames = torch.rand(5, 32, 48, 3)
    made = measure.coded_video(build_vae(4), frames)
    assert made.shape == frames.shape
    assert 0 <= made.min() <= made.max() <= 1


def test_a_file_is_measured_at_every_level(tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("codecs") / "audio_vae.safetensors"
    train_vocoder(out, VocoderRecipe(steps=1, clips=2, batch=2))
    report = measure.measure_sound(out, 3, 2)
    levels = [f"{world}_error_db_at_{level}" for world in ("shapes", "faces") for level in (0, 16, 32, 45)]
    assert {*levels, "silence_db", "onsets_recall", "pitch_right"} < set(report)
    # A head that has learnt nothing makes the mean spectrum, and no voice.
    assert report["vowels_right"] < 0.8
