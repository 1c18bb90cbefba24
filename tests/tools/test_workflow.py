"""A saved workflow as a prompt: widgets in their slots, links through idle nodes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ccl_tools.workflow import WorkflowError, to_prompt

INFO: dict[str, Any] = {
    "Loader": {"input": {"required": {"file": ["COMBO", {"options": ["a", "b"]}]}}},
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "mode": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "off", "inputs": {"required": {}}},
                            {
                                "key": "on",
                                "inputs": {
                                    "required": {"scale": ["FLOAT", {"default": 1.0}]},
                                    "optional": {"end": ["FLOAT", {"default": 1.0}]},
                                },
                            },
                        ]
                    },
                ],
            },
            "optional": {
                "skip": ["STRING", {"default": ""}],
                "hidden_by_link": ["FLOAT", {"forceInput": True}],
            },
        }
    },
    "Patch": {"input": {"required": {"model": ["MODEL"], "strength": ["FLOAT", {"default": 1.0}]}}},
}


def graph_node(
    key: int, kind: str, links: list[int | None], values: list[Any], mode: int = 0
) -> dict[str, Any]:
    """A node whose inputs and only output are models."""
    inputs = [{"name": "model", "type": "MODEL", "link": link} for link in links]
    outputs = [{"name": "model", "type": "MODEL"}]
    return {
        "id": key,
        "type": kind,
        "mode": mode,
        "inputs": inputs,
        "outputs": outputs,
        "widgets_values": values,
    }


def graph(middle: dict[str, Any] | None, values: list[Any]) -> dict[str, Any]:
    """Loader 1, then the node in the middle (2) if there is one, then Sampler 3."""
    nodes = [graph_node(1, "Loader", [], ["b"]), graph_node(3, "Sampler", [11], values)]
    links = [[11, 1 if middle is None else 2, 0, 3, 0, "MODEL"]]
    if middle is not None:
        nodes.append(middle)
        links.append([10, 1, 0, 2, 0, "MODEL"])
    return {"nodes": nodes, "links": links, "version": 0.4}


def test_widgets_take_their_slots() -> None:
    prompt = to_prompt(graph(None, [5, "randomize", "on", 3.5, 0.9, "7, 8"]), INFO)
    assert prompt["3"]["inputs"] == {
        "seed": 5,
        "mode": "on",
        "mode.scale": 3.5,
        "mode.end": 0.9,
        "skip": "7, 8",
        "model": ["1", 0],
    }
    assert prompt["1"]["inputs"] == {"file": "b"}
    assert to_prompt(graph(None, [5, "fixed", "off", "x"]), INFO)["3"]["inputs"]["skip"] == "x"


@pytest.mark.parametrize(
    ("kind", "mode", "link"),
    [("Patch", 0, ["2", 0]), ("Patch", 4, ["1", 0]), ("Reroute", 0, ["1", 0]), ("Patch", 2, None)],
)
def test_links_see_through_nodes_that_do_nothing(kind: str, mode: int, link: list[Any] | None) -> None:
    middle = graph_node(2, kind, [10], [1.0] if kind == "Patch" else [], mode)
    prompt = to_prompt(graph(middle, [5, "fixed", "off", ""]), INFO)
    assert prompt["3"]["inputs"].get("model") == link
    assert ("2" in prompt) == (kind == "Patch" and mode == 0)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([5, "on", 3.5, 0.9, "x"], "seed"),
        ([5, "fixed", "sideways", ""], "sideways"),
        ([5, "fixed", "off", "", "left over"], "left over"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: list[Any], word: str) -> None:
    with pytest.raises(WorkflowError, match=word):
        to_prompt(graph(None, values), INFO)


@pytest.mark.parametrize("saved", [[], ["mp4"]])
def test_a_hidden_widget_has_a_value_where_the_file_holds_one(saved: list[str]) -> None:
    """As the codec of SaveVideo, which a newer host has moved into its format and keeps, hidden."""
    hidden = ["COMFY_DYNAMICCOMBO_V3", {"hidden": True, "options": [{"key": "mp4", "inputs": {}}]}]
    info = {"Save": {"input": {"required": {"name": ["STRING", {}]}, "optional": {"codec": hidden}}}}
    workflow = {"nodes": [graph_node(1, "Save", [], ["clip", *saved])], "links": []}
    prompt = to_prompt(workflow, info)
    assert list(prompt["1"]["inputs"].values()) == ["clip", *saved]


def test_unknown_nodes_in_the_way_are_refused() -> None:
    with pytest.raises(WorkflowError, match="Teleport"):
        to_prompt(graph(graph_node(2, "Teleport", [], []), [5, "fixed", "off", ""]), INFO)


def subgraph_node(key: int, graph: str, inputs: list[dict[str, Any]], values: list[Any]) -> dict[str, Any]:
    outputs = [{"name": "model", "type": "MODEL"}]
    return {"id": key, "type": graph, "inputs": inputs, "outputs": outputs, "widgets_values": values}


def definition(
    name: str, nodes: list[dict[str, Any]], links: list[tuple[int, int, int, int]]
) -> dict[str, Any]:
    """A subgraph that is given a model and a strength, and gives a model."""
    rows = [
        dict(zip(("origin_id", "origin_slot", "target_id", "target_slot"), link, strict=True))
        for link in links
    ]
    inputs = [{"name": "model"}, {"name": "strength"}]
    return {"id": name, "nodes": nodes, "links": rows, "inputs": inputs}


def test_subgraphs_are_opened_one_inside_the_other() -> None:
    """Loader 1 feeds subgraph 2, which holds subgraph 5, which holds patch 7."""
    model = {"name": "model", "type": "MODEL", "link": 10}
    strength = {"name": "strength", "type": "FLOAT", "link": None, "widget": {"name": "strength"}}
    patch = graph_node(7, "Patch", [1], [1.0])
    patch["inputs"].append({**strength, "link": 2})
    ends = [(-10, 0, 7, 0), (-10, 1, 7, 1), (7, 0, -20, 0)]
    inner = definition("inner", [patch], ends)
    host = subgraph_node(5, "inner", [{**model, "link": 3}, strength], [0.75])
    outer = definition("outer", [host], [(-10, 0, 5, 0), (5, 0, -20, 0)])
    workflow = graph(subgraph_node(2, "outer", [model], []), [5, "fixed", "off", ""])
    prompt = to_prompt({**workflow, "definitions": {"subgraphs": [outer, inner]}}, INFO)
    assert prompt["3"]["inputs"]["model"] == ["2:5:7", 0]
    assert prompt["2:5:7"]["inputs"] == {"strength": 0.75, "model": ["1", 0]}
    assert prompt.keys() == {"1", "3", "2:5:7"}
