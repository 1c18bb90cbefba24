"""What ships: no text the registry's scanner objects to, templates people can open, tooltips and help
pages.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ccl_pack import WEB_DIRECTORY, comfy_entrypoint
from ccl_tools.environment import ROOT

IDS = {
    "CCLAudioVAELoader",
    "CCLCheckpointLoader",
    "CCLDecodeAV",
    "CCLDualPrompt",
    "CCLEmptyAVLatent",
    "CCLEncodeAV",
    "CCLGuider",
    "CCLJoinAV",
    "CCLJointSampler",
    "CCLLoraLoader",
    "CCLMaskAV",
    "CCLMemoryPlan",
    "CCLModelAssembler",
    "CCLModelLoader",
    "CCLPrompt",
    "CCLPromptTags",
    "CCLSetTask",
    "CCLSparseAttention",
    "CCLStreamShift",
    "CCLTrimAV",
}
SCANNED = (
    r"\.connect\(",
    r"\.bind\(",
    r"\.send(all)?\(",
    r"aiohttp\.ClientSession",
    r"urllib\.request",
    r"requests\.(get|post)\(",
    r"os\.environ",
    r"os\.getenv",
    r"os\.system",
    r"subprocess",
    r"\beval\(",
    r"\bexec\(",
    r"raw\.githubusercontent\.com",
    r"auth_token_comfy_org",
    r"pip install",
    r"pickle\.loads?",
    r"torch\.load\(",
)
TEXT = {".py", ".js", ".md", ".json", ".toml", ".txt", ""}
SHIPPED_FOLDERS = {"ccl_core", "js", "nodes", "workflows"}
LARGEST_MEGABYTES = 30


@cache
def shipped() -> list[Path]:
    """The archive of the registry: the files of git, new ones included, without those .comfyignore names.

    The registry's packer reads .comfyignore with the rules of .gitignore, so git itself applies them here.
    """
    ignored = "--exclude-from=.comfyignore"
    left_out = set(git_files("--cached", "--ignored", ignored))
    new = git_files("--others", "--exclude-standard", ignored)
    names = {*git_files("--cached"), *new} - left_out
    return [ROOT / name for name in sorted(names) if (ROOT / name).is_file()]


def git_files(*options: str) -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files", *options], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listing.stdout.splitlines()


@cache
def nodes() -> list[Any]:
    async def listing() -> list[Any]:
        return await (await comfy_entrypoint()).get_node_list()

    return asyncio.run(listing())


def test_only_what_users_need_ships() -> None:
    folders = {path.relative_to(ROOT).parts[0] for path in shipped() if path.parent != ROOT}
    assert folders <= SHIPPED_FOLDERS
    assert not [path for path in shipped() if "training" in path.relative_to(ROOT).parts]
    at_root = {path.name for path in shipped() if path.parent == ROOT}
    assert at_root == {
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "__init__.py",
        "pyproject.toml",
        "requirements.txt",
    }


def test_every_help_page_ships() -> None:
    """A pattern that is not anchored to the root, such as docs/, would take js/docs along."""
    pages = {ROOT / WEB_DIRECTORY / "docs" / f"{node_id}.md" for node_id in IDS}
    assert pages <= set(shipped())


def test_archive_is_small() -> None:
    assert sum(path.stat().st_size for path in shipped()) < LARGEST_MEGABYTES * 1e6


def test_no_text_for_the_scanner() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match.group(0)}"
        for path in shipped()
        if path.suffix in TEXT
        for match in re.finditer("|".join(SCANNED), path.read_text())
    ]
    assert found == []


def test_the_scanner_words_match_what_they_mean() -> None:
    words = ["sock.connect(x)", "os.environ['A']", "subprocess.run", "model.eval()", "import urllib.request"]
    assert all(re.search("|".join(SCANNED), word) for word in words)


def test_no_pickles() -> None:
    assert [path.name for path in shipped() if path.suffix in {".pt", ".pth", ".ckpt", ".bin", ".pkl"}] == []


def test_node_ids() -> None:
    assert {node.GET_SCHEMA().node_id for node in nodes()} == IDS


@pytest.mark.parametrize("node_id", sorted(IDS))
def test_node_is_explained(node_id: str) -> None:
    node = next(node for node in nodes() if node.GET_SCHEMA().node_id == node_id)
    info = node.GET_NODE_INFO_V1()
    inputs = dict(every_input(info["input"]))
    assert inputs
    assert [name for name, options in inputs.items() if not options.get("tooltip")] == []
    assert all(info["output_tooltips"]) and info["output_tooltips"]
    assert info["description"] and info["search_aliases"] and info["category"].startswith("CCL")
    page = ROOT / WEB_DIRECTORY / "docs" / f"{node_id}.md"
    assert page.is_file(), f"{node_id} has no help page"
    text = page.read_text()
    assert text.splitlines()[0] == f"# {info['display_name']}"
    top_level = {name.split(".")[0] for name in inputs}
    assert [name for name in sorted(top_level) if name not in text] == [], (
        "inputs the help page does not name"
    )


def every_input(sections: dict[str, Any], prefix: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Names and options of all inputs, those of dynamic choices as parent.child."""
    found = []
    for section in ("required", "optional"):
        for name, spec in sections.get(section, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            found.append((prefix + name, options))
            if spec[0] == "COMFY_DYNAMICCOMBO_V3":
                for option in options["options"]:
                    found += every_input(option["inputs"], f"{prefix}{name}.")
    return found


def test_execute_takes_what_the_schema_offers() -> None:
    for node in nodes():
        code = node.execute.__func__.__code__
        offered = {entry.id for entry in node.GET_SCHEMA().inputs}
        assert offered == set(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]), node.__name__


def test_templates_are_graphs_people_can_open() -> None:
    templates = sorted((ROOT / "workflows").iterdir())
    assert templates
    for path in templates:
        assert path.suffix in {".json", ".jpg"}
        if path.suffix == ".json":
            workflow = json.loads(path.read_text())
            assert workflow["version"] == 0.4 and isinstance(workflow["links"], list)
            assert {"last_node_id", "last_link_id", "nodes"} <= set(workflow)
            ours = [node for node in workflow["nodes"] if node["type"].startswith("CCL")]
            assert ours and {node["type"] for node in ours} <= IDS
            assert {node["properties"].get("cnr_id") for node in ours} == {project("name")}


def project(field: str) -> str:
    text = (ROOT / "pyproject.toml").read_text()
    return re.search(rf'^{field} = "(.+)"', text, re.MULTILINE).group(1)


def test_requirements_equal_the_dependencies_of_the_project() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)\]", text, re.MULTILINE | re.DOTALL).group(1)
    dependencies = {
        entry for entry in re.findall(r'"(.+?)"', listed) if not entry.startswith("comfyui-frontend")
    }
    requirements = (ROOT / "requirements.txt").read_text().split("\n")
    assert dependencies == {line.strip() for line in requirements if line.strip()}


def test_name_and_version_suit_the_registry() -> None:
    assert (
        re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{1,98}", project("name"))
        and "comfyui" not in project("name").lower()
    )
    assert re.fullmatch(r"\d+\.\d+\.\d+", project("version"))
    assert f"## {project('version')}" in (ROOT / "CHANGELOG.md").read_text()


def test_importing_the_pack_is_light() -> None:
    """ComfyUI imports every pack at start; the entry file alone must not pull in torch or the nodes."""
    code = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("pack", "__init__.py", submodule_search_locations=["."])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])
print([name for name in sys.modules if name.split(".")[0] in ("torch", "comfy") or name.startswith("pack.")])
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
