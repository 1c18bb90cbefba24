"""What the host's save nodes write of a joint model and its VAEs: the loaders read it back as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_lora_extract import LoraSave
from comfy_extras.nodes_model_merging import (
    CheckpointSave,
    ModelAdd,
    ModelMergeSimple,
    ModelSave,
    ModelSubtract,
    VAESave,
)
from safetensors.torch import save_file

from ccl_pack.ccl_core.host.experts import low_noise_of
from ccl_pack.ccl_core.host.files.build import load_checkpoint, load_model
from ccl_pack.ccl_core.host.files.lora import Strengths, apply_lora
from ccl_pack.ccl_core.host.vae.audio import load_audio_vae, load_audio_vae_file
from ccl_pack.nodes import CHECKPOINTS
from ccl_tools import published as p
from support import tiny
from support.tiny_audio_vaes import dac_file
from support.tiny_vaes import audio_vae, release

FLOAT = {"dtype": torch.float32}
SHARED = ("audio.", "interaction.")
BARE = ("modulation", "context")


@pytest.fixture(scope="module", autouse=True)
def vaes_of_this_file() -> Iterator[None]:
    yield
    release()


@pytest.fixture(autouse=True)
def output(tmp_path: Path) -> Iterator[Path]:
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path / "out"))
    yield tmp_path / "out"
    folder_paths.set_output_directory(before)


def write(path: Path, shapes: dict[str, Any], seed: int = 0) -> ModelPatcher:
    save_file(p.weights(shapes, seed), path)
    return load_model(str(path), FLOAT)


def ccl(folder: Path, seed: int = 0) -> ModelPatcher:
    return load_model(str(tiny.write(folder / f"ccl{seed}.safetensors", seed)), FLOAT)


def ovi(folder: Path, seed: int = 0) -> ModelPatcher:
    return write(folder / f"ovi{seed}.safetensors", p.ovi(*p.TINY_OVI), seed)


def mova(folder: Path, seed: int = 0) -> ModelPatcher:
    return write(folder / f"mova{seed}.safetensors", p.mova(*p.TINY_MOVA), seed)


def prism(folder: Path, seed: int = 0) -> ModelPatcher:
    return write(folder / f"prism{seed}.safetensors", p.prism(*p.TINY_MOVA), seed)


MODELS: dict[str, Callable[..., ModelPatcher]] = {"ccl": ccl, "ovi": ovi, "mova": mova, "prism": prism}


def experts(model: ModelPatcher) -> list[ModelPatcher]:
    low = low_noise_of(model)
    return [model] if low is None else [model, low]


def saved(model: ModelPatcher, output: Path, name: str = "saved") -> str:
    ModelSave().save(model, name)
    (path,) = output.glob(f"{name}_0*.safetensors")
    return str(path)


def assert_same(one: ModelPatcher, other: ModelPatcher) -> None:
    """Configuration and, with their patches, all weights of both experts."""
    assert one.model.ccl_config == other.model.ccl_config
    assert len(experts(one)) == len(experts(other))
    for ours, wanted in zip(experts(one), experts(other), strict=True):
        theirs = weights(wanted)
        found = weights(ours)
        assert found.keys() == theirs.keys()
        for key, value in theirs.items():
            assert torch.equal(found[key], value), key


def dac_vae() -> comfy.sd.VAE:
    return load_audio_vae(dac_file(), {"dac_config": '{"sample_rate": 44100}'})


def weights(patcher: ModelPatcher) -> dict[str, torch.Tensor]:
    """The weights with their patches, calculated by the host."""
    plain = patcher.model.diffusion_model.state_dict()
    made = {}
    for key, value in plain.items():
        name = f"diffusion_model.{key}"
        patches = patcher.patches.get(name)
        if patches:
            value = comfy.lora.calculate_weight(patches, value.clone(), name)
        made[key] = value
    return made


def copies(patcher: ModelPatcher) -> dict[str, torch.Tensor]:
    """The weights as they are now: the host writes patches into a model that it loads."""
    return {key: value.clone() for key, value in weights(patcher).items()}


def merged_weights(patcher: ModelPatcher) -> dict[str, torch.Tensor]:
    """What the host merges: of plain Wan too it leaves bare parameters as they are."""
    return {key: value for key, value in weights(patcher).items() if not key.endswith(BARE)}


@pytest.mark.parametrize("name", MODELS)
def test_model_save_of_every_family_loads_as_it_was(tmp_path: Path, output: Path, name: str) -> None:
    model = MODELS[name](tmp_path)
    loaded = load_model(saved(model, output), FLOAT)
    assert_same(loaded, model)
    assert (low_noise_of(loaded) is None) == (name in ("ccl", "ovi"))


@pytest.mark.parametrize("name", MODELS)
def test_a_lora_is_merged_into_what_is_saved(tmp_path: Path, output: Path, name: str) -> None:
    model = MODELS[name](tmp_path)
    tensors: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(3)
    for key in ("blocks.0.ffn.0", "audio.blocks.0.ffn.0", "interaction.0.a2v.v"):
        rows, columns = model.model.diffusion_model.state_dict()[f"{key}.weight"].shape
        tensors[f"diffusion_model.{key}.lora_A.weight"] = torch.randn(2, columns, generator=generator)
        tensors[f"diffusion_model.{key}.lora_B.weight"] = torch.randn(rows, 2, generator=generator)
    save_file(tensors, tmp_path / "lora.safetensors")
    patched = apply_lora(model, str(tmp_path / "lora.safetensors"), Strengths(0.5, -1.0, 2.0))
    # Before the host loads the model, which writes the patches into it.
    wanted = [copies(expert) for expert in experts(patched)]
    loaded = load_model(saved(patched, output), FLOAT)
    assert loaded.model.ccl_config == model.model.ccl_config
    for made, merged in zip(experts(loaded), wanted, strict=True):
        # Both experts share what the first one's patches are for.
        merged |= {key: value for key, value in wanted[0].items() if key.startswith(SHARED)}
        for key, value in weights(made).items():
            torch.testing.assert_close(value, merged[key], rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_a_merge_reaches_both_experts(tmp_path: Path, output: Path, name: str) -> None:
    one, other = MODELS[name](tmp_path, 0), MODELS[name](tmp_path, 5)
    of_one = [copies(expert) for expert in experts(one)]
    of_other = [copies(expert) for expert in experts(other)]
    (merged,) = ModelMergeSimple().merge(one, other, 0.25)
    loaded = load_model(saved(merged, output), FLOAT)
    for made, first, second in zip(experts(loaded), of_one, of_other, strict=True):
        for key, value in merged_weights(made).items():
            wanted = 0.25 * first[key] + 0.75 * second[key]
            torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6, msg=key)


def test_a_difference_that_is_added_again_is_the_model(tmp_path: Path, output: Path) -> None:
    one, other = mova(tmp_path, 0), mova(tmp_path, 5)
    before = [copies(expert) for expert in experts(one)]
    (difference,) = ModelSubtract().merge(one, other, 1.0)
    (back,) = ModelAdd().merge(other, difference)
    loaded = load_model(saved(back, output), FLOAT)
    for made, wanted in zip(experts(loaded), before, strict=True):
        for key, value in merged_weights(made).items():
            torch.testing.assert_close(value, wanted[key], rtol=1e-4, atol=1e-5, msg=key)


def test_a_quantised_model_stays_quantised(tmp_path: Path, output: Path) -> None:
    tensors = p.fp8_scaled(p.weights(p.mova(*p.TINY_MOVA)))
    save_file(tensors, tmp_path / "fp8.safetensors")
    model = load_model(str(tmp_path / "fp8.safetensors"))
    path = saved(model, output)
    loaded = load_model(path)
    for ours, wanted in zip(experts(loaded), experts(model), strict=True):
        theirs = wanted.model.diffusion_model.state_dict()
        found = ours.model.diffusion_model.state_dict()
        assert found.keys() == theirs.keys()
        for key, value in theirs.items():
            assert found[key].dtype == value.dtype and torch.equal(found[key].float(), value.float()), key
    assert any(value.dtype is torch.float8_e4m3fn for value in comfy.utils.load_torch_file(path).values())


def int8(folder: Path, name: str) -> ModelPatcher:
    shapes = {"mova": p.mova, "prism": p.prism}[name](*p.TINY_MOVA)
    save_file(p.int8_rotated(p.weights(shapes)), folder / "int8.safetensors")
    return load_model(str(folder / "int8.safetensors"))


@pytest.mark.parametrize("name", ["mova", "prism"])
def test_integers_of_both_experts_are_saved_as_they_are(tmp_path: Path, output: Path, name: str) -> None:
    model = int8(tmp_path, name)
    loaded = load_model(saved(model, output))
    for ours, wanted in zip(experts(loaded), experts(model), strict=True):
        theirs, found = (patcher.model.diffusion_model.state_dict() for patcher in (wanted, ours))
        assert found.keys() == theirs.keys()
        assert torch.int8 in {value.dtype for value in found.values()}
        for key, value in theirs.items():
            assert found[key].dtype == value.dtype and torch.equal(found[key], value), key


def test_a_lora_of_the_low_noise_expert_is_merged_into_integers(tmp_path: Path, output: Path) -> None:
    model = int8(tmp_path, "mova")
    key = "blocks.0.ffn.0"
    before = low_noise_of(model).model.diffusion_model.blocks[0].ffn[0].weight.dequantize().float()
    generator = torch.Generator().manual_seed(3)
    down, up = (
        torch.randn(shape, generator=generator) for shape in ((2, before.shape[1]), (before.shape[0], 2))
    )
    lora = {f"diffusion_model.{key}.lora_A.weight": down, f"diffusion_model.{key}.lora_B.weight": up}
    save_file(lora, tmp_path / "lora.safetensors")
    patched = apply_lora(model, str(tmp_path / "lora.safetensors"), Strengths())
    loaded = low_noise_of(load_model(saved(patched, output)))
    found = loaded.model.diffusion_model.blocks[0].ffn[0].weight
    assert found._qdata.dtype is torch.int8
    wanted = before + up @ down
    # A step of int8 is a 127th of the largest number of a row, and the host rounds by chance.
    step = wanted.abs().amax(1, keepdim=True) / 127
    assert ((found.dequantize().float() - wanted).abs() <= 1.5 * step + 0.02).all()


@pytest.mark.parametrize("name", ["mova", "prism"])
def test_bare_parameters_of_both_experts_are_saved_as_the_host_runs_them(
    tmp_path: Path, output: Path, name: str
) -> None:
    one, other = MODELS[name](tmp_path, 0), MODELS[name](tmp_path, 5)
    wanted = [expert.model.diffusion_model.state_dict() for expert in experts(one)]
    (merged,) = ModelMergeSimple().merge(one, other, 0.25)
    loaded = load_model(saved(merged, output), FLOAT)
    for made, first in zip(experts(loaded), wanted, strict=True):
        bare = {k: v for k, v in made.model.diffusion_model.state_dict().items() if k.endswith(BARE)}
        assert bare
        for key, value in bare.items():
            assert torch.equal(value, first[key]), key


def test_a_checkpoint_without_a_sound_s_vae_is_said(
    tmp_path: Path, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, clip, video_vae, _ = load_checkpoint(str(CHECKPOINTS / "ccl-tiny.safetensors"))
    CheckpointSave().save(ccl(tmp_path), clip, video_vae, "mute")
    assert list(output.glob("mute_0*.safetensors"))
    assert "saved without an audio VAE" in caplog.text and "VAESave" in caplog.text


def test_a_model_that_the_host_builds_again_keeps_the_sound_s_vae() -> None:
    model, _, _, sound = load_checkpoint(str(CHECKPOINTS / "ccl-tiny.safetensors"))
    loader, arguments = model.cached_patcher_init
    assert loader(*arguments, disable_dynamic=True).model.audio_vae is sound


def test_a_checkpoint_loads_whole_and_makes_the_same(output: Path) -> None:
    path = CHECKPOINTS / "ccl-tiny.safetensors"
    model, clip, video_vae, sound = load_checkpoint(str(path))
    CheckpointSave().save(model, clip, video_vae, "whole")
    (written,) = output.glob("whole_0*.safetensors")
    again = load_checkpoint(str(written))
    assert_same(again[0], model)
    text = [c.encode_from_tokens(c.tokenize("a red ball bounces")) for c in (clip, again[1])]
    assert torch.equal(*text)
    latent = torch.randn(1, sound.latent_channels, 9, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(again[3].decode(latent), sound.decode(latent))
        picture = torch.randn(1, video_vae.latent_channels, 2, 4, 4)
        assert torch.equal(again[2].decode(picture), video_vae.decode(picture))


@pytest.mark.parametrize("make", [audio_vae, dac_vae], ids=["vocos", "dac"])
def test_an_audio_vae_that_was_saved_is_the_same(output: Path, make: Callable[[], comfy.sd.VAE]) -> None:
    vae = make()
    VAESave().save(vae, "sound")
    (path,) = output.glob("sound_0*.safetensors")
    again = load_audio_vae_file(str(path))
    assert type(again) is type(vae) and again.config == vae.config
    latent = torch.randn(1, vae.latent_channels, 9, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(again.decode(latent), vae.decode(latent))


def test_a_lora_that_the_host_extracts_is_one_for_the_model(tmp_path: Path, output: Path) -> None:
    one, other = ccl(tmp_path, 0), ccl(tmp_path, 5)
    wanted = copies(other)
    (difference,) = ModelSubtract().merge(other, one, 1.0)
    LoraSave.execute(
        filename_prefix="lora", rank=64, lora_type="standard", bias_diff=True, model_diff=difference
    )
    (path,) = output.glob("lora_*.safetensors")
    patched = apply_lora(ccl(tmp_path, 0), str(path), Strengths())
    lora = comfy.utils.load_torch_file(str(path))
    host, _ = comfy.sd.load_lora_for_models(ccl(tmp_path, 0), None, lora, 1.0, 0.0)
    ours, theirs, before = weights(patched), weights(host), weights(ccl(tmp_path, 0))
    for key in ("blocks.1.self_attn.q.weight", "audio.blocks.0.ffn.2.weight", "interaction.1.v2a.o.weight"):
        assert torch.equal(ours[key], theirs[key]), key
        # The host cuts the largest hundredth of the numbers of a LoRA that it extracts.
        assert (ours[key] - wanted[key]).norm() < 0.4 * (before[key] - wanted[key]).norm(), key
