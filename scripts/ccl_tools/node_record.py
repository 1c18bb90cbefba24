"""What saved workflows rely on of a node, from its entry in /object_info: all that has a place or a name."""

from __future__ import annotations

import hashlib
import json
from typing import Any

RECORD = "tests/fixtures/nodes.json"
LISTED = "node_list.json"
# What the pictures of the help pages show, by node id.
PICTURED = "tests/fixtures/help_pictures.json"
# Choices that come from the host's lists or from the files of a machine.
FROM_HOST = frozenset(
    (
        "audio_stream",
        "ckpt_name",
        "interaction",
        "latent_name",
        "lora_name",
        "low_noise_model",
        "sampler_name",
        "scheduler",
        "unet_name",
        "vae_name",
        "video_model",
        "vocoder_name",
    )
)
KEPT = ("default", "min", "max", "step", "multiline", "control_after_generate", "advanced", "forceInput")
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"

Infos = dict[str, dict[str, Any]]


def recorded(infos: Infos) -> dict[str, Any]:
    return {node_id: _node(info) for node_id, info in sorted(infos.items())}


def listed(infos: Infos) -> dict[str, str]:
    """What Manager's list of nodes has of each: it cannot read nodes of the present kind from the code."""
    return {node_id: info["description"] for node_id, info in sorted(infos.items())}


def digest(record: dict[str, Any]) -> str:
    """Tells what a picture of the node shows from what another shows: names, inputs, choices, outputs."""
    shown = {name: value for name, value in record.items() if name != "category"}
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]


def _node(info: dict[str, Any]) -> dict[str, Any]:
    outputs = zip(info["output_name"], info["output"], strict=True)
    return {
        "display_name": info["display_name"],
        "category": info["category"],
        "output_node": info["output_node"],
        "inputs": _sections(info["input"]),
        "outputs": [f"{name}: {kind}" for name, kind in outputs],
    }


def _sections(sections: dict[str, Any]) -> list[dict[str, Any]]:
    """The inputs in the order in which a file stores the values of their widgets."""
    return [
        {"name": name, "optional": section == "optional", **_input(name, spec)}
        for section in ("required", "optional")
        for name, spec in sections.get(section, {}).items()
    ]


def _input(name: str, spec: list[Any]) -> dict[str, Any]:
    kind, *rest = spec
    options = rest[0] if rest else {}
    kept = {key: options[key] for key in KEPT if key in options}
    if name in FROM_HOST:
        return {"type": "COMBO", "choices": "of the host"}
    if kind == DYNAMIC:
        choices = {option["key"]: _sections(option["inputs"]) for option in options["options"]}
        return {"type": kind, **kept, "choices": choices}
    if isinstance(kind, list) or "options" in options:
        return {"type": "COMBO", **kept, "choices": options.get("options", kind)}
    return {"type": kind, **kept}
