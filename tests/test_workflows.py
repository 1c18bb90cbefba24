"""The templates people open: links that meet, widgets that fit the nodes, files to fetch, a layout
without overlaps.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import folder_paths
import pytest
from comfy_extras.nodes_audio import SaveAudio
from comfy_extras.nodes_images import ImageFromBatch
from comfy_extras.nodes_video import SaveVideo
from comfy_extras.nodes_wan import WanImageToVideo

from ccl_pack.nodes import CHECKPOINTS, NODES
from ccl_tools.workflow import to_prompt
from nodes import CLIPLoader, CLIPTextEncode, LoadImage, VAELoader

WORKFLOWS = sorted((Path(__file__).resolve().parents[1] / "workflows").glob("*.json"))
HOST_NODES = (CLIPLoader, CLIPTextEncode, LoadImage, VAELoader)
TITLE_HEIGHT = 30
MODEL_SUFFIX = ".safetensors"
DOWNLOAD = re.compile(
    rf"https://huggingface\.co/[\w.-]+/[\w.-]+/resolve/main/[\w./-]+{re.escape(MODEL_SUFFIX)}"
)
SHARD = re.compile(r"-(\d{5})-of-(\d{5})")


def object_info() -> dict:
    ours = {
        node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1()
        for node in [*NODES, ImageFromBatch, SaveAudio, SaveVideo, WanImageToVideo]
    }
    return {**ours, **{node.__name__: {"input": node.INPUT_TYPES()} for node in HOST_NODES}}


def rectangle(node: dict) -> tuple[float, float, float, float]:
    (left, top), (width, height) = node["pos"], node["size"]
    return left, top - TITLE_HEIGHT, left + width, top + height


def inside(inner: tuple, bounding: list) -> bool:
    left, top, width, height = bounding
    return left <= inner[0] and top <= inner[1] and inner[2] <= left + width and inner[3] <= top + height


def models(workflow: dict) -> list[dict]:
    return [model for node in workflow["nodes"] for model in node["properties"].get("models", [])]


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request: pytest.FixtureRequest) -> dict:
    return json.loads(request.param.read_text())


def test_links_meet_sockets_of_their_type(workflow: dict[str, Any]) -> None:
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, origin, out_slot, target, in_slot, kind in workflow["links"]:
        output, target_input = nodes[origin]["outputs"][out_slot], nodes[target]["inputs"][in_slot]
        assert number in output["links"]
        assert target_input["link"] == number
        assert output["type"] == target_input["type"] == kind
        assert nodes[origin]["order"] < nodes[target]["order"]


def test_ids_are_unique_and_no_link_dangles(workflow: dict[str, Any]) -> None:
    links, nodes = [link[0] for link in workflow["links"]], workflow["nodes"]
    ids = [node["id"] for node in nodes]
    assert len(set(links)) == len(links) and len(set(ids)) == len(ids)
    assert workflow["last_link_id"] >= max(links) and workflow["last_node_id"] >= max(ids)
    ends = [entry["link"] for node in nodes for entry in node["inputs"] if entry["link"] is not None]
    starts = [number for node in nodes for entry in node["outputs"] for number in entry["links"]]
    assert sorted(ends) == sorted(starts) == sorted(links)


def test_every_required_input_has_a_value_of_its_schema(workflow: dict[str, Any]) -> None:
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


def test_every_choice_is_offered(workflow: dict[str, Any]) -> None:
    """File names aside: which files there are depends on the machine."""
    info = object_info()
    for node in to_prompt(workflow, info).values():
        known = info[node["class_type"]]["input"]
        for name, spec in {**known["required"], **known.get("optional", {})}.items():
            options = (
                spec[0]
                if isinstance(spec[0], list)
                else spec[1].get("options")
                if spec[0] == "COMBO"
                else None
            )
            value = node["inputs"].get(name)
            if options is not None and not str(value).endswith((MODEL_SUFFIX, ".png")):
                assert value in options, f"{node['class_type']}.{name}"


def test_every_model_file_can_be_downloaded(workflow: dict[str, Any]) -> None:
    info = object_info()
    prompt = to_prompt(workflow, info)
    for node in workflow["nodes"]:
        values = prompt.get(str(node["id"]), {"inputs": {}})["inputs"].values()
        wanted = {value for value in values if isinstance(value, str) and value.endswith(MODEL_SUFFIX)}
        wanted -= {path.name for path in CHECKPOINTS.iterdir()}
        assert wanted <= {model["name"] for model in node["properties"].get("models", [])}


def test_downloads_are_complete_and_go_where_loaders_look(workflow: dict[str, Any]) -> None:
    names = {model["name"] for model in models(workflow)}
    for model in models(workflow):
        assert set(model) == {"name", "url", "directory"}
        assert DOWNLOAD.fullmatch(model["url"])
        assert Path(model["url"]).name == Path(model["name"]).name
        assert model["directory"] in folder_paths.folder_names_and_paths
        shard = SHARD.search(model["name"])
        for number in range(1, int(shard[2]) + 1) if shard else ():
            assert SHARD.sub(f"-{number:05d}-of-{shard[2]}", model["name"]) in names


def test_note_names_every_file_and_the_licence(workflow: dict[str, Any]) -> None:
    (note,) = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    for model in models(workflow):
        folder, _, name = model["name"].rpartition("/")
        assert (model["url"] if not folder else Path(folder).name) in note, name
    assert not models(workflow) or "**Licence**" in note
    assert ("CC-BY-NC" in note) is any("mmaudio" in model["name"] for model in models(workflow))


def test_nodes_do_not_overlap_and_stand_inside_their_group(workflow: dict[str, Any]) -> None:
    boxes = [rectangle(node) for node in workflow["nodes"]]
    for one, other in itertools.combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    for node, box in zip(workflow["nodes"], boxes, strict=True):
        if node["type"] != "MarkdownNote":
            assert sum(inside(box, group["bounding"]) for group in workflow["groups"]) == 1
    for one, other in itertools.combinations([group["bounding"] for group in workflow["groups"]], 2):
        apart = one[0] + one[2] <= other[0] or other[0] + other[2] <= one[0]
        assert apart or one[1] + one[3] <= other[1] or other[1] + other[3] <= one[1]


FROM_MODEL = {"steps": 0, "sampler_name": "from model", "scheduler": "from model", "mode": "from model"}
PUBLISHED = {
    "Ovi Text to Video with Sound": [
        ("CCLEmptyAVLatent", {"size.width": 1280, "size.height": 704, "length": "from model", "fps": 0.0}),
        ("CCLJointSampler", FROM_MODEL),
        ("CCLPrompt", {"variant": "from model", "negative_prompt": "", "negative_sound": ""}),
    ],
    "Ovi Image to Video with Sound": [
        ("CCLEmptyAVLatent", {"size": "from model", "length": "from model", "fps": 0.0}),
        ("CCLJointSampler", FROM_MODEL),
        ("CCLPrompt", {"variant": "from model", "negative_prompt": "", "negative_sound": ""}),
    ],
    "MOVA Image to Video with Sound": [
        ("WanImageToVideo", {"width": 640, "height": 352, "length": 193}),
        ("CCLEncodeAV", {"fps": 24.0}),
        ("CCLJointSampler", FROM_MODEL),
        ("CCLPrompt", {"variant": "from model", "negative_prompt": "", "negative_sound": ""}),
    ],
    "Prism Image to Video with Sound": [
        ("WanImageToVideo", {"width": 848, "height": 480, "length": 205}),
        ("CCLEncodeAV", {"fps": 24.0}),
        ("CCLJointSampler", FROM_MODEL),
        ("CCLPrompt", {"variant": "from model", "negative_prompt": "", "negative_sound": ""}),
    ],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_published_ones(name: str) -> None:
    path = next(path for path in WORKFLOWS if path.stem == name)
    prompt = to_prompt(json.loads(path.read_text()), object_info())
    for kind, wanted in PUBLISHED[name]:
        (inputs,) = (node["inputs"] for node in prompt.values() if node["class_type"] == kind)
        assert {key: inputs[key] for key in wanted} == wanted
