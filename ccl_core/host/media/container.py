"""A media file as PyAV opens it: its name for messages, and the streams that are used of it."""

from __future__ import annotations

import io
from typing import Any

import av
from av.container import InputContainer

File = str | io.BytesIO


def open_file(file: File) -> InputContainer:
    """ValueError, with the file's name, where PyAV cannot open it."""
    if isinstance(file, io.BytesIO):
        file.seek(0)
    try:
        return av.open(file)
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(
            f"{name_of(file)} cannot be opened as a video or sound ({error}): it is cut off, or of a format "
            "that FFmpeg does not know. Choose another file, or convert it to mp4"
        ) from error


def name_of(file: File) -> str:
    return "the given video" if isinstance(file, io.BytesIO) else file.replace("\\", "/").rsplit("/", 1)[-1]


def picture_stream(container: av.container.InputContainer) -> Any:
    """The first stream of moving pictures, None for a file that has none. A cover is no such stream."""
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    return next((stream for stream in streams if stream.codec_context is not None), None)


def sound_stream(container: InputContainer, name: str) -> av.AudioStream:
    """The sound that a player starts with; ValueError where the file has none that can be decoded."""
    # Decoding a stream that FFmpeg has no decoder for (spatial sound of a telephone) crashes the process.
    usable = [stream for stream in container.streams.audio if stream.codec_context is not None]
    if usable:
        best = container.streams.best("audio")
        return best if best in usable else usable[0]
    if container.streams.audio:
        raise ValueError(
            f"{name} holds a sound that FFmpeg cannot decode: convert it, for example to AAC in an mp4"
        )
    raise ValueError(
        f"{name} holds no sound stream: give a file with sound, or leave the sound out to have it made"
    )
