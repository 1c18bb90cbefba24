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
# Of a shut mouth: the lips shut it for b and m, the tip of the tongue for d, n, s and t, its back for k.
LIPS = (250, 1000, 2200)
TIP = (250, 1700, 2700)
BACK = (250, 2200, 2500)
# Hz, and how loud each resonance is beside the first.
BANDWIDTHS = (80, 110, 160)
LEVELS = (1.0, 0.6, 0.3)


@dataclass(frozen=True)
class Consonant:
    """formants: of the shut mouth; voiced: loudness of the voice in it; noise: of hiss; burst: at its end.

    band: Hz of the noise.
    """

    formants: tuple[int, int, int]
    band: tuple[int, int] = (0, 0)
    voiced: float = 0.0
    noise: float = 0.0
    burst: float = 0.0


CONSONANTS = {
    "b": Consonant(LIPS, (200, 900), voiced=0.12, burst=0.12),
    "d": Consonant(TIP, (2500, 4500), voiced=0.12, burst=0.12),
    "k": Consonant(BACK, (1200, 2200), burst=0.12),
    "m": Consonant(LIPS, voiced=0.4),
    "n": Consonant(TIP, voiced=0.4),
    "s": Consonant(TIP, (4500, 7800), noise=0.1),
    "t": Consonant(TIP, (3500, 7800), burst=0.2),
}
SYLLABLES = tuple(consonant + vowel for consonant in CONSONANTS for vowel in VOWELS)
# At most so many in a word; two words of four fill two seconds.
LONGEST_WORD = 4
# Seconds.
SYLLABLE = (0.19, 0.22)
PAUSE = (0.12, 0.2)
CLOSURE = 0.07
BURST = 0.02
# Values of the voice a second; between them lines.
CONTROL = 200
# Seconds over which one loudness becomes the next, and one shape of the mouth.
BLEND = 0.02
GLIDE = 0.045


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
    formants = np.tile(np.asarray(LIPS, dtype=float), (len(times), 1))
    for syllable in syllables:
        shut = (times >= syllable.start) & (times < syllable.opening)
        open_ = (times >= syllable.opening) & (times < syllable.end)
        consonant = CONSONANTS[syllable.text[0]]
        loudness[shut] = consonant.voiced
        formants[shut] = consonant.formants
        loudness[open_] = 1.0
        formants[open_] = FORMANTS[syllable.vowel]
    return blend(loudness, BLEND), np.stack([blend(column, GLIDE) for column in formants.T], axis=1)


def blend(values: np.ndarray, seconds: float) -> np.ndarray:
    """The mean over so many seconds around each value of the control rate."""
    width = round(seconds * CONTROL) | 1
    padded = np.pad(values, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")


def hiss(rng: np.random.Generator, syllables: Sequence[Syllable], seconds: np.ndarray) -> np.ndarray:
    """The noise of the consonants, each in its band."""
    spectrum = np.fft.rfft(rng.standard_normal(len(seconds)))
    hertz = np.fft.rfftfreq(len(seconds), 1 / SAMPLE_RATE)
    made = np.zeros_like(seconds)
    for letter in {syllable.text[0] for syllable in syllables if CONSONANTS[syllable.text[0]].band[1]}:
        low, high = CONSONANTS[letter].band
        noise = np.fft.irfft(spectrum * ((hertz >= low) & (hertz < high)), len(seconds))
        said = [syllable for syllable in syllables if syllable.text[0] == letter]
        made += noise / noise.std() * noise_level(CONSONANTS[letter], said, seconds)
    return made


def noise_level(consonant: Consonant, syllables: Sequence[Syllable], seconds: np.ndarray) -> np.ndarray:
    """Root mean square of the noise of the syllables that begin with a consonant, (n,)."""
    level = np.zeros_like(seconds)
    for syllable in syllables:
        shut = (seconds >= syllable.start) & (seconds < syllable.opening)
        released = (seconds >= syllable.opening - BURST) & (seconds < syllable.opening)
        level[shut] += consonant.noise
        level[released] += consonant.burst
    return level
