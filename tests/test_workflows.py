"""The templates people open: links that meet, widgets that fit the nodes, and a layout without overlaps."""

import itertools
import json
from pathlib import Path

import pytest
from comfy_extras.nodes_video import SaveVideo

from ccl_pack.nodes import NODES
from nodes import CLIPTextEncode
from workflow_api import to_prompt

WORKFLOWS = sorted((Path(__file__).resolve().parents[1] / "workflows").glob("*.json"))
TITLE_HEIGHT = 30


def object_info() -> dict:
    ours = {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in [*NODES, SaveVideo]}
    return {**ours, "CLIPTextEncode": {"input": CLIPTextEncode.INPUT_TYPES()}}


def rectangle(node: dict) -> tuple[float, float, float, float]:
    (left, top), (width, height) = node["pos"], node["size"]
    return left, top - TITLE_HEIGHT, left + width, top + height


def inside(inner: tuple, bounding: list) -> bool:
    left, top, width, height = bounding
    return left <= inner[0] and top <= inner[1] and inner[2] <= left + width and inner[3] <= top + height


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request) -> dict:
    return json.loads(request.param.read_text())


def test_links_meet_sockets_of_their_type(workflow):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, origin, out_slot, target, in_slot, kind in workflow["links"]:
        output, target_input = nodes[origin]["outputs"][out_slot], nodes[target]["inputs"][in_slot]
        assert number in output["links"]
        assert target_input["link"] == number
        assert output["type"] == target_input["type"] == kind
        assert nodes[origin]["order"] < nodes[target]["order"]


def test_every_required_input_has_a_value_of_its_schema(workflow):
    info = object_info()
    prompt = to_prompt(workflow, info)
    assert {node["class_type"] for node in prompt.values()} | {"MarkdownNote"} == {
        node["type"] for node in workflow["nodes"]
    }
    for node in prompt.values():
        known = info[node["class_type"]]["input"]
        assert known["required"].keys() <= node["inputs"].keys()
        parents = {name.split(".")[0] for name in node["inputs"]}
        assert parents <= known["required"].keys() | known.get("optional", {}).keys()


def test_nodes_do_not_overlap_and_stand_inside_their_group(workflow):
    boxes = [rectangle(node) for node in workflow["nodes"]]
    for one, other in itertools.combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    for node, box in zip(workflow["nodes"], boxes, strict=True):
        if node["type"] != "MarkdownNote":
            assert sum(inside(box, group["bounding"]) for group in workflow["groups"]) == 1
