"""Files that are refused: which model each is like, what differs, and what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from ccl_pack.ccl_core.host.files.identify import identify
from ccl_pack.ccl_core.host.files.read import RawFile
from ccl_pack.ccl_core.host.files.resemblance import nearest, strange
from ccl_pack.ccl_core.host.files.translate import translate
from ccl_tools import published as p
from support.model_files import file
from support.tiny import CONFIG, other_model, state_dict

PRISM = p.prism(*p.TINY_MOVA)
WAN = p.wan(p.TINY_WAN)
KNOWN = {
    "Ovi": p.ovi(*p.TINY_OVI),
    "MOVA": p.mova(*p.TINY_MOVA),
    "Prism": PRISM,
    "Wan": WAN,
    "CCL": state_dict(CONFIG),
    "Wan of images": p.wan(p.TINY_MOVA_VIDEO, image=True),
}


@pytest.mark.parametrize("title", KNOWN)
def test_a_known_model_is_wholly_like_itself(title: str) -> None:
    keys = list(KNOWN[title])
    like = nearest(keys)
    assert like.title == title.partition(" of ")[0]
    assert like.fitting == like.total and like.unknown == ()
    tensors = p.meta(KNOWN[title]) if title != "CCL" else KNOWN[title]
    assert strange(translate(tensors, title)) == []


def refused(shapes: dict[str, Any], name: str = "x.safetensors") -> str:
    with pytest.raises(ValueError, match=rf"^{re.escape(name)} ") as error:
        file(shapes, name)
    return str(error.value)


def changed(old: str, new: str) -> dict[str, Any]:
    return {re.sub(old, new, key): shape for key, shape in PRISM.items()}


@pytest.mark.parametrize(
    ("shapes", "unknown"),
    [
        (changed(r"_conditioner\.", "_bond."), "fusion_blocks.0.a2v_bond"),
        (changed(r"^fusion_blocks\.", "joint_layers."), "joint_layers.0."),
        (PRISM | {"fusion_blocks.0.gate.weight": (4, 4)}, "blocks.0.gate.weight"),
    ],
)
def test_a_private_repack_is_told_which_model_it_is_like(shapes: dict[str, Any], unknown: str) -> None:
    if "gate" in unknown:
        # All is there and something more: checked key by key behind the configuration.
        assert strange(file(shapes).tensors) == ["fusion_blocks.0.gate.weight"]
        return
    message = refused(shapes)
    assert "resembles Prism" in message or "resembles MOVA" in message
    assert unknown in message and "without an interaction" not in message
    assert "docs/models.md" in message


def test_keys_of_an_interaction_are_never_called_none() -> None:
    streams = {key: value for key, value in state_dict(CONFIG).items() if not key.startswith("interaction")}
    assert file(streams).content.description == "two streams without an interaction"
    coupled = streams | {"bond.0.a2v.q.weight": torch.zeros(4, 4), "bond.0.a2v.k.weight": torch.zeros(4, 4)}
    message = refused(coupled)
    assert "resembles " in message and "bond.0.a2v.q.weight" in message
    assert "missing interaction.N.a2v" in message and "without an interaction" not in message


def test_one_file_for_each_block_is_told_what_it_is_a_part_of() -> None:
    block = {key.removeprefix("fusion_blocks.1."): shape for key, shape in PRISM.items() if ".1." in key}
    for start in ("video_block", "a2v_conditioner", ""):
        message = refused({key: shape for key, shape in block.items() if key.startswith(start)})
        assert "one block of Prism" in message and "use the published file" in message
    # Under the names that the whole file has, the second block is no bridge.
    named = {key: shape for key, shape in PRISM.items() if key.startswith("fusion_blocks.1.")}
    message = refused(named)
    assert "keys of the video stream such as blocks.1." in message and "a piece of a model" in message


DIFFUSERS = (("self_attn.q", "attn1.to_q"), ("cross_attn.q", "attn2.to_q"), ("head.head", "proj_out"))


def test_a_wan_of_diffusers_is_told() -> None:
    shapes = {"scale_shift_table" if key == "head.modulation" else key: shape for key, shape in WAN.items()}
    for ours, theirs in DIFFUSERS:
        shapes = {key.replace(ours, theirs): shape for key, shape in shapes.items()}
    del shapes["blocks.0.self_attn.norm_q.weight"]
    message = refused(shapes)
    assert "is a Wan under the names of diffusers: use the same model" in message


def test_another_model_of_video_and_sound_is_named_as_the_host_knows_it() -> None:
    tensors = other_model().model.diffusion_model.state_dict()
    message = refused(dict(tensors))
    assert "ComfyUI knows it as ltxav" in message and "Load Diffusion Model" in message


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "net.", "dit.", "transformer.", "_orig_mod.", "_orig_mod.model.module."]
)
@pytest.mark.parametrize("title", ["Ovi", "Prism", "Wan"])
def test_a_wrapper_around_all_keys_is_taken_off(prefix: str, title: str) -> None:
    wrapped = p.prefixed(prefix, KNOWN[title])
    assert file(wrapped).tensors.keys() == file(KNOWN[title]).tensors.keys()


def test_a_prefix_before_some_keys_stays() -> None:
    shapes = p.prefixed("module.", WAN) | {"head.modulation": (1, 2, 256)}
    assert "unknown kind" in refused(shapes)


@pytest.mark.parametrize(
    ("shapes", "host"),
    [
        (
            WAN
            | {
                "vace_patch_embedding.weight": (256, 96, 1, 2, 2),
                "vace_blocks.0.before_proj.weight": (256, 256),
            },
            "wan2.1 vace",
        ),
        (
            WAN | {"control_adapter.conv.weight": (256, 24, 2, 2)},
            "wan2.1 camera_2.2",
        ),
        (WAN | {"casual_audio_encoder.encoder.final_linear.weight": (256, 256)}, "wan2.1 s2v"),
        (WAN | {"audio_proj.audio_proj_glob_1.layer.bias": (256,)}, "wan2.1 humo"),
        (WAN | {"face_adapter.fuser_blocks.0.k_norm.weight": (256,)}, "wan2.1 animate"),
    ],
)
def test_a_tower_that_only_the_host_can_run_is_named(shapes: dict[str, Any], host: str) -> None:
    message = refused(shapes)
    assert f"ComfyUI knows it as {host}" in message and "Load Diffusion Model" in message


def test_more_than_the_model_is_named_with_its_kind() -> None:
    lora = {"blocks.0.lora_A.weight": torch.zeros(1, 1)}
    with pytest.raises(ValueError, match=r"l\.safetensors is a LoRA: use CCLLoraLoader"):
        identify(RawFile("l.safetensors", lora, {}, {}, False))
