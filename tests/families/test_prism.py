"""Prism: MOVA under its own keys, in every layout, with settings, prompts and LoRA names of its own."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from safetensors.torch import save_file

from ccl_pack.ccl_core.alignment.sizing import size_av
from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.host.experts import low_noise_of
from ccl_pack.ccl_core.host.files.build import load_files, load_model, put_together
from ccl_pack.ccl_core.host.files.check import check
from ccl_pack.ccl_core.host.files.lora import HIGH, Strengths, apply_lora, key_map
from ccl_pack.ccl_core.host.files.read import ModelPaths, take
from ccl_pack.ccl_core.host.files.translate import rename
from ccl_pack.ccl_core.host.media.latents import model_grid
from ccl_pack.ccl_core.host.memory import weights_of
from ccl_pack.ccl_core.memory import parameters
from ccl_tools import published as p
from support.model_files import configured, file, on_wan

PRISM = FAMILIES["prism"]
FLOAT = {"dtype": torch.float32}
GIB = 2**30
# Beside the fixture, whose towers have 5 and 3 layers: as deep as each other, and much deeper.
SIZES = {
    "equally deep": (replace(p.TINY_MOVA_VIDEO, layers=2), replace(p.TINY_MOVA_AUDIO, layers=2)),
    "one layer behind": (p.TINY_MOVA_VIDEO, p.TINY_MOVA_AUDIO),
    "two digits": (
        replace(p.TINY_MOVA_VIDEO, dim=128, ffn=64, layers=13),
        replace(p.TINY_MOVA_AUDIO, layers=11),
    ),
}
PARTS = {
    "video": "video_dit",
    "audio": "audio_dit",
    "interaction": "dual_tower_bridge",
    "low_noise": "video_dit_2",
}


def write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> str:
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    return str(path)


def predictions(patcher: ModelPatcher) -> list[torch.Tensor]:
    """What both experts make of one latent."""
    generator = torch.Generator().manual_seed(8)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    latent = [noise(1, 16, 3, 4, 4), noise(1, 128, 13)]
    text, sound = noise(1, 7, 24), noise(1, 5, 24)
    concat = noise(1, 20, 3, 4, 4)
    outputs: list[torch.Tensor] = []
    for expert in (patcher, low_noise_of(patcher)):
        model = expert.model.diffusion_model
        outputs += model(
            latent,
            (torch.tensor([950.0]), torch.tensor([930.0])),
            text,
            audio_context=sound,
            video_concat=concat,
            transformer_options={},
        )
    return outputs


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("seed", [0, 41])
def test_a_file_of_any_size_is_mova_under_other_names(tmp_path: Path, sizes: str, seed: int) -> None:
    video, audio = SIZES[sizes]
    tensors = p.weights(p.mova(video, audio), seed)
    mova = load_model(write(tmp_path / "mova.safetensors", tensors), FLOAT)
    renamed = {p.prism_key(key, audio.layers): value for key, value in tensors.items()}
    assert not any(key.startswith(("dual_tower_bridge.", "video_dit.blocks.")) for key in renamed)
    prism = load_model(write(tmp_path / "prism.safetensors", renamed), FLOAT)
    assert prism.model.ccl_config == replace(
        mova.model.ccl_config, family="prism", shift=9.0, audio_shift=7.0
    )
    with torch.no_grad():
        for ours, wanted in zip(predictions(prism), predictions(mova), strict=True):
            assert torch.equal(ours, wanted)


def test_the_published_file_is_used_to_the_last_key() -> None:
    shapes = p.prism()
    assert len(shapes) == 3735
    read = file(shapes, "diffusion_pytorch_model.safetensors")
    assert (read.family, read.content.description) == ("prism", "a Prism model")
    assembly, config = configured(read)
    check(assembly, config)
    in_file = sum(map(math.prod, shapes.values()))
    assert in_file * 2 == pytest.approx(65.3e9, rel=0.001)
    counts = parameters(config)
    # Both experts have the parameters of the video stream.
    planned = sum(counts.values()) + counts["video"]
    assert planned == pytest.approx(in_file, rel=0.001)
    assert config.expert_boundary == 0.9 and config.video.num_layers == 40 and config.audio.num_layers == 30


def rotated_shapes(shapes: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of an int8 repack without their data; formats are the host's JSON."""
    out = {}
    for key, value in p.meta(shapes).items():
        out[key] = value
        if p.is_matrix(key, value):
            layer = key.removesuffix(".weight")
            entry = {
                "format": "int8_tensorwise",
                "convrot": True,
                "convrot_groupsize": p.group_of(value.shape[1]),
            }
            out[key] = value.to(torch.int8)
            out[f"{layer}.weight_scale"] = torch.empty(value.shape[0], 1, device="meta")
            out[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(entry).encode()), dtype=torch.uint8)
    return out


def parts() -> dict[str, dict[str, Any]]:
    """The shapes of a repack in four files, by their roles."""
    return {
        "video": p.wan(p.MOVA_VIDEO),
        "audio": p.audio_tower(p.MOVA_AUDIO),
        "interaction": p.bridge(),
        "low_noise": p.wan(p.MOVA_VIDEO),
    }


def test_the_int8_repack_is_used_to_the_last_key_and_has_its_size() -> None:
    made = {role: rotated_shapes(shapes) for role, shapes in parts().items()}
    published_gib = {"video": 13.5, "low_noise": 13.5, "audio": 1.35, "interaction": 2.48}
    for role, tensors in made.items():
        held = sum(value.nbytes for value in tensors.values())
        assert held / GIB == pytest.approx(published_gib[role], rel=0.05), role
    metadata = {"prism.version": "1"}
    files = {role: file(tensors, f"{role}.safetensors", metadata) for role, tensors in made.items()}
    assembly, config = put_together(files)
    assert (assembly.family, config.family) == ("prism", "prism")
    # One file of the same layers under the official names.
    whole = rotated_shapes(p.prism())
    assert sum(value.nbytes for value in whole.values()) / GIB == pytest.approx(30.83, rel=0.05)
    check(*configured(file(whole)))


def test_the_plan_counts_the_bytes_of_the_file(tmp_path: Path) -> None:
    tensors = {key: value.bfloat16() for key, value in p.weights(p.prism(*p.TINY_MOVA)).items()}
    path = Path(write(tmp_path / "prism.safetensors", tensors))
    weights = weights_of(load_model(str(path), {"dtype": torch.bfloat16}))
    in_file = sum(value.nbytes for value in tensors.values())
    assert weights.active + weights.idle == pytest.approx(in_file, rel=0.05)


def test_four_int8_files_run_as_prism(tmp_path: Path) -> None:
    tensors = p.weights(p.mova(*p.TINY_MOVA))
    whole = load_model(write(tmp_path / "whole.safetensors", tensors), FLOAT)
    paths = {}
    written: list[torch.Tensor] = []
    for role, part in PARTS.items():
        rotated = p.int8_rotated(take(dict(tensors), f"{part}."))
        written += rotated.values()
        paths[role] = write(tmp_path / f"{part}.safetensors", rotated, {"prism.component": part})
    prism = load_files(ModelPaths(**paths), {})
    assert prism.model.ccl_config.family == "prism"
    with torch.no_grad():
        for wanted, ours in zip(predictions(whole), predictions(prism), strict=True):
            # int8 has 127 steps to the largest value of a row, and bf16 beside it 8 bits.
            assert 1e-4 < (ours.float() - wanted).norm() / wanted.norm() < 0.03
    weights = weights_of(prism)
    # A CPU computes in float32, and holds in it what is in bf16 in the files.
    held = sum(value.nbytes * (2 if value.dtype is torch.bfloat16 else 1) for value in written)
    assert weights.active + weights.idle == pytest.approx(held, rel=0.01)


@pytest.mark.parametrize("marked", PARTS)
def test_one_file_with_the_metadata_is_enough(marked: str) -> None:
    tiny = {
        "video": p.wan(p.TINY_MOVA_VIDEO),
        "audio": p.audio_tower(p.TINY_MOVA_AUDIO),
        "interaction": p.bridge(*p.TINY_MOVA),
        "low_noise": p.wan(p.TINY_MOVA_VIDEO),
    }
    files = {
        role: file(shapes, metadata={"prism.component": role} if role == marked else None)
        for role, shapes in tiny.items()
    }
    _, config = put_together(files)
    assert (config.family, config.shift, config.audio_shift) == ("prism", 9.0, 7.0)
    plain = {role: file(shapes) for role, shapes in tiny.items()}
    assert put_together(plain)[1].family == "mova"


def test_prism_video_under_another_coupling_stays_what_the_coupling_is() -> None:
    files = on_wan()
    files["video"] = file(p.wan(p.TINY_WAN), metadata={"prism.component": "video_dit"})
    assert put_together(files)[1].family == "ccl"


def test_fp8_with_a_scale_per_row_is_refused_by_its_name() -> None:
    tensors = p.meta(p.prism(*p.TINY_MOVA))
    for key, value in list(tensors.items()):
        if p.is_matrix(key, value):
            tensors[key] = value.to(torch.float8_e4m3fn)
            tensors[f"{key}.prism_scale"] = torch.empty(value.shape[0], 1, device="meta")
    with pytest.raises(
        ValueError, match=r"^a\.safetensors holds 96 keys such as .*\.weight\.prism_scale: "
    ) as error:
        file(tensors, "a.safetensors")
    assert "a scale per row" in str(error.value) and "scripts/convert_model.py" in str(error.value)


def test_a_prism_bridge_alone_needs_no_metadata_beside_the_official_names() -> None:
    shapes = {key: shape for key, shape in p.prism(*p.TINY_MOVA).items() if "_conditioner." in key}
    assert file(shapes).content.description == "the bridge of Prism"


def test_it_is_sampled_as_published() -> None:
    sampling = PRISM.sampling
    assert (sampling.mode, sampling.steps, sampling.sampler_name) == ("cfg", 50, "euler")
    assert sampling.negative.endswith("多余的手指")
    assert FAMILIES["wan"].sampling.negative.startswith(sampling.negative)
    assert sampling.settings["text"].video == sampling.settings["text"].audio == 5.0
    assert (PRISM.published["shift"], PRISM.published["audio_shift"]) == (9.0, 7.0)


def test_each_stream_is_sampled_with_its_own_shift_without_another_node(tmp_path: Path) -> None:
    tensors = p.weights(p.prism(*p.TINY_MOVA))
    model = load_model(write(tmp_path / "prism.safetensors", tensors), FLOAT).model
    assert model.model_sampling.shift == 9.0 and model.audio_shift == 7.0
    # u .5: 9 * .5 / (1 + 8 * .5) = .9 for the video, 7 * .5 / (1 + 6 * .5) = .875 for the audio.
    sigma = model.model_sampling.percent_to_sigma(0.5)
    assert sigma == pytest.approx(0.9, abs=2e-3)
    shapes = [(1, 16, 1, 2, 2), (1, 128, 3)]
    video, audio = model.process_timestep(torch.tensor([sigma * 1000]), latent_shapes=shapes)
    assert float(video) == pytest.approx(900, abs=2)
    assert float(audio) == pytest.approx(875, abs=2)


@pytest.mark.parametrize("preset", PRISM.presets, ids=lambda preset: preset.title)
def test_sizes_are_those_of_its_grid(tmp_path: Path, preset: Any) -> None:
    tensors = p.weights(p.prism(*p.TINY_MOVA))
    model = load_model(write(tmp_path / "prism.safetensors", tensors), FLOAT)
    sized = size_av(
        model_grid(model), width=preset.width, height=preset.height, frames=preset.frames, fps=None
    )
    assert (sized.width, sized.height, sized.frames) == (preset.width, preset.height, 205)
    # 205 frames are 52 latent frames; 8.54 s are 428 audio tokens.
    assert (sized.latent_frames, sized.audio_tokens) == (52, 428)


def test_each_size_can_be_had_upright_and_the_usual_one_lies_down() -> None:
    sizes = [(preset.width, preset.height) for preset in PRISM.presets]
    assert sizes[0] == (848, 480)
    assert {(height, width) for width, height in sizes} == set(sizes) and len(sizes) == 8


LORA_NAMES = {
    "fusion_blocks.1.video_block.self_attn.q": "blocks.1.self_attn.q",
    "remaining_video_blocks.0.ffn.0": "blocks.2.ffn.0",
    "fusion_blocks.0.audio_block.ffn.2": "audio.blocks.0.ffn.2",
    "fusion_blocks.1.a2v_conditioner.inner.q": "interaction.1.a2v.q",
    "fusion_blocks.0.v2a_conditioner.inner.o": "interaction.0.v2a.o",
    "video_dit.time_embedding.0": "time_embedding.0",
    "audio_dit.time_projection.1": "audio.time_projection.1",
    "video_dit_2.blocks.2.ffn.2": "low_noise.blocks.2.ffn.2",
    "dual_tower_bridge.audio_to_video_conditioners.1.inner.v": "interaction.1.a2v.v",
}


def pair(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    rows, columns = weight.shape
    return {f"{name}.lora_A.weight": torch.ones(1, columns), f"{name}.lora_B.weight": torch.ones(rows, 1)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelPatcher:
    path = tmp_path_factory.mktemp("prism") / "prism.safetensors"
    return load_model(write(path, p.weights(p.prism(*p.TINY_MOVA))), FLOAT)


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "base_model.model."])
def test_a_lora_of_all_parts_reaches_each_weight(tmp_path: Path, model: ModelPatcher, prefix: str) -> None:
    sd = model.model.diffusion_model.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    for theirs, ours in LORA_NAMES.items():
        tensors |= pair(prefix + theirs, sd[f"{ours.removeprefix('low_noise.')}.weight"])
    patched = apply_lora(model, write(tmp_path / "lora.safetensors", tensors), Strengths())
    high = {key.removeprefix("diffusion_model.").removesuffix(".weight") for key in patched.patches}
    low = low_noise_of(patched).patches
    assert high == {ours for ours in LORA_NAMES.values() if not ours.startswith("low_noise.")}
    assert list(low) == ["diffusion_model.blocks.2.ffn.2.weight"]


def test_a_lora_with_flat_names_reaches_each_weight(tmp_path: Path, model: ModelPatcher) -> None:
    sd = model.model.diffusion_model.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    for theirs, ours in LORA_NAMES.items():
        down, up = pair("", sd[f"{ours.removeprefix('low_noise.')}.weight"]).values()
        name = f"lora_unet_{theirs.replace('.', '_')}"
        tensors |= {
            f"{name}.lora_down.weight": down,
            f"{name}.lora_up.weight": up,
            f"{name}.alpha": torch.ones(()),
        }
    patched = apply_lora(model, write(tmp_path / "lora.safetensors", tensors), Strengths())
    assert len(patched.patches) + len(low_noise_of(patched).patches) == len(LORA_NAMES)


def test_a_lora_of_prism_reaches_the_bridge_of_a_mova_model(tmp_path: Path) -> None:
    mova = load_model(write(tmp_path / "mova.safetensors", p.weights(p.mova(*p.TINY_MOVA))), FLOAT)
    weight = mova.model.diffusion_model.state_dict()["interaction.1.a2v.q.weight"]
    path = write(tmp_path / "lora.safetensors", pair("fusion_blocks.1.a2v_conditioner.inner.q", weight))
    patched = apply_lora(mova, path, Strengths())
    assert list(patched.patches) == ["diffusion_model.interaction.1.a2v.q.weight"]


def test_a_lora_name_means_what_the_loader_makes_of_it(model: ModelPatcher) -> None:
    renames = PRISM.renames_of(p.prism(*p.TINY_MOVA))
    names = key_map(model.model, experts=True)
    published = {key.removesuffix(".weight") for key in p.prism(*p.TINY_MOVA) if key.endswith(".weight")}
    found = {name: names[name] for name in published if name in names}
    # Norms beside LayerNorm's have no weight that a LoRA would reach under another name.
    assert found.keys() == published
    for name, target in found.items():
        ours = target.removeprefix(f"{HIGH.replace(' ', '_')}.").replace("diffusion_model.", "")
        assert rename(f"{name}.weight", renames) == ours


def test_a_lora_of_wan_reaches_both_experts(tmp_path: Path, model: ModelPatcher) -> None:
    weight = model.model.diffusion_model.state_dict()["blocks.2.ffn.0.weight"]
    path = write(tmp_path / "wan.safetensors", pair("diffusion_model.blocks.2.ffn.0", weight))
    patched = apply_lora(model, path, Strengths())
    assert list(patched.patches) == list(low_noise_of(patched).patches)
