"""Sizes of a stream from its tensors: every Wan that runs as the video stream, and those that do not."""

from __future__ import annotations

from typing import Any

import comfy.model_detection
import comfy.ops
import comfy.supported_models
import pytest

from ccl_pack.ccl_core.config import StreamConfig
from ccl_pack.ccl_core.host.files.configure import published_config
from ccl_pack.ccl_core.host.files.shapes import stream_config
from ccl_pack.ccl_core.host.files.translate import translate
from ccl_tools import published as p
from support.model_files import file

HOST_CLASSES = {
    "wan2.1_i2v_14B": comfy.supported_models.WAN21_I2V,
    "wan2.2_ti2v_5B": comfy.supported_models.WAN22_T2V,
}


@pytest.mark.parametrize("name", p.WAN)
def test_plain_wan_is_wan(name: str) -> None:
    """For us and, as before, for the host; and our names for it are the host's."""
    shapes = p.wan(p.WAN[name], image=name == "wan2.1_i2v_14B")
    tensors = p.meta(shapes)
    host = comfy.model_detection.model_config_from_unet(tensors, "")
    assert type(host) is HOST_CLASSES.get(name, comfy.supported_models.WAN21_T2V)
    found = file(p.prefixed("model.diffusion_model.", shapes), "wan.safetensors")
    sd = found.tensors
    assert (found.family, sd.keys()) == ("wan", shapes.keys())
    found = stream_config(sd, "video", "wan.safetensors")
    sizes = p.WAN[name]
    assert found == StreamConfig(
        sizes.channels_in,
        sizes.channels_out,
        sizes.dim,
        sizes.ffn,
        sizes.dim // 128,
        sizes.layers,
        4096,
        model_type=host.unet_config["model_type"],
    )
    model = comfy.ldm.wan.model.WanModel(
        **found.wan_arguments(), device="meta", operations=comfy.ops.disable_weight_init
    )
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == shapes


def test_first_and_last_frame_wan_keeps_its_position_table() -> None:
    shapes = p.wan(p.WAN["wan2.1_i2v_14B"], image=True) | {"img_emb.emb_pos": (1, 514, 1280)}
    found = stream_config(p.meta(shapes), "video", "flf.safetensors")
    assert (found.model_type, found.flf_pos_embed_token_number) == ("i2v", 514)


@pytest.mark.parametrize(
    ("channels", "marks"),
    [
        (16, {"vace_patch_embedding.weight": (1536, 96, 1, 2, 2)}),
        (32, {"control_adapter.conv.weight": (1536, 24, 2, 2)}),
        (16, {"casual_audio_encoder.encoder.final_linear.weight": (8, 8)}),
        (36, {"audio_proj.audio_proj_glob_1.layer.bias": (8,)}),
        (36, {"face_adapter.fuser_blocks.0.k_norm.weight": (8,)}),
        (20, {"patch_embedding_pose.weight": (1536, 16, 1, 2, 2)}),
        (40, {"img_emb.proj.0.bias": (1280,)}),
        (64, {}),
    ],
)
def test_wan_models_with_other_conditions_are_refused(channels: int, marks: dict[str, Any]) -> None:
    sizes = p.Sizes(1536, 8960, 1, channels, 16)
    named = (
        "ComfyUI knows it as wan2.1 " if marks and "img_emb.proj.0.bias" not in marks else "is a Wan video"
    )
    with pytest.raises(ValueError, match=rf"^other\.safetensors .*{named}"):
        other = file(p.wan(sizes) | marks, "other.safetensors")
        stream_config(other.tensors, "video", "other.safetensors")


def test_missing_tensor_that_sizes_come_from_is_named() -> None:
    sd = translate(p.meta(p.ovi(*p.TINY_OVI)), "ovi.safetensors")
    del sd["audio.head.head.weight"]
    with pytest.raises(ValueError, match=r"ovi\.safetensors lacks audio\.head\.head\.weight"):
        published_config("ovi", sd, "ovi.safetensors")
