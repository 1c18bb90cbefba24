"""Safetensors files of any size, written and read tensor by tensor: never more than one tensor in memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ccl_tools.console import ScriptError, say

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
NAMES = {name: code for code, name in DTYPES.items()}
# Left free on the disk.
SPARE_BYTES = 1 << 28
SMALL_BYTES = 1 << 8


@dataclass(frozen=True)
class Entry:
    """One tensor of a file that does not have to be there yet."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Entry:
        return cls(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))

    @property
    def itemsize(self) -> int:
        import torch

        return getattr(torch, self.dtype).itemsize

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.itemsize

    def empty(self) -> Tensor:
        """The tensor without its data, on the meta device."""
        import torch

        return torch.empty(self.shape, dtype=getattr(torch, self.dtype), device="meta")


@dataclass
class Writer:
    """Writes `entries` in any order into `path`, which appears whole when the context ends without error.

    resumable: an unfinished file is kept, and the next Writer of the same entries and metadata goes on behind
    its last whole tensor. `left` names what is not written yet.
    """

    path: Path
    entries: dict[str, Entry]
    metadata: dict[str, str]
    resumable: bool = False
    left: set[str] = field(init=False)
    offsets: dict[str, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            raise ScriptError(f"{self.path} is there already", "choose another name, or delete it first")
        header: dict[str, Any] = {"__metadata__": self.metadata}
        end = 0
        # The widest numbers first: every tensor then starts at a multiple of its item size.
        for name, entry in sorted(self.entries.items(), key=lambda item: -item[1].itemsize):
            self.offsets[name] = end
            header[name] = {
                "dtype": NAMES[entry.dtype],
                "shape": entry.shape,
                "data_offsets": (end, end := end + entry.size),
            }
        text = json.dumps(header).encode()
        # Safetensors wants the header padded to a multiple of 8 bytes.
        self.header = text + b" " * (-len(text) % 8)
        self.total = 8 + len(self.header) + end
        self.left = set(self.entries)
        self.part = self.path.with_name(self.path.name + ".part")
        self.journal = Journal(
            self.path.with_name(self.path.name + ".part.done"), hashlib.sha256(self.header).hexdigest()
        )

    def _go_on(self) -> dict[str, str] | None:
        """The checks of what an unfinished file of the same holds; None: there is none, or another, said."""
        if not self.resumable or not self.part.exists():
            return None
        done = self.journal.read()
        if done is None:
            say(f"{self.part.name} is of another input or of other options: starting anew.")
            return None
        done = {name: done[name] for name in self.entries if self._check_of(name) == done.get(name)}
        self.left -= done.keys()
        say(f"Going on with {self.part.name}: {len(done)} of {len(self.entries)} tensors are there.")
        return done

    def _check_of(self, name: str) -> str:
        """Of what the unfinished file holds: a loss of power may have kept the journal and lost the data."""
        with self.part.open("rb") as file:
            file.seek(self._place(name))
            return check_of(file.read(self.entries[name].size))

    def _place(self, name: str) -> int:
        return 8 + len(self.header) + self.offsets[name]

    def __enter__(self) -> Writer:
        folder = self.path.absolute().parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            done = self._go_on()
            if done is None:
                self.part.unlink(missing_ok=True)
            self._check_space(folder)
            self.file = self.part.open("wb" if done is None else "r+b")
            self.file.write(struct.pack("<Q", len(self.header)) + self.header)
            if self.resumable:
                self.journal.open(done or {})
        except OSError as error:
            raise ScriptError(
                f"cannot write to {folder}: {error}", "choose another folder for the output"
            ) from error
        return self

    def _check_space(self, folder: Path) -> None:
        free = shutil.disk_usage(folder).free
        done = sum(self.entries[name].size for name in self.entries.keys() - self.left)
        wanted = self.total - done
        if free < wanted + SPARE_BYTES:
            raise ScriptError(
                f"{folder} has {free / 1e9:.1f} GB free, {self.path.name} needs {wanted / 1e9:.1f} GB",
                "free some space, or choose a folder on another disk",
            )

    def write(self, name: str, tensor: Tensor) -> None:
        """ValueError where the tensor is not of the announced type and shape; ScriptError: a full disk."""
        import torch

        if (found := Entry.of(tensor)) != self.entries[name]:
            raise ValueError(f"{name} is {found}, announced was {self.entries[name]}")
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        data = flat.view(torch.uint8).numpy().data if tensor.numel() else b""
        try:
            self.file.seek(self._place(name))
            self.file.write(data)
            if self.resumable:
                self.file.flush()
                self.journal.add(name, check_of(data))
        except OSError as error:
            kept = f"; {self.part.name} stays" if self.resumable else ""
            raise ScriptError(
                f"cannot write {name} to {self.part}: {error}{kept}",
                "free some space and start the same command again",
            ) from error
        self.left.discard(name)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close(failed=kind is not None)
        if kind is None and self.left:
            self._drop()
            raise ValueError(
                f"{len(self.left)} tensors were not written to {self.path.name}, one is {min(self.left)}"
            )
        if kind is None:
            self.part.replace(self.path)
            self.journal.path.unlink(missing_ok=True)
        elif not self.resumable:
            self._drop()

    def _close(self, failed: bool) -> None:
        self.journal.close()
        # What a full disk left in the buffer fails again; the first error is the one to tell.
        with contextlib.suppress(OSError) if failed else contextlib.nullcontext():
            self.file.close()

    def _drop(self) -> None:
        self.part.unlink()
        self.journal.path.unlink(missing_ok=True)


def check_of(data: bytes | memoryview) -> str:
    return f"{zlib.crc32(data):08x}"


@dataclass
class Journal:
    """Beside an unfinished file: a line that says what it is of, then check and name of each tensor in it."""

    path: Path
    mark: str
    file: TextIO | None = None

    def read(self) -> dict[str, str] | None:
        """The checks by name; None where it is of something else or not there."""
        if not self.path.exists():
            return None
        # Behind the last end of a line stands what was not written to its end.
        mark, *lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] or [""]
        pairs = [line.partition(" ") for line in lines]
        return {name: check for check, _, name in pairs} if mark == self.mark else None

    def open(self, done: Mapping[str, str]) -> None:
        self.file = self.path.open("w", encoding="utf-8", newline="\n")
        self.file.write(f"{self.mark}\n")
        for name, check in done.items():
            self.add(name, check)
        self.file.flush()

    def add(self, name: str, check: str) -> None:
        self.file.write(f"{check} {name}\n")
        self.file.flush()

    def close(self) -> None:
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.close()


@dataclass(frozen=True)
class Source:
    """The tensors of one or several safetensors files, by name; only what is asked for is read.

    By hand and not through the library: that maps a file whole, which fails where it is larger than the
    memory.
    """

    places: dict[str, tuple[Path, int]]
    entries: dict[str, Entry]
    metadata: dict[str, str]

    @classmethod
    def open(cls, paths: list[Path]) -> Source:
        """ScriptError where one is not a whole safetensors file, or two hold the same tensor."""
        source = cls({}, {}, {})
        for path in paths:
            header, start = read_header(path)
            source.metadata.update(header.pop("__metadata__", {}))
            for name, info in header.items():
                if name in source.places:
                    raise ScriptError(
                        f"{name} is both in {source.places[name][0].name} and in {path.name}",
                        "leave only the shards of one model in the folder",
                    )
                if info["dtype"] not in DTYPES:
                    raise ScriptError(
                        f"{path} holds numbers of the type {info['dtype']}, which this script cannot copy",
                        "use the file as it was published",
                    )
                source.places[name] = path, start + info["data_offsets"][0]
                source.entries[name] = Entry(DTYPES[info["dtype"]], tuple(info["shape"]))
        return source

    def read(self, name: str) -> Tensor:
        """ScriptError where the file has changed since its header was read, or cannot be read."""
        import torch

        path, offset = self.places[name]
        entry = self.entries[name]
        if entry.size == 0:
            return torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
        # A bytearray, since torch warns of memory that cannot be written; filled in place, so once in memory.
        data = bytearray(entry.size)
        try:
            with path.open("rb") as file:
                file.seek(offset)
                count = file.readinto(data)
        except OSError as error:
            raise ScriptError(
                f"cannot read {name} from {path}: {error}", "check the disk, or download the file again"
            ) from error
        if count < entry.size:
            raise ScriptError(f"{path} ends inside {name}", "the file has changed: download it again")
        return torch.frombuffer(data, dtype=getattr(torch, entry.dtype)).view(entry.shape)

    def behind(self, prefix: str) -> Source:
        """The same tensors with a prefix before their names."""
        places = {prefix + name: place for name, place in self.places.items()}
        return Source(places, {prefix + name: entry for name, entry in self.entries.items()}, self.metadata)

    def beside(self, other: Source) -> Source:
        """The tensors of both."""
        return Source(
            self.places | other.places, self.entries | other.entries, self.metadata | other.metadata
        )

    @property
    def files(self) -> list[Path]:
        return sorted({path for path, _ in self.places.values()})

    def outline(self) -> dict[str, Tensor]:
        """Every tensor without its data, on the meta device; small ones (scales, marks) as they are."""
        return {
            name: self.read(name) if entry.size <= SMALL_BYTES else entry.empty()
            for name, entry in self.entries.items()
        }


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file and where its data starts; ScriptError where it is not a whole one."""
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            start = 8 + length
            size = path.stat().st_size
            if start > size:
                raise ValueError(f"its header is said to be {length} bytes long, the file has {size}")
            header = json.loads(file.read(length))
        end = max(
            (info["data_offsets"][1] for name, info in header.items() if name != "__metadata__"), default=0
        )
        if start + end != size:
            raise ValueError(f"its header tells of {start + end} bytes, the file has {size}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ScriptError(
            f"{path} cannot be read as safetensors: {error}",
            "it is damaged or of another kind: download it again",
        ) from error
    return header, start
