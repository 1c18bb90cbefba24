"""What a talking face is asked: people, voices and words that no training clip had together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..world.face import FaceClip, Identity, sample_clip
from .face_clips import ANYBODY, REFERENCE, sample_speaker

# How many vowels may be left to say behind a prefix.
LEFT = (1, 4)


@dataclass(frozen=True)
class AskedFace:
    """A true clip, and what a model is shown of it: a caption, and a picture and a voice of the person."""

    clip: FaceClip
    caption: str
    image: np.ndarray  # (h, w, 3) uint8
    voice: np.ndarray  # (n,) float32


def ask_faces(seed: int, clips: int, frames: int, fps: float, kept: int = 0) -> list[AskedFace]:
    """Held-out clips of a seed. kept: frames that a model is given, behind which something is left to say.

    Captions tell what moves behind and tell nothing, in turn.
    """
    return [ask_face(np.random.default_rng([seed, i]), i, frames, fps, kept) for i in range(clips)]


def ask_face(rng: np.random.Generator, number: int, frames: int, fps: float, kept: int) -> AskedFace:
    clip = unseen_clip(rng, frames, fps)
    while kept and not LEFT[0] <= vowels_behind(clip, kept / fps) <= LEFT[1]:
        clip = unseen_clip(rng, frames, fps)
    shown = portrait(rng, clip.identity, fps)
    caption = ANYBODY if number % 2 else clip.caption
    return AskedFace(clip, caption, shown.frames[0], shown.waveform)


def unseen_clip(rng: np.random.Generator, frames: int, fps: float) -> FaceClip:
    identity, transcript = sample_speaker(rng, frames / fps, unseen=True)
    return sample_clip(rng, identity, transcript, frames=frames, fps=fps)


def vowels_behind(clip: FaceClip, seam: float) -> int:
    """How many vowels begin behind this second."""
    return sum(said.opening > seam for said in clip.syllables)


def portrait(rng: np.random.Generator, identity: Identity, fps: float) -> FaceClip:
    """Another clip of the person, alone in the picture."""
    shown = sample_clip(rng, identity, frames=REFERENCE, fps=fps)
    while shown.beside is not None:
        shown = sample_clip(rng, identity, frames=REFERENCE, fps=fps)
    return shown
