"""What is made of a long clip so far, on the disk: a folder for each clip, two files for each window.

The folder of a clip is removed when the clip is whole, one that nobody went on with after a week.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

WEEK = 7 * 24 * 3600  # seconds


@dataclass(frozen=True)
class Unfinished:
    """The folder of one clip."""

    folder: Path

    @classmethod
    def of(cls, room: Path, name: str, about: Mapping[str, Any]) -> Unfinished:
        """The folder of this name among others. about: what a person who finds it should know."""
        _clean(room)
        work = cls(room / name)
        work.folder.mkdir(parents=True, exist_ok=True)
        (work.folder / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        return work

    def pictures(self, number: int) -> Path:
        return self.folder / f"window_{number:04d}.mp4"

    def latents(self, number: int) -> Path:
        return self.folder / f"window_{number:04d}.safetensors"

    def done(self, count: int) -> int:
        """How many of so many windows are there, from the first on."""
        missing = (number for number in range(count) if not self.latents(number).exists())
        return next(missing, count)

    def save(self, number: int, streams: Mapping[str, Tensor]) -> None:
        """The latents of a window; with them it is done."""
        draft = self.latents(number).with_suffix(".draft")
        save_file({name: latent.contiguous() for name, latent in streams.items()}, draft)
        draft.replace(self.latents(number))

    def load(self, number: int) -> dict[str, Tensor]:
        return load_file(self.latents(number))

    @property
    def so_far(self) -> Path:
        """The film of what is done, beside the folder: it is a person's to keep."""
        return self.folder.with_name(f"{self.folder.name}_so_far.mp4")

    def remove(self) -> None:
        shutil.rmtree(self.folder)
        self.so_far.unlink(missing_ok=True)


def _clean(room: Path) -> None:
    for folder in room.glob("*/"):
        used = max((file.stat().st_mtime for file in folder.iterdir()), default=0.0)
        if (folder / "about.json").exists() and time.time() - used > WEEK:
            shutil.rmtree(folder)
