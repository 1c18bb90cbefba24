"""Small video files in the containers, codecs and clocks that people have, written by PyAV."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer

NTSC = Fraction(30000, 1001)
MILLISECOND = Fraction(1, 1000)


@dataclass(frozen=True)
class Recipe:
    """Frame n is grey of brightness 4 n. The sound is a tone of 440 Hz.

    times: of the frames in seconds, where they are uneven. delay: of the sound, in seconds.
    """

    frames: int = 60
    fps: Fraction = NTSC
    size: tuple[int, int] = (64, 48)
    video: str | None = "h264"
    audio: str | None = "aac"
    rate: int = 44100
    layout: str = "stereo"
    level: float = 0.3
    times: tuple[float, ...] = ()
    delay: float = 0.0


def write(path: Path, recipe: Recipe = Recipe()) -> Path:
    with av.open(str(path), "w") as output:
        video = None if recipe.video is None else _video_stream(output, recipe)
        audio = None
        if recipe.audio is not None:
            audio = output.add_stream(recipe.audio, rate=recipe.rate, layout=recipe.layout)
        if video is not None:
            for packet in _pictures(video, recipe):
                output.mux(packet)
        if audio is not None:
            for packet in _sounds(audio, recipe):
                output.mux(packet)
    return path


def turned(source: Path, path: Path, degrees: int) -> Path:
    """The file with a note that its picture is to be turned."""
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(container.streams.video[0]):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    data = path.read_bytes()
    place = data.index(b"tkhd") + 4 + 4 + 4 + 4 + 4 + 4 + 4 + 8 + 2 + 2 + 2 + 2
    matrices = {
        90: (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30),
        180: (-65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30),
    }
    matrix = np.array(matrices[degrees], ">i4").tobytes()
    path.write_bytes(data[:place] + matrix + data[place + 36 :])
    return path


def packets(path: str | Path, kind: str) -> list[bytes]:
    """The packets of the first stream of a kind, video or audio."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def grey(images: np.ndarray) -> list[float]:
    """The number n of each frame (f, h, w, 3) of bytes, by its brightness."""
    return [float(image[8:-8, 8:-8].mean()) / 4 for image in images]


def _video_stream(output: OutputContainer, recipe: Recipe) -> av.VideoStream:
    stream = output.add_stream(recipe.video, rate=recipe.fps)
    stream.width, stream.height = recipe.size
    stream.pix_fmt = "yuv420p"
    if recipe.times:
        stream.codec_context.time_base = MILLISECOND
        stream.codec_context.max_b_frames = 0
    return stream


def _pictures(stream: av.VideoStream, recipe: Recipe) -> list[av.Packet]:
    made = []
    for number in range(recipe.frames):
        image = np.full((recipe.size[1], recipe.size[0], 3), 4 * number % 256, np.uint8)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = number, 1 / recipe.fps
        if recipe.times:
            frame.pts, frame.time_base = round(recipe.times[number] * 1000), MILLISECOND
        made += stream.encode(frame)
    return [*made, *stream.encode(None)]


def _sounds(stream: av.AudioStream, recipe: Recipe) -> list[av.Packet]:
    count = int(recipe.rate * recipe.frames / recipe.fps)
    tone = recipe.level * np.sin(2 * np.pi * 440 * np.arange(count) / recipe.rate)
    channels = len(av.AudioLayout(recipe.layout).channels)
    waveform = np.repeat(tone.astype(np.float32)[None], channels, axis=0)
    made = []
    first = round(recipe.delay * recipe.rate)
    for start in range(0, count, 1024):
        samples = np.ascontiguousarray(waveform[:, start : start + 1024])
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=recipe.layout)
        frame.sample_rate, frame.pts, frame.time_base = recipe.rate, first + start, Fraction(1, recipe.rate)
        made += stream.encode(frame)
    return [*made, *stream.encode(None)]
