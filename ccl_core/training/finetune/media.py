"""Films and sounds as a model takes them: frames and waveform on one clock."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ...alignment.timeline import samples_of
from ...host.media.encode import fit_images
from ...host.media.references import VOICE_SECONDS
from ...host.vae.channels import to_channels
from .sources import SOUNDS, Beside

# Sound that ends a little before the picture, as encoders leave it, is filled with silence.
SHORT_SOUND = Fraction(1, 10)


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


@dataclass(frozen=True)
class Extras:
    """What belongs to a clip, decoded: words, image (1, h, w, 3), voice (1, n), face (f, h, w) in 0..1."""

    speech: str = ""
    image: Tensor | None = None
    voice: Tensor | None = None
    face: Tensor | None = None


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


def read_extras(beside: Beside, media: Media, shape: Shape) -> Extras:
    """What belongs to a clip; ValueError says what is wrong with a file of it."""
    image = voice = face = None
    if media.frames is not None:
        height, width = media.frames.shape[1:3]
        if beside.image is not None:
            image = fit_images(_picture(beside.image), width, height, "crop")
        if beside.face is not None:
            as_clip = Shape(shape.fps, shape.sample_rate, 1, ((width, height),), (media.length,))
            face = read_media(beside.face, as_clip).frames.mean(dim=-1)
    if beside.voice is not None:
        voice = _voice(beside.voice, shape.sample_rate)
    return Extras(beside.speech, image, voice, face)


def _picture(path: Path) -> Tensor:
    """(1, h, w, 3) in 0..1, upright."""
    try:
        with Image.open(path) as file:
            pixels = np.array(ImageOps.exif_transpose(file).convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read as a picture ({error})") from error
    return torch.from_numpy(pixels).float().div(255)[None]


def _voice(path: Path, sample_rate: int) -> Tensor:
    """The beginning of a sound, (1, n)."""
    shape = Shape(Fraction(1), sample_rate, 1, (), (VOICE_SECONDS,))
    try:
        with av.open(str(path)) as file:
            if not file.streams.audio:
                raise ValueError(f"{path.name} has no sound, wanted a reference voice")
            waveform = _waveform(file, shape, None)
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{path.name} cannot be decoded ({error.strerror})") from error
    wanted = VOICE_SECONDS * sample_rate
    if waveform.shape[1] < wanted:
        raise ValueError(
            f"{path.name} lasts {waveform.shape[1] / sample_rate:.2f} s, wanted {VOICE_SECONDS} s of a "
            "reference voice"
        )
    return waveform[:, :wanted]


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
