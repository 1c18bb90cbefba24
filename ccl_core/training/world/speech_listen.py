"""A listener that knows this speech: when syllables sound, which vowels they have, how high the voice is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from .sounds import SAMPLE_RATE
from .speech import VOWELS, Syllable, Voice, speak

# Hz: the vowels' band, in which consonants are soft.
BAND = (300.0, 1400.0)
# Hz: what is loud in every vowel; above it, what is loud in a hiss, and the share of that which is taken off.
VOICED = (200.0, 3000.0)
HISS = (4000.0, 7600.0)
HISS_SHARE = 0.5
# Values of an envelope a second, and the seconds that each is the mean of.
RATE = 125
WINDOW = 0.03
# Share of a loud vowel above which a vowel sounds, and how long at least, in seconds.
LOUD = 0.47
LEAST = 0.05
# The quantile of the envelope that is a loud vowel; one click is not.
LOUDEST = 0.97
# Peak of a waveform that is silence.
SILENCE = 1e-3
# Bands of equal width in mel between these Hz.
BANDS = 28
RANGE = (150.0, 3600.0)
# Power beside the loudest band below which a band says nothing.
FLOOR = 1e-4
# Hz
PITCHES = (75.0, 320.0)
# Voices of which the templates are.
TEMPLATE_PITCHES = tuple(90 * 2 ** (k / 6) for k in range(10))
TEMPLATE_SCALES = (0.9, 0.97, 1.04, 1.11, 1.18)


@dataclass(frozen=True)
class Heard:
    """One vowel: when it sounds, in seconds, and which it is."""

    opening: float
    end: float
    vowel: str


def hear_syllables(waveform: np.ndarray, sample_rate: int) -> list[Heard]:
    """Every vowel of a waveform (n,), by time."""
    if np.abs(waveform).max(initial=0) < SILENCE:
        return []
    level = vowel_level(waveform, sample_rate)
    loud = level > LOUD * np.quantile(level, LOUDEST)
    edges = np.flatnonzero(np.diff(np.pad(loud.astype(int), 1))) / RATE
    spans = [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if end - start >= LEAST]
    return [Heard(start, end, vowel_heard(waveform, sample_rate, start, end)) for start, end in spans]


def vowel_level(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """About alike for all vowels, less while the mouth is shut, RATE values a second."""
    # The derivative makes up for the 6 dB an octave by which a voice falls.
    edge = np.diff(waveform, prepend=0) * sample_rate / SAMPLE_RATE
    hiss = envelope(edge, sample_rate, HISS)
    return (envelope(edge, sample_rate, VOICED) - HISS_SHARE * hiss).clip(0)


def envelope(waveform: np.ndarray, sample_rate: int, band: tuple[float, float] = BAND) -> np.ndarray:
    """Root mean square within a band, RATE values a second, (m,)."""
    spectrum = np.fft.rfft(waveform)
    hertz = np.fft.rfftfreq(len(waveform), 1 / sample_rate)
    spectrum[(hertz < band[0]) | (hertz > band[1])] = 0
    power = np.fft.irfft(spectrum, len(waveform)) ** 2
    total = np.concatenate([[0.0], np.cumsum(power)])
    middles = np.arange(int(len(waveform) / sample_rate * RATE)) / RATE
    first = np.clip((middles - WINDOW / 2) * sample_rate, 0, len(waveform)).astype(int)
    last = np.clip((middles + WINDOW / 2) * sample_rate, 1, len(waveform)).astype(int)
    return np.sqrt((total[last] - total[first]).clip(0) / (last - first))


def vowel_heard(waveform: np.ndarray, sample_rate: int, start: float, end: float) -> str:
    """Which vowel sounds between two times in seconds."""
    # Both ends lead over to a consonant.
    inside = 0.2 * (end - start)
    cut = waveform[round((start + inside) * sample_rate) : round((end - inside) * sample_rate)]
    return nearest_vowel(timbre(cut, sample_rate))


def nearest_vowel(heard: np.ndarray) -> str:
    templates = vowel_templates()  # (vowels, voices, BANDS)
    unlike = np.square(templates - heard).sum(-1)
    return VOWELS[int(unlike.min(1).argmin())]


def timbre(cut: np.ndarray, sample_rate: int) -> np.ndarray:
    """Loudness in each band beside their mean, (BANDS,)."""
    length = round(0.128 * sample_rate)
    cut = cut[:length]
    power = np.abs(np.fft.rfft(cut * np.hanning(len(cut)), 2 * length)) ** 2
    hertz = np.fft.rfftfreq(2 * length, 1 / sample_rate)
    bands = mel_bands(len(power), float(hertz[-1])) @ (power * hertz**2)
    loudness = np.log(bands / max(bands.max(), 1e-12) + FLOOR)
    return loudness - loudness.mean()


@cache
def mel_bands(bins: int, highest: float) -> np.ndarray:
    """Triangles that share their edges, (BANDS, bins)."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in RANGE)
    edges = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    hertz = np.linspace(0, highest, bins)
    rise = (hertz - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - hertz) / np.diff(edges)[1:, None]
    return np.minimum(rise, fall).clip(0)


@cache
def vowel_templates() -> np.ndarray:
    """The timbre of each vowel in voices of many pitches and sizes, (vowels, voices, BANDS)."""
    voices = [Voice(pitch, scale, 0.5) for pitch, scale in product(TEMPLATE_PITCHES, TEMPLATE_SCALES)]
    rows = [said(vowel, voice) for vowel, voice in product(VOWELS, voices)]
    return np.reshape(rows, (len(VOWELS), len(voices), BANDS))


def said(vowel: str, voice: Voice) -> np.ndarray:
    syllable = Syllable("b" + vowel, 0.0, 0.07, 0.22)
    waveform = speak(np.random.default_rng(0), [syllable], voice, round(0.25 * SAMPLE_RATE))
    return timbre(waveform[round(0.09 * SAMPLE_RATE) : round(0.19 * SAMPLE_RATE)], SAMPLE_RATE)


def pitch_of(waveform: np.ndarray, sample_rate: int) -> float | None:
    """The voice's pitch in Hz, the median over its vowels; None where none sounds."""
    vowels = hear_syllables(waveform, sample_rate)
    cuts = [waveform[round(v.opening * sample_rate) : round(v.end * sample_rate)] for v in vowels]
    return float(np.median([period_pitch(cut, sample_rate) for cut in cuts])) if cuts else None


def period_pitch(cut: np.ndarray, sample_rate: int) -> float:
    """One over the shift at which a sound is most like itself; nearly as good and shorter ones win."""
    cut = cut - cut.mean()
    power = np.abs(np.fft.rfft(cut * np.hanning(len(cut)), 2 * len(cut))) ** 2
    alike = np.fft.irfft(power)
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(len(cut)), 2 * len(cut))) ** 2)
    shortest = int(sample_rate / PITCHES[1])
    longest = min(int(sample_rate / PITCHES[0]), len(cut) - 2)
    # The product of a window with its shifted self is no likeness of the sound.
    score = (alike / window.clip(1e-9))[shortest : longest + 1] / (alike[0] / window[0])
    peaks = np.flatnonzero((score[1:-1] >= score[:-2]) & (score[1:-1] >= score[2:])) + 1
    good = [peak for peak in peaks if score[peak] > score[peaks].max() - 0.1]
    return sample_rate / (shortest + (good[0] if good else int(score.argmax())))
