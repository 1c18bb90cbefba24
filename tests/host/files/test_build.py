"""Patchers from files: every weight in its place whatever the layout, faults in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.ops
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from safetensors.torch import save_file

from ccl_pack.ccl_core.config import CCLConfig, StreamConfig
from ccl_pack.ccl_core.host.experts import low_noise_of
from ccl_pack.ccl_core.host.files.build import load_checkpoint, load_files, load_model
from ccl_pack.ccl_core.host.files.read import BUNDLED, ModelPaths
from ccl_pack.ccl_core.host.files.translate import rename
from ccl_pack.ccl_core.metadata import write_config
from ccl_pack.ccl_core.model.joint import JointModel
from ccl_tools import published as p
from support.gguf_files import write as write_gguf
from support.tiny import CONFIG, config, state_dict, write


def save(path: Path, tensors: dict[str, torch.Tensor], chosen: CCLConfig = CONFIG) -> str:
    save_file(tensors, path, metadata={"ccl_config": write_config(chosen)})
    return str(path)


def test_every_key_reaches_the_model(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.safetensors", seed=5)
    model = load_model(str(path)).model.diffusion_model
    wanted = state_dict(CONFIG, seed=5)
    loaded = model.state_dict()
    assert set(loaded) == set(wanted)
    assert all(torch.equal(loaded[key].float(), value) for key, value in wanted.items())


def test_key_names_are_wans() -> None:
    from comfy.ldm.wan.model import WanModel

    video = {key for key in state_dict(CONFIG) if not key.startswith(("audio.", "interaction."))}
    audio = {key.removeprefix("audio.") for key in state_dict(CONFIG) if key.startswith("audio.")}
    for keys, layers in ((video, 3), (audio, 2)):
        assert keys == set(
            WanModel(
                dim=48,
                ffn_dim=8,
                num_heads=2,
                num_layers=layers,
                text_dim=8,
                operations=comfy.ops.disable_weight_init,
            ).state_dict()
        )
    assert {key.split(".")[2] for key in state_dict(CONFIG) if key.startswith("interaction.")} == {
        "a2v",
        "v2a",
    }


def test_prefix_of_all_in_one_files_is_accepted(tmp_path: Path) -> None:
    tensors = {f"model.diffusion_model.{key}": value for key, value in state_dict(CONFIG).items()}
    assert load_model(save(tmp_path / "a.safetensors", tensors)).model.ccl_config == CONFIG


def test_patcher_can_be_rebuilt_by_the_host(tmp_path: Path) -> None:
    patcher = load_model(str(write(tmp_path / "tiny.safetensors")))
    loader, arguments = patcher.cached_patcher_init
    again = loader(*arguments, disable_dynamic=True)
    assert torch.equal(
        again.model.diffusion_model.head.head.weight, patcher.model.diffusion_model.head.head.weight
    )


@pytest.mark.parametrize(
    "size", [{"dim": 96, "num_heads": 4}, {"num_layers": 1}, {"in_dim": 36, "model_type": "i2v"}]
)
def test_any_wan_size_loads(tmp_path: Path, size: dict[str, Any]) -> None:
    chosen = config(video=replace(CONFIG.video, **size))
    model = JointModel(chosen, device="meta", operations=comfy.ops.disable_weight_init)
    assert (
        load_model(str(write(tmp_path / "tiny.safetensors", video=chosen.video))).model.diffusion_model.dim
        == model.dim
    )


def test_missing_key_is_named(tmp_path: Path) -> None:
    tensors = state_dict(CONFIG)
    del tensors["audio.blocks.1.self_attn.k.weight"]
    with pytest.raises(ValueError, match=r"a.safetensors lacks audio.blocks.1.self_attn.k.weight \(32, 32\)"):
        load_model(save(tmp_path / "a.safetensors", tensors))


def test_misshapen_key_is_named_with_both_shapes(tmp_path: Path) -> None:
    tensors = state_dict(CONFIG) | {"interaction.0.a2v.context": torch.zeros(5, 32)}
    with pytest.raises(
        ValueError, match=r"a.safetensors: interaction.0.a2v.context has shape \(5, 32\), wanted \(3, 32\)"
    ):
        load_model(save(tmp_path / "a.safetensors", tensors))


def test_unknown_key_is_named(tmp_path: Path) -> None:
    tensors = state_dict(CONFIG) | {"blocks.0.gate": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"1 unknown keys, the first is blocks.0.gate"):
        load_model(save(tmp_path / "a.safetensors", tensors))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {"head.modulation": torch.zeros(1)},
            "a Wan model without an audio stream: use Load Diffusion Model",
        ),
        ({"model.diffusion_model.head.modulation": torch.zeros(1)}, "a Wan model without an audio stream"),
        ({"audio.head.modulation": torch.zeros(1)}, "an audio stream: choose it in CCLModelAssembler"),
        (p.weights(p.bridge(*p.TINY_MOVA)), "the bridge of MOVA: choose it in CCLModelAssembler"),
        ({"decoder.head.0.gamma": torch.zeros(1)}, "a Wan VAE: use Load VAE"),
        (
            {"vae.x": torch.zeros(1), "vocoder.conv_post.weight": torch.zeros(1)},
            "the audio VAE of Ovi: use CCLAudioVAELoader",
        ),
        (
            {"vision_model.embeddings.class_embedding": torch.zeros(1)},
            "a CLIP vision model: use Load CLIP Vision",
        ),
        ({"diffusion_model.blocks.0.lora_A.weight": torch.zeros(1)}, "a LoRA: use CCLLoraLoader"),
        ({"x": torch.zeros(1)}, "a file of an unknown kind (1 tensors, such as x)"),
    ],
)
def test_other_files_are_recognised(tmp_path: Path, tensors: dict[str, torch.Tensor], words: str) -> None:
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=re.escape(f"other.safetensors is {words}")):
        load_model(str(tmp_path / "other.safetensors"))


def test_model_only_file_in_the_checkpoint_loader_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tiny\.safetensors holds no text encoder.*CCLModelLoader"):
        load_checkpoint(str(write(tmp_path / "tiny.safetensors")))


VOCABULARY = {"text_encoders.spiece_model": torch.zeros(1, dtype=torch.uint8)}


@pytest.mark.parametrize(
    ("more", "fault"),
    [({}, " has no vocabulary"), (VOCABULARY, "'s configuration must hold 'umt5xxl_model_config'")],
)
def test_a_fault_of_the_text_encoder_names_the_checkpoint(tmp_path: Path, more: dict, fault: str) -> None:
    bundled = {f"{part}x": torch.zeros(1) for part in BUNDLED}
    path = save(tmp_path / "all.safetensors", state_dict(CONFIG) | bundled | more)
    with pytest.raises(ValueError, match=rf"^all\.safetensors: The text encoder{fault}"):
        load_checkpoint(path)


FLOAT = {"dtype": torch.float32}
OVI = p.ovi(*p.TINY_OVI)
MOVA = p.mova(*p.TINY_MOVA)
OVI_PARTS = {
    "video": p.ovi_video(*p.TINY_OVI[:2]),
    "audio": p.prefixed("audio_model.", p.ovi_audio(p.TINY_OVI_AUDIO, p.TINY_OVI_VIDEO, p.TINY_OVI_STEM)),
}
MOVA_PARTS = {
    "video": p.wan(p.TINY_MOVA_VIDEO),
    "audio": p.audio_tower(p.TINY_MOVA_AUDIO),
    "interaction": p.bridge(*p.TINY_MOVA),
    "low_noise": p.wan(p.TINY_MOVA_VIDEO),
}


def published(
    path: Path,
    shapes: dict[str, Any],
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    metadata: dict[str, str] | None = None,
) -> dict[str, torch.Tensor]:
    tensors = p.weights(shapes, seed, dtype)
    save_file(tensors, path, metadata=metadata)
    return tensors


def assert_holds(patcher: ModelPatcher, tensors: dict[str, torch.Tensor], prefix: str = "") -> None:
    """Every tensor of a published file is the model's, under the name it has there."""
    loaded = patcher.model.diffusion_model.state_dict()
    for key, value in tensors.items():
        found = loaded[rename(prefix + key.removeprefix("model.diffusion_model."))]
        assert torch.equal(found.float().reshape(value.shape), value.float()), key


@pytest.mark.parametrize(
    "shapes",
    [
        OVI,
        p.ovi(*p.TINY_OVI, split=True),
        p.ovi(*p.TINY_OVI, modulation="modulation"),
        p.prefixed("model.diffusion_model.", OVI),
        p.mova(*p.TINY_MOVA, experts=1),
    ],
)
def test_published_file_of_one_piece(tmp_path: Path, shapes: dict[str, Any]) -> None:
    tensors = published(tmp_path / "model.safetensors", shapes)
    patcher = load_model(str(tmp_path / "model.safetensors"), FLOAT)
    assert len(patcher.model.diffusion_model.state_dict()) == len(tensors)
    assert_holds(patcher, tensors)
    assert low_noise_of(patcher) is None


def test_ovi_in_two_files(tmp_path: Path) -> None:
    files = {
        role: published(tmp_path / role, shapes, seed)
        for seed, (role, shapes) in enumerate(OVI_PARTS.items())
    }
    for role in files:
        (tmp_path / role).rename(tmp_path / f"{role}.safetensors")
    patcher = load_files(ModelPaths(*(str(tmp_path / f"{role}.safetensors") for role in files)), FLOAT)
    for tensors in files.values():
        assert_holds(patcher, tensors)


def test_mova_in_its_parts_with_shards(tmp_path: Path) -> None:
    files, paths = {}, {}
    for seed, (role, shapes) in enumerate(MOVA_PARTS.items()):
        folder = tmp_path / role
        folder.mkdir()
        files[role] = p.weights(shapes, seed)
        halves = list(files[role].items())[::2], list(files[role].items())[1::2]
        for i, half in enumerate(halves, start=1):
            save_file(dict(half), folder / f"diffusion_pytorch_model-{i:05}-of-00002.safetensors")
        paths[role] = str(folder / "diffusion_pytorch_model-00001-of-00002.safetensors")
    patcher = load_files(ModelPaths(**paths), FLOAT)
    low = low_noise_of(patcher)
    assert_holds(patcher, files["video"])
    assert_holds(low, files["low_noise"])
    for expert in (patcher, low):
        assert_holds(expert, files["audio"], "audio.")
        assert_holds(expert, files["interaction"])


def test_mova_in_one_file_has_both_experts(tmp_path: Path) -> None:
    tensors = published(tmp_path / "mova.safetensors", MOVA)
    patcher = load_model(str(tmp_path / "mova.safetensors"), FLOAT)
    low = low_noise_of(patcher)
    assert_holds(patcher, {key: value for key, value in tensors.items() if not key.startswith("video_dit_2")})
    own = {key.replace("video_dit_2.", "video_dit."): v for key, v in tensors.items() if "video_dit_2" in key}
    assert_holds(low, own)
    assert not torch.equal(
        low.model.diffusion_model.head.modulation, patcher.model.diffusion_model.head.modulation
    )
    for expert in (patcher, low):
        loader, arguments = expert.cached_patcher_init
        again = loader(*arguments, disable_dynamic=True).model.diffusion_model
        assert torch.equal(again.head.modulation, expert.model.diffusion_model.head.modulation)


def test_experts_share_the_audio_and_interaction_they_are_built_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the host takes tensors over instead of copying them, both experts hold the very same ones."""
    import comfy.model_patcher

    class Assigning(comfy.model_patcher.ModelPatcher):
        def is_dynamic(self) -> Any:
            return True

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Assigning)
    published(tmp_path / "mova.safetensors", MOVA)
    patcher = load_model(str(tmp_path / "mova.safetensors"), FLOAT)
    high, low = (expert.model.diffusion_model.state_dict() for expert in (patcher, low_noise_of(patcher)))
    same = {key for key, value in high.items() if value.data_ptr() == low[key].data_ptr()}
    assert same == {key for key in high if key.startswith(("audio.", "interaction."))}


def run(patcher: ModelPatcher, video_channels: int, audio_channels: int, text: int = 24) -> torch.Tensor:
    model = patcher.model.diffusion_model
    generator = torch.Generator().manual_seed(3)
    video = torch.randn(1, video_channels, 2, 4, 4, generator=generator)
    audio = torch.randn(1, audio_channels, 10, generator=generator)
    context = torch.randn(1, 5, text, generator=generator)
    with torch.inference_mode():
        return torch.cat([x.flatten() for x in model([video, audio], torch.tensor([500.0]), context)])


def scaled(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], None]:
    return p.fp8_scaled(tensors), None


@pytest.mark.parametrize("quantise", [scaled, p.fp8_listed])
@pytest.mark.parametrize(
    ("shapes", "channels"),
    [
        (OVI, (48, 20)),
        (p.ovi(*p.TINY_OVI, split=True), (48, 20)),
        (p.mova(*p.TINY_MOVA, experts=1), (36, 128)),
    ],
)
def test_scales_of_quantised_files_follow_their_weights(
    tmp_path: Path, quantise: Callable[..., Any], shapes: dict[str, Any], channels: tuple[int, int]
) -> None:
    """Dequantised, the file computes what the weights it was made of compute; a scale left behind would
    be 448 off.
    """
    tensors = p.weights(shapes)
    save_file(tensors, tmp_path / "float.safetensors")
    small, metadata = quantise(tensors)
    save_file(small, tmp_path / "fp8.safetensors", metadata=metadata)
    wanted = run(load_model(str(tmp_path / "float.safetensors"), FLOAT), *channels)
    found = run(load_model(str(tmp_path / "fp8.safetensors")), *channels).float()
    assert (found - wanted).norm() < 0.1 * wanted.norm()


def test_quantised_repack_with_experts_and_own_marks(tmp_path: Path) -> None:
    """Parts of a repack quantised one by one carry a mark each."""
    tensors = {}
    for part in ("video_dit", "video_dit_2", "audio_dit", "dual_tower_bridge"):
        own = {
            key.removeprefix(f"{part}."): v
            for key, v in p.weights(MOVA).items()
            if key.startswith(f"{part}.")
        }
        tensors |= p.prefixed(f"{part}.", p.fp8_scaled(own))
    save_file(tensors, tmp_path / "mova.safetensors")
    patcher = load_model(str(tmp_path / "mova.safetensors"))
    assert torch.isfinite(run(patcher, 36, 128)).all()
    assert torch.isfinite(run(low_noise_of(patcher), 36, 128)).all()


@pytest.mark.parametrize("kept", [True, False])
def test_plain_fp8_file_computes_in_a_wider_type(
    tmp_path: Path, kept: bool, request: pytest.FixtureRequest
) -> None:
    if kept:
        request.getfixturevalue("fp8_stays_fp8")
    tensors = published(tmp_path / "ovi.safetensors", OVI, dtype=torch.float8_e4m3fn)
    patcher = load_model(str(tmp_path / "ovi.safetensors"))
    assert (patcher.model.diffusion_model.head.head.weight.dtype is torch.float8_e4m3fn) is kept
    assert_holds(patcher, tensors)
    assert patcher.model.get_dtype_inference() in (torch.bfloat16, torch.float32)
    assert torch.isfinite(run(patcher, 48, 20)).all()


@pytest.mark.parametrize(("shapes", "name"), [(OVI, "ovi"), (p.mova(*p.TINY_MOVA, experts=1), "mova")])
def test_fp16_is_refused_where_it_overflows(tmp_path: Path, shapes: dict[str, Any], name: str) -> None:
    published(tmp_path / f"{name}.safetensors", shapes, dtype=torch.float16)
    path = str(tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=rf"{name}\.safetensors cannot run in fp16"):
        load_model(path, {"dtype": torch.float16})
    assert load_model(path).model.get_dtype_inference() is not torch.float16


def test_fp16_runs_where_the_streams_are_wans(tmp_path: Path) -> None:
    path = str(write(tmp_path / "tiny.safetensors"))
    assert load_model(path, {"dtype": torch.float16}).model.get_dtype() is torch.float16


def ccl_on_wan(
    tmp_path: Path, text: int = 24
) -> tuple[dict[str, str], dict[str, dict[str, torch.Tensor]], CCLConfig]:
    """A Wan file of 256 channels, an audio stream and an interaction made for it, each a file."""
    stream = StreamConfig(16, 16, 256, 160, 2, 3, text, freq_dim=32)
    chosen = config(video=stream, audio=replace(CONFIG.audio, text_dim=text))
    tensors = state_dict(chosen)
    parts = {
        "video": p.weights(p.wan(replace(p.TINY_WAN, text=text)), 3),
        "audio": {key: value for key, value in tensors.items() if key.startswith("audio.")},
        "interaction": {key: value for key, value in tensors.items() if key.startswith("interaction.")},
    }
    for role, part in parts.items():
        metadata = {"ccl_config": write_config(chosen)} if role == "interaction" else None
        save_file(part, tmp_path / f"{role}.safetensors", metadata=metadata)
    return {role: str(tmp_path / f"{role}.safetensors") for role in parts}, parts, chosen


def test_ccl_on_a_plain_wan_file(tmp_path: Path) -> None:
    paths, parts, chosen = ccl_on_wan(tmp_path)
    patcher = load_files(ModelPaths(**paths), FLOAT)
    assert patcher.model.ccl_config == chosen
    for part in parts.values():
        assert_holds(patcher, part)


def test_ccl_on_two_experts_of_wan(tmp_path: Path) -> None:
    paths, _, _ = ccl_on_wan(tmp_path)
    low = published(tmp_path / "low.safetensors", p.wan(p.TINY_WAN), 9)
    patcher = load_files(ModelPaths(**paths, low_noise=str(tmp_path / "low.safetensors")), FLOAT)
    assert_holds(low_noise_of(patcher), low)
    assert patcher.get_attachment("ccl_low_noise").boundary == 0.875


def test_interaction_made_for_text_to_video_serves_image_to_video(tmp_path: Path) -> None:
    paths, _, _ = ccl_on_wan(tmp_path)
    i2v = p.Sizes(256, 160, 3, 36, 16, 24, 32)
    tensors = published(tmp_path / "video.safetensors", p.wan(i2v, image=True), 4)
    patcher = load_files(ModelPaths(**paths), FLOAT)
    assert (patcher.model.ccl_config.video.in_dim, patcher.model.ccl_config.video.model_type) == (36, "i2v")
    assert_holds(patcher, tensors)


def test_faults_of_parts_name_their_own_file(tmp_path: Path) -> None:
    paths, parts, _ = ccl_on_wan(tmp_path)
    audio = dict(parts["audio"])
    del audio["audio.blocks.1.ffn.2.bias"]
    save_file(audio, paths["audio"])
    with pytest.raises(ValueError, match=r"audio\.safetensors lacks audio\.blocks\.1\.ffn\.2\.bias \(32,\)"):
        load_files(ModelPaths(**paths))
    save_file(parts["audio"] | {"audio.blocks.1.gate": torch.ones(1)}, paths["audio"])
    with pytest.raises(
        ValueError,
        match=r"audio\.safetensors resembles \w+: 36 of 37 kinds .*; unknown audio\.blocks\.1\.gate\. It",
    ):
        load_files(ModelPaths(**paths))


def test_bridge_of_other_widths_is_named_with_both_shapes(tmp_path: Path) -> None:
    for role, shapes in (MOVA_PARTS | {"video": p.wan(p.Sizes(128, 160, 3, 36, 16, 24, 32))}).items():
        published(tmp_path / f"{role}.safetensors", shapes)
    paths = {role: str(tmp_path / f"{role}.safetensors") for role in ("video", "audio", "interaction")}
    with pytest.raises(
        ValueError,
        match=r"interaction\.safetensors: interaction\.0\.a2v\.q\.weight has shape \(256, 256\), "
        r"wanted \(128",
    ):
        load_files(ModelPaths(**paths))


def test_quantisation_beside_no_weight_is_an_unknown_key(tmp_path: Path) -> None:
    mark = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    layer = {"comfy_quant": mark, "weight_scale": torch.ones(1)}
    tensors = p.weights(OVI) | {f"video_model.blocks.9.ffn.0.{key}": value for key, value in layer.items()}
    save_file(tensors, tmp_path / "ovi.safetensors")
    with pytest.raises(
        ValueError,
        match=r"ovi\.safetensors holds 2 unknown keys, the first is blocks\.9\.ffn\.0\.(comfy|weight)_",
    ):
        load_model(str(tmp_path / "ovi.safetensors"))


@pytest.mark.parametrize("quantised", ["video_model.blocks.0.ffn.0", "audio_model.patch_embedding.0"])
def test_renamed_key_is_named(tmp_path: Path, quantised: str) -> None:
    tensors = p.weights(OVI)
    tensors[f"{quantised}.wheight"] = tensors.pop(f"{quantised}.weight")
    save_file(tensors, tmp_path / "ovi.safetensors")
    with pytest.raises(ValueError, match=rf"ovi\.safetensors lacks {rename(quantised)}\.weight"):
        load_model(str(tmp_path / "ovi.safetensors"))


@pytest.fixture
def fp8_stays_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU that computes in fp8; elsewhere the host widens fp8 weights where memory allows."""
    monkeypatch.setattr(comfy.model_management, "supports_fp8_compute", lambda *_: True)


@pytest.mark.usefixtures("fp8_stays_fp8")
def test_parts_keep_their_precision_beside_an_fp8_one(tmp_path: Path) -> None:
    paths, parts, _ = ccl_on_wan(tmp_path)
    wide = {}
    for role in ("audio", "interaction"):
        wide[role] = {key: value.bfloat16() for key, value in parts[role].items()}
        metadata = {"ccl_config": write_config(load_files(ModelPaths(**paths)).model.ccl_config)}
        save_file(wide[role], paths[role], metadata=metadata if role == "interaction" else None)
    small = published(tmp_path / "video.safetensors", p.wan(p.TINY_WAN), dtype=torch.float8_e4m3fn)
    patcher = load_files(ModelPaths(**paths))
    assert patcher.model.diffusion_model.blocks[0].ffn[0].weight.dtype is torch.float8_e4m3fn
    for tensors in (small, *wide.values()):
        assert_holds(patcher, tensors)
    assert torch.isfinite(run(patcher, 16, 8)).all()


def test_ccl_on_a_scaled_fp8_wan_file(tmp_path: Path) -> None:
    paths, parts, _ = ccl_on_wan(tmp_path)
    wanted = run(load_files(ModelPaths(**paths), FLOAT), 16, 8)
    save_file(p.fp8_scaled(parts["video"]), paths["video"])
    found = run(load_files(ModelPaths(**paths)), 16, 8).float()
    assert 0 < (found - wanted).norm() < 0.1 * wanted.norm()


def test_one_of_two_experts_is_said_to_be_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    published(tmp_path / "mova.safetensors", p.mova(*p.TINY_MOVA, experts=1))
    load_model(str(tmp_path / "mova.safetensors"))
    assert "mova.safetensors is one of two video experts" in caplog.text
    caplog.clear()
    published(tmp_path / "ovi.safetensors", OVI)
    load_model(str(tmp_path / "ovi.safetensors"))
    assert "experts" not in caplog.text


OVI_GGUF = p.ovi(p.Sizes(128, 160, 2, 48, 48, 32, 32), p.Sizes(128, 96, 2, 20, 20, 32, 32), 64)


@pytest.mark.usefixtures("gguf_pack")
def test_ovi_as_gguf(tmp_path: Path) -> None:
    tensors = p.weights(OVI_GGUF)
    held = write_gguf(tmp_path / "ovi.gguf", tensors, {"general.architecture": "wan"})
    patcher = load_model(str(tmp_path / "ovi.gguf"))
    assert not patcher.is_dynamic()
    save_file(held, tmp_path / "held.safetensors")
    wanted = run(load_model(str(tmp_path / "held.safetensors"), FLOAT), 48, 20, text=32)
    torch.testing.assert_close(run(patcher, 48, 20, text=32), wanted, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("gguf_pack")
def test_gguf_video_beside_other_parts(tmp_path: Path) -> None:
    paths, parts, _ = ccl_on_wan(tmp_path, text=32)
    held = write_gguf(tmp_path / "video.gguf", parts["video"], {"general.architecture": "wan"})
    found = run(
        load_files(ModelPaths(**paths | {"video": str(tmp_path / "video.gguf")}), FLOAT), 16, 8, text=32
    )
    save_file(held, paths["video"])
    torch.testing.assert_close(
        found, run(load_files(ModelPaths(**paths), FLOAT), 16, 8, text=32), atol=1e-4, rtol=0
    )
    audio = p.fp8_scaled({key.removeprefix("audio."): value for key, value in parts["audio"].items()})
    save_file(p.prefixed("audio.", audio), paths["audio"])
    with pytest.raises(ValueError, match=r"audio\.safetensors is quantised and another file is GGUF"):
        load_files(ModelPaths(**paths | {"video": str(tmp_path / "video.gguf")}))
