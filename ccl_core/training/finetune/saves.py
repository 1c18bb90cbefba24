"""The saves of a run: a folder for each that is whole or not there; the last ones are kept, and the best."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

STATE = "state.pt"
NAME = re.compile(r"step-(\d+)$")
STATE_KEYS = ("deciding", "clips", "trained", "average", "optimisers", "course", "step", "seconds")
REMEDY = "put a copy of it back, or delete its folder to go on from the save before it"


def saves(out: Path) -> dict[int, Path]:
    """The folders of the saves by their steps, in order."""
    found = ((NAME.match(path.name), path) for path in out.glob("step-*"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


@contextmanager
def new_save(out: Path, step: int) -> Iterator[Path]:
    """A folder to write into, which becomes the save of this step where nothing fails.

    ValueError where it cannot be written, as on a full disk.
    """
    folder = out / f"step-{step:06}"
    part = folder.with_suffix(".part")
    for old in (part, folder):
        shutil.rmtree(old, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    # torch says a full disk as a RuntimeError.
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(out).free
        shutil.rmtree(part, ignore_errors=True)
        raise ValueError(
            f"{folder} could not be written ({error}), {free / 1e9:.1f} GB were free: the saves before it "
            "are whole, make room and start again to go on from the last"
        ) from error
    part.replace(folder)


def prune(out: Path, keep: int, losses: Mapping[int, float]) -> None:
    """Remove all saves but the last `keep` and the one with the least of these losses by step."""
    found = saves(out)
    measured = [step for step in found if step in losses]
    best = min(measured, key=lambda step: losses[step], default=None)
    for step in list(found)[:-keep]:
        if step != best:
            shutil.rmtree(found[step])


def read_state(path: Path) -> dict[str, Any]:
    """What `save` wrote; ValueError where the file is cut off, damaged or of something else."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        lacking = [key for key in STATE_KEYS if key not in state]
    # torch raises errors of zip, pickle and of its own for a damaged file.
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {first}): {REMEDY}") from error
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(lacking)}: {REMEDY}")
    return state
