"""What people meet of the nodes: tooltips, help pages, templates they can open."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from ccl_pack import WEB_DIRECTORY, comfy_entrypoint
from ccl_tools.environment import ROOT
from support import templates

IDS = {
    "CCLAudioVAELoader",
    "CCLCheckpointLoader",
    "CCLDecodeAV",
    "CCLDualPrompt",
    "CCLEmptyAVLatent",
    "CCLEncodeAV",
    "CCLFaceMask",
    "CCLFaceModulation",
    "CCLGuider",
    "CCLInspectAV",
    "CCLJoinAV",
    "CCLJointSampler",
    "CCLLoadAVLatent",
    "CCLLoopSampler",
    "CCLLoraLoader",
    "CCLMaskAV",
    "CCLMemoryPlan",
    "CCLModelAssembler",
    "CCLModelLoader",
    "CCLPrompt",
    "CCLPromptTags",
    "CCLReferences",
    "CCLSaveAVLatent",
    "CCLSetTask",
    "CCLSparseAttention",
    "CCLSpeakerMasks",
    "CCLStoryboard",
    "CCLStreamShift",
    "CCLSubstepSampler",
    "CCLTrimAV",
    "CCLUpscaleAV",
}


@cache
def nodes() -> list[Any]:
    async def listing() -> list[Any]:
        return await (await comfy_entrypoint()).get_node_list()

    return asyncio.run(listing())


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
    for path in (ROOT / "workflows").iterdir():
        assert path.suffix in {".json", ".jpg"}
    assert templates.NAMES
    for name in templates.NAMES:
        workflow = templates.read(name)
        assert workflow["version"] == 0.4 and isinstance(workflow["links"], list)
        assert {"last_node_id", "last_link_id", "nodes"} <= set(workflow)
        ours = [node for node in templates.nodes_of(workflow) if node["type"].startswith("CCL")]
        assert ours and {node["type"] for node in ours} <= IDS
        assert {node["properties"].get("cnr_id") for node in ours} == {project("name")}


def project(field: str) -> str:
    text = (ROOT / "pyproject.toml").read_text()
    return re.search(rf'^{field} = "(.+)"', text, re.MULTILINE).group(1)


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
