"""The rows of the families: complete, told apart by their marks, and equal to the workflow templates."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ccl_pack.ccl_core.config import OPTIONS
from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.families.base import DIRECTIONS
from ccl_pack.ccl_core.guidance import TermScale, check_settings
from ccl_pack.ccl_core.host.vae.audio import AUDIO_VAES
from ccl_tools import published
from support import templates

TEMPLATES = {
    "ccl": templates.FIRST,
    "ovi": "Ovi 1.1 Text to Video with Sound",
    "mova": "MOVA Image to Video with Sound",
    "prism": "Prism Image to Video with Sound",
}
JOINT = [name for name, family in FAMILIES.items() if family.coupling is not None]


@pytest.mark.parametrize("name", JOINT)
def test_a_joint_model_names_a_known_coupling_and_a_known_mode_of_guidance(name: str) -> None:
    family = FAMILIES[name]
    assert family.coupling in OPTIONS and family.modules
    check_settings(family.sampling.mode, family.sampling.settings)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_content_is_described_once(name: str) -> None:
    sections = [content.sections for content in FAMILIES[name].contents]
    assert len(set(sections)) == len(sections)


@pytest.mark.parametrize(("name", "keys"), [("ovi", published.ovi()), ("mova", published.bridge())])
def test_a_mark_tells_the_published_keys_of_one_family_only(name: str, keys: dict[str, Any]) -> None:
    marks = {other: family.mark for other, family in FAMILIES.items() if family.mark is not None}
    marked = [other for other, mark in marks.items() if any(map(re.compile(mark).search, keys))]
    assert marked == [name]


@pytest.mark.parametrize("name", ["ovi", "mova"])
def test_the_names_of_a_lora_are_renamed_to_ours(name: str) -> None:
    family = FAMILIES[name]
    for module in family.modules:
        for direction in sorted(DIRECTIONS):
            for public in family.lora.of_coupling("7", direction, module):
                assert renamed(f"{public}.weight", name) == f"interaction.7.{direction}.{module}.weight"
    for prefix in family.lora.audio:
        assert (
            renamed(prefix + family.lora.of_tower("blocks.3.modulation"), name) == "audio.blocks.3.modulation"
        )


def renamed(key: str, name: str) -> str:
    for pattern, ours in FAMILIES[name].renames:
        key = re.sub(pattern, ours, key)
    return key


PUBLISHED = {
    "ccl": ("ucg_joint", TermScale(3.0, 3.0), 30, "euler_ancestral", ()),
    "ovi": ("cfg", TermScale(4.0, 3.0), 50, "uni_pc_bh2", (11,)),
    "mova": ("cfg", TermScale(5.0, 5.0), 50, "euler", ()),
    "prism": ("cfg", TermScale(5.0, 5.0), 50, "euler", ()),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sampling_is_the_published_one(name: str) -> None:
    row = FAMILIES[name].sampling
    (scales,) = row.settings.values()
    assert (row.mode, scales, row.steps, row.sampler_name, row.skip_layers) == PUBLISHED[name]
    assert row.scheduler == "simple"


def test_negative_texts_are_the_published_ones() -> None:
    ovi, mova = FAMILIES["ovi"].sampling, FAMILIES["mova"].sampling
    assert (ovi.negative, ovi.audio_negative) == (
        "jitter, bad hands, blur, distortion",
        "robotic, muffled, echo, distorted",
    )
    assert mova.negative.startswith("色调艳丽") and mova.audio_negative is None


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_template_takes_its_sampling_from_the_model(name: str) -> None:
    nodes = templates.nodes_of(templates.read(TEMPLATES[name]))
    (given,) = (node["widgets_values"] for node in nodes if node["type"] == "CCLJointSampler")
    assert given[2:] == [0, "from model", "from model", 1.0, "from model", "", "from model", -1.0]


@pytest.mark.parametrize("name", [name for name in JOINT if FAMILIES[name].published])
def test_the_audio_vae_of_a_published_family_is_known(name: str) -> None:
    assert FAMILIES[name].published["audio_latent"].vae in AUDIO_VAES
