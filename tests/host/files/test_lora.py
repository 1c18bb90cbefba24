"""LoRA on the joint model: every naming against W + strength * alpha / rank * B A by hand, and the host's
plain Wan.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.utils
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from safetensors.torch import save_file

import nodes as host_nodes
from ccl_pack.ccl_core.config import BridgeOptions, CCLConfig, FusionOptions, InteractionConfig
from ccl_pack.ccl_core.host.experts import attach_low_noise, low_noise_of
from ccl_pack.ccl_core.host.files.lora import (
    BOTH,
    EXPERTS,
    HIGH,
    LOW,
    Strengths,
    apply_lora,
    key_map,
    read_lora,
)
from ccl_pack.ccl_core.host.files.translate import rename
from ccl_pack.ccl_core.notices import LOGGER
from support import tiny

RANK, ALPHA = 4, 3.0
OVI = tiny.config(
    interaction=InteractionConfig("fusion", (0, 1), FusionOptions()),
    audio=replace(tiny.CONFIG.audio, stem_dim=16),
    family="ovi",
)
MOVA = tiny.config(interaction=InteractionConfig("bridge", (0, 1), BridgeOptions()), family="mova")
CONFIGS = {"cca": tiny.CONFIG, "fusion": OVI, "bridge": MOVA}
FULL = Strengths()


@pytest.fixture(scope="module")
def models() -> dict[str, ModelPatcher]:
    return {name: make(config) for name, config in CONFIGS.items()}


def make(config: CCLConfig, **more: Any) -> ModelPatcher:
    fields = ("interaction", "audio", "video", "family")
    return tiny.patcher(**{field: getattr(config, field) for field in fields}, **more)


def factors(weight: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A (r, in) and B (out, r)."""
    generator = torch.Generator().manual_seed(seed)
    rows = weight.flatten(1) if weight.ndim > 1 else weight[:, None]
    return torch.randn(RANK, rows.shape[1], generator=generator), torch.randn(
        rows.shape[0], RANK, generator=generator
    )


SPELLINGS = {
    "lora_A.weight": (".lora_A.weight", ".lora_B.weight"),
    "lora_A.default.weight": (".lora_A.default.weight", ".lora_B.default.weight"),
    "lora_A": (".lora_A", ".lora_B"),
    "lora_down": (".lora_down.weight", ".lora_up.weight"),
    "lora.down": (".lora.down.weight", ".lora.up.weight"),
    "_lora.down": ("_lora.down.weight", "_lora.up.weight"),
    "lora_linear_layer": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
}


def entry(
    name: str, weight: torch.Tensor, spelling: str = "lora_A.weight", seed: int = 0, alpha: bool = True
) -> dict:
    down, up = SPELLINGS[spelling]
    a, b = factors(weight, seed)
    return {name + down: a, name + up: b} | ({name + ".alpha": torch.tensor(ALPHA)} if alpha else {})


def by_hand(weight: torch.Tensor, strength: float = 1.0, seed: int = 0, alpha: float = ALPHA) -> torch.Tensor:
    a, b = factors(weight, seed)
    return weight + strength * alpha / RANK * (b @ a).reshape(weight.shape)


def weight_of(patcher: ModelPatcher, key: str) -> torch.Tensor:
    """The weight as the host patches it."""
    return patcher.patch_weight_to_device(f"diffusion_model.{key}", return_weight=True)


def original(patcher: ModelPatcher, key: str) -> torch.Tensor:
    return patcher.model.state_dict()[f"diffusion_model.{key}"].float()


def save(tmp_path: Path, tensors: dict, metadata: dict | None = None, name: str = "lora.safetensors") -> str:
    save_file(tensors, tmp_path / name, metadata=metadata)
    return str(tmp_path / name)


def host_wan(change: Callable[..., Any] = dict) -> comfy.model_patcher.ModelPatcher:
    """The host's plain Wan with the video weights of the tiny model."""
    sd = change(tiny.state_dict(tiny.CONFIG))
    video = tiny.CONFIG.video
    sizes = (
        "in_dim",
        "out_dim",
        "dim",
        "ffn_dim",
        "num_heads",
        "num_layers",
        "text_dim",
        "freq_dim",
        "model_type",
    )
    unet = {"image_model": "wan2.1"} | {name: getattr(video, name) for name in sizes}
    config = comfy.supported_models.WAN21_T2V(unet)
    config.quant_config = comfy.utils.detect_layer_quantization(sd, "")
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    model.load_model_weights(
        {k: v for k, v in sd.items() if not k.startswith(("audio.", "interaction."))}, ""
    )
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


WAN_KEYS = (
    "blocks.0.self_attn.q",
    "blocks.1.cross_attn.v",
    "blocks.2.ffn.0",
    "text_embedding.2",
    "head.head",
)


def of_wan(prefix: str, spelling: str = "lora_A.weight", flat: bool = False) -> dict:
    sd, tensors = tiny.state_dict(tiny.CONFIG), {}
    for seed, key in enumerate(WAN_KEYS):
        name = prefix + (key.replace(".", "_") if flat else key)
        tensors |= entry(name, sd[f"{key}.weight"], spelling, seed)
    return tensors


def lokr(prefix: str) -> dict:
    """All WAN_KEYS as LoKr, W1 (x) W2."""
    generator, tensors = torch.Generator().manual_seed(3), {}
    sd = tiny.state_dict(tiny.CONFIG)
    for key in WAN_KEYS:
        rows, columns = sd[f"{key}.weight"].shape
        name = prefix + key.replace(".", "_")
        tensors[f"{name}.lokr_w1"] = torch.randn(4, 4, generator=generator)
        tensors[f"{name}.lokr_w2"] = torch.randn(rows // 4, columns // 4, generator=generator)
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    return tensors


def loha(prefix: str) -> dict:
    generator, tensors = torch.Generator().manual_seed(4), {}
    sd = tiny.state_dict(tiny.CONFIG)
    for key in WAN_KEYS:
        rows, columns = sd[f"{key}.weight"].shape
        for number in (1, 2):
            tensors[f"{prefix}{key}.hada_w{number}_a"] = torch.randn(rows, RANK, generator=generator)
            tensors[f"{prefix}{key}.hada_w{number}_b"] = torch.randn(RANK, columns, generator=generator)
        tensors[f"{prefix}{key}.alpha"] = torch.tensor(ALPHA)
    return tensors


def dora(prefix: str) -> dict:
    sd = tiny.state_dict(tiny.CONFIG)
    scales = {
        f"{prefix}{key}.dora_scale": 1.0 + torch.rand(1, sd[f"{key}.weight"].shape[1]) for key in WAN_KEYS
    }
    return of_wan(prefix) | scales


def lightx2v(prefix: str) -> dict:
    """Low-rank pairs, differences of biases and of norms, as distillation LoRAs of Wan have them."""
    sd = tiny.state_dict(tiny.CONFIG)
    tensors = of_wan(prefix, "lora_down")
    for key in ("self_attn.q", "cross_attn.o", "ffn.2"):
        tensors[f"{prefix}blocks.1.{key}.diff_b"] = torch.randn(sd[f"blocks.1.{key}.bias"].shape)
    for key in ("self_attn.norm_q", "cross_attn.norm_k", "norm3"):
        tensors[f"{prefix}blocks.1.{key}.diff"] = torch.randn(sd[f"blocks.1.{key}.weight"].shape)
    return tensors | {f"{prefix}patch_embedding.diff": torch.randn(sd["patch_embedding.weight"].shape)}


HOST_FILES = {
    **{f"generic, {spelling}": of_wan("diffusion_model.", spelling) for spelling in SPELLINGS},
    "kohya": of_wan("lora_unet_", "lora_down", flat=True),
    "Fun": of_wan("lora_unet__", "lora_down", flat=True)
    | entry("lora_unet__blocks_0_cross_attn_k", torch.empty(48, 48), "lora_down"),
    "lokr": lokr("lora_unet_"),
    "loha": loha("diffusion_model."),
    "dora": dora("diffusion_model."),
    "lightx2v": lightx2v("diffusion_model."),
    "modulation": {"diffusion_model.blocks.1.modulation.diff": torch.randn(1, 6, 48)},
}


@pytest.mark.parametrize("strength", [1.0, -0.4])
@pytest.mark.parametrize("naming", HOST_FILES)
def test_a_wan_lora_is_what_the_host_makes_of_it_on_plain_wan(
    tmp_path: Path, models: dict[str, ModelPatcher], naming: str, strength: float
) -> None:
    path = save(tmp_path, HOST_FILES[naming])
    theirs, _ = comfy.sd.load_lora_for_models(host_wan(), None, dict(HOST_FILES[naming]), strength, 0)
    ours = apply_lora(models["cca"], path, Strengths(strength, strength, strength))
    assert set(ours.patches) == set(theirs.patches) != set()
    for key in ours.patches:
        key = key.removeprefix("diffusion_model.")
        assert torch.equal(weight_of(ours, key), weight_of(theirs, key))
        assert not torch.equal(weight_of(ours, key), original(models["cca"], key))


@pytest.mark.parametrize("naming", HOST_FILES)
def test_the_hosts_own_loader_does_the_same(models: dict[str, ModelPatcher], naming: str) -> None:
    """LoraLoaderModelOnly, for files with the names that it reads on Wan."""
    ours, _ = comfy.sd.load_lora_for_models(models["cca"], None, dict(HOST_FILES[naming]), 1.0, 0)
    theirs, _ = comfy.sd.load_lora_for_models(host_wan(), None, dict(HOST_FILES[naming]), 1.0, 0)
    assert set(ours.patches) == set(theirs.patches) != set()
    for key in ours.patches:
        key = key.removeprefix("diffusion_model.")
        assert torch.equal(weight_of(ours, key), weight_of(theirs, key))


def test_the_hosts_own_loader_reads_our_names(models: dict[str, ModelPatcher]) -> None:
    tensors = of_all_parts(models["bridge"])
    patched, _ = comfy.sd.load_lora_for_models(models["bridge"], None, tensors, 1.0, 0)
    for seed, key in enumerate(PARTS.values()):
        wanted = by_hand(original(models["bridge"], f"{key}.weight"), seed=seed)
        torch.testing.assert_close(weight_of(patched, f"{key}.weight"), wanted)


# Of other trainers, unknown to the host on Wan: kind of model, name in the file, weight.
DIFFUSERS = [
    ("blocks.1.attn1.to_q", "blocks.1.self_attn.q"),
    ("blocks.1.attn1.to_out.0", "blocks.1.self_attn.o"),
    ("blocks.1.attn1.norm_k", "blocks.1.self_attn.norm_k"),
    ("blocks.0.attn2.to_k", "blocks.0.cross_attn.k"),
    ("blocks.0.attn2.to_v", "blocks.0.cross_attn.v"),
    ("blocks.0.norm2", "blocks.0.norm3"),
    ("blocks.2.ffn.net.0.proj", "blocks.2.ffn.0"),
    ("blocks.2.ffn.net.2", "blocks.2.ffn.2"),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("patch_embedding", "patch_embedding"),
    ("proj_out", "head.head"),
]
BRIDGE_WEIGHTS = [
    (f"dual_tower_bridge.{side}.1.inner.{weight}", f"interaction.1.{ours}.{weight}")
    for side, ours in (("audio_to_video_conditioners", "a2v"), ("video_to_audio_conditioners", "v2a"))
    for weight in ("q", "k", "v", "o", "norm_q", "norm_k")
]
NAMES = [
    *[
        ("cca", prefix + "blocks.0.self_attn.q", "blocks.0.self_attn.q")
        for prefix in ("", "model.diffusion_model.", "model.", "transformer.", "base_model.model.")
    ],
    ("cca", "lora_transformer_blocks_0_self_attn_q", "blocks.0.self_attn.q"),
    ("cca", "lycoris_blocks_0_self_attn_q", "blocks.0.self_attn.q"),
    *[("cca", "transformer." + name, key) for name, key in DIFFUSERS],
    *[("cca", "base_model.model." + name, key) for name, key in DIFFUSERS[:1]],
    *[("cca", "lycoris_" + name.replace(".", "_"), key) for name, key in DIFFUSERS[:2]],
    *[
        ("cca", f"{prefix}{key}", key)
        for prefix in ("", "diffusion_model.", "transformer.")
        for key in (
            "audio.blocks.1.ffn.0",
            "audio.patch_embedding",
            "interaction.0.a2v.q",
            "interaction.1.v2a.o",
        )
    ],
    ("cca", "lora_unet_audio_blocks_1_ffn_0", "audio.blocks.1.ffn.0"),
    ("cca", "lora_unet_interaction_0_a2v_q", "interaction.0.a2v.q"),
    *[
        ("fusion", prefix + name, key)
        for prefix in ("", "diffusion_model.", "transformer.", "model.")
        for name, key in (
            ("video_model.blocks.0.self_attn.q", "blocks.0.self_attn.q"),
            ("video_model.blocks.1.cross_attn.q", "blocks.1.cross_attn.q"),
            ("video_model.blocks.1.cross_attn.o", "blocks.1.cross_attn.o"),
            ("video_model.blocks.1.cross_attn.k_fusion", "interaction.1.a2v.k"),
            ("video_model.blocks.1.cross_attn.v_fusion", "interaction.1.a2v.v"),
            ("video_model.blocks.1.cross_attn.pre_attn_norm_fusion", "interaction.1.a2v.norm_y"),
            ("video_model.blocks.1.cross_attn.norm_k_fusion", "interaction.1.a2v.norm_k"),
            ("audio_model.blocks.1.ffn.2", "audio.blocks.1.ffn.2"),
            ("audio_model.blocks.1.cross_attn.k_fusion", "interaction.1.v2a.k"),
            ("audio_model.blocks.1.cross_attn.v_fusion", "interaction.1.v2a.v"),
            ("audio_model.patch_embedding.0", "audio.patch_embedding.0"),
            ("audio_model.patch_embedding.2.w1", "audio.patch_embedding.2.w1"),
            ("blocks.1.cross_attn.k_fusion", "interaction.1.a2v.k"),  # split files: video names at the root
            ("blocks.1.cross_attn.q", "blocks.1.cross_attn.q"),
        )
    ],
    ("fusion", "lora_unet_audio_model_blocks_0_cross_attn_v_fusion", "interaction.0.v2a.v"),
    *[
        ("bridge", prefix + name, key)
        for prefix in ("", "diffusion_model.")
        for name, key in (
            ("video_dit.blocks.0.self_attn.q", "blocks.0.self_attn.q"),
            ("audio_dit.blocks.1.cross_attn.o", "audio.blocks.1.cross_attn.o"),
            ("audio_dit.patch_embedding", "audio.patch_embedding"),
            *BRIDGE_WEIGHTS,
            ("dual_tower_bridge.video_to_audio_conditioners.0.y_norm", "interaction.0.v2a.norm_y"),
        )
    ],
]


@pytest.mark.parametrize(("kind", "name", "key"), NAMES)
def test_every_name_patches_its_weight_as_by_hand(
    tmp_path: Path, models: dict[str, ModelPatcher], kind: str, name: str, key: str
) -> None:
    weight = original(models[kind], f"{key}.weight")
    path = save(tmp_path, entry(name, weight))
    patched = apply_lora(models[kind], path, Strengths(0.7, 0.7, 0.7))
    assert set(patched.patches) == {f"diffusion_model.{key}.weight"}
    torch.testing.assert_close(weight_of(patched, f"{key}.weight"), by_hand(weight, 0.7))
    assert not models[kind].patches


@pytest.mark.parametrize("name", ["blocks.1.scale_shift_table", "video_model.blocks.1.modulation.modulation"])
def test_modulation_under_other_names(tmp_path: Path, models: dict[str, ModelPatcher], name: str) -> None:
    diff = torch.randn(1, 6, 48)
    patched = apply_lora(models["fusion"], save(tmp_path, {f"{name}.diff": diff}), FULL)
    wanted = original(models["fusion"], "blocks.1.modulation") + diff
    torch.testing.assert_close(weight_of(patched, "blocks.1.modulation"), wanted)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("experts", [False, True])
def test_no_name_means_two_weights(models: dict[str, ModelPatcher], kind: str, experts: bool) -> None:
    """As many names as all weights have of their own: a name that two share would be missing."""
    model = models[kind].model
    names = key_map(model, experts)
    assert set(names) >= set(comfy.lora.model_lora_keys_unet(model, {}))
    reached = {target.removeprefix("low_noise.").removeprefix("high_noise.") for target in names.values()}
    assert reached == {key for key in model.state_dict() if key.startswith("diffusion_model.")}
    for key in reached:
        own = key.removesuffix(".weight")
        assert names[own] == key


@pytest.mark.parametrize(
    ("kind", "prefixes"),
    [
        ("fusion", ("video_model.", "audio_model.", "blocks.")),
        ("bridge", ("video_dit.", "video_dit_2.", "audio_dit.", "dual_tower_bridge.")),
    ],
)
def test_published_names_are_those_of_the_checkpoints(
    models: dict[str, ModelPatcher], kind: str, prefixes: tuple[str, ...]
) -> None:
    """What the loader of the published files makes of a name, the LoRA makes of it too."""
    diffusers = tuple(
        f"blocks.{i}.{name}" for i in range(3) for name in ("attn", "norm2", "ffn.net", "scale_shift")
    )
    found = {
        name: target.removeprefix("high_noise.").replace("diffusion_model.", "")
        for name, target in key_map(models[kind].model, experts=True).items()
        if name.startswith(prefixes) and not name.startswith(diffusers)
    }
    assert len(found) > 100 and {name.split(".")[0] + "." for name in found} == set(prefixes)
    for name, target in found.items():
        suffix = ".weight" if target.endswith(".weight") else ""
        assert rename(name + suffix) == target


PARTS = {"video": "blocks.0.ffn.0", "audio": "audio.blocks.0.ffn.0", "coupling": "interaction.0.a2v.v"}


def of_all_parts(patcher: ModelPatcher) -> dict:
    """One pair for each part, in our names."""
    tensors = {}
    for seed, key in enumerate(PARTS.values()):
        tensors |= entry(f"diffusion_model.{key}", original(patcher, f"{key}.weight"), seed=seed)
    return tensors


@pytest.mark.parametrize("kind", CONFIGS)
def test_each_part_has_its_strength(tmp_path: Path, models: dict[str, ModelPatcher], kind: str) -> None:
    path = save(tmp_path, of_all_parts(models[kind]))
    strengths = {"video": 0.5, "audio": -1.5, "coupling": 2.0}
    patched = apply_lora(models[kind], path, Strengths(**strengths))
    for seed, (part, key) in enumerate(PARTS.items()):
        wanted = by_hand(original(models[kind], f"{key}.weight"), strengths[part], seed)
        torch.testing.assert_close(weight_of(patched, f"{key}.weight"), wanted)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("muted", PARTS)
def test_a_muted_part_is_untouched(
    tmp_path: Path, models: dict[str, ModelPatcher], kind: str, muted: str
) -> None:
    path = save(tmp_path, of_all_parts(models[kind]))
    patched = apply_lora(models[kind], path, replace(FULL, **{muted: 0.0}))
    assert set(patched.patches) == {
        f"diffusion_model.{key}.weight" for part, key in PARTS.items() if part != muted
    }


def test_ovis_query_and_output_of_text_attention_are_video_and_the_fusion_is_coupling(
    tmp_path: Path, models: dict[str, ModelPatcher]
) -> None:
    names = ("q", "o", "k_fusion", "v_fusion")
    tensors = {}
    for name in names:
        key = f"interaction.0.a2v.{name[0]}" if "fusion" in name else f"blocks.0.cross_attn.{name}"
        tensors |= entry(
            f"video_model.blocks.0.cross_attn.{name}", original(models["fusion"], f"{key}.weight")
        )
    path = save(tmp_path, tensors)
    video = apply_lora(models["fusion"], path, Strengths(1.0, 0.0, 0.0))
    coupling = apply_lora(models["fusion"], path, Strengths(0.0, 0.0, 1.0))
    assert set(video.patches) == {f"diffusion_model.blocks.0.cross_attn.{name}.weight" for name in "qo"}
    assert set(coupling.patches) == {f"diffusion_model.interaction.0.a2v.{name}.weight" for name in "kv"}


def test_set_weight_of_a_muted_part_is_not_set(tmp_path: Path, models: dict[str, ModelPatcher]) -> None:
    """The host sets such weights whatever the strength."""
    tensors = {"diffusion_model.audio.blocks.0.norm3.set_weight": torch.zeros(32)} | of_all_parts(
        models["cca"]
    )
    patched = apply_lora(models["cca"], save(tmp_path, tensors), Strengths(1.0, 0.0, 1.0))
    assert not [key for key in patched.patches if ".audio." in key]


def test_two_in_a_row_add_up(tmp_path: Path, models: dict[str, ModelPatcher]) -> None:
    path, weight = (
        save(tmp_path, of_all_parts(models["cca"])),
        original(models["cca"], "blocks.0.ffn.0.weight"),
    )
    once = apply_lora(models["cca"], path, Strengths(0.5, 0.0, 0.0))
    twice = apply_lora(once, path, Strengths(0.25, 1.0, 0.0))
    torch.testing.assert_close(weight_of(twice, "blocks.0.ffn.0.weight"), by_hand(weight, 0.75))
    torch.testing.assert_close(weight_of(once, "blocks.0.ffn.0.weight"), by_hand(weight, 0.5))
    assert set(once.patches) == {"diffusion_model.blocks.0.ffn.0.weight"}


def test_strength_zero_everywhere_gives_the_model_itself(
    tmp_path: Path, models: dict[str, ModelPatcher]
) -> None:
    assert (
        apply_lora(models["cca"], str(tmp_path / "absent.safetensors"), Strengths(0.0, 0.0, 0.0))
        is models["cca"]
    )


def sample(model: ModelPatcher) -> list[torch.Tensor]:
    latent = tiny.av_latent()
    conds = tiny.conditioning(1), tiny.conditioning(2)
    return host_nodes.common_ksampler(model, 1, 6, 3.0, "euler", "simple", *conds, latent)[0][
        "samples"
    ].unbind()


def assert_same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def merged(weights: dict, tensors: dict, strengths: dict[str, float]) -> dict:
    """The weights with the pairs of `of_all_parts` multiplied in by hand."""
    done = dict(weights)
    for seed, (part, key) in enumerate(PARTS.items()):
        if f"diffusion_model.{key}.lora_A.weight" in tensors:
            done[f"{key}.weight"] = by_hand(weights[f"{key}.weight"], strengths[part], seed)
    return done


def test_a_run_is_that_of_a_model_with_the_weights_merged(tmp_path: Path) -> None:
    model, strengths = tiny.patcher(), {"video": 0.5, "audio": -0.5, "coupling": 1.0}
    tensors, before = of_all_parts(model), sample(model)
    patched = apply_lora(model, save(tmp_path, tensors), Strengths(**strengths))
    ours = sample(patched)
    assert_same(ours, sample(tiny.patcher(weights=merged(tiny.state_dict(tiny.CONFIG), tensors, strengths))))
    assert all((a - b).abs().max() > 1e-2 for a, b in zip(ours, before, strict=True))
    # Host and LoRA take their hands off the model itself.
    assert_same(sample(model), before)


def test_without_alpha_the_product_counts_in_full(tmp_path: Path, models: dict[str, ModelPatcher]) -> None:
    weight = original(models["cca"], "blocks.0.ffn.0.weight")
    patched = apply_lora(
        models["cca"], save(tmp_path, entry("diffusion_model.blocks.0.ffn.0", weight, alpha=False)), FULL
    )
    torch.testing.assert_close(weight_of(patched, "blocks.0.ffn.0.weight"), by_hand(weight, alpha=RANK))


@pytest.mark.parametrize("spelling", ["lora_A.weight", "lora_A.default.weight", "lora_A"])
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("video_dit.blocks.0.ffn.0", "blocks.0.ffn.0"),
        ("audio_dit.blocks.0.ffn.0", "audio.blocks.0.ffn.0"),
        ("dual_tower_bridge.audio_to_video_conditioners.0.inner.q", "interaction.0.a2v.q"),
    ],
)
def test_alpha_of_a_mova_lora_may_be_in_the_metadata(
    tmp_path: Path, models: dict[str, ModelPatcher], spelling: str, name: str, key: str
) -> None:
    weight = original(models["bridge"], f"{key}.weight")
    plain = entry(name, weight, spelling, alpha=False)
    patched = apply_lora(models["bridge"], save(tmp_path, plain, {"alpha": "8", "rank": "4"}), FULL)
    torch.testing.assert_close(weight_of(patched, f"{key}.weight"), by_hand(weight, alpha=8.0))
    # An alpha beside the pair is the nearer one.
    both = save(tmp_path, entry(name, weight, spelling), {"alpha": "8"}, "both.safetensors")
    torch.testing.assert_close(
        weight_of(apply_lora(models["bridge"], both, FULL), f"{key}.weight"), by_hand(weight)
    )


def test_alpha_in_the_metadata_of_a_wan_lora_is_left_alone_as_by_the_host(
    tmp_path: Path, models: dict[str, ModelPatcher]
) -> None:
    weight = original(models["cca"], "blocks.0.ffn.0.weight")
    tensors = entry("diffusion_model.blocks.0.ffn.0", weight, alpha=False)
    patched = apply_lora(models["cca"], save(tmp_path, tensors, {"alpha": "8"}), FULL)
    torch.testing.assert_close(weight_of(patched, "blocks.0.ffn.0.weight"), by_hand(weight, alpha=RANK))


def test_an_alpha_that_is_no_number_is_refused(tmp_path: Path, models: dict[str, ModelPatcher]) -> None:
    tensors = entry("video_dit.blocks.0.ffn.0", torch.empty(64, 48), alpha=False)
    with pytest.raises(
        ValueError, match=r"lora\.safetensors has the alpha 'eight' in its metadata, wanted a number"
    ):
        apply_lora(models["bridge"], save(tmp_path, tensors, {"alpha": "eight"}), FULL)


def warned_of(
    model: ModelPatcher, path: str, caplog: pytest.LogCaptureFixture
) -> tuple[list[str], list[str]]:
    """What the host's log says of a LoRA, and what the node shows."""
    with caplog.at_level(logging.WARNING):
        apply_lora(model, path, FULL)
    of_node = [record.message for record in caplog.records if record.name == LOGGER.name]
    return [record.message for record in caplog.records if record.name == "root"], of_node


def test_keys_that_mean_nothing_are_in_the_log_and_counted_on_the_node(
    tmp_path: Path, models: dict[str, ModelPatcher], caplog: pytest.LogCaptureFixture
) -> None:
    tensors = of_all_parts(models["cca"]) | entry("diffusion_model.blocks.99.ffn.0", torch.empty(64, 48))
    tensors["diffusion_model.blocks.0.diff_m"] = torch.zeros(1, 6, 48)
    log, of_node = warned_of(models["cca"], save(tmp_path, tensors), caplog)
    left = [f"diffusion_model.blocks.99.ffn.0.{name}" for name in ("alpha", "lora_A.weight", "lora_B.weight")]
    never_read = "diffusion_model.blocks.0.diff_m"
    assert sorted(log) == [f"lora key not loaded: {key}" for key in [never_read, *left]]
    assert len(of_node) == 1
    words = r"lora\.safetensors: 3 of its tensors fit no weight of this model and are left out, the first is "
    assert re.match(words, of_node[0]) and any(f"is {key}. What" in of_node[0] for key in left)


def test_a_bias_that_the_model_lacks_is_told(
    tmp_path: Path, models: dict[str, ModelPatcher], caplog: pytest.LogCaptureFixture
) -> None:
    lacking = "diffusion_model.blocks.0.self_attn.norm_q"
    tensors = of_all_parts(models["cca"]) | {f"{lacking}.diff_b": torch.zeros(48)}
    log, of_node = warned_of(models["cca"], save(tmp_path, tensors), caplog)
    assert log == [f"NOT LOADED {lacking}.bias"]
    assert (
        len(of_node) == 1
        and f": 1 of its tensors fit no weight of this model and are left out, the first is {lacking}.bias"
        in of_node[0]
    )


def test_a_pair_of_another_size_among_others_is_told(
    tmp_path: Path, models: dict[str, ModelPatcher], caplog: pytest.LogCaptureFixture
) -> None:
    key = "diffusion_model.blocks.1.ffn.0"
    tensors = of_all_parts(models["cca"]) | entry(key, torch.empty(96, 48))
    log, of_node = warned_of(models["cca"], save(tmp_path, tensors), caplog)
    assert log == [] and len(of_node) == 1 and f"the first is {key}.weight. What fits is used" in of_node[0]


@pytest.mark.parametrize("naming", HOST_FILES)
def test_nothing_is_told_of_a_file_that_fits(
    tmp_path: Path, models: dict[str, ModelPatcher], naming: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert warned_of(models["cca"], save(tmp_path, HOST_FILES[naming]), caplog) == ([], [])


def pair(*keys: str) -> dict[str, torch.Tensor]:
    return {key: torch.zeros(2, 2) for key in keys}


@pytest.mark.parametrize(
    ("gone", "without"),
    [
        (".lora_A.weight", ".lora_B.weight"),
        (".lora_B.weight", ".lora_A.weight"),
        ("_lora.down.weight", "_lora.up.weight"),
        (".lora_up.weight", ".lora_down.weight"),
        (".lora_B.default.weight", ".lora_A.default.weight"),
        (".lora_A", ".lora_B"),
        (".hada_w1_b", ".hada_w1_a"),
        (".lokr_w2_a", ".lokr_w2_b"),
    ],
)
@pytest.mark.parametrize("whole", [False, True], ids=["alone", "beside-a-whole-pair"])
def test_half_a_lora_is_called_so(
    tmp_path: Path, models: dict[str, ModelPatcher], gone: str, without: str, whole: bool
) -> None:
    layer = "diffusion_model.blocks.0.ffn.0"
    tensors = pair(layer + without)
    if whole:
        tensors |= entry("diffusion_model.blocks.1.ffn.0", torch.empty(64, 48))
    words = rf"^lora\.safetensors holds half of 1 of its pairs: {layer}{without} without {layer}{gone}\. The"
    with pytest.raises(ValueError, match=words):
        apply_lora(models["cca"], save(tmp_path, tensors), FULL)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            pair("lora_te_text_model.lora_up.weight", "lora_te_text_model.lora_down.weight"),
            "holds 2 tensors such as lora_te_text_model",
        ),
        (
            pair("double_blocks.0.proj.lora_A.weight", "double_blocks.0.proj.lora_B.weight"),
            "such as diffusion_model.blocks.0.self_attn.q",
        ),
        ({"x": torch.zeros(1)}, "holds 1 tensors such as x, and none is for a weight of this model"),
    ],
)
def test_a_file_of_which_nothing_matches_is_refused(
    tmp_path: Path, models: dict[str, ModelPatcher], tensors: dict[str, torch.Tensor], words: str
) -> None:
    with pytest.raises(ValueError, match=f"lora.safetensors.*{words}"):
        apply_lora(models["cca"], save(tmp_path, tensors), FULL)


def test_a_lora_for_another_width_is_refused(tmp_path: Path, models: dict[str, ModelPatcher]) -> None:
    tensors = entry("diffusion_model.blocks.0.ffn.0", torch.empty(96, 48))
    with pytest.raises(
        ValueError, match=r"another size: blocks\.0\.ffn\.0\.weight has 96 rows in it and 64 in this"
    ):
        apply_lora(models["cca"], save(tmp_path, tensors), FULL)


def test_one_pair_of_another_size_does_not_stop_the_others(
    tmp_path: Path, models: dict[str, ModelPatcher]
) -> None:
    """As in the host, which names it when it patches: image-to-video LoRAs differ from text-to-video in
    one weight.
    """
    weight = original(models["cca"], "blocks.0.ffn.0.weight")
    tensors = entry("diffusion_model.blocks.0.ffn.0", weight) | entry(
        "diffusion_model.head.head", torch.empty(96, 48)
    )
    patched = apply_lora(models["cca"], save(tmp_path, tensors), FULL)
    torch.testing.assert_close(weight_of(patched, "blocks.0.ffn.0.weight"), by_hand(weight))
    assert torch.equal(weight_of(patched, "head.head.weight"), original(models["cca"], "head.head.weight"))


def test_pickles_are_refused(tmp_path: Path, models: dict[str, ModelPatcher]) -> None:
    torch.save({"lora_state_dict": {}, "rank": 8, "alpha": 8}, tmp_path / "lora.pt")
    with pytest.raises(ValueError, match=r"lora\.pt is not a safetensors file.*lora_state_dict"):
        apply_lora(models["bridge"], str(tmp_path / "lora.pt"), FULL)
    (tmp_path / "lora.safetensors").write_bytes((tmp_path / "lora.pt").read_bytes())
    with pytest.raises(ValueError, match=r"lora\.safetensors is not a safetensors file but a pickle"):
        apply_lora(models["bridge"], str(tmp_path / "lora.safetensors"), FULL)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model: got WAN21, which has no audio stream.*use Load LoRA"):
        apply_lora(host_wan(), str(tmp_path / "lora.safetensors"), FULL)


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, models: dict[str, ModelPatcher]) -> None:
    path = save(tmp_path, of_all_parts(models["cca"]))
    first, _ = read_lora(path)
    before = {key: value.clone() for key, value in first.items()}
    apply_lora(models["cca"], path, FULL)
    assert read_lora(path)[0] is first
    assert set(first) == set(before) and all(torch.equal(first[key], before[key]) for key in before)
    save(tmp_path, entry("diffusion_model.blocks.0.ffn.0", torch.empty(64, 48)))
    os.utime(path, (1, 1))
    assert read_lora(path)[0] is not first


def test_a_fun_lora_leaves_the_cached_file_as_read(tmp_path: Path, models: dict[str, ModelPatcher]) -> None:
    path = save(tmp_path, HOST_FILES["Fun"])
    for _ in range(2):
        assert apply_lora(models["cca"], path, FULL).patches
    assert set(read_lora(path)[0]) == set(HOST_FILES["Fun"])


def test_metadata_is_attached_as_by_the_host(tmp_path: Path, models: dict[str, ModelPatcher]) -> None:
    path = save(tmp_path, of_all_parts(models["cca"]), {"trigger": "ohwx"})
    assert apply_lora(models["cca"], path, FULL).attachments["lora_metadata"] == {"trigger": "ohwx"}
    assert "lora_metadata" not in models["cca"].attachments


def two_experts(
    config: CCLConfig = MOVA,
) -> tuple[ModelPatcher, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A model with two video experts, the state dicts of both, in which audio and coupling are the same
    tensors.
    """
    high = tiny.state_dict(config)
    low = tiny.state_dict(config, seed=3) | {
        k: v for k, v in high.items() if k.startswith(("audio.", "interaction."))
    }
    model = make(config, weights=high)
    attach_low_noise(model, make(config, weights=low), 0.8)
    return model, high, low


def names_of(patcher: ModelPatcher) -> set[str]:
    return {key.removeprefix("diffusion_model.").removesuffix(".weight") for key in patcher.patches}


@pytest.mark.parametrize("expert", EXPERTS)
def test_the_video_part_goes_to_the_chosen_expert_and_the_rest_to_both(tmp_path: Path, expert: str) -> None:
    model, high, low = two_experts()
    tensors, strengths = of_all_parts(model), {"video": 0.5, "audio": -0.5, "coupling": 1.0}
    patched = apply_lora(model, save(tmp_path, tensors), Strengths(**strengths), expert)
    of_shared = {part: factor for part, factor in strengths.items() if part != "video"}
    high = merged(high, tensors, of_shared | {"video": 0.5 if expert in (BOTH, HIGH) else 0.0})
    low = merged(low, tensors, of_shared | {"video": 0.5 if expert in (BOTH, LOW) else 0.0})
    wanted = make(MOVA, weights=high)
    attach_low_noise(wanted, make(MOVA, weights=low), 0.8)
    ours = sample(patched)
    assert_same(ours, sample(wanted))
    assert (ours[0] - sample(model)[0]).abs().max() > 1e-2
    assert not model.patches and not low_noise_of(model).patches


def of_both_experts(model: ModelPatcher, key: str = "blocks.0.ffn.0") -> dict:
    weight = original(model, f"{key}.weight")
    return entry(f"video_dit.{key}", weight, seed=0) | entry(f"video_dit_2.{key}", weight, seed=1)


@pytest.mark.parametrize("expert", EXPERTS)
def test_names_of_movas_experts_reach_their_own(
    tmp_path: Path, expert: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, high, low = two_experts()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        patched = apply_lora(model, save(tmp_path, of_both_experts(model)), FULL, expert)
    assert not caplog.records
    for seed, (name, half, weights) in enumerate(((HIGH, patched, high), (LOW, low_noise_of(patched), low))):
        chosen = expert in (BOTH, name)
        wanted = weights["blocks.0.ffn.0.weight"]
        assert names_of(half) == ({"blocks.0.ffn.0"} if chosen else set())
        if chosen:
            torch.testing.assert_close(weight_of(half, "blocks.0.ffn.0.weight"), by_hand(wanted, seed=seed))


def test_low_noise_names_of_our_own(tmp_path: Path) -> None:
    model, _, low = two_experts()
    key = "blocks.0.ffn.0"
    tensors = entry(f"diffusion_model.low_noise.{key}", low[f"{key}.weight"])
    patched = apply_lora(model, save(tmp_path, tensors), FULL)
    assert not patched.patches
    torch.testing.assert_close(
        weight_of(low_noise_of(patched), f"{key}.weight"), by_hand(low[f"{key}.weight"])
    )


def test_one_expert_alone_takes_the_high_noise_names_and_reports_the_others(
    tmp_path: Path, models: dict[str, ModelPatcher], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        patched = apply_lora(models["bridge"], save(tmp_path, of_both_experts(models["bridge"])), FULL)
    assert names_of(patched) == {"blocks.0.ffn.0"}
    # Three of the host, and the notice of the node.
    assert len(caplog.records) == 4 and all(
        "video_dit_2.blocks.0.ffn.0" in each.message for each in caplog.records
    )


def test_a_file_for_the_other_expert_is_refused(tmp_path: Path) -> None:
    model, *_ = two_experts()
    path = save(tmp_path, entry("video_dit.blocks.0.ffn.0", torch.empty(64, 48)))
    with pytest.raises(ValueError, match=r"lora\.safetensors is for the other video expert than 'low noise'"):
        apply_lora(model, path, FULL, LOW)


def test_an_expert_that_the_model_does_not_have_is_refused(
    tmp_path: Path, models: dict[str, ModelPatcher]
) -> None:
    path = save(tmp_path, of_all_parts(models["bridge"]))
    with pytest.raises(
        ValueError, match="got 'low noise', but this model has one video expert: choose 'both'"
    ):
        apply_lora(models["bridge"], path, FULL, LOW)


def as_fp8(sd: dict) -> dict:
    """Matrices of the blocks in fp8 with a scale each, as the host's own quantised files hold them."""
    done = dict(sd)
    for key, weight in sd.items():
        if ("blocks." in key or "interaction." in key) and key.endswith(".weight") and weight.ndim == 2:
            scale = weight.abs().max() / 448
            layer = key.removesuffix(".weight")
            done[key] = (weight / scale).to(torch.float8_e4m3fn)
            done[f"{layer}.weight_scale"] = scale
            done[f"{layer}.comfy_quant"] = torch.tensor(
                list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8
            )
    return done


@pytest.mark.parametrize("naming", ["generic, lora_A.weight", "kohya", "lokr", "lightx2v"])
def test_on_quantised_weights_as_the_host_does_on_quantised_wan(tmp_path: Path, naming: str) -> None:
    """The host dequantises, patches and quantises again."""
    model = tiny.patcher(weights=as_fp8(tiny.state_dict(tiny.CONFIG)))
    assert isinstance(model.model.diffusion_model.blocks[0].self_attn.q.weight, QuantizedTensor)
    theirs, _ = comfy.sd.load_lora_for_models(host_wan(as_fp8), None, dict(HOST_FILES[naming]), 0.05, 0)
    ours = apply_lora(model, save(tmp_path, HOST_FILES[naming]), Strengths(0.05, 0.05, 0.05))
    assert set(ours.patches) == set(theirs.patches)
    for key in ours.patches:
        key = key.removeprefix("diffusion_model.")
        got, wanted = (dense(weight_of(patcher, key)) for patcher in (ours, theirs))
        assert torch.equal(got, wanted)
        assert not torch.equal(got, held(model, key))


def held(patcher: ModelPatcher, key: str) -> torch.Tensor:
    """A weight as it is without patches, dequantised."""
    return dense(comfy.utils.get_attr(patcher.model, f"diffusion_model.{key}"))


def dense(weight: torch.Tensor) -> torch.Tensor:
    return weight.dequantize() if isinstance(weight, QuantizedTensor) else weight


@pytest.mark.parametrize("part", PARTS)
def test_on_quantised_weights_as_by_hand(tmp_path: Path, part: str) -> None:
    model = tiny.patcher(weights=as_fp8(tiny.state_dict(tiny.CONFIG)))
    key = PARTS[part]
    weight = held(model, f"{key}.weight")
    patched = apply_lora(model, save(tmp_path, entry(f"diffusion_model.{key}", weight)), FULL)
    got, wanted = dense(weight_of(patched, f"{key}.weight")), by_hand(weight)
    # fp8 e4m3 keeps 3 bits behind the point, its steps near 0 are 2**-9 of the largest value's 448.
    assert ((got - wanted).abs() <= wanted.abs() / 8 + wanted.abs().max() / 448 * 2**-9).all()
    assert (wanted - weight).abs().max() > 1
