"""The sound of a file, a window at a time, at the file's own time stamps.

The host's VIDEO hands out a sound from its first sample on, wherever that stands in the clip.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import comfy.model_management
import torch
from av.container import InputContainer
from av.error import FFmpegError

from ...notices import notice
from ..out_of_memory import require_ram
from .container import name_of, open_file, sound_stream

# Time stamps are rounded (1 ms in Matroska) and uneven (MP3 in AVI); a larger step is a gap or an overlap.
TOLERANCE = Fraction(1, 100)  # s
# Read ahead of a window: Opus needs 80 ms to settle, MP3 up to 10 frames, AAC one frame.
PREROLL = Fraction(1, 2)  # s


@dataclass(frozen=True)
class Sound:
    """A piece of the sound of a file. layout: FFmpeg's name of its channels, such as 5.1(side)."""

    waveform: torch.Tensor  # (ch, n) float32
    sample_rate: int
    layout: str


def read_sound(path: str | io.BytesIO, start: Fraction, seconds: Fraction) -> Sound:
    """The samples of start <= time < start + seconds, with silence where the file has none.

    Times are those of the streams' own time stamps, the video's and the sound's. The delay of an encoder is
    taken off as the container states it. ValueError, with the file's name, for a file without sound.
    """
    with open_file(path) as container:
        stream = sound_stream(container, name_of(path))
        window = _Window(start, seconds, name_of(path))
        if start > PREROLL:
            window.learn_grid(container, stream)
            if _seek(container, stream, start - PREROLL) and window.fill(container, stream):
                return window.sound()
        # Some demuxers land behind the place that was asked for, and a sound may have a hole there.
        with open_file(path) as again:
            window.fill(again, sound_stream(again, name_of(path)))
    return window.sound()


class _Window:
    """The samples between two times, filled frame by frame."""

    def __init__(self, start: Fraction, seconds: Fraction, name: str) -> None:
        self.start, self.seconds, self.name = start, seconds, name
        self.waveform: torch.Tensor | None = None
        self.rate = 0
        self.layout = ""
        self.broken = 0
        self.grid: int | None = None

    def learn_grid(self, container: InputContainer, stream: av.AudioStream) -> None:
        """Note where the second frame of a stream starts whose time stamps are coarser than its samples."""
        if not stream.rate or stream.time_base * stream.rate <= 1:
            return
        frame = next(self._frames(container, stream), None)
        time = None if frame is None else _time_of(frame)
        if time is not None:
            # The first frame may be shorter by the encoder's delay, all others are equally long.
            self.grid = round(time * frame.sample_rate) + frame.samples

    def fill(self, container: InputContainer, stream: av.AudioStream) -> bool:
        """Whether decoding began before the window, so that nothing of it was missed."""
        self.broken = 0
        place: int | None = None
        early = False
        for frame in self._frames(container, stream):
            stated = _time_of(frame)
            if self.waveform is None:
                self._allocate(frame)
            if stated is not None and (place is None or abs(stated - Fraction(place, self.rate)) > TOLERANCE):
                place = self._place(stated, frame)
            place = place or 0
            early = early or place <= self.first
            if place >= self.first + self.waveform.shape[1]:
                break
            samples = self._samples(frame)
            self._write(samples, place)
            place += samples.shape[1]
        return early

    def sound(self) -> Sound:
        """What was read; ValueError where the whole stream holds no sample."""
        if self.waveform is None:
            raise ValueError(
                f"{self.name} has a sound stream without samples: save it again with sound, or leave the "
                "sound out to have it made"
            )
        if self.broken:
            notice(
                f"{self.broken} packets of the sound of {self.name} could not be decoded: silence is in "
                "their place. Convert the file again if it should be whole"
            )
        return Sound(self.waveform, self.rate, self.layout)

    @property
    def first(self) -> int:
        """Sample at which the window starts, counted from time 0."""
        return round(self.start * self.rate)

    def _place(self, stated: Fraction, frame: av.AudioFrame) -> int:
        """The sample at which a frame starts, as a reading from the start of the file would place it."""
        place = round(stated * self.rate)
        if self.grid is None:
            return place
        near = self.grid + round((place - self.grid) / frame.samples) * frame.samples
        return near if abs(near - place) <= 2 * frame.time_base * self.rate else place

    def _allocate(self, frame: av.AudioFrame) -> None:
        self.rate, self.layout = frame.sample_rate, frame.layout.name
        # Both ends are rounded, so that windows side by side neither share nor leave out a sample.
        samples = max(0, round((self.start + self.seconds) * self.rate) - self.first)
        channels = frame.layout.nb_channels
        require_ram(
            4 * channels * samples,  # bytes of float32
            f"{float(self.seconds):g} s of sound in {channels} channels",
            "read a shorter part of the file",
        )
        self.waveform = torch.zeros(channels, samples)

    def _frames(self, container: InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
        try:
            for packet in container.demux(stream):
                comfy.model_management.throw_exception_if_processing_interrupted()
                yield from self._decoded(packet)
        except FFmpegError:  # the file ends in the middle
            self.broken += 1

    def _decoded(self, packet: av.Packet) -> list[av.AudioFrame]:
        try:
            return [frame for frame in packet.decode() if frame.samples]
        except FFmpegError:
            self.broken += 1
            return []

    def _samples(self, frame: av.AudioFrame) -> torch.Tensor:
        """(ch, n) at the rate and in the channels that the window began with."""
        if (frame.sample_rate, frame.layout.name) == (self.rate, self.layout):
            return _floats(frame)
        resampler = av.AudioResampler(format="fltp", layout=self.layout, rate=self.rate)
        parts = [*resampler.resample(frame), *resampler.resample(None)]
        return torch.cat([_floats(part) for part in parts], dim=1)

    def _write(self, samples: torch.Tensor, place: int) -> None:
        """Put samples that stand at this place on the clock into the window, as far as they reach into it."""
        skipped = max(0, self.first - place)
        begin = max(0, place - self.first)
        count = min(samples.shape[1] - skipped, self.waveform.shape[1] - begin)
        if count > 0:
            self.waveform[:, begin : begin + count] = samples[:, skipped : skipped + count]


def _floats(frame: av.AudioFrame) -> torch.Tensor:
    """(ch, n) within -1..1."""
    samples = torch.from_numpy(frame.to_ndarray())  # (ch, n), or (1, n * ch) where channels alternate
    if not frame.format.is_planar:
        samples = samples.view(-1, frame.layout.nb_channels).T
    if samples.is_floating_point():
        return samples.float()
    half = 2 ** (samples.element_size() * 8 - 1)
    zero = half if samples.dtype == torch.uint8 else 0
    return (samples.double() - zero).div(half).float()


def _time_of(frame: av.AudioFrame) -> Fraction | None:
    if frame.pts is None or frame.time_base is None:
        return None
    return frame.pts * Fraction(frame.time_base)


def _seek(container: InputContainer, stream: av.AudioStream, time: Fraction) -> bool:
    """Whether the container went to this time or before it."""
    try:
        container.seek(math.floor(time / stream.time_base), stream=stream)
    except FFmpegError:
        return False
    return True
