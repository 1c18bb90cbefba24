"""Templates and blueprints of the table: their layout, and their files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ccl_tools.graphs import From, Infos, Node, Slot, Subgraph, outer_slots, slots
from ccl_tools.template_table import TABLE, Row
from ccl_tools.template_texts import description_of, note_of
from ccl_tools.workflow_json import Template, blueprint_json, template_json

# Pixels. Inside: heights of a node's parts in the taller of both renderers.
WIDTH, GAP, TITLE = 340, 80, 40
ROW, WIDGET, TEXT = 28, 40, 150
# Outside: a note, what a person gives, the node of the job, the result. A template opens at three quarters of
# the zoom that would fill the window: at 1600 x 800 pixels these are shown at .8 to 1.1.
WIDTHS = {"note": 320, "given": 260, "job": 360, "result": 300}
BETWEEN = 40
OUTER_ROW, OUTER_TEXT, OUTER_TITLE = 28, 130, 60
LEAST_HEIGHT = 420
# With a picture, or a player of sound.
GIVEN_HEIGHT = {"image": 330, "video": 330, "audio": 170}
LOADERS = {
    "image": ("LoadImage", "image", "example.png", "IMAGE"),
    "video": ("LoadVideo", "file", "choose your video.mp4", "VIDEO"),
    "audio": ("LoadAudio", "audio", "choose your sound.mp3", "AUDIO"),
}
SAVERS = {
    "video": ("SaveVideo", {"format": "auto", "codec": "auto"}, 106),
    "audio": ("SaveAudioAdvanced", {"format": "flac"}, 180),
}
LONG_TEXTS = ("prompt", "sound", "speech", "negative_prompt", "negative_sound")


def graph_of(row: Row, infos: Infos) -> Subgraph:
    inside = row.job(row.release, row.texts)
    nodes = placed((*row.release.loaders, *inside.nodes), infos)
    inputs = (*inside.inputs, *row.release.shown)
    return Subgraph(row.name, nodes, inputs, inside.outputs, "sampler", description_of(row))


def placed(nodes: Sequence[Node], infos: Infos) -> tuple[Node, ...]:
    """In columns: a node stands right of everything that feeds it, loaders in the first one."""
    column: dict[str, int] = {}
    for node in nodes:
        feeding = [column[value.node] + 1 for value in node.inputs.values() if isinstance(value, From)]
        column[node.key] = max(feeding, default=0)
    below: dict[int, int] = {}
    made = []
    for node in nodes:
        k, height = column[node.key], height_of(node, infos)
        top = below.get(k, 0)
        below[k] = top + height + GAP
        made.append(replace(node, place=(k * (WIDTH + GAP), top), size=(WIDTH, height)))
    return tuple(made)


def height_of(node: Node, infos: Infos) -> int:
    shown = slots(node, infos)
    sockets = sum(not slot.widget for slot in shown)
    rows = max(sockets, len(infos[node.type]["output"]))
    return TITLE + rows * ROW + sum(map(_height, shown))


def _height(slot: Slot) -> int:
    if not slot.widget:
        return 0
    return TEXT if slot.name in LONG_TEXTS else WIDGET * (1 + len(slot.after))


def template_of(row: Row, infos: Infos) -> Template:
    """In one line, so that no wire runs behind a node."""
    graph = graph_of(row, infos)
    nodes = [
        Node("note", "MarkdownNote", {"text": note_of(row)}, "About this workflow"),
        *given_nodes(row),
        Node("job", graph.id, {name: From("given", LOADERS[name][3]) for name in given_of(row)}, row.name),
        saver_node(row, graph),
    ]
    heights = {
        "note": 0,
        "job": 0,
        "given": GIVEN_HEIGHT.get(row.given),
        "result": SAVERS[result_of(graph)][2],
    }
    left, made = 0, []
    for node in nodes:
        size = WIDTHS[node.key], heights[node.key] or job_height(graph, infos)
        made.append(replace(node, place=(left, 0), size=size))
        left += size[0] + BETWEEN
    return Template(row.name, graph, tuple(made))


def given_of(row: Row) -> tuple[str, ...]:
    return (row.given,) if row.given else ()


def given_nodes(row: Row) -> list[Node]:
    return [
        Node("given", kind, {widget: value}) for kind, widget, value, _ in map(LOADERS.get, given_of(row))
    ]


def result_of(graph: Subgraph) -> str:
    (name,) = graph.outputs
    return name


def saver_node(row: Row, graph: Subgraph) -> Node:
    """Its file bears the name of the template in small letters."""
    result = result_of(graph)
    kind, values, _ = SAVERS[result]
    stem = re.sub(r"[^a-z0-9.]+", "_", row.name.lower()).strip("_")
    return Node(
        "result", kind, {result: From("job", result), "filename_prefix": f"{result}/{stem}", **values}
    )


def job_height(graph: Subgraph, infos: Infos) -> int:
    shown = [slot for slot in outer_slots(graph, infos) if slot.widget]
    texts = sum(slot.name in LONG_TEXTS for slot in shown)
    return max(LEAST_HEIGHT, OUTER_TITLE + texts * OUTER_TEXT + (len(shown) - texts) * OUTER_ROW)


def files(infos: Infos) -> dict[Path, str]:
    """The text of every file by its path below the pack."""
    made: dict[Path, str] = {}
    for row in TABLE:
        template = template_of(row, infos)
        made[Path("workflows", f"{row.name}.json")] = _text(template_json(template, infos))
        if row.blueprint:
            made[Path("subgraphs", f"{row.name}.json")] = _text(blueprint_json(template, infos))
    return made


def _text(graph: Mapping[str, Any]) -> str:
    return json.dumps(graph, indent=1, ensure_ascii=False) + "\n"
