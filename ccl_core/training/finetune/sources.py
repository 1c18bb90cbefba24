"""Find the clips of a folder, with their captions and what belongs to them."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

VIDEOS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".m4a")
LISTS = ("captions.jsonl", "metadata.json")
FILE_NAMES = ("file", "file_name", "video", "path")
CAPTIONS = ("caption", "text", "prompt")
# Entries of a list that name files which belong to a clip.
BESIDE = ("image", "voice", "face")
NO_CAPTION = "it has no caption: write one into a .txt file of the same name beside it"


@dataclass(frozen=True)
class Beside:
    """What a list may say of a clip beside its caption.

    speech: the words that are said. image, voice: files of a reference. face: a film as long as the clip that
    is bright where the face is that speaks.
    """

    speech: str = ""
    image: Path | None = None
    voice: Path | None = None
    face: Path | None = None

    @property
    def files(self) -> list[Path]:
        return [path for path in (self.image, self.voice, self.face) if path is not None]


@dataclass(frozen=True)
class Source:
    """A clip on disk: its file, its name within the folder, its caption, and what belongs to it."""

    path: Path
    name: str
    caption: str
    beside: Beside = Beside()


@dataclass(frozen=True)
class Refused:
    """A clip that cannot be used, and why."""

    name: str
    reason: str


def find_clips(folder: Path, captions: Path | None = None) -> tuple[list[Source], list[Refused]]:
    """The clips of a folder by name, and those without a caption.

    Captions come from a list (`captions`, or captions.jsonl or metadata.json in the folder), else from a .txt
    file beside each clip. A list may leave files out; a file that it names and that is not there is refused.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: name the folder of the clips as data.clips")
    found = captions or next((folder / name for name in LISTS if (folder / name).is_file()), None)
    listed, refused = _captioned(folder) if found is None else (_listed(found), [])
    sources = []
    for name, row in sorted(listed.items()):
        fault = _fault(folder, found, [name, *row.files.values()])
        # What is said is a text as well.
        fault = fault or ("" if row.caption or row.speech else NO_CAPTION)
        if fault:
            refused.append(Refused(name, fault))
        else:
            files = {key: folder / file for key, file in row.files.items()}
            sources.append(Source(folder / name, name, row.caption, Beside(row.speech, **files)))
    if not sources and not refused:
        raise ValueError(f"{folder} holds no videos and sounds ({', '.join((*VIDEOS, *SOUNDS))})")
    return sources, refused


@dataclass(frozen=True)
class Row:
    """An entry of a list. files: names within the folder, by the field of Beside."""

    caption: str
    speech: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


def _fault(folder: Path, found: Path | None, names: Iterable[str]) -> str:
    """What is wrong with the names of an entry; nothing where all are files of the folder."""
    for name in names:
        if _leaves(name):
            return f"{found.name} names a file outside {folder}, {name}: put it into that folder"
        if not (folder / name).is_file():
            return f"{found.name} names {name}, which is not in {folder}"
    return ""


def _leaves(name: str) -> bool:
    """Whether a name in a list points out of the folder of the list, on this system or on Windows."""
    return bool(Path(name).anchor) or ".." in PureWindowsPath(name).parts


def _captioned(folder: Path) -> tuple[dict[str, Row], list[Refused]]:
    """Clip -> what its text file says, and the clips whose captions cannot be read."""
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
            captions[name] = Row(read_text(text).strip() if text.is_file() else "")
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


def _listed(path: Path) -> dict[str, Row]:
    """File -> what a list says of it: JSON lines, a JSON list, or one object of names and captions."""
    try:
        text = read_text(path)
        lines = path.suffix == ".jsonl"
        rows = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a list of captions: {error}") from error
    if isinstance(rows, dict):
        rows = [{"file": name, "caption": caption} for name, caption in rows.items()]
    return dict(_row(row, path) for row in rows)


def _row(row: Any, path: Path) -> tuple[str, Row]:
    name = _first(row, FILE_NAMES)
    caption = _first(row, CAPTIONS)
    own = row if isinstance(row, dict) else {}
    files = {key: own[key] for key in BESIDE if key in own}
    speech = own.get("speech", "")
    if not isinstance(name, str) or not isinstance(caption, str):
        raise ValueError(
            f'{path.name} has the entry {row!r}, wanted {{"file": "clip.mp4", "caption": "what happens"}}'
        )
    strange = [key for key, value in (files | {"speech": speech}).items() if not isinstance(value, str)]
    if strange:
        raise ValueError(
            f"{path.name} has {', '.join(strange)} of {name} that is no text: speech holds words, "
            f"{', '.join(BESIDE)} names of files"
        )
    posix = {key: Path(file).as_posix() for key, file in files.items()}
    return Path(name).as_posix(), Row(caption.strip(), speech.strip(), posix)


def _first(row: Any, keys: tuple[str, ...]) -> Any:
    """The value of the first of these keys that the entry of a list has."""
    given = row if isinstance(row, dict) else {}
    return next((given[key] for key in keys if key in given), None)
