"""Speech of the talking face: known times, pitch and resonances, within a clip's seconds."""

from __future__ import annotations

import numpy as np
import pytest

from ccl_pack.ccl_core.training.world.sounds import SAMPLE_RATE
from ccl_pack.ccl_core.training.world.speech import (
    FORMANTS,
    PAUSE,
    SYLLABLE,
    SYLLABLES,
    Syllable,
    Voice,
    sample_syllables,
    sample_transcript,
    speak,
)

VOICE = Voice(pitch=100.0, scale=1.0, level=0.5)


def said(text: str, voice: Voice = VOICE) -> np.ndarray:
    """A long syllable: its consonant from .1 s, its vowel from .2 s to .9 s."""
    syllable = Syllable(text, 0.1, 0.2, 0.9)
    return speak(np.random.default_rng(0), [syllable], voice, SAMPLE_RATE)


def spectrum(wave: np.ndarray, begin: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    cut = wave[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    power = np.abs(np.fft.rfft(cut * np.hanning(len(cut)))) ** 2
    return np.fft.rfftfreq(len(cut), 1 / SAMPLE_RATE), power


def comb(hertz: np.ndarray, power: np.ndarray, pitch: float) -> float:
    """The mean amplitude at the first five harmonics of a pitch."""
    places = [np.abs(hertz - k * pitch).argmin() for k in range(1, 6)]
    return float(np.sqrt(power[places]).mean())


def test_a_transcript_is_one_or_two_words_that_fit() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        words = sample_transcript(rng, 2.0625).split()
        assert 1 <= len(words) <= 2
        assert all(2 <= len(word) <= 8 and len(word) % 2 == 0 for word in words)
        assert len(sample_syllables(rng, " ".join(words), 2.0625)) == sum(map(len, words)) // 2


def test_syllables_follow_each_other_within_a_word_and_pause_between_words() -> None:
    first, second, third = sample_syllables(np.random.default_rng(0), "bama ti", 2.0)
    assert (first.text, second.text, third.text) == ("ba", "ma", "ti")
    assert first.end == second.start
    assert PAUSE[0] <= third.start - second.end <= PAUSE[1]
    assert SYLLABLE[0] <= first.end - first.start <= SYLLABLE[1]
    assert first.start < first.opening < first.end


@pytest.mark.parametrize(
    ("transcript", "seconds", "message"),
    [
        ("hello", 2.0, "'he' is no syllable"),
        ("bam", 2.0, "'m' is no syllable"),
        ("", 2.0, "cannot be said in 2.00 s"),
        ("bamabama", 0.5, "cannot be said in 0.50 s"),
    ],
)
def test_what_cannot_be_said_is_refused_in_words(transcript: str, seconds: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_syllables(np.random.default_rng(0), transcript, seconds)


@pytest.mark.parametrize("pitch", [90.0, 140.0, 250.0])
def test_the_voice_has_its_pitch(pitch: float) -> None:
    hertz, power = spectrum(said("ma", Voice(pitch, 1.0, 0.5)), 0.25, 0.85)
    # The power at a comb of harmonics is greatest at the pitch; a search finds it.
    candidates = np.geomspace(70, 300, 400)
    combs = [comb(hertz, power, f) for f in candidates]
    assert candidates[int(np.argmax(combs))] == pytest.approx(pitch, rel=0.06)


@pytest.mark.parametrize("vowel", list(FORMANTS))
@pytest.mark.parametrize("scale", [0.9, 1.15])
def test_a_vowel_has_its_resonances_scaled_by_the_voice(vowel: str, scale: float) -> None:
    hertz, power = spectrum(said(f"m{vowel}", Voice(60.0, scale, 0.5)), 0.3, 0.8)
    first, second, _ = np.asarray(FORMANTS[vowel]) * scale

    def level(place: float) -> float:
        return float(power[(hertz > place - 70) & (hertz < place + 70)].max())

    assert level(first) > 4 * level(second + 700)
    assert level(second) > 2 * level(second + 500)


def test_consonants_sound_while_the_mouth_is_shut_and_silence_is_silent() -> None:
    for text in SYLLABLES[::5]:
        wave = said(text)
        assert np.abs(wave[: round(0.08 * SAMPLE_RATE)]).max() < 1e-6
        assert np.abs(wave[round(0.93 * SAMPLE_RATE) :]).max() < 1e-6
        shut = wave[round(0.11 * SAMPLE_RATE) : round(0.2 * SAMPLE_RATE)]
        assert np.abs(shut).max() > 0.01
        assert np.abs(wave).max() == pytest.approx(VOICE.level, rel=1e-4)
