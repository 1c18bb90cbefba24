"""An install from the registry, as ComfyUI's Manager does it: the archive in custom_nodes under the name of
the project, in a ComfyUI that knows nothing of this checkout.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccl_pack.nodes import NODES
from ccl_tools.prompt import set_everywhere
from ccl_tools.server import PACK_FOLDER, ComfyServer
from ccl_tools.workflow import to_prompt
from support.archive import Archive
from support.templates import FIRST

IDS = sorted(node.GET_SCHEMA().node_id for node in NODES)
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")


def install(archive: Archive, custom_nodes: Path) -> None:
    """Manager unpacks the archive, and gives pip one line of requirements.txt after the other."""
    name = re.search(r'^name = "(.+)"', archive.files["pyproject.toml"].decode(), re.MULTILINE).group(1)
    assert name == PACK_FOLDER
    with zipfile.ZipFile(archive.path) as packed:
        packed.extractall(custom_nodes / name)
    for line in filter(None, archive.files["requirements.txt"].decode().splitlines()):
        subprocess.run([sys.executable, "-m", "pip", "install", line], check=True)


@pytest.fixture(scope="module")
def fresh(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = tmp_path_factory.mktemp("fresh")
    install(archive, base / "custom_nodes")
    with ComfyServer(base, pack=None) as server:
        yield server


def names(archive: Archive, folder: str, ending: str) -> set[str]:
    """The files of a folder of the archive, without their ending."""
    paths = [Path(name) for name in archive.files if name.startswith(f"{folder}/")]
    return {path.stem for path in paths if path.suffix == ending}


def test_every_node_is_there_and_nothing_is_said_against_the_pack(fresh: ComfyServer) -> None:
    nodes = fresh.get("/object_info")
    ours = [name for name, node in nodes.items() if node["python_module"] == f"custom_nodes.{PACK_FOLDER}"]
    assert sorted(ours) == IDS
    log = fresh.log.read_text()
    assert PACK_FOLDER in log and not re.search(r"IMPORT FAILED|Traceback", log)


@pytest.mark.parametrize("node_id", IDS)
def test_every_node_has_its_help_page_with_its_pictures(fresh: ComfyServer, node_id: str) -> None:
    folder = f"/extensions/{PACK_FOLDER}/docs"
    page = fresh.get_bytes(f"{folder}/{node_id}.md").decode()
    assert page.startswith("# ")
    assert all(fresh.get_bytes(f"{folder}/{picture}") for picture in PICTURE.findall(page))


def test_every_template_is_listed_with_its_picture(archive: Archive, fresh: ComfyServer) -> None:
    listed = fresh.get("/api/workflow_templates")[PACK_FOLDER]
    assert FIRST in listed and set(listed) == names(archive, "workflows", ".json")
    folder = f"/api/workflow_templates/{PACK_FOLDER}"
    for name in listed:
        assert fresh.get(f"{folder}/{name}.json")["nodes"]
        assert fresh.get_bytes(f"{folder}/{name}.jpg").startswith(b"\xff\xd8")


def test_every_blueprint_is_listed(archive: Archive, fresh: ComfyServer) -> None:
    found = [entry["name"] for entry in fresh.get("/global_subgraphs").values()]
    assert names(archive, "subgraphs", ".json") <= set(found)


def test_the_first_template_runs_to_a_file(fresh: ComfyServer) -> None:
    workflow = fresh.get(f"/api/workflow_templates/{PACK_FOLDER}/{FIRST}.json")
    prompt = to_prompt(workflow, fresh.get("/object_info"))
    set_everywhere(prompt, "steps", 2)
    run = fresh.run(prompt)
    assert run.status == "success", run.error
    assert b"ftyp" in fresh.view(run.files(".mp4")[0])[:12]
