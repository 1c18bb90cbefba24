"""Syllables, vowels and the pitch of a voice are heard."""

from __future__ import annotations

import numpy as np
import pytest

from ccl_pack.ccl_core.training.world.face import sample_identity
from ccl_pack.ccl_core.training.world.sounds import SAMPLE_RATE
from ccl_pack.ccl_core.training.world.speech import (
    CONSONANTS,
    VOWELS,
    Syllable,
    Voice,
    sample_syllables,
    sample_transcript,
    speak,
)
from ccl_pack.ccl_core.training.world.speech_listen import (
    BAND,
    RATE,
    envelope,
    hear_syllables,
    pitch_of,
    vowel_heard,
)

SECONDS = 33 / 16


def said(seed: int) -> tuple[tuple[Syllable, ...], Voice, np.ndarray]:
    rng = np.random.default_rng(seed)
    voice = sample_identity(rng).voice
    syllables = sample_syllables(rng, sample_transcript(rng, SECONDS), SECONDS)
    return syllables, voice, speak(rng, syllables, voice, round(SECONDS * SAMPLE_RATE))


def test_the_vowels_are_heard_in_any_voice() -> None:
    right = []
    for seed in range(60):
        syllables, _, waveform = said(seed)
        heard = [vowel_heard(waveform, SAMPLE_RATE, one.opening, one.end) for one in syllables]
        right += [vowel == one.vowel for vowel, one in zip(heard, syllables, strict=True)]
    assert np.mean(right) > 0.99


def test_syllables_are_found_without_knowing_their_times() -> None:
    right, errors = [], []
    for seed in range(60):
        syllables, _, waveform = said(seed)
        heard = hear_syllables(waveform, SAMPLE_RATE)
        right.append([one.vowel for one in heard] == [one.vowel for one in syllables])
        if right[-1]:
            errors += [abs(one.opening - true.opening) for one, true in zip(heard, syllables, strict=True)]
    assert np.mean(right) > 0.95
    assert np.quantile(errors, 0.95) < 0.04


@pytest.mark.parametrize("consonant", CONSONANTS)
def test_no_consonant_is_taken_for_a_vowel(consonant: str) -> None:
    rng = np.random.default_rng(3)
    syllables = sample_syllables(rng, "".join(consonant + vowel for vowel in VOWELS[:4]), SECONDS)
    waveform = speak(rng, syllables, Voice(150, 1.0, 0.5), round(SECONDS * SAMPLE_RATE))
    assert "".join(one.vowel for one in hear_syllables(waveform, SAMPLE_RATE)) == "aeio"


def test_the_pitch_of_the_voice_is_heard() -> None:
    for seed in range(20):
        _, voice, waveform = said(seed)
        assert pitch_of(waveform, SAMPLE_RATE) == pytest.approx(voice.pitch, rel=0.08)


def test_silence_says_nothing_and_has_no_pitch() -> None:
    silence = np.zeros(SAMPLE_RATE)
    assert hear_syllables(silence, SAMPLE_RATE) == [] and pitch_of(silence, SAMPLE_RATE) is None


def test_a_louder_voice_says_the_same() -> None:
    _, _, waveform = said(1)
    assert hear_syllables(waveform, SAMPLE_RATE) == hear_syllables(waveform * 0.25, SAMPLE_RATE)


def test_the_envelope_of_a_tone_is_its_effective_value_within_the_band_and_nothing_outside() -> None:
    times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    for hertz, expected in ((600, 0.5 / 2**0.5), (BAND[0] / 2, 0.0), (BAND[1] * 2, 0.0)):
        level = envelope(0.5 * np.sin(2 * np.pi * hertz * times), SAMPLE_RATE)
        assert len(level) == RATE
        assert level[5:-5] == pytest.approx(expected, abs=0.01)
