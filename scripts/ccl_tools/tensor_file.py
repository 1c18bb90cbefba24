"""Safetensors files of any size, written and read tensor by tensor: never more than one tensor in memory."""

from __future__ import annotations

import json
import math
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccl_tools.console import ScriptError

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
    """Writes `entries` in any order into `path`, which appears whole when the context ends without error."""

    path: Path
    entries: dict[str, Entry]
    metadata: dict[str, str]
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

    def __enter__(self) -> Writer:
        folder = self.path.absolute().parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
            if free < self.total + SPARE_BYTES:
                raise ScriptError(
                    f"{folder} has {free / 1e9:.1f} GB free, "
                    f"{self.path.name} needs {self.total / 1e9:.1f} GB",
                    "free some space, or choose a folder on another disk",
                )
            self.file = self.part.open("wb")
        except OSError as error:
            raise ScriptError(
                f"cannot write to {folder}: {error}", "choose another folder for the output"
            ) from error
        self.file.write(struct.pack("<Q", len(self.header)) + self.header)
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        """ValueError where the tensor is not of the announced type and shape."""
        import torch

        if (found := Entry.of(tensor)) != self.entries[name]:
            raise ValueError(f"{name} is {found}, announced was {self.entries[name]}")
        self.file.seek(8 + len(self.header) + self.offsets[name])
        if tensor.numel():
            self.file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        self.left.discard(name)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.file.close()
        if kind is not None:
            self.part.unlink()
            return
        if self.left:
            self.part.unlink()
            raise ValueError(
                f"{len(self.left)} tensors were not written to {self.path.name}, one is {min(self.left)}"
            )
        self.part.replace(self.path)


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
        import torch

        path, offset = self.places[name]
        entry = self.entries[name]
        if entry.size == 0:
            return torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
        with path.open("rb") as file:
            file.seek(offset)
            # A bytearray, since torch warns of memory that cannot be written.
            data = bytearray(file.read(entry.size))
        return torch.frombuffer(data, dtype=getattr(torch, entry.dtype)).view(entry.shape)

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
