"""Published layouts at full size on the meta device: what each file is, its configuration, every key accounted for."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import comfy.model_detection
import comfy.ops
import comfy.supported_models
import pytest
import torch

import published as p
from ccl_pack.ccl_core.config import AudioLatentConfig, StreamConfig
from ccl_pack.ccl_core.host.files.assemble import assemble
from ccl_pack.ccl_core.host.files.check import check_keys
from ccl_pack.ccl_core.host.files.configure import configure, published_config
from ccl_pack.ccl_core.host.files.identify import identify, section
from ccl_pack.ccl_core.host.files.read import RawFile
from ccl_pack.ccl_core.host.files.shapes import stream_config
from ccl_pack.ccl_core.host.files.translate import rename, translate
from ccl_pack.ccl_core.model.joint import JointModel


def file(shapes, name="file.safetensors", dtype=torch.bfloat16, metadata=None):
    tensors = shapes if isinstance(next(iter(shapes.values())), torch.Tensor) else p.meta(shapes, dtype)
    return identify(RawFile(name, tensors, metadata or {}, {}, False))


def configured(*files):
    """The assembly of files in the roles video, audio, interaction, low_noise, and its configuration."""
    roles = dict(zip(("video", "audio", "interaction", "low_noise"), files, strict=False))
    assembly = assemble(roles)
    return assembly, configure(roles, assembly)


def assert_whole(assembly, config, count):
    """Every tensor has its place in the model and every place its tensor."""
    wanted = JointModel(config, device="meta", operations=comfy.ops.disable_weight_init).state_dict()
    check_keys(assembly.sd, wanted, "file", assembly.sources)
    layers = [key for key in assembly.sd if not key.endswith((".comfy_quant", "_scale"))]
    assert len(layers) == len(wanted) == count


def quantised(shapes, suffix, dtype=torch.float8_e4m3fn):
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
def test_tables_have_the_published_sizes(shapes, tensors, parameters):
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (tensors, parameters)


OVI = {
    "merged": p.ovi(),
    "behind the host's prefix": p.prefixed("model.diffusion_model.", p.ovi()),
    "repacked into one file": p.ovi(split=True),
    "short modulation": p.ovi(modulation="modulation", split=True),
}


@pytest.mark.parametrize("name", OVI)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_ovi_in_one_file(name, dtype):
    read = file(OVI[name], dtype=dtype)
    assert (read.family, read.content.description) == ("ovi", "an Ovi model")
    assembly, config = configured(read)
    assert_whole(assembly, config, 2073)
    assert sum(value.numel() for value in assembly.sd.values()) == 11_660_753_108
    assert_ovi(config)


def assert_ovi(config):
    tower = {"dim": 3072, "ffn_dim": 14336, "num_heads": 24, "num_layers": 30, "text_dim": 4096, "text_len": 512}
    assert config.video == StreamConfig(in_dim=48, out_dim=48, **tower)
    assert config.audio == StreamConfig(in_dim=20, out_dim=20, patch_size=(1, 1, 1), stem_dim=8192, **tower)
    assert (config.interaction.kind, config.interaction.layers) == ("fusion", tuple(range(30)))
    assert (config.clock, config.clock_scale, config.shift, config.fps) == ("linear", 0.19676, 5.0, 24)
    assert config.audio_latent == AudioLatentConfig("mmaudio", 20, Fraction(125, 4), 16000)
    assert config.expert_boundary is None


def test_ovi_in_two_files():
    video = file(p.ovi_video(p.OVI_VIDEO, p.OVI_AUDIO, "modulation"), "video.safetensors")
    audio = file(p.prefixed("audio_model.", p.ovi_audio(p.OVI_AUDIO, p.OVI_VIDEO, p.OVI_STEM)), "audio.safetensors")
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


def test_ovi_fp8_scaled():
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
def test_layers_listed_in_the_metadata_are_renamed_with_their_weights(prefix):
    """4 bits: the columns are halved, so no size may come from them."""
    tensors = quantised(p.prefixed(prefix, p.mova(experts=1)), ".weight_scale", dtype=torch.uint8)
    names = [key.removesuffix(".weight_scale") for key in tensors if key.endswith(".weight_scale")]
    listed = {"layers": {name: {"format": "nvfp4"} for name in names} | {"text_encoders.x": {"format": "nvfp4"}}}
    assembly, config = configured(file(tensors, metadata={"_quantization_metadata": json.dumps(listed)}))
    assert_whole(assembly, config, 1095 + 825 + 720)
    assert_mova(config)
    entry = assembly.sd["interaction.29.v2a.o.comfy_quant"]
    assert json.loads(bytes(entry.tolist())) == {"format": "nvfp4"}
    assert sum(key.endswith(".comfy_quant") for key in assembly.sd) == len(names)


def test_quantised_text_and_time_embeddings_have_the_published_widths():
    shapes = p.mova(experts=1)
    tensors = p.meta(shapes)
    for layer in ("text_embedding.0", "time_embedding.0"):
        for part in ("video_dit", "audio_dit"):
            rows, columns = shapes[f"{part}.{layer}.weight"]
            tensors[f"{part}.{layer}.weight"] = torch.empty(rows, columns // 2, dtype=torch.uint8, device="meta")
            tensors[f"{part}.{layer}.comfy_quant"] = torch.zeros(1, dtype=torch.uint8)
    assert_mova(published_config("mova", translate(tensors, "file")))


def assert_mova(config):
    same = {"text_dim": 4096, "freq_dim": 256}
    assert config.video == StreamConfig(36, 16, 5120, 13824, 40, 40, **same)
    assert config.audio == StreamConfig(128, 128, 1536, 8960, 12, 30, patch_size=(1, 1, 1), rope="token", **same)
    assert (config.interaction.kind, config.interaction.layers) == ("bridge", tuple(range(30)))
    assert (config.clock, config.shift, config.fps, config.expert_boundary) == ("causal", 5.0, 24, 0.9)
    assert config.audio_latent == AudioLatentConfig("dac", 128, Fraction(50), 48000)


@pytest.mark.parametrize("experts", [1, 2])
def test_mova_in_one_file(experts):
    read = file(p.mova(experts=experts))
    assert (read.family, read.content.description) == ("mova", "a MOVA model")
    assembly, config = configured(read)
    assert_whole(assembly, config, 1095 + 825 + 720)
    assert_mova(config)
    assert len(assembly.low_noise) == 1095 * (experts - 1)
    assert assembly.sd["audio.patch_embedding.weight"].shape == (1536, 128, 1, 1, 1)


def test_mova_in_its_parts():
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


HOST_CLASSES = {
    "wan2.1_i2v_14B": comfy.supported_models.WAN21_I2V,
    "wan2.2_ti2v_5B": comfy.supported_models.WAN22_T2V,
}


@pytest.mark.parametrize("name", p.WAN)
def test_plain_wan_is_wan(name):
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


def test_first_and_last_frame_wan_keeps_its_position_table():
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
        (48, {"img_emb.proj.0.bias": (1280,)}),
        (52, {}),
    ],
)
def test_wan_models_with_other_conditions_are_refused(channels, marks):
    sizes = p.Sizes(1536, 8960, 1, channels, 16)
    other = file(p.wan(sizes) | marks, "other.safetensors")
    assert other.family == "wan"
    with pytest.raises(ValueError, match=rf"other\.safetensors is a Wan video model of the type \w.* with {channels} "):
        stream_config(other.tensors, "video", "other.safetensors")


def test_the_host_does_not_take_ovi_or_mova_for_another_model():
    """What the host makes of our files is what its own loader would load, so it must stay as it is."""
    assert comfy.model_detection.detect_unet_config(p.meta(p.ovi()), "") is None
    assert comfy.model_detection.detect_unet_config(p.meta(p.bridge()), "") is None


def test_every_rename_keeps_keys_apart():
    for shapes in (p.ovi(), p.ovi(split=True), p.mova(), p.bridge(), *OVI.values()):
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
        ("dual_tower_bridge.video_to_audio_conditioners.4.y_norm.bias", "interaction.4.v2a.norm_y.bias", "v2a"),
        ("blocks.0.cross_attn.k.weight", "blocks.0.cross_attn.k.weight", "video"),
        ("interaction.0.a2v.context", "interaction.0.a2v.context", "a2v"),
    ],
)
def test_rename(key, ours, part):
    assert rename(key) == ours
    assert section(ours) == part


def test_mixed_up_names_are_refused():
    tensors = p.meta(p.ovi(*p.TINY_OVI) | {"blocks.0.modulation": (1, 6, 128)})
    with pytest.raises(ValueError, match=r"mixed\.safetensors holds blocks\.0\.modulation twice"):
        translate(tensors, "mixed.safetensors")


def test_incomplete_set_of_sections_is_refused():
    tensors = {key: value for key, value in p.meta(p.mova(*p.TINY_MOVA)).items() if "audio_to_video" not in key}
    with pytest.raises(ValueError, match=r"cut\.safetensors holds only audio, low_noise, v2a, video of a joint model"):
        file(tensors, "cut.safetensors")


def test_trained_bridge_strength_is_dropped_at_one_and_refused_otherwise():
    tensors = p.weights(p.bridge(*p.TINY_MOVA))
    assert "condition_scale" not in translate(tensors | {"condition_scale": torch.ones(1)}, "bridge.safetensors")
    key = "audio_to_video_conditioners.1.condition_scale"
    with pytest.raises(ValueError, match=r"bridge\.safetensors: interaction\.1\.a2v\.condition_scale is \[0\.5\]"):
        translate(tensors | {key: torch.tensor([0.5])}, "bridge.safetensors")


def test_damaged_list_of_quantised_layers_is_named():
    with pytest.raises(ValueError, match=r"a\.safetensors has a _quantization_metadata entry without a list"):
        translate(p.meta(p.wan(p.TINY_WAN)), "a.safetensors", {"_quantization_metadata": "{}"})


def test_heads_that_no_shape_tells_enter_through_configure():
    small = p.Sizes(56, 64, 1, 48, 48, 32, 64), p.Sizes(56, 64, 1, 20, 20, 32, 64), 256
    sd = translate(p.meta(p.ovi(*small)), "small")
    with pytest.raises(ValueError, match="small has a video stream of width 56, wanted a multiple of 128"):
        published_config("ovi", sd, "small")
    given = {"num_heads": 2, "text_len": 16}
    config = published_config("ovi", sd, "small", video=given, audio=given, clock_scale=0.25)
    assert (config.video.num_heads, config.audio.text_len, config.clock_scale) == (2, 16, 0.25)
    assert (config.video.freq_dim, config.audio.stem_dim) == (64, 256)


def test_missing_tensor_that_sizes_come_from_is_named():
    sd = translate(p.meta(p.ovi(*p.TINY_OVI)), "ovi.safetensors")
    del sd["audio.head.head.weight"]
    with pytest.raises(ValueError, match=r"ovi\.safetensors lacks audio\.head\.head\.weight"):
        published_config("ovi", sd, "ovi.safetensors")


BRIDGE = ("q", "k", "v", "o", "norm_y", "norm_q", "norm_k")
PLAIN = {f"interaction.0.a2v.{module}.weight": (8, 8) for module in BRIDGE}
BOTH = PLAIN | {key.replace("a2v", "v2a"): shape for key, shape in PLAIN.items()}


@pytest.mark.parametrize("module", ["mask_head", "gate"])
def test_an_interaction_of_unknown_modules_is_refused_by_their_names(module):
    """It holds all modules of a bridge, and is none."""
    assert file(BOTH).family == "mova"
    shapes = BOTH | {f"interaction.0.a2v.{module}.weight": (8, 8)}
    with pytest.raises(ValueError, match=rf"x\.safetensors holds an interaction of the modules .*{module}.*MOVA \(k, "):
        file(shapes, "x.safetensors")


def test_an_interaction_that_lacks_a_module_is_no_other():
    shapes = {key: shape for key, shape in BOTH.items() if ".o." not in key}
    with pytest.raises(ValueError, match="modules k, norm_k, norm_q, norm_y, q, v, known are those of CCL"):
        file(shapes)
