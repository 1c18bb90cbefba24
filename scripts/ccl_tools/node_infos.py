"""The nodes that templates use, as rows of /object_info: ours by their schemas, the host's as 0.30 has them.

Files of a template hold what the oldest host knows of its own nodes; newer ones read it.
"""

from __future__ import annotations

from typing import Any

from ccl_tools.environment import load_pack

FILE = "COMBO", {}
# Behind the name of a file: the button that uploads one, the player of a sound.
BUTTON, PLAYER_AND_BUTTON = ("image",), (None, None)


def _choice(key: str) -> tuple[str, dict[str, Any]]:
    """A dynamic choice, of which templates take this option."""
    return "COMFY_DYNAMICCOMBO_V3", {"options": [{"key": key, "inputs": {}}]}


def _row(inputs: dict[str, Any], *outputs: str) -> dict[str, Any]:
    return {"input": {"required": inputs}, "output": outputs, "output_name": outputs}


HOST_NODES = {
    "CLIPLoader": _row({"clip_name": FILE, "type": FILE, "device": FILE}, "CLIP"),
    "VAELoader": _row({"vae_name": FILE}, "VAE"),
    "LoadImage": _row({"image": ("COMBO", {"after": BUTTON})}, "IMAGE", "MASK"),
    "LoadVideo": _row({"file": ("COMBO", {"after": BUTTON})}, "VIDEO"),
    "LoadAudio": _row({"audio": ("COMBO", {"after": PLAYER_AND_BUTTON})}, "AUDIO"),
    "EmptyImage": _row(
        {"width": ("INT", {}), "height": ("INT", {}), "batch_size": ("INT", {}), "color": ("INT", {})},
        "IMAGE",
    ),
    "WanImageToVideo": {
        "input": {
            "required": {
                "positive": ("CONDITIONING", {}),
                "negative": ("CONDITIONING", {}),
                "vae": ("VAE", {}),
                "width": ("INT", {}),
                "height": ("INT", {}),
                "length": ("INT", {}),
                "batch_size": ("INT", {}),
            },
            "optional": {"clip_vision_output": ("CLIP_VISION_OUTPUT", {}), "start_image": ("IMAGE", {})},
        },
        "output": ("CONDITIONING", "CONDITIONING", "LATENT"),
        "output_name": ("positive", "negative", "latent"),
    },
    "SaveVideo": _row(
        {"video": ("VIDEO", {}), "filename_prefix": ("STRING", {}), "format": FILE, "codec": _choice("auto")}
    ),
    "SaveAudioAdvanced": _row(
        {"audio": ("AUDIO", {}), "filename_prefix": ("STRING", {}), "format": _choice("flac")}
    ),
    "MarkdownNote": _row({"text": ("STRING", {"socketless": True})}),
}


def node_infos() -> dict[str, dict[str, Any]]:
    load_pack()
    from ccl_pack.nodes import NODES

    ours = {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in NODES}
    return {**HOST_NODES, **ours}
