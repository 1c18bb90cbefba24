"""A person's film with one stream of it made anew: the packets of the other one are copied, not encoded."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import torch
import torchaudio

from ...notices import notice
from ..vae.channels import to_channels
from .container import open_file, picture_stream, sound_stream
from .picture import Film, rgb

# Sample rates of AAC, in Hz.
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
AAC_FRAME = 1024  # samples
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
# faststart puts the index in front, for players on the web; the tags are those of the host.
OPTIONS = {"movflags": "use_metadata_tags+faststart"}
PICTURE, SOUND = "h264", "aac"
# How FFmpeg names a layout of which it knows the number alone.
UNNAMED = " channels"


def save_with_sound(film: Film, audio: dict[str, Any], path: str) -> None:
    """Write an mp4 of the film's picture and a sound: an AUDIO, of which the first clip is taken."""
    with open_file(film.file) as container, _new(container, path) as output:
        packets = _picture_packets(container, film, output)
        sound = Sound(output, audio)
        for packet in packets:
            sound.write_until(float((packet.dts or 0) * packet.time_base))
            output.mux(packet)
        sound.write_until(float("inf"))


def save_with_picture(images: torch.Tensor, fps: Fraction, film: Film, path: str) -> None:
    """Write an mp4 of frames (f, h, w, 3) and the film's sound."""
    with open_file(film.file) as container, _new(container, path) as output:
        target = h264_stream(output, *even_sides(images.shape[2], images.shape[1]), fps)
        _mux(output, encoded_frames(target, images), _sound_packets(container, film, output))


def save_both(film: Film, sound: Film, path: str) -> None:
    """Write an mp4 of the picture of one film and the sound of another, or of the same."""
    with open_file(film.file) as container, _new(container, path) as output, open_file(sound.file) as other:
        pictures = _picture_packets(container, film, output)
        _mux(output, pictures, _sound_packets(other, sound, output))


def _new(container: Any, path: str) -> Any:
    output = av.open(path, "w", format="mp4", options=OPTIONS)
    output.metadata.update(container.metadata)
    return output


def _mux(output: Any, *streams: Iterator[Any]) -> None:
    """Write the packets of several streams, side by side as players want them."""
    for packet in heapq.merge(*streams, key=lambda packet: (packet.dts or 0) * packet.time_base):
        output.mux(packet)


def encoded_frames(target: Any, images: torch.Tensor) -> Iterator[Any]:
    for image in images:
        yield from target.encode(_frame(image))
    yield from target.encode(None)


def _picture_packets(container: Any, film: Film, output: Any) -> Iterator[Any]:
    stream = picture_stream(container)
    if film_is_copied(film, stream, output):
        return _of(_window(container, stream, film), output.add_stream_from_template(stream, opaque=True))
    return _recoded(film, _picture_target(output, film))


def _of(packets: Iterator[Any], target: Any) -> Iterator[Any]:
    """The packets, as those of another stream."""
    for packet in packets:
        packet.stream = target
        yield packet


def written(write: Callable[[str], None], path: str) -> bool:
    """Whether a file was written. Where it was not, that is told: the clip is there all the same."""
    try:
        write(path)
    except (av.error.FFmpegError, OSError, OverflowError, ValueError) as error:
        notice(
            f"the original could not be put back ({error}): video holds frames and sound as the model saw or "
            "made them. Free the disk of ComfyUI's temporary files, or convert your file to H.264 and AAC in "
            "an mp4"
        )
        return False
    return True


def film_is_copied(film: Film, stream: Any, output: Any) -> bool:
    """Whether the packets of the picture can stand in the new file; where they cannot, that is told."""
    codec = codec_of(stream)
    if codec not in output.supported_codecs:
        _tell(film, "picture", codec, PICTURE)
        return False
    # What follows a cut is packed as its difference to frames before the cut.
    if not film.whole and not _starts_with_the_file(film):
        notice(
            f"{film.name} is used from {float(film.start):g} s on: its picture is encoded again ({PICTURE})"
        )
        return False
    return True


def codec_of(stream: Any) -> str:
    """The name of the codec, whichever decoder reads it."""
    return stream.codec_context.codec.canonical_name


def _starts_with_the_file(film: Film) -> bool:
    with open_file(film.file) as container:
        return film.start == Fraction(container.start_time or 0, av.time_base)


def _tell(film: Film, what: str, codec: str, other: str) -> None:
    notice(f"mp4 takes no {codec}: the {what} of {film.name} is encoded again as {other}")


def _window(container: Any, stream: Any, film: Film) -> Iterator[Any]:
    """The packets of a stream in the film's window, with times from its start on."""
    shift = round(film.start / stream.time_base)
    # Of a whole film everything: its sound may end a little behind its picture.
    end = math.inf if film.whole else round((film.start + film.seconds) / stream.time_base)
    held: list[Any] = []
    for packet in _with_times(container.demux(stream)):
        if packet.dts >= end:
            return
        # Of the packets behind the end only those stay that an earlier frame is packed by.
        held.append(packet)
        if packet.pts < end:
            for ready in held:
                ready.dts, ready.pts = ready.dts - shift, ready.pts - shift
                yield ready
            held = []


def _with_times(packets: Iterable[Any]) -> Iterator[Any]:
    """The packets with the times of decoding that matroska leaves out before the first frames."""
    held: list[Any] = []
    for packet in packets:
        # The last one is empty.
        if packet.pts is None:
            continue
        held.append(packet)
        if packet.dts is None:
            continue
        for place, ready in enumerate(held):
            ready.dts = packet.dts - (len(held) - 1 - place) * max(1, packet.duration or 1)
            yield ready
        held = []


def _recoded(film: Film, target: Any) -> Iterator[Any]:
    """The picture of the window encoded again, each frame at its own time."""
    base = target.codec_context.time_base
    before = None
    for time, frame in film.shown():
        if time < film.start:
            before = frame
            continue
        # What is on the screen where the window begins, if it stays there for long.
        if before is not None and time - film.start > 1 / film.fps:
            yield from target.encode(_at(before, Fraction(0), film, base))
        before = None
        yield from target.encode(_at(frame, time - film.start, film, base))
    yield from target.encode(None)


def _at(frame: av.VideoFrame, time: Fraction, film: Film, base: Fraction) -> av.VideoFrame:
    new = _frame(torch.from_numpy(rgb(frame, film.pixel).copy()))
    new.pts, new.time_base = round(time / base), base
    return new


def _picture_target(output: Any, film: Film) -> Any:
    target = h264_stream(output, *even_sides(*film.sides), film.fps)
    # Of frames at uneven times.
    target.codec_context.time_base = Fraction(1, 90000)
    target.codec_context.max_b_frames = 0
    return target


def even_sides(width: int, height: int) -> tuple[int, int]:
    """The sides that yuv420p wants."""
    return width // 2 * 2, height // 2 * 2


def h264_stream(output: Any, width: int, height: int, fps: Fraction) -> Any:
    target = output.add_stream(PICTURE, rate=fps)
    target.width, target.height, target.pix_fmt = width, height, "yuv420p"
    return target


def _frame(image: torch.Tensor) -> av.VideoFrame:
    """An image (h, w, 3) of bytes, or of numbers from 0 to 1, cut to even sides as yuv420p wants them."""
    if image.is_floating_point():
        image = (image * 255).clamp(0, 255).byte()
    even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
    return av.VideoFrame.from_ndarray(even.cpu().contiguous().numpy(), format="rgb24").reformat(
        format="yuv420p"
    )


def _sound_packets(container: Any, film: Film, output: Any) -> Iterator[Any]:
    """The film's sound: copied, or encoded again where mp4 takes no such codec or channels."""
    stream = sound_stream(container, film.name)
    codec, layout = codec_of(stream), stream.layout.name
    named = not layout.endswith(UNNAMED)
    if codec in output.supported_codecs and named:
        return _of(_window(container, stream, film), output.add_stream_from_template(stream, opaque=True))
    _tell(film, "sound", codec if named else f"{codec} of {layout}", SOUND)
    layout = layout if named else LAYOUTS.get(stream.layout.nb_channels, "stereo")
    target = output.add_stream(SOUND, rate=_aac_rate(stream.rate), layout=layout)
    return _recoded_sound(container, stream, film, target, layout)


def _recoded_sound(container: Any, stream: Any, film: Film, target: Any, layout: str) -> Iterator[Any]:
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=target.rate)
    for frame in container.decode(stream):
        if frame.pts is None or frame.time < film.start:
            continue
        if frame.time >= film.start + film.seconds:
            break
        frame.pts -= round(film.start / frame.time_base)
        for resampled in resampler.resample(frame):
            yield from target.encode(resampled)
    yield from target.encode(None)


def _aac_rate(rate: int) -> int:
    """The rate of AAC that is next above, or the highest."""
    return next((known for known in AAC_RATES if known >= rate), AAC_RATES[-1])


class Sound:
    """A sound that is encoded into a file as its picture gets on, so that players find both side by side."""

    def __init__(self, output: Any, audio: dict[str, Any]) -> None:
        waveform, rate = audio["waveform"][0].float().cpu(), int(audio["sample_rate"])  # (channels, n)
        self.output, self.rate = output, _aac_rate(rate)
        if self.rate != rate:
            waveform = torchaudio.functional.resample(waveform, rate, self.rate)
        self.layout = LAYOUTS.get(waveform.shape[0], "stereo")
        if waveform.shape[0] not in LAYOUTS:
            waveform = to_channels(waveform[None], 2, audio.get("layout"))[0]
        self.waveform = waveform.contiguous()
        self.target = output.add_stream(SOUND, rate=self.rate, layout=self.layout)
        self.done = 0  # samples

    def write_until(self, seconds: float) -> None:
        count = self.waveform.shape[1]
        while self.done < count and self.done <= seconds * self.rate:
            samples = self.waveform[:, self.done : self.done + AAC_FRAME].contiguous().numpy()
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=self.layout)
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self.done, Fraction(1, self.rate)
            self.output.mux(self.target.encode(frame))
            self.done += samples.shape[1]
        if self.done >= count and seconds == float("inf"):
            self.output.mux(self.target.encode(None))
