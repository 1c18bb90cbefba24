"""Templates and blueprints as files: a graph with one subgraph in it, and a subgraph alone."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ccl_tools.environment import ROOT
from ccl_tools.graphs import (
    FIRST_INSIDE,
    FIRST_OUTSIDE,
    INPUTS,
    NAMESPACE,
    OUTPUTS,
    Infos,
    Link,
    Node,
    Outer,
    Slot,
    Subgraph,
    info_of,
    links_into,
    links_out,
    node_json,
    outer_slots,
    slots,
)

# The oldest host that the pack runs on.
HOST_VERSION = "0.30.0"
CATEGORY = "Video with sound (CCL, Ovi, MOVA, Prism)"
# Pixels: columns for the ends of a subgraph, its rows, and the frontend's own widths.
END_WIDTH, END_ROW, END_GAP = 180, 20, 80
# The frontend's name of what a node draws of a run.
PREVIEW = "$$canvas-image-preview"
# Unscaled by the frontend, in either renderer.
RENDERER = {"workflowRendererVersion": "LG"}


@dataclass(frozen=True)
class Template:
    """What a person opens: a note, loaders of his own media, the subgraph by the key `job`, a save node."""

    name: str
    graph: Subgraph
    nodes: tuple[Node, ...]


def version() -> str:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.search(r'^version = "(.+)"$', text, re.MULTILINE)[1]


def versions(kind: str) -> dict[str, str]:
    """Where the frontend finds a node that is not installed."""
    if kind.startswith("CCL"):
        return {"cnr_id": "ccl-audio-video", "ver": version()}
    return {"cnr_id": "comfy-core", "ver": HOST_VERSION}


def template_json(template: Template, infos: Infos) -> dict[str, Any]:
    known = {**infos, template.graph.id: info_of(template.graph, infos)}
    links = links_into(template.nodes, FIRST_OUTSIDE, (), known)
    nodes = [_outside(template, k, links, known) for k in range(len(template.nodes))]
    rows = [
        [link.id, link.origin, link.origin_slot, link.target, link.target_slot, link.kind] for link in links
    ]
    return {
        "id": str(uuid.uuid5(NAMESPACE, f"template {template.name}")),
        "revision": 0,
        "last_node_id": FIRST_INSIDE + len(template.graph.nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": rows,
        "groups": [],
        "definitions": {"subgraphs": [subgraph_json(template.graph, infos)]},
        "config": {},
        "extra": {"ds": {"scale": 0.8, "offset": [120, 120]}, **RENDERER},
        "version": 0.4,
    }


def blueprint_json(template: Template, infos: Infos) -> dict[str, Any]:
    """A root graph of one node, as the frontend wants of a blueprint."""
    (job,) = (node for node in template.nodes if node.type == template.graph.id)
    alone = Node(job.key, job.type, title=template.graph.name, place=(0, 0), size=job.size)
    made = template_json(replace(template, nodes=(alone,)), infos)
    return made | {"id": str(uuid.uuid5(NAMESPACE, f"blueprint {template.name}"))}


def _outside(template: Template, k: int, links: Sequence[Link], infos: Infos) -> dict[str, Any]:
    node = template.nodes[k]
    made = node_json(node, FIRST_OUTSIDE + k, links, infos, versions)
    return _host(template.graph, made, infos) if node.type == template.graph.id else made


def _host(graph: Subgraph, made: dict[str, Any], infos: Infos) -> dict[str, Any]:
    """The node that stands for the subgraph: its widgets and the preview are those of nodes inside.

    proxyWidgets is the form of frontends before 1.47, which newer ones read too.
    """
    ids = {node.key: str(FIRST_INSIDE + k) for k, node in enumerate(graph.nodes)}
    sources = [_source(graph, slot, infos) for slot in outer_slots(graph, infos) if slot.widget]
    shown = [[ids[key], name] for key, name in sources]
    preview = {"name": PREVIEW, "sourceNodeId": ids[graph.preview], "sourcePreviewName": PREVIEW}
    properties = {**versions("CCL"), "proxyWidgets": shown, "previewExposures": [preview]}
    return made | {"properties": properties}


def _source(graph: Subgraph, outer: Slot, infos: Infos) -> tuple[str, str]:
    """The first node and widget that an input of the subgraph goes to."""
    return next(
        (node.key, slot.name)
        for node in graph.nodes
        for slot in slots(node, infos)
        if isinstance(slot.value, Outer) and slot.value.name == outer.name
    )


def subgraph_json(graph: Subgraph, infos: Infos) -> dict[str, Any]:
    into = links_into(graph.nodes, FIRST_INSIDE, graph.inputs, infos)
    links = [*into, *links_out(graph, infos, len(into))]
    outer = outer_slots(graph, infos)
    top = min(node.place[1] for node in graph.nodes)
    left = min(node.place[0] for node in graph.nodes) - END_GAP - END_WIDTH
    right = max(node.place[0] + node.size[0] for node in graph.nodes) + END_GAP
    kinds = info_of(graph, infos)["output"]
    return {
        "id": graph.id,
        "version": 1,
        "state": {
            "lastGroupId": 0,
            "lastNodeId": FIRST_INSIDE + len(graph.nodes) - 1,
            "lastLinkId": len(links),
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": graph.name,
        "description": graph.description,
        "category": CATEGORY,
        "inputNode": {"id": INPUTS, "bounding": [left, top, END_WIDTH, _end_height(outer)]},
        "outputNode": {"id": OUTPUTS, "bounding": [right, top, END_WIDTH, _end_height(kinds)]},
        "inputs": [
            _end(graph, slot.name, slot.kind, k, INPUTS, links, (left, top)) for k, slot in enumerate(outer)
        ],
        "outputs": [
            _end(graph, name, kind, k, OUTPUTS, links, (right, top))
            for k, (name, kind) in enumerate(zip(graph.outputs, kinds, strict=True))
        ],
        "widgets": [],
        "nodes": [
            node_json(node, FIRST_INSIDE + k, links, infos, versions) for k, node in enumerate(graph.nodes)
        ],
        "groups": [],
        "links": [_link_json(link) for link in links],
        "extra": dict(RENDERER),
    }


def _end_height(rows: Sequence[Any]) -> int:
    return 2 * END_ROW + END_ROW * len(rows)


def _end(
    graph: Subgraph, name: str, kind: str, k: int, side: int, links: Sequence[Link], corner: tuple[int, int]
) -> dict[str, Any]:
    """An input or output of the subgraph, and the links at it."""
    at = [
        link.id
        for link in links
        if (link.origin, link.origin_slot) == (side, k) or (link.target, link.target_slot) == (side, k)
    ]
    return {
        "id": str(uuid.uuid5(NAMESPACE, f"{graph.name} {side} {name}")),
        "name": name,
        "type": kind,
        "linkIds": at,
        "pos": [corner[0] + END_ROW, corner[1] + END_ROW * (k + 1)],
    }


def _link_json(link: Link) -> dict[str, Any]:
    return {
        "id": link.id,
        "origin_id": link.origin,
        "origin_slot": link.origin_slot,
        "target_id": link.target,
        "target_slot": link.target_slot,
        "type": link.kind,
    }
