"""The speech of the talking face: syllables of a consonant and a vowel, by formant synthesis.

A vowel is known by the first three resonances of the mouth (Peterson and Barney 1952, men); a voice by its
pitch and by the length of its mouth, which scales all resonances alike. Consonants sound while the mouth is
shut or nearly so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .sounds import SAMPLE_RATE

# Hz, of a voice of scale 1.
FORMANTS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
VOWELS = tuple(FORMANTS)
NASAL = (250, 1100, 2200)
# Hz, and how loud each resonance is beside the first.
BANDWIDTHS = (80, 110, 160)
LEVELS = (1.0, 0.6, 0.3)


@dataclass(frozen=True)
class Consonant:
    """voiced: loudness of the voice while the mouth is shut; noise: of hiss; burst: of noise at its end."""

    voiced: float = 0.0
    noise: float = 0.0
    burst: float = 0.0


CONSONANTS = {
    "b": Consonant(voiced=0.12, burst=0.15),
    "d": Consonant(voiced=0.12, burst=0.3),
    "k": Consonant(burst=0.5),
    "m": Consonant(voiced=0.4),
    "n": Consonant(voiced=0.35),
    "s": Consonant(noise=0.22),
    "t": Consonant(burst=0.4),
}
SYLLABLES = tuple(consonant + vowel for consonant in CONSONANTS for vowel in VOWELS)
# At most so many in a word; two words of four fill two seconds.
LONGEST_WORD = 4
# Seconds.
SYLLABLE = (0.19, 0.22)
PAUSE = (0.12, 0.2)
CLOSURE = 0.07
BURST = 0.012
# Values of the voice a second; between them lines.
CONTROL = 200
# Seconds over which one sound becomes the next.
BLEND = 0.02


@dataclass(frozen=True)
class Voice:
    """pitch: Hz; scale: of the resonances, above 1 a shorter mouth; level: peak of the waveform."""

    pitch: float
    scale: float
    level: float


@dataclass(frozen=True)
class Syllable:
    """Seconds: the consonant begins at `start`, the vowel at `opening`, and it ends at `end`."""

    text: str
    start: float
    opening: float
    end: float

    @property
    def vowel(self) -> str:
        return self.text[1]


def sample_transcript(rng: np.random.Generator, seconds: float) -> str:
    """One or two words such as "bama tiko" that can be said in this time."""
    lengths = rng.integers(1, LONGEST_WORD + 1, rng.integers(1, 3))
    while spoken_seconds(lengths) > seconds:
        lengths = lengths[:-1] if len(lengths) > 1 else lengths - 1
    words = [rng.choice(SYLLABLES, length) for length in lengths]
    return " ".join("".join(word) for word in words)


def spoken_seconds(lengths: Sequence[int]) -> float:
    """The longest time that words of so many syllables may take, with silence before and behind."""
    return sum(lengths) * SYLLABLE[1] + (len(lengths) - 1) * PAUSE[1] + 0.1


def sample_syllables(rng: np.random.Generator, transcript: str, seconds: float) -> tuple[Syllable, ...]:
    """When each syllable of a transcript is said. ValueError for what is no transcript, or too long."""
    words = [syllables_of(word) for word in transcript.split()]
    if not words or spoken_seconds([len(word) for word in words]) > seconds:
        raise ValueError(f"{transcript!r} cannot be said in {seconds:.2f} s: give one or two short words")
    lengths = rng.uniform(*SYLLABLE, sum(map(len, words)))
    pauses = rng.uniform(*PAUSE, len(words) - 1)
    time = rng.uniform(0.05, seconds - lengths.sum() - pauses.sum() - 0.05)
    said = []
    for i, word in enumerate(words):
        time += pauses[i - 1] if i else 0.0
        for text in word:
            end = time + lengths[len(said)]
            said.append(Syllable(text, float(time), float(time + CLOSURE), float(end)))
            time = end
    return tuple(said)


def syllables_of(word: str) -> list[str]:
    syllables = [word[i : i + 2] for i in range(0, len(word), 2)]
    if unknown := [text for text in syllables if text not in SYLLABLES]:
        raise ValueError(
            f"{unknown[0]!r} is no syllable of this speech: write words of {', '.join(CONSONANTS)}, each "
            f"with one of {', '.join(VOWELS)} behind it"
        )
    return syllables


def speak(rng: np.random.Generator, syllables: Sequence[Syllable], voice: Voice, samples: int) -> np.ndarray:
    """The waveform of the syllables, (n,) float32 with the voice's peak."""
    seconds = np.arange(samples) / SAMPLE_RATE
    wave = voiced(rng, syllables, voice, seconds) + hiss(rng, syllables, seconds)
    return (voice.level * wave / np.abs(wave).max()).astype(np.float32)


def voiced(
    rng: np.random.Generator, syllables: Sequence[Syllable], voice: Voice, seconds: np.ndarray
) -> np.ndarray:
    """Harmonics of the pitch under the resonances of the mouth, which move from sound to sound."""
    times = np.arange(0, seconds[-1] + 2 / CONTROL, 1 / CONTROL)
    loudness, formants = resonances(syllables, times)
    # A statement falls in pitch, and no voice is steady.
    wave = 0.03 * np.sin(2 * np.pi * (2.3 * times + rng.random()))
    pitch = voice.pitch * (1.06 - 0.06 * times + wave)
    hertz = np.arange(1, int(7600 / pitch.max()) + 1)[:, None] * pitch  # (k, t)
    gain = np.zeros_like(hertz)
    for i, (width, level) in enumerate(zip(BANDWIDTHS, LEVELS, strict=True)):
        detuned = (hertz - voice.scale * formants[:, i]) / (width / 2)
        gain += level / np.sqrt(1 + detuned**2)
    # The source falls by 6 dB an octave at the lips.
    gain *= loudness * pitch / hertz
    phase = 2 * np.pi * np.cumsum(np.interp(seconds, times, pitch)) / SAMPLE_RATE
    made = np.zeros_like(seconds)
    for k, row in enumerate(gain, start=1):
        made += np.interp(seconds, times, row) * np.sin(k * phase)
    return made


def resonances(syllables: Sequence[Syllable], times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loudness of the voice (t,) and its resonances (t, 3) in Hz for a voice of scale 1."""
    loudness = np.zeros_like(times)
    formants = np.tile(np.asarray(NASAL, dtype=float), (len(times), 1))
    for syllable in syllables:
        shut = (times >= syllable.start) & (times < syllable.opening)
        open_ = (times >= syllable.opening) & (times < syllable.end)
        loudness[shut] = CONSONANTS[syllable.text[0]].voiced
        loudness[open_] = 1.0
        formants[open_] = FORMANTS[syllable.vowel]
    return blend(loudness), np.stack([blend(column) for column in formants.T], axis=1)


def blend(values: np.ndarray) -> np.ndarray:
    """The mean over BLEND seconds around each value of the control rate."""
    width = round(BLEND * CONTROL) | 1
    padded = np.pad(values, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")


def hiss(rng: np.random.Generator, syllables: Sequence[Syllable], seconds: np.ndarray) -> np.ndarray:
    """The noise of the consonants, without low frequencies."""
    noise = rng.standard_normal(len(seconds) + 1)
    level = np.zeros_like(seconds)
    for syllable in syllables:
        consonant = CONSONANTS[syllable.text[0]]
        shut = (seconds >= syllable.start) & (seconds < syllable.opening)
        released = (seconds >= syllable.opening - BURST) & (seconds < syllable.opening)
        level[shut] += consonant.noise
        level[released] += consonant.burst
    return level * (noise[1:] - noise[:-1]) / 2
