"""ComfyUI-CCL: joint video and audio generation with twin-tower Wan models, as ordinary ComfyUI models."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import CCLExtension

# The host serves the folder under /extensions; the help pages of the nodes are its docs/<node id>.md.
WEB_DIRECTORY = "./js"


async def comfy_entrypoint() -> CCLExtension:
    """What ComfyUI's `load_custom_node` calls."""
    # Imported here, so that the pure parts of the pack load without ComfyUI.
    from .nodes import CCLExtension

    return CCLExtension()
