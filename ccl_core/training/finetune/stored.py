"""Tensors on disk that a run reads again and again: written whole or not at all, with a checksum."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

CHECKSUM = "crc32"


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    part = path.with_name(f"{path.name}.part")
    save_file(dict(tensors), part, metadata={**metadata, CHECKSUM: checksum(tensors)})
    os.replace(part, path)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors; ValueError where the file is gone or is not what was written."""
    try:
        with safe_open(path, "pt") as file:
            stated = (file.metadata() or {}).get(CHECKSUM)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise ValueError(_damaged(path, str(error))) from error
    # Caches of version 0.2 have no checksum.
    if stated is not None and stated != checksum(tensors):
        raise ValueError(_damaged(path, "its checksum is another one"))
    return tensors


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Of the bytes of all tensors in the order of their names."""
    sum_so_far = 0
    for key in sorted(tensors):
        flat = tensors[key].contiguous().view(-1).view(torch.uint8)
        sum_so_far = zlib.crc32(flat.numpy().data, zlib.crc32(key.encode(), sum_so_far))
    return f"{sum_so_far:08x}"


def _damaged(path: Path, why: str) -> str:
    return f"{path} cannot be used ({why}): delete it and run the cache phase again"
