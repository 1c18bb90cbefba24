"""The sound of real films: its time, its channels, its level. Run with --long, since pip fetches them."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
import torch
import torchaudio
from safetensors import safe_open

from ccl_pack.ccl_core.host.media.encode import Fit, write_audio
from ccl_pack.ccl_core.host.media.latents import AVLatent
from ccl_pack.ccl_core.host.media.listening import faults, loudness
from ccl_pack.ccl_core.host.media.sound_file import Sound, read_sound
from ccl_pack.ccl_core.host.vae.audio import load_audio_vae
from ccl_pack.ccl_core.host.vae.channels import to_channels
from support.real_clips import fetch
from support.tiny_vaes import audio_vae

pytestmark = pytest.mark.long
CCL_TINY = Path(__file__).resolve().parents[3] / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"

Clip = Callable[[str], Path]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return partial(fetch, folder=tmp_path_factory.mktemp("clips"))


def read(path: Path, start: float, seconds: float) -> Sound:
    return read_sound(str(path), Fraction(start), Fraction(seconds))


def level(waveform: torch.Tensor) -> float:
    """rms in dB of full scale."""
    return 20 * math.log10(waveform.square().mean().sqrt().item())


def test_a_film_in_surround_keeps_the_level_of_its_centre(clip: Clip) -> None:
    film = read(clip("film in 5.1"), 0, 5.3)
    assert film.layout == "5.1" and film.waveform.shape[0] == 6
    mono = to_channels(film.waveform[None], 1, film.layout)
    # All six channels together have -33.2 dB, the centre alone -35.3, their mean had -48.6.
    assert level(film.waveform[2]) == pytest.approx(-35.3, abs=0.2)
    assert level(mono) == pytest.approx(-34.1, abs=0.2)
    assert level(film.waveform.mean(0)) == pytest.approx(-48.6, abs=0.2)


def test_a_sound_that_starts_late_starts_late(clip: Clip) -> None:
    sound = read(clip("late sound"), 0, 6)
    first = sound.waveform.abs().amax(0).nonzero()[0].item()
    assert first / sound.sample_rate == pytest.approx(2.4300, abs=0.001)
    window = read(clip("late sound"), 2, 3).waveform
    assert torch.equal(window, sound.waveform[:, 2 * 44100 : 5 * 44100])


@pytest.mark.parametrize("name", ["silent mp4", "silent avi"])
def test_a_silent_track_is_told_of(name: str, clip: Clip, caplog: pytest.LogCaptureFixture) -> None:
    sound = read(clip(name), 0, 1)
    assert not sound.waveform.any()
    av = AVLatent(torch.zeros(1, 16, 3, 4, 4), torch.zeros(1, 8, 18), fps=16.0)
    given = {"waveform": sound.waveform[None], "sample_rate": sound.sample_rate, "layout": sound.layout}
    with torch.inference_mode():
        write_audio(av, audio_vae(), given, Fit("crop", "pad"))
    assert "all 1.00 s of audio are digital silence" in caplog.text


def test_a_film_without_sound_is_an_error(clip: Clip) -> None:
    with pytest.raises(ValueError, match=r"carphone_pristine\.mp4 holds no sound stream"):
        read(clip("no sound"), 0, 1)


@pytest.mark.parametrize("name", ["trailer", "speech", "film in 5.1", "dialogue"])
def test_windows_side_by_side_are_the_whole(name: str, clip: Clip) -> None:
    path = clip(name)
    whole = read(path, 0, 5)
    parts = [read(path, start / 4, 0.25).waveform for start in range(20)]
    assert torch.allclose(torch.cat(parts, dim=1), whole.waveform, atol=1e-4)


@pytest.mark.parametrize(("target", "words"), [(-21, None), (-40, "louder than the given"), (-52, "silent")])
def test_a_voice_that_comes_back_at_another_level_is_told_of(
    target: float, words: str | None, clip: Clip
) -> None:
    speech = read(clip("speech"), 0.5, 4)
    voice = torchaudio.functional.resample(speech.waveform, speech.sample_rate, 16000)
    voice = voice * 10 ** ((target - level(voice)) / 20)
    with safe_open(CCL_TINY, "pt") as file:
        names = [name for name in file.keys() if name.startswith("audio_vae.")]  # noqa: SIM118
        sd = {name.removeprefix("audio_vae."): file.get_tensor(name) for name in names}
        vae = load_audio_vae(sd, file.metadata())
    with torch.inference_mode():
        decoded = vae.decode(vae.encode(voice[:, :, None])).movedim(-1, 1)[0, :, : voice.shape[1]]
    found = faults(decoded, 16000, (voice, 16000))
    assert [words in text for text in found] == [True] * (words is not None)
    assert (abs(loudness(decoded, 16000) - loudness(voice, 16000)) < 6) == (words is None)
