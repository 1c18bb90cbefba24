"""A workflow with its subgraphs opened: all nodes in one graph, by the ids that the frontend queues."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

# The frontend's ids of a subgraph's inputs and outputs inside of it.
INPUTS, OUTPUTS = -10, -20

End = tuple[str, int]


@dataclass(frozen=True)
class Opened:
    """nodes: by id, in which `host:inner` is a node of a subgraph. links: the output that feeds an input.
    ends: the node of the subgraph that an id of its inputs or outputs belongs to. values: of widgets that a
    subgraph shows, by node and input.
    """

    nodes: dict[str, dict[str, Any]]
    links: dict[End, End]
    ends: dict[str, str]
    values: dict[tuple[str, str], Any]


def opened(workflow: dict[str, Any]) -> Opened:
    definitions = {graph["id"]: graph for graph in workflow.get("definitions", {}).get("subgraphs", [])}
    found = Opened({}, {}, {}, {})
    rows = [tuple(link[1:5]) for link in workflow["links"]]
    _open(workflow["nodes"], rows, definitions, "", found)
    return found


def _open(
    nodes: Iterable[dict[str, Any]],
    links: Iterable[tuple[int, int, int, int]],
    definitions: dict[str, Any],
    prefix: str,
    found: Opened,
) -> None:
    """Nodes and links of one graph, and of those inside it."""
    for origin, slot, target, target_slot in links:
        found.links[f"{prefix}{target}", target_slot] = f"{prefix}{origin}", slot
    for node in nodes:
        key = f"{prefix}{node['id']}"
        found.nodes[key] = node
        graph = definitions.get(node["type"])
        if graph is not None:
            rows = [
                (link["origin_id"], link["origin_slot"], link["target_id"], link["target_slot"])
                for link in graph["links"]
            ]
            found.ends.update({f"{key}:{end}": key for end in (INPUTS, OUTPUTS)})
            _open(graph["nodes"], rows, definitions, f"{key}:", found)
            found.values.update(_shown(key, node, graph))


def _shown(key: str, node: dict[str, Any], graph: dict[str, Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    """The widgets inside that the node of a subgraph shows, with their values; linked ones have none."""
    names = [slot["name"] for slot in graph["inputs"]]
    inner = {inside["id"]: inside for inside in graph["nodes"]}
    values = iter(node.get("widgets_values") or [])
    for slot in node.get("inputs", []):
        if "widget" not in slot:
            continue
        value = next(values, None)
        if value is None or slot.get("link") is not None:
            continue
        for link in graph["links"]:
            if link["origin_id"] == INPUTS and link["origin_slot"] == names.index(slot["name"]):
                target = inner[link["target_id"]]["inputs"][link["target_slot"]]["name"]
                yield (f"{key}:{link['target_id']}", target), value


def flat(workflow: dict[str, Any]) -> dict[str, Any]:
    """The same workflow in one graph. `shown` of a node has the values that its subgraph shows, by input."""
    found = opened(workflow)
    nodes, links = [], []
    for key, node in found.nodes.items():
        # The frontend's type of a subgraph's node is the id of the subgraph.
        if f"{key}:{INPUTS}" in found.ends:
            continue
        inputs = []
        for k, slot in enumerate(node.get("inputs", [])):
            origin = _start((key, k), found)
            if origin is not None:
                links.append([len(links) + 1, *origin, key, k, slot["type"]])
            inputs.append({**slot, "link": len(links) if origin is not None else None})
        shown = {name: value for (at, name), value in found.values.items() if at == key}
        nodes.append({**node, "id": key, "inputs": inputs, "shown": shown})
    return {**workflow, "nodes": nodes, "links": links}


def _start(target: End, found: Opened) -> End | None:
    """The output of a real node that feeds an input, through the ends of subgraphs; None without one."""
    origin = found.links.get(target)
    while origin is not None:
        key, slot = origin
        if key in found.ends:
            # A node lists its inputs in the order of its subgraph.
            origin = found.links.get((found.ends[key], slot))
        elif f"{key}:{OUTPUTS}" in found.ends:
            origin = found.links.get((f"{key}:{OUTPUTS}", slot))
        else:
            return origin
    return None
