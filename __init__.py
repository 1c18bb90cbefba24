"""ComfyUI-CCL: joint video and audio generation with twin-tower Wan models, as ordinary ComfyUI models."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import CCLExtension

WEB_DIRECTORY = "./js"


async def comfy_entrypoint() -> CCLExtension:
    """Called by ComfyUI; the nodes are imported here so that the pure parts load without it."""
    from .nodes import CCLExtension

    return CCLExtension()
