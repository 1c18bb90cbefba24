"""A workflow as the frontend saves it (UI format 0.4) as the prompt that the server runs (API format)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ccl_tools.subgraphs import flat

Prompt = dict[str, dict[str, Any]]
Link = tuple[str, int]

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
SEED_MODES = {"fixed", "increment", "decrement", "randomize"}
# Slots without an input behind a file that can be uploaded.
BUTTONS = {"image_upload": 1, "video_upload": 1, "audio_upload": 2}
# The frontend's numbers for the mode of a node.
MUTED, BYPASSED = 2, 4


class WorkflowError(ValueError):
    """The graph says something that cannot be turned into a prompt."""


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> Prompt:
    """Notes and reroutes, which the server does not know, fall away, as do muted and bypassed nodes.

    Subgraphs are opened.
    """
    workflow = flat(workflow)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: (link[1], link[2]) for link in workflow["links"]}
    prompt: Prompt = {}
    for node in nodes.values():
        if node.get("mode", 0) in (MUTED, BYPASSED) or node["type"] not in object_info:
            continue
        inputs = widget_inputs(node, object_info[node["type"]]) | node["shown"]
        for slot in node.get("inputs", []):
            if slot.get("link") is None:
                continue
            origin = _origin(links[slot["link"]], nodes, links, object_info)
            # A widget that was turned into an input keeps its old value in the file.
            inputs.pop(slot["name"], None)
            if origin is not None:
                inputs[slot["name"]] = [str(origin[0]), origin[1]]
        prompt[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {"title": node.get("title", node["type"])},
        }
    return prompt


def _origin(
    link: Link, nodes: dict[str, Any], links: dict[int, Link], object_info: dict[str, Any]
) -> Link | None:
    """The output that feeds a link, through reroutes and bypassed nodes; None behind a muted node."""
    node = nodes[link[0]]
    mode = node.get("mode", 0)
    if mode == MUTED:
        return None
    if mode != BYPASSED and node["type"] in object_info:
        return link
    wanted = node["outputs"][link[1]]["type"]
    through = [slot for slot in node.get("inputs", []) if slot.get("link") is not None]
    fitting = [slot for slot in through if node["type"] == "Reroute" or slot["type"] == wanted]
    if not fitting:
        if mode == BYPASSED:
            return None
        raise WorkflowError(f"node {node['id']} is a {node['type']}, which the server does not have")
    return _origin(links[fitting[0]["link"]], nodes, links, object_info)


def widget_inputs(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """The values of the node's widgets by input name; a dynamic choice adds those of its chosen option."""
    values = node.get("widgets_values") or []
    if isinstance(values, dict):
        return dict(values)
    slots = iter(values)
    inputs: dict[str, Any] = {}
    for section in ("required", "optional"):
        _read_widgets(info["input"].get(section, {}), "", slots, inputs)
    left = [value for value in slots if value is not None]
    if left:
        raise WorkflowError(
            f"node {node['id']} ({node['type']}) has widget values that no widget takes: {left}; "
            f"read so far: {inputs}. Save the workflow again with this version of the node"
        )
    return inputs


def _read_widgets(specs: dict[str, Any], prefix: str, slots: Iterator[Any], inputs: dict[str, Any]) -> None:
    """Widgets stand in the order of the schema, each in one slot; some take a second one that is no input."""
    for name, spec in specs.items():
        kind = spec[0]
        options = spec[1] if len(spec) > 1 else {}
        if not is_widget(kind, options):
            continue
        value = next(slots, options.get("default"))
        # A file that an older host has saved holds no value for a widget that is hidden now.
        if value is None and options.get("hidden"):
            continue
        inputs[prefix + name] = value
        # The frontend puts `fixed`, `increment` ... behind a seed.
        if options.get("control_after_generate", name in ("seed", "noise_seed")):
            _skip_seed_mode(slots, name)
        # The button of an upload has a slot of its own, and the player of a sound.
        for _ in range(sum(BUTTONS[name] for name in BUTTONS if options.get(name))):
            next(slots, None)
        if kind == "COMFY_DYNAMICCOMBO_V3":
            for section in ("required", "optional"):
                chosen = _option(options["options"], value, prefix + name)["inputs"].get(section, {})
                _read_widgets(chosen, f"{prefix}{name}.", slots, inputs)


def is_widget(kind: Any, options: dict[str, Any]) -> bool:
    """Whether an input of this type is drawn as a widget and so has a value of its own."""
    return (isinstance(kind, list) or kind in WIDGET_TYPES) and not options.get("forceInput")


def _skip_seed_mode(slots: Iterator[Any], name: str) -> None:
    mode = next(slots, "fixed")
    if mode not in SEED_MODES:
        raise WorkflowError(f"after the widget {name} one of {sorted(SEED_MODES)} must stand, found {mode!r}")


def _option(options: list[dict[str, Any]], key: Any, name: str) -> dict[str, Any]:
    for option in options:
        if option["key"] == key:
            return option
    raise WorkflowError(f"{name} is {key!r}, possible are {[option['key'] for option in options]}")
