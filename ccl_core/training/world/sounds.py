"""The sounds of the procedural world: short notes with an immediate attack and spectra unlike each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SAMPLE_RATE = 16000
# Seconds of a note.
LONGEST = 0.25
# The scale: NEAR is the gain of a note of an object, FAR that of an off-screen one. A note peaks at .8 at
# most, so two at once, one off screen and the loudest bed, whose peaks are .06, stay within .98.
NEAR = 0.48
FAR = 0.19
# Quietest and loudest root mean square of the noise under a clip, -46 and -34 dB.
BED = (0.005, 0.02)
# Largest sample of that noise, by its root mean square.
PEAKS = 3
# Samples of the moving average that makes white noise low.
SMOOTH = 16
# What an object without a sound makes.
SILENT = "silent"


def synthesise(
    rng: np.random.Generator,
    parts: Sequence[tuple[str, Sequence[float]]],
    samples: int,
    loudness: float = NEAR,
) -> np.ndarray:
    """The sum of every part's sound at each of its contacts (seconds), a little softer or louder."""
    waveform = np.zeros(samples, dtype=np.float32)
    for sound, contacts in parts:
        for time in contacts if sound != SILENT else ():
            note = strike(rng, sound) * (loudness * rng.uniform(0.85, 1.0))
            begin = round(time * SAMPLE_RATE)
            waveform[begin : begin + len(note)] += note[: samples - begin]
    return waveform  # (n,)


def make_bed(rng: np.random.Generator, samples: int, level: float) -> np.ndarray:
    """Soft low noise with this root mean square; no sample is above three times that."""
    noise = rng.standard_normal(samples + SMOOTH - 1)
    # A moving average, whose first zero is at 1000 Hz.
    low = np.convolve(noise, np.ones(SMOOTH), "valid")
    low = np.clip(low / low.std(), -PEAKS, PEAKS)
    return (level * np.clip(low / np.sqrt(np.mean(low**2)), -PEAKS, PEAKS)).astype(np.float32)  # (n,)


def strike(rng: np.random.Generator, sound: str) -> np.ndarray:
    """One note of at most a quarter of a second with an immediate attack."""
    seconds = np.arange(round(LONGEST * SAMPLE_RATE)) / SAMPLE_RATE
    # The last 40 ms fade out: a cut would be heard as another onset.
    fade = np.clip((LONGEST - seconds) / 0.04, 0, 1)
    return (NOTES[sound](rng, seconds) * fade).astype(np.float32)


def drum(_rng: np.random.Generator, seconds: np.ndarray) -> np.ndarray:
    """A low thump that sinks in pitch."""
    # The integral of 85 + 75 exp(-t / .03) Hz. A cosine begins at its peak: the attack is immediate.
    turns = 85 * seconds + 75 * 0.03 * (1 - np.exp(-seconds / 0.03))
    return 0.8 * np.cos(2 * np.pi * turns) * np.exp(-seconds / 0.06)


def bell(_rng: np.random.Generator, seconds: np.ndarray) -> np.ndarray:
    """Slightly inharmonic partials that ring."""
    partials = ((700, 0.28), (1410, 0.22), (2130, 0.16), (3480, 0.12))
    return sum(level * np.cos(2 * np.pi * hertz * seconds) for hertz, level in partials) * np.exp(
        -seconds / 0.1
    )


def click(rng: np.random.Generator, seconds: np.ndarray) -> np.ndarray:
    """A short burst of noise without low frequencies."""
    # The difference of neighbouring samples of white noise is a high pass. Uniform noise has bounded peaks.
    noise = rng.uniform(-0.4, 0.4, len(seconds) + 1)
    return (noise[1:] - noise[:-1]) * np.exp(-seconds / 0.025)


def beep(_rng: np.random.Generator, seconds: np.ndarray) -> np.ndarray:
    """A steady tone that begins and ends sharply."""
    return 0.55 * np.cos(2 * np.pi * 1050 * seconds) * np.clip((0.14 - seconds) / 0.01, 0, 1)


def horn(_rng: np.random.Generator, seconds: np.ndarray) -> np.ndarray:
    """A short honk: a low tone with all its harmonics."""
    # Level 1 / k for the harmonic k, as in a sawtooth.
    wave = sum(np.cos(2 * np.pi * 240 * k * seconds) / k for k in range(1, 9))
    return 0.24 * wave * np.clip((0.13 - seconds) / 0.01, 0, 1)


NOTES = {"drum": drum, "bell": bell, "click": click, "beep": beep, "horn": horn}
SOUNDS = tuple(NOTES)
