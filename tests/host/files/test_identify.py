"""Published layouts at full size on the meta device: what each file is, its configuration, every key
accounted for.
"""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import comfy.model_detection
import comfy.ops
import comfy.supported_models
import pytest
import torch

from ccl_pack.ccl_core.config import AudioLatentConfig, CCLConfig, StreamConfig
from ccl_pack.ccl_core.host.files.assemble import Assembly
from ccl_pack.ccl_core.host.files.check import check_keys
from ccl_pack.ccl_core.host.files.configure import published_config
from ccl_pack.ccl_core.host.files.identify import identify
from ccl_pack.ccl_core.host.files.read import RawFile
from ccl_pack.ccl_core.host.files.translate import translate
from ccl_pack.ccl_core.model.joint import JointModel
from ccl_tools import published as p
from support.model_files import configured, file


def assert_whole(assembly: Assembly, config: CCLConfig, count: int) -> None:
    """Every tensor has its place in the model and every place its tensor."""
    wanted = JointModel(config, device="meta", operations=comfy.ops.disable_weight_init).state_dict()
    check_keys(assembly.sd, wanted, "file", assembly.sources)
    layers = [key for key in assembly.sd if not key.endswith((".comfy_quant", "_scale"))]
    assert len(layers) == len(wanted) == count


def quantised(shapes: Any, suffix: str, dtype: torch.dtype = torch.float8_e4m3fn) -> dict[str, torch.Tensor]:
    """Matrices of the blocks in `dtype` with a scale each; 4-bit ones with halved columns."""
    tensors = {}
    for key, value in p.meta(shapes).items():
        if not p.is_matrix(key, value):
            tensors[key] = value
            continue
        rows, columns = value.shape
        shape = (rows, columns // 2) if dtype is torch.uint8 else (rows, columns)
        tensors[key] = torch.empty(shape, dtype=dtype, device="meta")
        tensors[key.removesuffix(".weight") + suffix] = torch.empty(1, device="meta")
    return tensors


@pytest.mark.parametrize(
    ("shapes", "tensors", "parameters"),
    [
        (p.ovi(), 2073, 11_660_753_108),
        (p.ovi_video(p.OVI_VIDEO, p.OVI_AUDIO), 1035, 5_566_479_552),
        (p.ovi_audio(p.OVI_AUDIO, p.OVI_VIDEO, p.OVI_STEM), 1038, 6_094_273_556),
        (p.wan(p.MOVA_VIDEO), 1095, 14_288_901_184),
        (p.audio_tower(p.MOVA_AUDIO), 825, 1_419_193_472),
        (p.bridge(), 720, 2_659_737_600),
    ],
)
def test_tables_have_the_published_sizes(shapes: Any, tensors: int, parameters: int) -> None:
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (tensors, parameters)


OVI = {
    "merged": p.ovi(),
    "behind the host's prefix": p.prefixed("model.diffusion_model.", p.ovi()),
    "repacked into one file": p.ovi(split=True),
    "short modulation": p.ovi(modulation="modulation", split=True),
}


@pytest.mark.parametrize("name", OVI)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_ovi_in_one_file(name: str, dtype: torch.dtype) -> None:
    read = file(OVI[name], dtype=dtype)
    assert (read.family, read.content.description) == ("ovi", "an Ovi model")
    assembly, config = configured(read)
    assert_whole(assembly, config, 2073)
    assert sum(value.numel() for value in assembly.sd.values()) == 11_660_753_108
    assert_ovi(config)


def assert_ovi(config: CCLConfig) -> None:
    tower = {
        "dim": 3072,
        "ffn_dim": 14336,
        "num_heads": 24,
        "num_layers": 30,
        "text_dim": 4096,
        "text_len": 512,
    }
    assert config.video == StreamConfig(in_dim=48, out_dim=48, **tower)
    assert config.audio == StreamConfig(in_dim=20, out_dim=20, patch_size=(1, 1, 1), stem_dim=8192, **tower)
    assert (config.interaction.kind, config.interaction.layers) == ("fusion", tuple(range(30)))
    assert (config.clock, config.clock_scale, config.shift, config.fps) == ("linear", 0.19676, 5.0, 24)
    assert config.audio_latent == AudioLatentConfig("mmaudio", 20, Fraction(125, 4), 16000)
    assert config.expert_boundary is None


def test_ovi_in_two_files() -> None:
    video = file(p.ovi_video(p.OVI_VIDEO, p.OVI_AUDIO, "modulation"), "video.safetensors")
    audio = file(
        p.prefixed("audio_model.", p.ovi_audio(p.OVI_AUDIO, p.OVI_VIDEO, p.OVI_STEM)), "audio.safetensors"
    )
    bare = file(p.ovi_audio(p.OVI_AUDIO, p.OVI_VIDEO, p.OVI_STEM))
    assert {video.family, audio.family, bare.family} == {"ovi"}
    assert video.content.description == "the video part of Ovi"
    assert audio.content.description == bare.content.description == "the audio part of Ovi"
    assert audio.tensors.keys() == bare.tensors.keys()
    assembly, config = configured(video, audio)
    assert_whole(assembly, config, 2073)
    assert_ovi(config)
    assert assembly.sources["a2v"] == "video.safetensors"
    assert assembly.sources["v2a"] == "audio.safetensors"


def test_ovi_fp8_scaled() -> None:
    for shapes in (p.ovi(), p.ovi(split=True), p.prefixed("model.diffusion_model.", p.ovi(split=True))):
        tensors = quantised(shapes, ".scale_weight")
        prefix = "model.diffusion_model." if next(iter(shapes)).startswith("model.") else ""
        tensors[prefix + "scaled_fp8"] = torch.empty(2, dtype=torch.float8_e4m3fn, device="meta")
        assembly, config = configured(file(tensors))
        assert_whole(assembly, config, 2073)
        assert_ovi(config)
        matrices = sum(p.is_matrix(key, torch.empty(shape, device="meta")) for key, shape in shapes.items())
        assert sum(key.endswith(".comfy_quant") for key in assembly.sd) == matrices
        assert "interaction.7.a2v.k.weight_scale" in assembly.sd
        assert "audio.blocks.3.ffn.0.weight_scale" in assembly.sd


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_layers_listed_in_the_metadata_are_renamed_with_their_weights(prefix: str) -> None:
    """4 bits: the columns are halved, so no size may come from them."""
    tensors = quantised(p.prefixed(prefix, p.mova(experts=1)), ".weight_scale", dtype=torch.uint8)
    names = [key.removesuffix(".weight_scale") for key in tensors if key.endswith(".weight_scale")]
    listed = {
        "layers": {name: {"format": "nvfp4"} for name in names} | {"text_encoders.x": {"format": "nvfp4"}}
    }
    assembly, config = configured(file(tensors, metadata={"_quantization_metadata": json.dumps(listed)}))
    assert_whole(assembly, config, 1095 + 825 + 720)
    assert_mova(config)
    entry = assembly.sd["interaction.29.v2a.o.comfy_quant"]
    assert json.loads(bytes(entry.tolist())) == {"format": "nvfp4"}
    assert sum(key.endswith(".comfy_quant") for key in assembly.sd) == len(names)


def test_quantised_text_and_time_embeddings_have_the_published_widths() -> None:
    shapes = p.mova(experts=1)
    tensors = p.meta(shapes)
    for layer in ("text_embedding.0", "time_embedding.0"):
        for part in ("video_dit", "audio_dit"):
            rows, columns = shapes[f"{part}.{layer}.weight"]
            tensors[f"{part}.{layer}.weight"] = torch.empty(
                rows, columns // 2, dtype=torch.uint8, device="meta"
            )
            tensors[f"{part}.{layer}.comfy_quant"] = torch.zeros(1, dtype=torch.uint8)
    assert_mova(published_config("mova", translate(tensors, "file")))


def assert_mova(config: CCLConfig) -> None:
    same = {"text_dim": 4096, "freq_dim": 256}
    assert config.video == StreamConfig(36, 16, 5120, 13824, 40, 40, **same)
    assert config.audio == StreamConfig(
        128, 128, 1536, 8960, 12, 30, patch_size=(1, 1, 1), rope="token", **same
    )
    assert (config.interaction.kind, config.interaction.layers) == ("bridge", tuple(range(30)))
    assert (config.clock, config.shift, config.fps, config.expert_boundary) == ("causal", 5.0, 24, 0.9)
    assert config.audio_latent == AudioLatentConfig("dac", 128, Fraction(50), 48000)


@pytest.mark.parametrize("experts", [1, 2])
def test_mova_in_one_file(experts: int) -> None:
    read = file(p.mova(experts=experts))
    assert (read.family, read.content.description) == ("mova", "a MOVA model")
    assembly, config = configured(read)
    assert_whole(assembly, config, 1095 + 825 + 720)
    assert_mova(config)
    assert len(assembly.low_noise) == 1095 * (experts - 1)
    assert assembly.sd["audio.patch_embedding.weight"].shape == (1536, 128, 1, 1, 1)


def test_mova_in_its_parts() -> None:
    files = [
        file(p.wan(p.MOVA_VIDEO), "high.safetensors"),
        file(p.audio_tower(p.MOVA_AUDIO), "audio.safetensors"),
        file(p.bridge(), "bridge.safetensors"),
        file(p.wan(p.MOVA_VIDEO), "low.safetensors"),
    ]
    wan = "a Wan model without an audio stream"
    assert [part.content.description for part in files] == [wan, "an audio stream", "the bridge of MOVA", wan]
    assembly, config = configured(*files)
    assert_whole(assembly, config, 1095 + 825 + 720)
    assert_mova(config)
    assert assembly.low_noise.keys() == p.wan(p.MOVA_VIDEO).keys()


def test_the_host_does_not_take_ovi_or_mova_for_another_model() -> None:
    """What the host makes of our files is what its own loader would load, so it must stay as it is."""
    assert comfy.model_detection.detect_unet_config(p.meta(p.ovi()), "") is None
    assert comfy.model_detection.detect_unet_config(p.meta(p.bridge()), "") is None


def test_incomplete_set_of_sections_is_refused() -> None:
    tensors = {
        key: value for key, value in p.meta(p.mova(*p.TINY_MOVA)).items() if "audio_to_video" not in key
    }
    with pytest.raises(
        ValueError, match=r"cut\.safetensors holds only audio, low_noise, v2a, video of a joint model"
    ):
        file(tensors, "cut.safetensors")


BRIDGE = ("q", "k", "v", "o", "norm_y", "norm_q", "norm_k")


PLAIN = {f"interaction.0.a2v.{module}.weight": (8, 8) for module in BRIDGE}


BOTH = PLAIN | {key.replace("a2v", "v2a"): shape for key, shape in PLAIN.items()}


@pytest.mark.parametrize("module", ["mask_head", "gate"])
def test_an_interaction_of_unknown_modules_is_refused_by_their_names(module: str) -> None:
    """It holds all modules of a bridge, and is none."""
    assert file(BOTH).family == "mova"
    shapes = BOTH | {f"interaction.0.a2v.{module}.weight": (8, 8)}
    with pytest.raises(
        ValueError, match=rf"x\.safetensors holds an interaction of the modules .*{module}.*MOVA \(k, "
    ):
        file(shapes, "x.safetensors")


def test_an_interaction_that_lacks_a_module_is_no_other() -> None:
    shapes = {key: shape for key, shape in BOTH.items() if ".o." not in key}
    with pytest.raises(ValueError, match="modules k, norm_k, norm_q, norm_y, q, v, known are those of CCL"):
        file(shapes)


def test_damaged_configuration_is_named_with_its_file() -> None:
    with pytest.raises(ValueError, match=r"interaction\.safetensors: the ccl_config metadata is not JSON"):
        identify(RawFile("interaction.safetensors", {}, {"ccl_config": "{"}, {}, False))
