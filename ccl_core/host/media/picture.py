"""Moving pictures that a person gives: frames in memory, or a file of which a few are read at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch

from ...alignment.timeline import HALF
from ...notices import notice
from .container import File, name_of, open_file, picture_stream, sound_stream

# Frames that are converted at once: at 4K they take 1.6 GB in float32.
AT_ONCE = 16
SECOND = av.time_base


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames (f, h, w, c) in memory at an even rate."""

    images: torch.Tensor
    fps: Fraction

    @property
    def seconds(self) -> Fraction:
        return self.images.shape[0] / self.fps

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.images.shape[2], self.images.shape[1]

    def at(self, fps: Fraction, count: int) -> Iterator[torch.Tensor]:
        """The frames nearest to the times k / fps, a few at a time; the last one fills what is missing."""
        last = self.images.shape[0] - 1
        places = [min(last, int(k * self.fps / fps + HALF)) for k in range(count)]
        for start in range(0, count, AT_ONCE):
            yield self.images[places[start : start + AT_ONCE]]


@dataclass(frozen=True)
class Film:
    """A video file, or a window of it. Times are seconds on the clock of the file's time stamps.

    start, seconds: the window. sides: width and height as shown, in square pixels. pixel: width over height
    of one in the file. fps: on average.
    picture, sound: whether the file has such a stream. whole: whether the window is all of the file.
    """

    file: File
    start: Fraction
    seconds: Fraction
    sides: tuple[int, int]
    pixel: Fraction
    fps: Fraction
    picture: bool
    sound: bool
    whole: bool

    @property
    def name(self) -> str:
        return name_of(self.file)

    def at(self, fps: Fraction, count: int) -> Iterator[torch.Tensor]:
        """The frames (n, h, w, 3) nearest to start + k / fps, a few at a time; the last one fills the rest.

        ValueError where the window holds no frame.
        """
        images = _nearest(self, [self.start + k / fps for k in range(count)])
        while chunk := list(itertools.islice(images, AT_ONCE)):
            yield torch.from_numpy(np.stack(chunk)).float() / 255

    def shown(self) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        """The frames of the window in the order of their times; some before its start too."""
        with open_file(self.file) as container:
            late = self.start > _begin(container)
            if late:
                container.seek(int(self.start * SECOND))
                first = next(self._frames(container), None)
                # Some containers go to a place behind the one that was asked for.
                late = first is not None and first[0] <= self.start
        with open_file(self.file) as container:
            if late:
                container.seek(int(self.start * SECOND))
            yield from self._frames(container)

    def _frames(self, container: av.container.InputContainer) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        stream = picture_stream(container)
        stream.thread_type = "AUTO"
        for frame in decoded(container, stream, self.name):
            time = frame.pts * stream.time_base
            if time >= self.start + self.seconds:
                return
            yield time, frame


Picture = Film | Frames


def open_film(file: File, start: float = 0, seconds: float = 0, of_sound: bool = False) -> Film:
    """What a file holds. start, seconds: of a window, 0 for the whole, as the host's VIDEO states it.

    of_sound: it lasts as long as its sound, not as its picture.
    """
    with open_file(file) as container:
        picture, sounds = picture_stream(container), container.streams.audio
        if picture is None and not sounds:
            raise ValueError(f"{name_of(file)} holds neither a picture nor a sound: choose another file")
        begin = _begin(container)
        pixel = Fraction((picture and picture.sample_aspect_ratio) or 1)
        sides = (0, 0) if picture is None else _sides(container, picture, pixel, name_of(file))
        by_sound = picture is None or (of_sound and sounds)
        end = _end(container, sound_stream(container, name_of(file)) if by_sound else picture, file)
        first = max(begin, Fraction(start).limit_denominator(SECOND))
        length = end - first
        if seconds:
            length = min(length, Fraction(seconds).limit_denominator(SECOND))
        if length <= 0:
            raise ValueError(
                f"{name_of(file)} lasts from {float(begin):g} to {float(end):g} s, and the part from "
                f"{start:g} s on holds nothing: choose another part, or another file"
            )
        return Film(
            file=file,
            start=first,
            seconds=length,
            sides=sides,
            pixel=pixel,
            fps=Fraction(picture.average_rate or 1) if picture else Fraction(1),
            picture=picture is not None,
            sound=bool(sounds),
            whole=first == begin and first + length == end,
        )


def first_seconds(film: Film, seconds: Fraction) -> Film:
    """The film, cut where it is longer."""
    if film.seconds <= seconds:
        return film
    return replace(film, seconds=seconds, whole=False)


def decoded(container: Any, stream: Any, name: str) -> Iterator[av.VideoFrame]:
    """The frames with a time; damaged packets are passed over, and told of at the end."""
    damaged = 0
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                damaged += 1
                continue
            yield from (frame for frame in frames if frame.pts is not None)
    finally:
        if damaged:
            notice(f"{name} is damaged: packets of its picture left out as unreadable: {damaged}")


def rgb(frame: av.VideoFrame, pixel: Fraction) -> np.ndarray:
    """(h, w, 3) in 8 bits, turned as it is shown, with square pixels."""
    width = round(frame.width * pixel)
    shaped = frame if width == frame.width else frame.reformat(width=width, height=frame.height)
    image = shaped.to_ndarray(format="rgb24")
    # The host turns by the same rule.
    return np.rot90(image, round(frame.rotation / 90)) if frame.rotation else image


def _begin(container: Any) -> Fraction:
    """Where the first stream of a file begins."""
    return Fraction(container.start_time or 0, SECOND)


def _sides(container: Any, stream: Any, pixel: Fraction, name: str) -> tuple[int, int]:
    """Width and height as shown: only a frame knows how it is turned."""
    frame = next(decoded(container, stream, name), None)
    if frame is None:
        return stream.width, stream.height
    sides = round(frame.width * pixel), frame.height
    return sides[::-1] if round(frame.rotation / 90) % 2 else sides


def _end(container: Any, stream: Any, file: File) -> Fraction:
    """Where a stream ends: as its header states in mov and mp4, in other containers where its packets end."""
    if stream.duration and "mp4" in container.format.name:
        return (stream.duration + (stream.start_time or 0)) * stream.time_base
    ends = [p.pts + (p.duration or 0) for p in container.demux(stream) if p.pts is not None]
    if not ends:
        raise ValueError(f"{name_of(file)} has a stream without packets: it is cut off, get it again")
    return max(ends) * stream.time_base


def _nearest(film: Film, times: list[Fraction]) -> Iterator[np.ndarray]:
    """For each time the frame nearest to it, as an array."""
    place, image, before = 0, None, None
    for time, frame in film.shown():
        while before is not None and place < len(times) and times[place] < (before[0] + time) / 2:
            image = rgb(before[1], film.pixel) if image is None else image
            yield image
            place += 1
        if place == len(times):
            return
        before, image = (time, frame), None
    if before is None:
        raise ValueError(f"{film.name} has no frame in the part that is used: choose another part or file")
    image = rgb(before[1], film.pixel)
    for _ in times[place:]:
        yield image
