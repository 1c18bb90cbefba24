"""Number formats through the real loading path: what a file stores is what the model computes with, under
every naming.

The files are written by the host's own quantiser. On the CPU the host computes with the dequantised weights
(fp8, nvfp4, mxfp8), which leaves rounding, or rounds the activations too (int8, convrot).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from safetensors.torch import save_file

from ccl_pack.ccl_core.config import CCLConfig
from ccl_pack.ccl_core.host.files.build import load_model
from ccl_pack.ccl_core.metadata import write_config
from support import upstream
from support.tiny import CONFIG, config, state_dict

WIDE = config(
    video=replace(CONFIG.video, dim=64, text_dim=32),
    audio=replace(CONFIG.audio, text_dim=32, ffn_dim=64),
)
LAYOUTS = {
    "ccl": (WIDE, lambda key: key),
    "ovi": (upstream.ovi_config(64), upstream.ovi_name),
    "mova": (upstream.mova_config(), upstream.mova_name),
}
# Largest relative error (of the norm) of one forward pass; that of the weights alone is given behind.
PLAIN = {
    torch.bfloat16: 0.01,  # 0.002
    torch.float16: 0.001,  # 0.0002
    torch.float8_e4m3fn: 0.1,  # 0.03, every tensor without a scale
    torch.float8_e5m2: 0.25,  # 0.05
}
QUANTISED = {
    "float8_e4m3fn": 0.08,  # 0.03
    "float8_e5m2": 0.15,  # 0.05
    "mxfp8": 0.08,  # 0.03
    "nvfp4": 0.3,  # 0.1
    "int8_tensorwise": 0.03,  # 0.01
}
SCALED = (
    "float8_e4m3fn",
    "float8_e5m2",
    "nvfp4",
)  # the quantiser works out their scale only when it is asked to
ROUNDING = 1e-6
INT8_ACTIVATIONS = 0.02  # what rounding the inputs of each layer to int8 adds


@dataclass(frozen=True)
class Quantised:
    """A state dict under our names, what stands beside its quantised weights, and the numbers that it
    means.
    """

    plain: dict[str, torch.Tensor]
    beside: dict[str, torch.Tensor]
    meant: dict[str, torch.Tensor]
    layers: list[str]


def is_matrix(key: str, value: torch.Tensor) -> bool:
    return (
        value.ndim == 2 and key.endswith(".weight") and ("blocks." in key or key.startswith("interaction."))
    )


def quantise(sd: dict[str, torch.Tensor], form: str, **options: Any) -> Quantised:
    plain, beside, meant, layers = {}, {}, {}, []
    scale = {"scale": "recalculate"} if form in SCALED else {}
    for key, value in sd.items():
        if not is_matrix(key, value):
            plain[key] = meant[key] = value
            continue
        weight = QuantizedTensor.from_float(
            value, QUANT_ALGOS[form]["comfy_tensor_layout"], **scale, **options
        )
        stored = {
            name: part.view(torch.uint8) if part.dtype is torch.float8_e8m0fnu else part
            for name, part in weight.state_dict(key).items()
        }
        plain[key], meant[key] = stored.pop(key), weight.dequantize()
        beside |= stored
        layers.append(key.removesuffix(".weight"))
    return Quantised(plain, beside, meant, layers)


def published(sd: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Under the names of a layout, with the shape of MOVA's audio patch embedding."""
    renamed = {LAYOUTS[name][1](key): value for key, value in sd.items()}
    patch = "audio_dit.patch_embedding.weight"
    return renamed | {patch: renamed[patch][..., 0, 0]} if patch in renamed else renamed


def file_of(path: Path, quantised: Quantised, name: str, form: str, style: str) -> str:
    """Write a quantised model in one of the three ways to say how its layers are quantised."""
    rename = LAYOUTS[name][1]
    layer_names = {layer: rename(f"{layer}.weight").removesuffix(".weight") for layer in quantised.layers}
    sd, metadata = published(quantised.plain, name), {}
    for key, value in quantised.beside.items():
        layer, suffix = key.rsplit(".", 1)
        sd[f"{layer_names[layer]}.{'scale_weight' if style == 'scaled_fp8' else suffix}"] = value
    entry = {"format": form}
    if style == "comfy_quant":
        mark = torch.tensor(list(json.dumps(entry).encode()), dtype=torch.uint8)
        sd |= {f"{layer}.comfy_quant": mark.clone() for layer in layer_names.values()}
    elif style == "metadata":
        layers = dict.fromkeys(layer_names.values(), entry)
        metadata["_quantization_metadata"] = json.dumps({"format_version": "1.0", "layers": layers})
    else:
        sd["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    return save(path, sd, LAYOUTS[name][0], metadata)


def save(
    path: Path, sd: dict[str, torch.Tensor], chosen: CCLConfig, metadata: dict[str, Any] | None = None
) -> str:
    sd = {key: value.contiguous() for key, value in sd.items()}
    save_file(sd, path, metadata={"ccl_config": write_config(chosen)} | (metadata or {}))
    return str(path)


def exact(path: Path, sd: dict[str, torch.Tensor], name: str) -> str:
    return save(path, published(sd, name), LAYOUTS[name][0])


def run(path: str, **options: Any) -> list[torch.Tensor]:
    """Both velocities, computed in the dtype that the host chose."""
    model = load_model(path, options).model
    chosen, dtype = model.ccl_config, model.manual_cast_dtype or model.get_dtype()
    generator = torch.Generator().manual_seed(9)
    latents = [
        torch.randn(1, chosen.video.in_dim, 2, 4, 4, generator=generator),
        torch.randn(1, chosen.audio.in_dim, 13, generator=generator),
    ]
    text = torch.randn(1, 4, chosen.video.text_dim, generator=generator)
    with torch.no_grad():
        made = model.diffusion_model(
            [latent.to(dtype) for latent in latents],
            torch.tensor([300.0]),
            text.to(dtype),
            transformer_options={},
        )
    return [value.float() for value in made]


def error(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True))


def weights(name: str) -> dict[str, torch.Tensor]:
    return state_dict(LAYOUTS[name][0], seed=3, std=0.03)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[torch.Tensor]]:
    """What each layout computes from its weights in float32."""
    folder = tmp_path_factory.mktemp("exact")
    return {name: run(exact(folder / f"{name}.safetensors", weights(name), name)) for name in LAYOUTS}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("dtype", PLAIN, ids=str)
def test_plain_formats(
    tmp_path: Path, reference: dict[str, list[torch.Tensor]], name: str, dtype: torch.dtype
) -> None:
    """Every tensor of the file in one format without scales, fp8 too, as published for Ovi."""
    stored = {key: value.to(dtype) for key, value in weights(name).items()}
    found = run(exact(tmp_path / "small.safetensors", stored, name))
    held = run(
        exact(tmp_path / "held.safetensors", {key: value.float() for key, value in stored.items()}, name)
    )
    assert error(found, held) < ROUNDING
    assert ROUNDING < error(found, reference[name]) < PLAIN[dtype]


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    ("form", "style"),
    [*((form, "comfy_quant") for form in QUANTISED), ("float8_e4m3fn", "metadata"), ("nvfp4", "metadata")],
)
def test_quantised_formats(
    tmp_path: Path, reference: dict[str, list[torch.Tensor]], name: str, form: str, style: str
) -> None:
    quantised = quantise(weights(name), form)
    assert len(quantised.layers) > 20
    found = run(file_of(tmp_path / "small.safetensors", quantised, name, form, style))
    held = run(exact(tmp_path / "held.safetensors", quantised.meant, name))
    assert error(found, held) < (INT8_ACTIVATIONS if form == "int8_tensorwise" else ROUNDING)
    assert ROUNDING < error(found, reference[name]) < QUANTISED[form]


@pytest.mark.parametrize("name", LAYOUTS)
def test_scaled_fp8_from_before_the_host_had_formats(tmp_path: Path, name: str) -> None:
    quantised = quantise(weights(name), "float8_e4m3fn")
    found = run(file_of(tmp_path / "small.safetensors", quantised, name, "float8_e4m3fn", "scaled_fp8"))
    assert error(found, run(exact(tmp_path / "held.safetensors", quantised.meant, name))) < ROUNDING


def test_quantised_weights_stay_small_in_memory(tmp_path: Path) -> None:
    quantised = quantise(weights("ovi"), "float8_e4m3fn")
    patcher = load_model(
        file_of(tmp_path / "small.safetensors", quantised, "ovi", "float8_e4m3fn", "comfy_quant")
    )
    model = patcher.model.diffusion_model
    for weight in (model.blocks[0].ffn[0].weight, model.interaction["0"].a2v.k.weight):
        assert isinstance(weight, QuantizedTensor)
        assert weight._qdata.dtype is torch.float8_e4m3fn


@pytest.mark.parametrize(
    ("form", "options", "bound"),
    [
        ("int8_tensorwise", {"per_channel": True}, 0.03),
        ("int8_tensorwise", {"per_channel": True, "convrot": True, "convrot_groupsize": 256}, 0.03),
        ("convrot_w4a4", {"convrot_groupsize": 256}, 0.5),  # activations in 4 bits too
    ],
    ids=["int8 by channel", "int8 rotated", "int4 rotated"],
)
def test_formats_of_wide_layers(tmp_path: Path, form: str, options: dict[str, Any], bound: float) -> None:
    """Rotations take groups of 256 channels."""
    chosen = config(
        video=replace(CONFIG.video, dim=256, ffn_dim=256, num_layers=2),
        audio=replace(CONFIG.audio, dim=256, ffn_dim=256),
    )
    sd = state_dict(chosen, seed=3, std=0.01)
    quantised = quantise(sd, form, **options)
    entry = {"format": form} | {key: value for key, value in options.items() if key.startswith("convrot")}
    mark = torch.tensor(list(json.dumps(entry).encode()), dtype=torch.uint8)
    small = (
        quantised.plain
        | quantised.beside
        | {f"{layer}.comfy_quant": mark.clone() for layer in quantised.layers}
    )
    found = run(save(tmp_path / "small.safetensors", small, chosen))
    assert ROUNDING < error(found, run(save(tmp_path / "exact.safetensors", sd, chosen))) < bound


@pytest.mark.parametrize(
    ("name", "dtype", "bound"),
    [
        ("ccl", torch.bfloat16, 0.03),
        ("ovi", torch.bfloat16, 0.03),
        ("mova", torch.bfloat16, 0.03),
        ("ccl", torch.float16, 0.004),
        ("ccl", torch.float8_e4m3fn, 0.1),
        ("ovi", torch.float8_e4m3fn, 0.1),
        ("mova", torch.float8_e5m2, 0.25),
    ],
)
def test_chosen_weight_dtype(
    tmp_path: Path, reference: dict[str, list[torch.Tensor]], name: str, dtype: torch.dtype, bound: float
) -> None:
    """The loader's choice: bfloat16 and float16 also compute in it, fp8 only keeps the weights in it."""
    path = exact(tmp_path / "exact.safetensors", weights(name), name)
    patcher = load_model(path, {"dtype": dtype})
    assert patcher.model.diffusion_model.blocks[1].ffn[2].weight.dtype is dtype
    assert ROUNDING < error(run(path, dtype=dtype), reference[name]) < bound


@pytest.mark.parametrize("name", ["ovi", "mova"])
def test_float16_is_refused_where_it_overflows(tmp_path: Path, name: str) -> None:
    path = exact(tmp_path / "exact.safetensors", weights(name), name)
    with pytest.raises(ValueError, match=r"cannot run in fp16.*choose default, bf16 or fp8"):
        load_model(path, {"dtype": torch.float16})


@pytest.mark.parametrize("form", ["nvfp4", "mxfp8", "int8_tensorwise", "float8_e4m3fn"])
def test_a_lost_scale_is_said(tmp_path: Path, form: str) -> None:
    quantised = quantise(weights("mova"), form)
    del quantised.beside["blocks.1.self_attn.k.weight_scale"]
    path = file_of(tmp_path / "small.safetensors", quantised, "mova", form, "comfy_quant")
    with pytest.raises(ValueError, match=r"blocks\.1\.self_attn\.k"):
        load_model(path)
