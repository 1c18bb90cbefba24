"""Copies a large file tensor by tensor and prints by how many bytes the process grew; run by
test_convert_model.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import torch

from ccl_tools.tensor_file import Entry, Source, Writer

COUNT, SIZE = 160, 1 << 20  # float32: 4 MB each


def grown(folder: Path) -> int:
    entries = {f"t{i}": Entry("float32", (SIZE,)) for i in range(COUNT)}
    with Writer(folder / "one.safetensors", entries, {}) as writer:
        for i in range(COUNT):
            writer.write(f"t{i}", torch.full((SIZE,), float(i)))
    source = Source.open([folder / "one.safetensors"])
    resident = [psutil.Process().memory_info().rss]
    with Writer(folder / "two.safetensors", source.entries, {}) as writer:
        for name in source.entries:
            tensor = source.read(name)
            writer.write(name, tensor)
            resident.append(psutil.Process().memory_info().rss)
    return max(resident) - resident[0]


if __name__ == "__main__":
    print(grown(Path(sys.argv[1])))
