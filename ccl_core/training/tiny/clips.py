"""Clips of the world to train on, as files that scripts/train.py reads: lossless films and their captions."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..world import scene
from ..world.captions import held_out, paraphrase
from ..world.clip import Attributes, Clip
from ..world.shares import EASY, World
from ..world.sounds import SAMPLE_RATE

CAPTIONS = "captions.jsonl"
FPS = 16


def trained_clips(seed: int, frames: int, objects: int | None = None, world: World = EASY) -> Iterator[Clip]:
    """World clips without the held-out combinations, alone or beside another object."""
    drawn = scene.clips(seed, frames=frames, fps=FPS, objects=objects, world=world)
    return (clip for clip in drawn if not any(map(held_out, clip.objects)))


def caption_of(rng: random.Random, clip: Clip) -> str:
    """The world's own caption, or a paraphrase of what it says, in either order of the objects."""
    if rng.random() < 0.5:
        return clip.caption
    stated = [
        Attributes(colour=thing.colour, shape=thing.shape, motion=thing.motion, sound=thing.sound)
        for thing in clip.objects
    ]
    return paraphrase(rng, *rng.sample(stated, len(stated)), ambience=clip.ambience)


def write_clips(
    folder: Path, count: int, seed: int, frames: int, objects: int | None = None, world: World = EASY
) -> Iterator[Path]:
    """Write so many clips of a seed beside those of other seeds; yields the file of each.

    What is there already, whole and with its caption, stays. ValueError where that is another clip, of this
    seed with other objects, length or world.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    known = read_captions(folder / CAPTIONS)
    with (folder / CAPTIONS).open("a", encoding="utf-8") as captions:
        for number, clip in enumerate(islice(trained_clips(seed, frames, objects, world), count)):
            path = folder / f"{seed}-{number:05}.mkv"
            caption = caption_of(rng, clip)
            if known.setdefault(path.name, caption) != caption:
                raise ValueError(
                    f"{path} is another clip, {known[path.name]!r}, wanted {caption!r}: clips of other "
                    "objects, another length or world need another seed or another folder"
                )
            if not path.exists():
                captions.write(json.dumps({"file": path.name, "caption": caption}) + "\n")
                captions.flush()
                write_clip(path, clip)
            yield path


def read_captions(path: Path) -> dict[str, str]:
    """The captions of a folder by file; none where there is no list yet."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["file"]: row["caption"] for row in rows}


def write_clip(path: Path, clip: Clip) -> None:
    write_film(path, clip.frames, clip.waveform)


def write_film(path: Path, frames: np.ndarray, waveform: np.ndarray | None = None) -> None:
    """Frames (f, h, w, 3) bit for bit (FFV1), and a sound (n,) in 16 bits (FLAC)."""
    part = path.with_suffix(".part")
    with av.open(str(part), "w", format="matroska") as file:
        video = file.add_stream("ffv1", rate=FPS)
        audio = None if waveform is None else sound_stream(file, SAMPLE_RATE)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "bgr0"
        for picture in frames:
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(video.encode(None))
        if audio is not None:
            mux_sound(file, audio, waveform)
    part.replace(path)


def write_sound(path: Path, waveform: np.ndarray, sample_rate: int) -> None:
    """A sound (n,) in 16 bits (FLAC)."""
    part = path.with_suffix(".part")
    with av.open(str(part), "w", format="flac") as file:
        mux_sound(file, sound_stream(file, sample_rate), waveform)
    part.replace(path)


def sound_stream(file: Any, sample_rate: int) -> Any:
    return file.add_stream("flac", rate=sample_rate, layout="mono", format="s16")


def mux_sound(file: Any, stream: Any, waveform: np.ndarray) -> None:
    samples = np.rint(waveform.clip(-1, 1) * 32767).astype(np.int16)
    heard = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    heard.sample_rate, heard.pts = stream.rate, 0
    file.mux(stream.encode(heard))
    file.mux(stream.encode(None))
