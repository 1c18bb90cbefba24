"""Templates and blueprints as files: what the table makes, links that meet, widgets that fit the nodes, files
to fetch, a layout without overlaps.
"""

from __future__ import annotations

import itertools
import json
import re
from operator import itemgetter
from pathlib import Path
from typing import Any

import folder_paths
import pytest
from PIL import Image

from ccl_pack.nodes import CHECKPOINTS
from ccl_tools.environment import ROOT
from ccl_tools.node_infos import node_infos
from ccl_tools.server import ComfyServer
from ccl_tools.template_table import TABLE
from ccl_tools.templates import files
from ccl_tools.workflow import to_prompt
from support import templates

TITLE_HEIGHT = 30
MODEL_SUFFIX = ".safetensors"
DOWNLOAD = re.compile(
    rf"https://huggingface\.co/[\w.-]+/[\w.-]+/resolve/main/[\w./-]+{re.escape(MODEL_SUFFIX)}"
)
SHARD = re.compile(r"-(\d{5})-of-(\d{5})")
FETCH = re.compile(r'^hf download (\S+) --include "(\S+)" --local-dir models/(\w+)/(\S+)$', re.MULTILINE)
LINK = itemgetter("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
# Nodes and wires of a peer's template without its notes: LTX-2 from a text, MMAudio, LTX-2.3 from a sound,
# LTX-2 from an image.
PEERS = {"": (2, 1), "LoadVideo": (7, 9), "LoadAudio": (5, 3), "LoadImage": (4, 3)}
FOLDERS = {"workflows": templates.NAMES, "subgraphs": templates.BLUEPRINTS}
# Of 404 x 250 that the card of a template shows.
LARGEST_PICTURE = 60_000  # bytes


@pytest.fixture(scope="module")
def object_info(server: ComfyServer) -> dict[str, Any]:
    return server.get("/object_info")


@pytest.fixture(params=templates.NAMES)
def workflow(request: pytest.FixtureRequest) -> dict[str, Any]:
    return templates.read(request.param)


def note(workflow: dict[str, Any]) -> str:
    (text,) = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    return text


def models(workflow: dict[str, Any]) -> list[dict[str, str]]:
    return [model for node in templates.nodes_of(workflow) for model in node["properties"].get("models", [])]


def shown(workflow: dict[str, Any]) -> dict[str, Any]:
    """The widgets of the node of the job, by name."""
    (job,) = [
        node for node in workflow["nodes"] if node["type"] == workflow["definitions"]["subgraphs"][0]["id"]
    ]
    names = [slot["name"] for slot in job["inputs"] if "widget" in slot]
    return dict(zip(names, job["widgets_values"], strict=True))


def test_the_files_are_what_the_table_makes() -> None:
    made = files(node_infos())
    there = {
        path.relative_to(ROOT)
        for folder in ("workflows", "subgraphs")
        for path in (ROOT / folder).glob("*.json")
    }
    assert made.keys() == there, "run scripts/make_workflows.py"
    differing = [path for path, text in made.items() if (ROOT / path).read_text(encoding="utf-8") != text]
    assert differing == [], "run scripts/make_workflows.py"


def graphs(workflow: dict[str, Any]) -> list[tuple[list[dict[str, Any]], list[tuple[Any, ...]]]]:
    """Nodes and links (id, origin, slot, target, slot, kind) of each graph."""
    found = [(workflow["nodes"], list(map(tuple, workflow["links"])))]
    for graph in workflow["definitions"]["subgraphs"]:
        found.append((graph["nodes"], [LINK(link) for link in graph["links"]]))
    return found


def test_links_meet_sockets_of_their_type(workflow: dict[str, Any]) -> None:
    for nodes, links in graphs(workflow):
        by_id = {node["id"]: node for node in nodes}
        for number, origin, out_slot, target, in_slot, kind in links:
            if origin in by_id:
                output = by_id[origin]["outputs"][out_slot]
                assert number in output["links"] and output["type"] == kind
            if target in by_id:
                end = by_id[target]["inputs"][in_slot]
                assert end["link"] == number and end["type"] == kind
            if origin in by_id and target in by_id:
                assert by_id[origin]["order"] < by_id[target]["order"]


def test_ids_are_unique_and_no_link_dangles(workflow: dict[str, Any]) -> None:
    ids = [node["id"] for node in templates.nodes_of(workflow)]
    assert len(set(ids)) == len(ids) and workflow["last_node_id"] >= max(ids)
    for nodes, links in graphs(workflow):
        numbers = {link[0] for link in links}
        assert len(numbers) == len(links)
        ends = {entry["link"] for node in nodes for entry in node["inputs"]} - {None}
        starts = {number for node in nodes for entry in node["outputs"] for number in entry["links"]}
        assert ends | starts == numbers


def test_the_ends_of_a_subgraph_name_their_links(workflow: dict[str, Any]) -> None:
    (graph,) = workflow["definitions"]["subgraphs"]
    for k, entry in enumerate(graph["inputs"]):
        at = [link["id"] for link in graph["links"] if (link["origin_id"], link["origin_slot"]) == (-10, k)]
        assert entry["linkIds"] == at and at
    for k, entry in enumerate(graph["outputs"]):
        at = [link["id"] for link in graph["links"] if (link["target_id"], link["target_slot"]) == (-20, k)]
        assert entry["linkIds"] == at and len(at) == 1


def test_every_required_input_has_a_value_of_the_schema_of_the_host(
    workflow: dict[str, Any], object_info: dict[str, Any]
) -> None:
    """File names aside: which files there are depends on the machine."""
    prompt = to_prompt(workflow, object_info)
    kinds = {node["type"] for node in templates.nodes_of(workflow)} & object_info.keys()
    assert {node["class_type"] for node in prompt.values()} == kinds
    for node in prompt.values():
        known = object_info[node["class_type"]]["input"]
        declared = known["required"] | known.get("optional", {})
        assert known["required"].keys() <= node["inputs"].keys(), node["class_type"]
        assert {name.split(".")[0] for name in node["inputs"]} <= declared.keys()
        for name, spec in declared.items():
            options = (
                spec[0]
                if isinstance(spec[0], list)
                else spec[1].get("options")
                if spec[0] == "COMBO"
                else None
            )
            value = node["inputs"].get(name)
            if options is not None and Path(str(value)).suffix not in {MODEL_SUFFIX, ".png", ".mp4", ".mp3"}:
                assert value in options, f"{node['class_type']}.{name}"


def test_every_model_file_is_offered_or_fetched_by_a_command(
    workflow: dict[str, Any], object_info: dict[str, Any]
) -> None:
    """But for those that a person has to make of others, which the note says."""
    inputs = [node["inputs"] for node in to_prompt(workflow, object_info).values()]
    values = [value for entry in inputs for value in entry.values() if isinstance(value, str)]
    wanted = {value for value in values if value.endswith(MODEL_SUFFIX)}
    wanted -= {path.name for path in CHECKPOINTS.iterdir()} | {model["name"] for model in models(workflow)}
    text = note(workflow)
    for name in wanted:
        assert fetched(name, text) or made_by_hand(name, text), name


def fetched(name: str, text: str) -> bool:
    """Whether a command of the note brings this file to where its loader looks."""
    return any(
        name.startswith(f"{folder}/") and Path(name).relative_to(folder).match(pattern)
        for _, pattern, _, folder in FETCH.findall(text)
    )


def made_by_hand(name: str, text: str) -> bool:
    told = {"interaction.safetensors": "new_interaction.py", "MOVA-360p_fp8.safetensors": "convert_model.py"}
    own = {"your_lora.safetensors": "models/loras", "wan2.1_t2v_1.3B_bf16.safetensors": "any Wan"}
    return (told | own).get(name, name) in text


def test_downloads_go_where_loaders_look_and_no_two_have_one_name(workflow: dict[str, Any]) -> None:
    """A browser saves files flat, so shards and what two folders both hold cannot come so."""
    names = [model["name"] for model in models(workflow)]
    assert len(set(names)) == len(names)
    for model in models(workflow):
        assert set(model) == {"name", "url", "directory"}
        assert DOWNLOAD.fullmatch(model["url"])
        assert Path(model["url"]).name == model["name"] and not SHARD.search(model["name"])
        assert model["directory"] in folder_paths.folder_names_and_paths


def test_a_file_that_is_offered_stands_in_a_widget_of_the_job(workflow: dict[str, Any]) -> None:
    assert {model["name"] for model in models(workflow)} <= set(map(str, shown(workflow).values()))


def test_the_note_names_card_download_files_and_licence(workflow: dict[str, Any]) -> None:
    text = note(workflow)
    assert re.search(r"\*\*Card\*\*: .*(computed|measured)", text) and "**Download**: " in text
    assert "**Makes** " in text
    assert all(model["url"] in text for model in models(workflow))
    assert not models(workflow) or "**Licence**" in text
    assert ("CC-BY-NC" in text) is any("mmaudio" in model["name"] for model in models(workflow))


@pytest.mark.parametrize("name", templates.NAMES)
def test_a_person_meets_no_more_than_with_the_peers(name: str) -> None:
    workflow = templates.read(name)
    kinds = [node["type"] for node in workflow["nodes"] if node["type"] != "MarkdownNote"]
    given = next((kind for kind in kinds if kind.startswith("Load")), "")
    nodes, wires = PEERS[given]
    assert len(kinds) <= nodes and len(workflow["links"]) <= wires
    assert {"prompt", "seed"} <= shown(workflow).keys()


def rectangle(node: dict[str, Any]) -> tuple[float, float, float, float]:
    (left, top), (width, height) = node["pos"], node["size"]
    return left, top - TITLE_HEIGHT, left + width, top + height


def test_nodes_do_not_overlap_and_wires_run_from_left_to_right(workflow: dict[str, Any]) -> None:
    for nodes, links in graphs(workflow):
        by_id = {node["id"]: rectangle(node) for node in nodes}
        for one, other in itertools.combinations(by_id.values(), 2):
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        for _, origin, _, target, _, _ in links:
            if origin in by_id and target in by_id:
                assert by_id[origin][2] < by_id[target][0]


def test_no_wire_of_a_template_runs_behind_a_node(workflow: dict[str, Any]) -> None:
    """Each ends in the next node to the right."""
    places = sorted(node["pos"][0] for node in workflow["nodes"])
    by_id = {node["id"]: node["pos"][0] for node in workflow["nodes"]}
    for _, origin, _, target, *_ in workflow["links"]:
        assert places.index(by_id[target]) == places.index(by_id[origin]) + 1


@pytest.mark.parametrize("name", templates.NAMES)
def test_a_template_has_a_picture(name: str) -> None:
    path = ROOT / "workflows" / f"{name}.jpg"
    with Image.open(path) as picture:
        assert picture.format == "JPEG" and picture.width >= 400
    assert path.stat().st_size <= LARGEST_PICTURE


def test_no_picture_is_left_of_a_template_that_is_gone() -> None:
    assert sorted(path.stem for path in (ROOT / "workflows").glob("*.jpg")) == templates.NAMES


@pytest.mark.parametrize("name", templates.BLUEPRINTS)
def test_a_blueprint_is_the_one_node_of_its_template(name: str) -> None:
    blueprint, template = templates.read(name, "subgraphs"), templates.read(name)
    (node,) = blueprint["nodes"]
    assert blueprint["definitions"] == template["definitions"] and blueprint["links"] == []
    assert node["type"] == template["definitions"]["subgraphs"][0]["id"] and node["title"] == name
    description = template["definitions"]["subgraphs"][0]["description"]
    assert "Card: " in description and "Download: " in description


FROM_MODEL = {"steps": 0, "sampler_name": "from model", "scheduler": "from model", "mode": "from model"}
FEW_STEPS = {
    "steps": 8,
    "mode": "cfg",
    "mode.video_cfg": 2.0,
    "mode.audio_cfg": 5.0,
    "mode.cfg_end_percent": 0.1,
}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_settings_are_the_published_ones(row: Any, object_info: dict[str, Any]) -> None:
    prompt = to_prompt(templates.read(row.name), object_info)
    by_kind = {node["class_type"]: node["inputs"] for node in prompt.values()}
    sampling = FEW_STEPS if "8 Steps" in row.name else FROM_MODEL
    assert {key: by_kind["CCLJointSampler"][key] for key in sampling} == sampling
    texts = by_kind["CCLPrompt"]
    assert texts["negative_prompt"] == texts["negative_sound"] == ""
    assert texts["variant"] == ("Ovi 1.0 (720, 5 s)" if "1.0" in row.name else "from model")
    wanted = {"MOVA": (640, 352, 193), "Prism": (848, 480, 205)}.get(row.release.title)
    if wanted:
        first = by_kind["WanImageToVideo"]
        assert (first["width"], first["height"], first["length"]) == wanted
        assert by_kind["CCLEncodeAV"]["fps"] == 24.0
    else:
        assert by_kind["CCLEmptyAVLatent"]["fps"] == 0.0


@pytest.mark.parametrize("folder, name", [(folder, name) for folder in FOLDERS for name in FOLDERS[folder]])
def test_a_second_run_takes_another_seed_and_no_row_stands_for_that(folder: str, name: str) -> None:
    """Frontends give the value of a widget to the row of proxyWidgets at its place."""
    workflow = templates.read(name, folder)
    (sampler,) = [node for node in templates.nodes_of(workflow) if node["type"] == "CCLJointSampler"]
    assert sampler["widgets_values"][:2] == [templates.SEED, "randomize"]
    assert shown(workflow)["seed"] == templates.SEED
    (job,) = [node for node in workflow["nodes"] if "proxyWidgets" in node["properties"]]
    assert len(job["properties"]["proxyWidgets"]) == len(job["widgets_values"])


def test_what_the_frontend_saves_of_a_template_is_read_again(object_info: dict[str, Any]) -> None:
    """It drops proxyWidgets, which it reads once, and lists no value of a preview."""
    workflow = json.loads(json.dumps(templates.read(templates.FIRST)))
    for node in workflow["nodes"]:
        node["properties"].pop("proxyWidgets", None)
    assert to_prompt(workflow, object_info) == to_prompt(templates.read(templates.FIRST), object_info)


def test_the_page_of_the_files_has_every_file_of_a_template() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    files_named = {file for row in TABLE for file in row.release.files if file.directory != "loras"}
    assert len(files_named) > 8
    assert [file.name for file in files_named if file.name not in page] == []
