"""Clips of the talking face to train on: films, captions, words, reference pictures, voices and faces.

And voices alone, of which the audio stream learns to speak before it meets a face.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..world.captions import paraphrase
from ..world.face import FaceClip, Identity, sample_clip, sample_identity
from ..world.face_picture import face_cover
from ..world.sounds import SAMPLE_RATE
from ..world.speech import sample_syllables, sample_transcript, speak
from ..world.wording import read_caption
from .clips import CAPTIONS, FPS, read_captions, write_film, write_sound

# A caption that tells nothing: who it is stands in the reference picture, what is said in the speech.
ANYBODY = ""
# Frames of the clip that lends a reference: as short as a clip can be that training hears a voice of.
REFERENCE = 21
# One of so many persons, and of so many texts, is kept for tests.
KEPT = 8
# The name of a film: the seed, and the number of the clip.
WRITTEN = re.compile(r"(\d+)-(\d{5,})\.mkv")


def held_out(identity: Identity, transcript: str) -> bool:
    """Whether no training clip has this person, or these words."""
    looks = identity.looks
    words = (f"{looks.skin} {looks.hair} {looks.eyes} {looks.shirt}", transcript)
    return any(zlib.crc32(text.encode()) % KEPT == 0 for text in words)


def write_faces(folder: Path, count: int, seed: int, frames: int) -> Iterator[Path]:
    """Write so many clips of a seed beside those of other seeds; yields the film of each.

    What is there already, whole and in the list, stays.
    """
    return write_listed(folder, count, seed, frames, ".mkv", write_face)


def write_voices(folder: Path, count: int, seed: int, frames: int) -> Iterator[Path]:
    """Write so many sounds without a picture, as long as clips of so many frames; yields each file."""
    return write_listed(folder, count, seed, frames, ".flac", write_voice)


def write_listed(
    folder: Path,
    count: int,
    seed: int,
    frames: int,
    suffix: str,
    write: Callable[[np.random.Generator, Path, int], dict[str, str]],
) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    known = read_captions(folder / CAPTIONS)
    with (folder / CAPTIONS).open("a", encoding="utf-8") as rows:
        for number in range(count):
            # A generator for each, so that a clip does not hang on those before it.
            rng = np.random.default_rng([seed, number])
            path = folder / f"{seed}-{number:05}{suffix}"
            if path.name not in known or not path.exists():
                rows.write(json.dumps(write(rng, path, frames)) + "\n")
                rows.flush()
            yield path


def write_face(rng: np.random.Generator, film: Path, frames: int) -> dict[str, str]:
    """The files of one clip; returns its entry of the list. The film is written last."""
    clip = training_clip(rng, frames)
    paths = {"image": film.with_suffix(".png"), "voice": film.with_suffix(".flac")}
    paths["face"] = film.with_suffix(".face.mkv")
    reference = sample_clip(rng, clip.identity, frames=REFERENCE, fps=FPS)
    Image.fromarray(reference.frames[0]).save(paths["image"])
    write_sound(paths["voice"], reference.waveform, SAMPLE_RATE)
    write_film(paths["face"], cover_of(clip))
    write_film(film, clip.frames, clip.waveform)
    return {"file": film.name, "caption": caption_of(rng, clip), "speech": clip.transcript} | {
        name: path.name for name, path in paths.items()
    }


def training_clip(rng: np.random.Generator, frames: int) -> FaceClip:
    """A clip of a person and words that are not held out."""
    identity, transcript = sample_speaker(rng, frames / FPS)
    return sample_clip(rng, identity, transcript, frames=frames, fps=FPS)


def drawn_again(name: str, frames: int) -> FaceClip:
    """The clip of a film that `write_faces` wrote, from its name; ValueError for another name."""
    found = WRITTEN.fullmatch(name)
    if found is None:
        raise ValueError(f"{name} is no film of the talking face, such as 0-00001.mkv")
    return training_clip(np.random.default_rng([int(found[1]), int(found[2])]), frames)


def caption_of(rng: np.random.Generator, clip: FaceClip) -> str:
    """Nothing, or what the clip's caption says in one of many ways, or the caption itself."""
    way = rng.random()
    if way < 0.5:
        return ANYBODY
    if way < 0.75:
        return clip.caption
    return paraphrase(random.Random(int(rng.integers(2**32))), *read_caption(clip.caption))


def write_voice(rng: np.random.Generator, path: Path, frames: int) -> dict[str, str]:
    """One sound of somebody who says something; returns its entry of the list."""
    seconds = frames / FPS
    identity, transcript = sample_speaker(rng, seconds)
    syllables = sample_syllables(rng, transcript, seconds)
    write_sound(path, speak(rng, syllables, identity.voice, round(seconds * SAMPLE_RATE)), SAMPLE_RATE)
    return {"file": path.name, "caption": ANYBODY, "speech": transcript}


def sample_speaker(rng: np.random.Generator, seconds: float, unseen: bool = False) -> tuple[Identity, str]:
    """A person and words that are held out (unseen), or that are not."""
    while True:
        identity, transcript = sample_identity(rng), sample_transcript(rng, seconds)
        if held_out(identity, transcript) == unseen:
            return identity, transcript


def cover_of(clip: FaceClip) -> np.ndarray:
    """White where the face is that speaks, (f, h, w, 3)."""
    cover = face_cover(clip.identity.looks, clip.pose, clip.frames.shape[1])
    return np.repeat((255 * cover + 0.5).astype(np.uint8)[..., None], 3, axis=-1)
