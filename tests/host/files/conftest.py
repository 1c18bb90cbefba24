"""The stand-in for ComfyUI-GGUF, for every test of files."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

PACK = Path(__file__).parents[2] / "support" / "gguf_pack.py"


@pytest.fixture
def gguf_pack() -> Iterator[type]:
    """The stand-in, loaded by the host as any custom node."""
    import nodes

    before = dict(nodes.NODE_CLASS_MAPPINGS)
    assert asyncio.run(nodes.load_custom_node(str(PACK)))
    yield nodes.NODE_CLASS_MAPPINGS["UnetLoaderGGUF"]
    nodes.NODE_CLASS_MAPPINGS.clear()
    nodes.NODE_CLASS_MAPPINGS.update(before)
