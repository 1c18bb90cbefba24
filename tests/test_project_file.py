"""pyproject.toml, as the registry, ComfyUI and Manager read it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
from comfy_config.config_parser import extract_node_configuration, load_pyproject_settings
from PIL import Image

from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.repository import REPOSITORY
from ccl_tools.environment import ROOT
from ccl_tools.packer import project_as_published

# What people type into Manager's search, beside the names of the models.
WORDS = ("video with sound", "foley", "sound for a video", "soundtrack", "dubbing", "Wan", "LoRA", "low VRAM")
FRONTEND = "comfyui-frontend-package"
DEFAULT_BRANCH = "/raw/main/"


@cache
def written() -> dict[str, Any]:
    """The tables project and tool.comfy of the file."""
    settings = load_pyproject_settings(ROOT / "pyproject.toml")
    return {"project": settings.project, "comfy": settings.tool["comfy"]}


@cache
def read_by(reader: str) -> dict[str, Any]:
    if reader == "ComfyUI":
        return extract_node_configuration(str(ROOT)).model_dump()
    return project_as_published()


@pytest.mark.parametrize("reader", ["ComfyUI", "comfy-cli"])
def test_every_field_is_read(reader: str) -> None:
    """A wrong classifier empties its whole group, and an unknown key is left out without a word."""
    read, file = read_by(reader), written()
    project, comfy = read["project"], read["tool_comfy"]
    for name in ("name", "description", "version", "license"):
        assert {**dict(file["project"]), "license": {"file": "LICENSE", "text": ""}}[name] == project[name]
    urls = file["project"]["urls"]
    assert project["urls"] == {"homepage": "", **{key.lower(): urls[key] for key in READ_URLS}}
    assert len(project["supported_os"] + project["supported_accelerators"]) == len(
        file["project"]["classifiers"]
    )
    assert project["supported_comfyui_version"] == file["comfy"]["requires-comfyui"]
    assert FRONTEND + project["supported_comfyui_frontend_version"] in file["project"]["dependencies"]
    assert comfy["publisher_id"] == file["comfy"]["PublisherId"]
    assert comfy["display_name"] == file["comfy"]["DisplayName"]
    assert comfy["icon"] == file["comfy"]["Icon"]


READ_URLS = ("Documentation", "Repository", "Issues")


def test_the_banner_is_read_by_what_publishes() -> None:
    assert read_by("comfy-cli")["tool_comfy"]["banner_url"] == written()["comfy"]["Banner"]


def test_the_description_has_the_words_that_people_search() -> None:
    text = written()["project"]["description"]
    words = [*WORDS, *(family.title for family in FAMILIES.values())]
    assert [word for word in words if word not in text] == []


def test_every_address_is_of_the_one_repository() -> None:
    file = written()
    urls = file["project"]["urls"]
    assert urls["Repository"] == REPOSITORY
    addresses = [*urls.values(), file["comfy"]["Icon"], file["comfy"]["Banner"]]
    assert [address for address in addresses if not f"{address}/".startswith(f"{REPOSITORY}/")] == []


@pytest.mark.parametrize(("field", "ratio", "widest"), [("Icon", 1, 400), ("Banner", 21 / 9, 2100)])
def test_a_picture_of_the_registry_has_the_size_it_asks_for(field: str, ratio: float, widest: int) -> None:
    path = written()["comfy"][field].partition(DEFAULT_BRANCH)[2]
    with Image.open(ROOT / path) as picture:
        assert picture.width / picture.height == pytest.approx(ratio)
        assert picture.width <= widest


def test_requirements_equal_the_dependencies_of_the_project() -> None:
    """But for the range of the frontend, which belongs into the project file alone."""
    dependencies = [entry for entry in written()["project"]["dependencies"] if not entry.startswith(FRONTEND)]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert sorted(dependencies) == sorted(filter(None, lines))


def test_name_and_version_suit_the_registry() -> None:
    project = written()["project"]
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{1,98}", project["name"])
    assert "comfyui" not in project["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()
