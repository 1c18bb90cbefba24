"""Published keys under our names: every one has its place, and none two."""

from __future__ import annotations

import logging
import re

import pytest
import torch

from ccl_pack.ccl_core.host.files.identify import section
from ccl_pack.ccl_core.host.files.translate import MODEL_PREFIX, rename, translate
from ccl_tools import published as p


def test_every_rename_keeps_keys_apart() -> None:
    for shapes in (
        p.ovi(),
        p.ovi(split=True),
        p.mova(),
        p.bridge(),
        p.ovi(modulation="modulation", split=True),
    ):
        names = [rename(key.removeprefix("model.diffusion_model.")) for key in shapes]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("key", "ours", "part"),
    [
        ("video_model.blocks.3.cross_attn.k_fusion.bias", "interaction.3.a2v.k.bias", "a2v"),
        ("audio_model.blocks.3.cross_attn.v_fusion.weight", "interaction.3.v2a.v.weight", "v2a"),
        ("blocks.12.cross_attn.norm_k_fusion.weight", "interaction.12.a2v.norm_k.weight", "a2v"),
        ("audio_model.blocks.0.cross_attn.pre_attn_norm_fusion.bias", "interaction.0.v2a.norm_y.bias", "v2a"),
        ("video_model.blocks.1.modulation.modulation", "blocks.1.modulation", "video"),
        ("audio_model.patch_embedding.2.w1.weight", "audio.patch_embedding.2.w1.weight", "audio"),
        ("video_dit_2.blocks.1.modulation", "low_noise.blocks.1.modulation", "low_noise"),
        ("audio_to_video_conditioners.4.inner.norm_q.weight", "interaction.4.a2v.norm_q.weight", "a2v"),
        (
            "dual_tower_bridge.video_to_audio_conditioners.4.y_norm.bias",
            "interaction.4.v2a.norm_y.bias",
            "v2a",
        ),
        ("blocks.0.cross_attn.k.weight", "blocks.0.cross_attn.k.weight", "video"),
        ("interaction.0.a2v.context", "interaction.0.a2v.context", "a2v"),
    ],
)
def test_rename(key: str, ours: str, part: str) -> None:
    assert rename(key) == ours
    assert section(ours) == part


def test_mixed_up_names_are_refused() -> None:
    tensors = p.meta(p.ovi(*p.TINY_OVI) | {"blocks.0.modulation": (1, 6, 128)})
    with pytest.raises(ValueError, match=r"mixed\.safetensors holds blocks\.0\.modulation twice"):
        translate(tensors, "mixed.safetensors")


def test_a_key_behind_the_prefix_of_a_checkpoint_and_without_it_is_refused() -> None:
    tensors = p.meta(p.prefixed(MODEL_PREFIX, p.ovi(*p.TINY_OVI)))
    key = next(iter(tensors)).removeprefix(MODEL_PREFIX)
    with pytest.raises(
        ValueError, match=rf"mixed\.safetensors holds {re.escape(key)} twice, once behind 'model"
    ):
        translate(tensors | {key: tensors[MODEL_PREFIX + key]}, "mixed.safetensors")


@pytest.mark.parametrize("prefix", ["", MODEL_PREFIX, "module.", "_orig_mod.model.module."])
def test_a_prefix_that_was_taken_off_is_logged_in_one_line(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = p.meta(p.prefixed(prefix, p.ovi(*p.TINY_OVI)))
    with caplog.at_level(logging.INFO):
        translate(tensors, "wrapped.safetensors")
    count = len(tensors)
    said = [f"wrapped.safetensors: {prefix!r} is taken off {count} of {count} keys"]
    assert [record.message for record in caplog.records] == (said if prefix else [])


def test_trained_bridge_strength_is_dropped_at_one_and_refused_otherwise() -> None:
    tensors = p.weights(p.bridge(*p.TINY_MOVA))
    assert "condition_scale" not in translate(
        tensors | {"condition_scale": torch.ones(1)}, "bridge.safetensors"
    )
    key = "audio_to_video_conditioners.1.condition_scale"
    with pytest.raises(
        ValueError, match=r"bridge\.safetensors: interaction\.1\.a2v\.condition_scale is \[0\.5\]"
    ):
        translate(tensors | {key: torch.tensor([0.5])}, "bridge.safetensors")


def test_damaged_list_of_quantised_layers_is_named() -> None:
    with pytest.raises(ValueError, match=r"a\.safetensors has a _quantization_metadata entry without a list"):
        translate(p.meta(p.wan(p.TINY_WAN)), "a.safetensors", {"_quantization_metadata": "{}"})
