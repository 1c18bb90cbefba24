"""Films, sounds and captions: find them, and read frames and waveform on one clock."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PureWindowsPath
from typing import Any

import av
import av.error
import numpy as np
import torch
from torch import Tensor

from ...alignment.timeline import samples_of
from ...host.media.encode import fit_images
from ...host.vae.channels import to_channels

VIDEOS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".m4a")
LISTS = ("captions.jsonl", "metadata.json")
FILE_NAMES = ("file", "file_name", "video", "path")
CAPTIONS = ("caption", "text", "prompt")
# Sound that ends a little before the picture, as encoders leave it, is filled with silence.
SHORT_SOUND = Fraction(1, 10)


@dataclass(frozen=True)
class Source:
    """A clip on disk: its file, its name within the folder, its caption."""

    path: Path
    name: str
    caption: str


@dataclass(frozen=True)
class Refused:
    """A clip that cannot be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Shape:
    """What clips are cut to: rates of the model, sizes (width, height) in pixels, lengths in frames."""

    fps: Fraction
    sample_rate: int
    channels: int
    sizes: tuple[tuple[int, int], ...]
    frames: tuple[int, ...]


@dataclass(frozen=True)
class Media:
    """A decoded clip. frames (f, h, w, 3) in 0..1, waveform (channels, n) of the duration of `length` frames.

    One of the two is None in a silent video, or a sound alone.
    """

    frames: Tensor | None
    waveform: Tensor | None
    length: int

    @property
    def size(self) -> int:
        """Values of the picture."""
        return 0 if self.frames is None else self.frames.numel()


def find_clips(folder: Path, captions: Path | None = None) -> tuple[list[Source], list[Refused]]:
    """The clips of a folder by name, and those without a caption.

    Captions come from a list (`captions`, or captions.jsonl or metadata.json in the folder), else from a .txt
    file beside each clip. A list may leave files out; a file that it names and that is not there is refused.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: name the folder of the clips as data.clips")
    found = captions or next((folder / name for name in LISTS if (folder / name).is_file()), None)
    listed, refused = _beside(folder) if found is None else (_listed(found), [])
    sources = []
    for name, caption in sorted(listed.items()):
        if _leaves(name):
            refused.append(
                Refused(name, f"{found.name} names a file outside {folder}: put the clip into that folder")
            )
        elif not (folder / name).is_file():
            refused.append(Refused(name, f"{found.name} names it and it is not in {folder}"))
        elif not caption:
            refused.append(
                Refused(name, "it has no caption: write one into a .txt file of the same name beside it")
            )
        else:
            sources.append(Source(folder / name, name, caption))
    if not sources and not refused:
        raise ValueError(f"{folder} holds no videos and sounds ({', '.join((*VIDEOS, *SOUNDS))})")
    return sources, refused


def _leaves(name: str) -> bool:
    """Whether a name in a list points out of the folder of the list, on this system or on Windows."""
    return bool(Path(name).anchor) or ".." in PureWindowsPath(name).parts


def _beside(folder: Path) -> tuple[dict[str, str], list[Refused]]:
    """Clip -> caption, and the clips whose captions cannot be read."""
    captions = {}
    refused = []
    films = {path.with_suffix("") for path in folder.rglob("*") if path.suffix.lower() in VIDEOS}
    for path in folder.rglob("*"):
        kind = path.suffix.lower()
        # A sound beside a film of its name was taken out of that, or belongs to it.
        if kind not in VIDEOS and (kind not in SOUNDS or path.with_suffix("") in films):
            continue
        name = path.relative_to(folder).as_posix()
        text = path.with_suffix(".txt")
        try:
            captions[name] = read_text(text).strip() if text.is_file() else ""
        except (OSError, ValueError) as error:
            refused.append(Refused(name, str(error)))
    return captions, refused


def read_text(path: Path) -> str:
    """A text in UTF-8 or, where it says so, UTF-16; ValueError names the file and what to do for another."""
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name} is no text in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from error
    # UTF-16 that does not say so has a zero beside each letter.
    if "\0" in text:
        raise ValueError(f"{path.name} holds zeros, wanted a text in UTF-8: save it as UTF-8")
    return text


def _listed(path: Path) -> dict[str, str]:
    """File -> caption of a list: JSON lines, a JSON list of objects, or one object of names and captions."""
    try:
        text = read_text(path)
        lines = path.suffix == ".jsonl"
        rows = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a list of captions: {error}") from error
    if isinstance(rows, dict):
        rows = [{"file": name, "caption": caption} for name, caption in rows.items()]
    return dict(_row(row, path) for row in rows)


def _row(row: Any, path: Path) -> tuple[str, str]:
    name = _first(row, FILE_NAMES)
    caption = _first(row, CAPTIONS)
    if not isinstance(name, str) or not isinstance(caption, str):
        raise ValueError(
            f'{path.name} has the entry {row!r}, wanted {{"file": "clip.mp4", "caption": "what happens"}}'
        )
    return Path(name).as_posix(), caption.strip()


def _first(row: Any, keys: tuple[str, ...]) -> Any:
    """The value of the first of these keys that the entry of a list has."""
    given = row if isinstance(row, dict) else {}
    return next((given[key] for key in keys if key in given), None)


def read_media(path: Path, shape: Shape) -> Media:
    """Frames at the shape's rate and nearest size, sound at its rate, both from the first frame's time on.

    The longest of the shape's lengths that both fill. ValueError says what the file lacks.
    """
    try:
        with av.open(str(path)) as file:
            # The "video" of a sound file is the picture of its album.
            seen = bool(file.streams.video) and path.suffix.lower() not in SOUNDS
            heard = bool(file.streams.audio)
            if not seen and not heard:
                raise ValueError(f"{path.name} has neither picture nor sound")
            start, frames = _frames(file, shape) if seen else (None, [])
            # The pictures may have been read to the end, past the sound.
            file.seek(0)
            waveform = _waveform(file, shape, start) if heard else None
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(
            f"{path.name} cannot be decoded ({error.strerror}): damaged, or of an unknown kind"
        ) from error
    length = _length(path, shape, frames if seen else None, waveform)
    if waveform is not None:
        samples = samples_of(length / shape.fps, shape.sample_rate)
        waveform = torch.nn.functional.pad(waveform[:, :samples], (0, max(0, samples - waveform.shape[1])))
    return Media(torch.cat(frames[:length]) if seen else None, waveform, length)


def _length(path: Path, shape: Shape, frames: list[Tensor] | None, waveform: Tensor | None) -> int:
    """The longest of the shape's lengths that what there is fills, in frames."""
    filled = [] if frames is None else [len(frames)]
    if waveform is not None:
        sounding = Fraction(waveform.shape[1], shape.sample_rate) + SHORT_SOUND
        filled.append(math.floor(sounding * shape.fps))
    length = max((count for count in shape.frames if count <= min(filled)), default=None)
    if length is None:
        raise ValueError(
            f"{path.name} fills {min(filled)} frames at {float(shape.fps):g} fps, "
            f"the shortest length is {min(shape.frames)}"
        )
    return length


def _frames(file: Any, shape: Shape) -> tuple[Fraction, list[Tensor]]:
    """Time of the first frame, and the picture that is seen at each tick of the clock from there on."""
    seen: list[Tensor] = []
    start = None
    end = 0
    for time, frame in _timed(file):
        start = time if start is None else start
        tick = _nearest_tick(time - start, shape)
        # Of several frames within one tick the first is seen.
        if tick < len(seen):
            continue
        # A gap shows the frame before it.
        seen += seen[-1:] * (tick - len(seen))
        # No clip is longer: the rest of the file need not be decoded.
        if tick >= max(shape.frames):
            return start, seen
        seen.append(_fitted(frame, shape.sizes))
        seconds = Fraction(frame.duration) * frame.time_base if frame.duration else 1 / shape.fps
        end = _nearest_tick(time - start + seconds, shape)
    if not seen:
        raise ValueError(f"{Path(file.name).name} has no picture that can be decoded")
    return start, seen + seen[-1:] * (end - len(seen))


def _nearest_tick(seconds: Fraction, shape: Shape) -> int:
    return math.floor(seconds * shape.fps + Fraction(1, 2))


def _timed(file: Any) -> Iterator[tuple[Fraction, Any]]:
    stream = file.streams.video[0]
    stream.thread_type = "AUTO"
    for count, frame in enumerate(file.decode(stream)):
        # Some containers give frames no times: they count at the stream's rate, or 25 where none is stated.
        rate = stream.average_rate or Fraction(25)
        yield (count / rate if frame.pts is None else frame.pts * frame.time_base), frame


def _fitted(frame: Any, sizes: tuple[tuple[int, int], ...]) -> Tensor:
    """(1, h, w, 3) upright, cut to the size of the nearest shape."""
    # Phones film sideways and state the rotation.
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), (frame.rotation or 0) // 90)
    image = torch.from_numpy(np.ascontiguousarray(pixels)).float().div(255)[None]
    # The logarithm makes twice as wide and half as wide equally far; of equally near sizes the larger one.
    own = math.log(image.shape[2] / image.shape[1])
    width, height = min(sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - own), -size[0] * size[1]))
    return fit_images(image, width, height, "crop")


def _waveform(file: Any, shape: Shape, start: Fraction | None) -> Tensor:
    """(channels, n) from the time `start` on, silence where the sound begins later; None: from its own."""
    stream = file.streams.audio[0]
    # In its own channels: FFmpeg's way to mono makes stereo 3 dB louder than the nodes do.
    resampler = av.AudioResampler(format="fltp", rate=shape.sample_rate)
    # A second more than the longest clip, so that rounding leaves no gap at its end.
    wanted = (max(shape.frames) / shape.fps + 1) * shape.sample_rate
    pieces = []
    first = None
    for frame in file.decode(stream):
        if first is None:
            stated = None if frame.pts is None else frame.pts * frame.time_base
            # A sound that does not say when it begins begins with the picture, and one without picture at 0.
            first = next(time for time in (stated, start, Fraction(0)) if time is not None)
            start = first if start is None else start
        pieces += [piece.to_ndarray() for piece in resampler.resample(frame)]
        if sum(piece.shape[1] for piece in pieces) > wanted + max(0, start - first) * shape.sample_rate:
            break
    else:
        # At the end of the file the resampler gives what it still holds.
        pieces += [piece.to_ndarray() for piece in resampler.resample(None)]
    if not pieces:
        raise ValueError(f"{Path(file.name).name} has no sound that can be decoded")
    own = torch.from_numpy(np.concatenate(pieces, axis=1))
    waveform = to_channels(own[None], shape.channels, stream.layout.name)[0]
    offset = round((first - start) * shape.sample_rate)
    return torch.nn.functional.pad(waveform, (offset, 0)) if offset > 0 else waveform[:, -offset:]
