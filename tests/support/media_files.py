"""Media files written by PyAV: sounds in any container, with a picture or without."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch


def clicks(seconds: float, rate: int, channels: int = 1, every: float = 0.25) -> torch.Tensor:
    """(ch, n): a soft noise with a loud burst of 2 ms at every multiple of `every` seconds but 0."""
    samples = round(seconds * rate)
    generator = torch.Generator().manual_seed(5)
    waveform = 0.01 * torch.randn(channels, samples, generator=generator)
    for time in np.arange(every, seconds, every):
        place = round(time * rate)
        waveform[:, place : place + rate // 500] = 0.8
    return waveform


def tone(seconds: float, rate: int, frequency: float = 440.0, level: float = 0.5) -> torch.Tensor:
    """(1, n): a sine of this peak level."""
    time = torch.arange(round(seconds * rate)) / rate
    return level * torch.sin(2 * torch.pi * frequency * time)[None]


def write_media(
    path: Path,
    waveform: torch.Tensor | None,
    rate: int = 48000,
    *,
    codec: str = "aac",
    layout: str | None = None,
    delay: Fraction | float = 0,
    picture_seconds: float = 0.0,
    fps: int = 25,
) -> Path:
    """A file of this sound (ch, n), which starts at `delay`, beside a grey picture of so many seconds.

    The container follows from the file's name. A sound of no samples makes a stream without packets.
    """
    with av.open(str(path), "w") as container:
        video = None
        if picture_seconds:
            video = container.add_stream("mpeg4", rate=fps)
            video.width = video.height = 32
        if waveform is not None:
            # Noise that the AAC decoder makes up itself depends on where decoding began.
            options = {"aac_pns": "0"} if codec == "aac" else {}
            audio = container.add_stream(codec, rate=rate, options=options)
            audio.layout = layout or {1: "mono", 2: "stereo", 6: "5.1"}[waveform.shape[0]]
        if video is not None:
            _mux_picture(container, video, round(picture_seconds * fps))
        if waveform is not None:
            _mux_sound(container, audio, waveform, rate, delay)
    return path


def _mux_picture(container: av.container.OutputContainer, stream: av.VideoStream, frames: int) -> None:
    for number in range(frames):
        grey = np.full((32, 32, 3), 128, np.uint8)
        frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
        frame.pts = number
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _mux_sound(
    container: av.container.OutputContainer,
    stream: av.AudioStream,
    waveform: torch.Tensor,
    rate: int,
    delay: Fraction | float,
) -> None:
    if not waveform.shape[1]:
        return
    frame = av.AudioFrame.from_ndarray(
        waveform.float().contiguous().numpy(), format="fltp", layout=stream.layout.name
    )
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    frame.pts = round(delay * rate)
    size = stream.codec_context.frame_size or 1024
    resampler = av.AudioResampler(
        format=stream.format.name, layout=stream.layout.name, rate=rate, frame_size=size
    )
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(part))
    container.mux(stream.encode(None))
