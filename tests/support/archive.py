"""What an install from the registry brings: the archive that the registry's own packer makes of this tree."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ccl_tools.packer import packed


@dataclass(frozen=True)
class Archive:
    """The file, and what the packer's checks said."""

    path: Path
    said: str

    @cached_property
    def files(self) -> dict[str, bytes]:
        """The contents of every file by its path in the pack's folder."""
        with zipfile.ZipFile(self.path) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}

    def texts(self, *endings: str) -> dict[str, str]:
        """The files with one of these endings."""
        return {name: data.decode() for name, data in self.files.items() if name.endswith(endings)}


def make(folder: Path) -> Archive:
    path = folder / "node.zip"
    return Archive(path, packed(path))
