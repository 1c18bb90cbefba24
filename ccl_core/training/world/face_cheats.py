"""Talking faces that a judge must refuse, made from a true clip: each has something right, and not enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .face import FaceClip, sample_clip, sample_passer, sample_pose
from .face_picture import draw_faces
from .sounds import SAMPLE_RATE
from .speech import VOWELS, speak
from .speech_listen import RATE, envelope

# Seconds.
LATE = 0.08
PERIOD = 0.25


def other_clip(rng: np.random.Generator, clip: FaceClip, fps: float) -> FaceClip:
    """The face of the same person saying other words at other times."""
    frames, size = clip.frames.shape[:2]
    other = sample_clip(rng, clip.identity, frames=frames, size=size, fps=fps)
    return replace(clip, frames=other.frames, place=other.place)


def other_words(rng: np.random.Generator, clip: FaceClip, _fps: float) -> FaceClip:
    """The sound of other vowels at the same times."""
    said = []
    for syllable in clip.syllables:
        vowel = str(rng.choice([vowel for vowel in VOWELS if vowel != syllable.vowel]))
        said.append(replace(syllable, text=syllable.text[0] + vowel))
    return replace(clip, waveform=speak(rng, said, clip.identity.voice, len(clip.waveform)))


def one_shape(rng: np.random.Generator, clip: FaceClip, fps: float) -> FaceClip:
    """A mouth that follows the loudness of the vowels, whichever they are."""
    loudness = envelope(clip.waveform, SAMPLE_RATE)
    times = np.arange(len(clip.frames)) / fps
    heard = np.interp(times, np.arange(len(loudness)) / RATE, loudness / loudness.max())
    return with_opening(rng, clip, fps, np.sqrt(heard))


def constant(rng: np.random.Generator, clip: FaceClip, fps: float) -> FaceClip:
    """A mouth that stays half open."""
    return with_opening(rng, clip, fps, np.full(len(clip.frames), 0.5))


def metronome(rng: np.random.Generator, clip: FaceClip, fps: float) -> FaceClip:
    """A mouth that opens every 250 ms."""
    turns = np.arange(len(clip.frames)) / fps / PERIOD + rng.random()
    return with_opening(rng, clip, fps, 0.5 - 0.5 * np.cos(2 * np.pi * turns))


def late(_rng: np.random.Generator, clip: FaceClip, _fps: float) -> FaceClip:
    """The sound 80 ms late."""
    samples = round(LATE * SAMPLE_RATE)
    waveform = np.pad(clip.waveform, (samples, 0))[: len(clip.waveform)]
    return replace(clip, waveform=waveform)


def with_opening(rng: np.random.Generator, clip: FaceClip, fps: float, opening: np.ndarray) -> FaceClip:
    """The person with a mouth that opens so far (f,) 0..1 towards an "a"."""
    times = np.arange(len(clip.frames)) / fps
    pose = sample_pose(rng, clip.syllables, times, clip.place)
    # An "a" is as wide as a mouth at rest and shows no teeth.
    mouth = np.stack([np.ones_like(opening), opening, np.zeros_like(opening)], axis=1)
    passer = sample_passer(rng, times, clip.identity.looks)
    people = [(clip.identity.looks, replace(pose, mouth=mouth))]
    frames = draw_faces(people, passer, clip.frames.shape[1])
    return replace(clip, frames=frames)


CHEATS: dict[str, Callable[[np.random.Generator, FaceClip, float], FaceClip]] = {
    "other clip": other_clip,
    "other words": other_words,
    "one shape": one_shape,
    "constant": constant,
    "metronome": metronome,
    "late": late,
}
