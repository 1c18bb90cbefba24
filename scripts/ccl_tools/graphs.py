"""Graphs as values, and as the JSON that the frontend saves: workflow 0.4, whose subgraphs are version 1.

A value of a node's input is a widget value, `From` another node, or `Outer`, an input of the subgraph around
it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ccl_tools.workflow import is_widget

Infos = Mapping[str, dict[str, Any]]

# Ids of the nodes of a graph. The frontend renames ids that a graph and its subgraph share.
FIRST_OUTSIDE, FIRST_INSIDE = 1, 11
# The frontend's ids of what stands for a subgraph's inputs and outputs inside of it.
INPUTS, OUTPUTS = -10, -20
# What the frontend does with a seed once a run is queued: the next press of Run makes another clip.
SEED_CONTROL = "randomize"
NAMESPACE = uuid.UUID("0a2c7c0a-6f0f-5b7e-9d6e-5d1f6a3c5e11")


@dataclass(frozen=True)
class From:
    """An output of another node, by names."""

    node: str
    output: str


@dataclass(frozen=True)
class Outer:
    """An input of the subgraph; of a widget with the value that it begins with."""

    name: str
    value: Any = None


@dataclass(frozen=True)
class File:
    """A file that the frontend offers to fetch. name: as the widget of the loader has it; gb: 1e9 bytes."""

    name: str
    url: str
    directory: str
    gb: float


@dataclass(frozen=True)
class Node:
    """A node by a key of ours; place and size in pixels."""

    key: str
    type: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    title: str | None = None
    files: tuple[File, ...] = ()
    place: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Subgraph:
    """inputs: in the order in which they are shown. preview: the node whose preview the outside shows."""

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: Mapping[str, From]
    preview: str
    description: str

    @property
    def id(self) -> str:
        return str(uuid.uuid5(NAMESPACE, self.name))


@dataclass(frozen=True)
class Slot:
    """An input of a node. after: values behind its own, of widgets that are no input. bare: no socket."""

    name: str
    kind: str
    widget: bool
    value: Any = None
    after: tuple[Any, ...] = ()
    bare: bool = False


@dataclass(frozen=True)
class Link:
    id: int
    origin: int
    origin_slot: int
    target: int
    target_slot: int
    kind: str


def slots(node: Node, infos: Infos) -> list[Slot]:
    """Every input of the node in the order of its schema, those of a chosen option behind the choice."""
    return list(_slots(infos[node.type]["input"], node.inputs, ""))


def _slots(sections: dict[str, Any], given: Mapping[str, Any], prefix: str) -> Iterator[Slot]:
    for name, spec in [*sections.get("required", {}).items(), *sections.get("optional", {}).items()]:
        kind, options = spec[0], spec[1] if len(spec) > 1 else {}
        value = given.get(prefix + name, options.get("default"))
        seed = (SEED_CONTROL,) if options.get("control_after_generate") else ()
        after = (*seed, *options.get("after", ()))
        bare = bool(options.get("socketless"))
        yield Slot(prefix + name, _type(kind), is_widget(kind, options), value, after, bare)
        if kind == "COMFY_DYNAMICCOMBO_V3":
            chosen = next(option for option in options["options"] if option["key"] == value)
            yield from _slots(chosen["inputs"], given, f"{prefix}{name}.")


def _type(kind: Any) -> str:
    """A list of choices is the old form of a COMBO."""
    return kind if isinstance(kind, str) else "COMBO"


def outer_slots(graph: Subgraph, infos: Infos) -> list[Slot]:
    """The inputs of the subgraph as those of the nodes that they go to."""
    inner = [slot for node in graph.nodes for slot in slots(node, infos) if isinstance(slot.value, Outer)]
    by_name = {slot.value.name: slot for slot in reversed(inner)}
    return [
        Slot(name, by_name[name].kind, by_name[name].widget, by_name[name].value.value)
        for name in graph.inputs
    ]


def info_of(graph: Subgraph, infos: Infos) -> dict[str, Any]:
    """The subgraph as a node of /object_info."""
    inputs = {slot.name: (slot.kind, {"default": slot.value}) for slot in outer_slots(graph, infos)}
    nodes = {node.key: node for node in graph.nodes}
    kinds = [
        infos[nodes[end.node].type]["output"][_output(nodes, end, infos)] for end in graph.outputs.values()
    ]
    return {"input": {"required": inputs}, "output": kinds, "output_name": list(graph.outputs)}


def _output(nodes: Mapping[str, Node], end: From, infos: Infos) -> int:
    return list(infos[nodes[end.node].type]["output_name"]).index(end.output)


def numbers(nodes: Sequence[Node], first: int) -> dict[str, int]:
    return {node.key: first + k for k, node in enumerate(nodes)}


def links_into(nodes: Sequence[Node], first: int, outer: Sequence[str], infos: Infos) -> list[Link]:
    """The links that end in inputs of these nodes."""
    ids, by_key = numbers(nodes, first), {node.key: node for node in nodes}
    ends = [(node, k, slot) for node in nodes for k, slot in enumerate(slots(node, infos))]
    found: list[Link] = []
    for node, k, slot in ends:
        if isinstance(slot.value, From):
            start = ids[slot.value.node], _output(by_key, slot.value, infos)
        elif isinstance(slot.value, Outer):
            start = INPUTS, outer.index(slot.value.name)
        else:
            continue
        found.append(Link(len(found) + 1, *start, ids[node.key], k, slot.kind))
    return found


def links_out(graph: Subgraph, infos: Infos, last: int) -> list[Link]:
    """The links from nodes of a subgraph to its outputs."""
    ids, nodes = numbers(graph.nodes, FIRST_INSIDE), {node.key: node for node in graph.nodes}
    found = []
    for k, end in enumerate(graph.outputs.values()):
        slot = _output(nodes, end, infos)
        kind = infos[nodes[end.node].type]["output"][slot]
        found.append(Link(last + k + 1, ids[end.node], slot, OUTPUTS, k, kind))
    return found


def node_json(node: Node, number: int, links: Sequence[Link], infos: Infos, versions: Any) -> dict[str, Any]:
    """As the frontend saves a node; no node stands before its source in the list, whose order it has."""
    into = {link.target_slot: link.id for link in links if link.target == number}
    shown = slots(node, infos)
    values = [value for slot in shown if slot.widget for value in (_begin(slot.value), *slot.after)]
    made = {
        "id": number,
        "type": node.type,
        "pos": list(node.place),
        "size": list(node.size),
        "flags": {},
        "order": number,
        "mode": 0,
        "inputs": [_input_json(slot, into.get(k)) for k, slot in enumerate(shown) if not slot.bare],
        "outputs": _outputs_json(infos[node.type], number, links),
        "properties": _properties(node, versions),
        "widgets_values": values,
    }
    return made if node.title is None else {**made, "title": node.title}


def _begin(value: Any) -> Any:
    return value.value if isinstance(value, Outer) else value


def _input_json(slot: Slot, link: int | None) -> dict[str, Any]:
    made = {"name": slot.name, "type": slot.kind, "link": link}
    return {**made, "widget": {"name": slot.name}} if slot.widget else made


def _outputs_json(info: dict[str, Any], number: int, links: Sequence[Link]) -> list[dict[str, Any]]:
    out = []
    for k, (name, kind) in enumerate(zip(info["output_name"], info["output"], strict=True)):
        leaving = [link.id for link in links if (link.origin, link.origin_slot) == (number, k)]
        out.append({"name": name, "type": kind, "links": leaving})
    return out


def _properties(node: Node, versions: Any) -> dict[str, Any]:
    made = {"Node name for S&R": node.type, **versions(node.type)}
    models = [{"name": file.name, "url": file.url, "directory": file.directory} for file in node.files]
    return {**made, "models": models} if models else made
