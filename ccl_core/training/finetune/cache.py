"""Clips as latents and text embeddings on disk, encoded once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..flow import level
from . import stored
from .encoders import Encoders
from .media import Extras, Media, Shape, read_extras, read_media
from .settings import DataSettings
from .sources import Refused, Source, find_clips

INDEX = "index.json"
NO_TEXT = "no_text.safetensors"
# So many clips tell the deviation of the level within some per cent.
LEVELS = 512
# Clips that are encoded at once, and the values of their pictures: 64 MB.
AT_ONCE = 8
MOST_VALUES = 2**24
STREAMS = ("frames", "waveform")
PARTS = ("video", "audio", "text")
# Beside them; a speech may have any length.
SPEECH = "speech"
# Of silence alone it would be 0.
LEAST_DEVIATION = 1e-6


@dataclass(frozen=True)
class Summary:
    """What a run of the cache phase did."""

    made: int = 0
    kept: int = 0
    refused: list[Refused] = field(default_factory=list)

    def after(self, other: Summary) -> Summary:
        """The sum of both, this one first."""
        return Summary(self.made + other.made, self.kept + other.kept, [*self.refused, *other.refused])


@dataclass(frozen=True, eq=False)
class EncodedClip:
    """An encoded clip as the trainer reads it.

    text (n, d). beside: what else there is of it, by name: image, for image to video; reference (c, h, w) and
    voice (m, r); the bytes of its speech (n, 1); face (t, h, w), in the tokens of the video.
    """

    name: str
    video: Tensor
    audio: Tensor
    text: Tensor
    beside: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def only_task(self) -> str | None:
        """The one task of a clip that has one stream alone."""
        if not self.video.numel():
            return "t2a"
        return None if self.audio.numel() else "t2v"


@dataclass(frozen=True)
class Entry:
    """A cached clip without its numbers: shapes of video, audio and text, and of what is beside them."""

    path: Path
    name: str
    shapes: tuple[tuple[int, ...], ...]

    def load(self) -> EncodedClip:
        tensors = {key: value.float() for key, value in stored.read(self.path).items()}
        video, audio, text = (tensors.pop(key) for key in PARTS)
        return EncodedClip(self.name, video, audio, padded(text, self.shapes[2][0]), tensors)


def padded(text: Tensor, rows: int) -> Tensor:
    """Rows of zeros behind a text (n, d), as Wan's text encoder leaves them."""
    return torch.nn.functional.pad(text, (0, 0, 0, rows - text.shape[0]))


def level_deviation(entries: Sequence[Entry]) -> float:
    """Deviation of the sounds' level (flow.py) among the first clips by name."""
    clips = (entry.load() for entry in sorted(entries, key=lambda entry: entry.name)[:LEVELS])
    levels = [level(clip.audio[None]).flatten() for clip in clips if clip.audio.numel()]
    return max(float(torch.cat(levels).std()), LEAST_DEVIATION) if levels else 1.0


@dataclass(frozen=True)
class Read:
    """A clip that waits to be encoded."""

    source: Source
    stamp: dict[str, object]
    media: Media
    extras: Extras = field(default_factory=Extras)

    def joins(self, others: Sequence[Read]) -> bool:
        """Whether it is encoded with these: a few clips of one shape, small enough together."""
        first = others[0].media
        same = self.media.length == first.length and all(
            _shape(getattr(self.media, part)) == _shape(getattr(first, part)) for part in STREAMS
        )
        return same and len(others) < AT_ONCE and (len(others) + 1) * self.media.size <= MOST_VALUES


def _shape(tensor: Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape


class Cache:
    """The folder of the encoded clips: a file for each, the empty caption, the index of those in the run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(self, data: DataSettings, encoders: Encoders) -> Iterator[Summary]:
        """Encode the clips that are not there yet; yields a summary so far after each clip.

        A broken clip is refused by name, and the others go on.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        shape = encoders.shape(data)
        stamp = encoders.stamp() | {"shape": repr(shape)}
        sources, refused = find_clips(
            Path(data.clips), None if data.captions is None else Path(data.captions)
        )
        summary = Summary(refused=refused)
        if not self._holds(NO_TEXT, stamp):
            self._write(NO_TEXT, {"text": encoders.encode_text("")}, "", stamp)
        names: list[str] = []
        for files, done in self._build(sources, shape, encoders, stamp):
            summary = summary.after(done)
            names += files
            yield summary
        self.index(names)

    def _build(
        self, sources: list[Source], shape: Shape, encoders: Encoders, stamp: dict[str, object]
    ) -> Iterator[tuple[list[str], Summary]]:
        """Names of files, and what happened to their clips; small clips of one shape are encoded at once."""
        waiting: list[Read] = []
        for source in sources:
            own = stamp | self._source(source)
            if self._holds(_file_name(source.name), own):
                yield [_file_name(source.name)], Summary(kept=1)
                continue
            try:
                media = read_media(source.path, shape)
                clip = Read(source, own, media, read_extras(source.beside, media, shape))
            except ValueError as error:
                yield [], Summary(refused=[Refused(source.name, str(error))])
                continue
            if waiting and not clip.joins(waiting):
                yield self._encode(waiting, encoders), Summary(made=len(waiting))
                waiting = []
            waiting.append(clip)
        if waiting:
            yield self._encode(waiting, encoders), Summary(made=len(waiting))

    def _encode(self, clips: list[Read], encoders: Encoders) -> list[str]:
        encoded = encoders.encode([clip.media for clip in clips], [clip.extras for clip in clips])
        for clip, latents in zip(clips, encoded, strict=True):
            tensors = latents | {"text": encoders.encode_text(clip.source.caption)}
            self._write(_file_name(clip.source.name), tensors, clip.source.name, clip.stamp)
        return [_file_name(clip.source.name) for clip in clips]

    def index(self, files: list[str]) -> None:
        """Say which files a run trains on."""
        part = self.folder / f"{INDEX}.part"
        part.write_text(json.dumps(sorted(files)), encoding="utf-8")
        part.replace(self.folder / INDEX)

    def entries(self) -> list[Entry]:
        """The clips of the index; ValueError where there are none or one is gone."""
        index = self.folder / INDEX
        if not index.is_file():
            raise ValueError(f"{self.folder} has no {INDEX}: run the cache phase to its end first")
        names = self._indexed(index)
        if not names:
            raise ValueError(
                f"{self.folder} holds no clip: every one was refused, read why in the cache phase"
            )
        return [self._entry(self.folder / name) for name in names]

    @staticmethod
    def _indexed(index: Path) -> list[str]:
        """The names of files in the index; ValueError for what is no name of a file beside it."""
        try:
            names = json.loads(index.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{index} is no JSON ({error}): run the cache phase again") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{index} is no list of names: run the cache phase again")
        strange = next((name for name in names if Path(name).name != name), None)
        if strange is not None:
            raise ValueError(
                f"{index} names {strange!r}, which is no file beside it: run the cache phase again"
            )
        return names

    def no_text(self) -> Tensor:
        """The embedding of the empty caption, (n, d)."""
        return stored.read(self.folder / NO_TEXT)["text"].float()

    def write(self, name: str, tensors: dict[str, Tensor], stamp: dict[str, object]) -> str:
        """Write an encoded clip of that name; returns the name of its file."""
        file = _file_name(name)
        self._write(file, tensors, name, stamp)
        return file

    @staticmethod
    def _source(source: Source) -> dict[str, object]:
        state = source.path.stat()
        stamp = {"size": state.st_size, "changed": state.st_mtime_ns, "caption": source.caption}
        files = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in source.beside.files]
        # Caches of clips with nothing beside them hold.
        speech = {"speech": source.beside.speech} if source.beside.speech else {}
        return stamp | speech | ({"files": files} if files else {})

    def _holds(self, file: str, stamp: dict[str, object]) -> bool:
        try:
            with safe_open(self.folder / file, "pt") as stored:
                return (stored.metadata() or {}).get("stamp") == json.dumps(stamp)
        except (OSError, SafetensorError):
            return False

    def _write(self, file: str, tensors: dict[str, Tensor], name: str, stamp: dict[str, object]) -> None:
        text = tensors["text"]
        # Wan's text encoder fills up with rows of zeros, most of 512: `padded` puts them back.
        used = int(text.any(dim=1).nonzero().max()) + 1 if text.any() else 1
        kept = tensors | {"text": text[:used] if name else text}
        metadata = {"stamp": json.dumps(stamp), "name": name, "rows": str(text.shape[0])}
        halves = {key: value.half().cpu().contiguous() for key, value in kept.items()}
        stored.write(self.folder / file, halves, metadata)

    @staticmethod
    def _entry(path: Path) -> Entry:
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                # A slice knows its shape without reading the numbers.
                names = (*PARTS, *sorted(set(file.keys()) - {*PARTS, SPEECH}))
                shapes = [tuple(file.get_slice(key).get_shape()) for key in names]
            text = int(metadata["rows"]), shapes[2][1]
            return Entry(path, metadata["name"], (*shapes[:2], text, *shapes[3:]))
        # The last three: what is no file of a cache, under the name of one.
        except (OSError, SafetensorError, KeyError, ValueError, IndexError) as error:
            raise ValueError(
                f"{path.name} in the cache cannot be read ({error}): delete it and run the cache phase again"
            ) from error


def _file_name(name: str) -> str:
    """A flat name that no two clips share."""
    return f"{Path(name).stem}-{hashlib.sha256(name.encode()).hexdigest()[:10]}.safetensors"
