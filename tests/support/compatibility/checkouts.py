"""Checkouts of other packs, whose rows are measured where the environment names them."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import types
from functools import cache
from pathlib import Path

# Variables of the environment, and what each names a checkout of. The rows of ComfyUI-GGUF want the package
# `gguf` too.
KJNODES = "CCL_KJNODES"  # https://github.com/kijai/ComfyUI-KJNodes
LTXVIDEO = "CCL_LTXVIDEO"  # https://github.com/Lightricks/ComfyUI-LTXVideo
GGUF = "CCL_GGUF"  # https://github.com/city96/ComfyUI-GGUF


@cache
def module(variable: str, name: str) -> types.ModuleType:
    """A file of a pack, such as "nodes.nodes", without what the pack's own `__init__` asks for."""
    import server

    if getattr(server.PromptServer, "instance", None) is None:
        server.PromptServer(asyncio.new_event_loop())
    folder = Path(os.environ[variable]).resolve()
    *above, _ = name.split(".")
    for depth in range(len(above) + 1):
        package = types.ModuleType(".".join([variable, *above[:depth]]))
        package.__path__ = [str(folder.joinpath(*above[:depth]))]
        sys.modules.setdefault(package.__name__, package)
    return importlib.import_module(f"{variable}.{name}")
