"""quantised.py: layers that the host would read wrongly, or fall over, are named."""

from __future__ import annotations

import json

import pytest
import torch

from ccl_pack.ccl_core.host.files.quantised import check_layers


def layer(form: str, *suffixes: str) -> dict[str, torch.Tensor]:
    mark = torch.tensor(list(json.dumps({"format": form}).encode()), dtype=torch.uint8)
    return {"a.weight": torch.zeros(2, 2), "a.comfy_quant": mark} | {
        f"a.{name}": torch.ones(()) for name in suffixes
    }


@pytest.mark.parametrize(
    "sd",
    [
        {"a.weight": torch.zeros(2)},
        layer("float8_e4m3fn", "weight_scale"),
        layer("float8_e4m3fn", "weight_scale", "input_scale"),
        layer("nvfp4", "weight_scale", "weight_scale_2", "pre_quant_scale"),
        layer("int8_tensorwise", "weight_scale"),
    ],
)
def test_whole_layers_pass(sd: dict[str, torch.Tensor]) -> None:
    check_layers(sd, "a.safetensors")


@pytest.mark.parametrize(
    ("sd", "words"),
    [
        (
            layer("float8_e4m3fn"),
            r"a\.safetensors lacks a\.weight_scale, a scale of a layer in float8_e4m3fn",
        ),
        (layer("nvfp4", "weight_scale"), r"lacks a\.weight_scale_2"),
        (
            layer("fp3", "weight_scale"),
            "in the format 'fp3', this ComfyUI knows float8_e4m3fn.*update ComfyUI",
        ),
        (
            {"a.weight": torch.zeros(2), "a.weight_scale": torch.ones(())},
            r"holds a\.weight_scale, and nothing says",
        ),
        (
            {"a.weight": torch.zeros(2), "a.scale_weight": torch.ones(())},
            r"holds a\.scale_weight, and nothing says",
        ),
        (
            {"a.weight_scale": torch.ones(()), "a.comfy_quant": torch.tensor([123], dtype=torch.uint8)},
            "is not the JSON of a format",
        ),
        (
            {"a.weight_scale": torch.ones(()), "a.comfy_quant": torch.tensor(list(b"3"), dtype=torch.uint8)},
            "is not the JSON of a format",
        ),
    ],
)
def test_faults_are_named(sd: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_layers(sd, "a.safetensors")


@pytest.mark.parametrize("form", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("shape", [(2, 1), (2,), (0,)])
def test_fp8_with_a_scale_per_row_is_refused(form: str, shape: tuple[int, ...]) -> None:
    scaled = layer(form) | {"a.weight_scale": torch.ones(shape)}
    with pytest.raises(
        ValueError, match=r"a\.safetensors: a\.weight_scale has the shape .* wanted one number"
    ):
        check_layers(scaled, "a.safetensors")


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_fp8_with_one_scale_in_any_shape_passes(shape: tuple[int, ...]) -> None:
    check_layers(layer("float8_e4m3fn") | {"a.weight_scale": torch.ones(shape)}, "a.safetensors")


def test_int8_has_a_scale_per_row() -> None:
    check_layers(layer("int8_tensorwise") | {"a.weight_scale": torch.ones(2, 1)}, "a.safetensors")


def test_the_file_of_the_part_is_named() -> None:
    sd = {"audio.a.weight_scale": torch.ones(())}
    with pytest.raises(ValueError, match=r"^sound\.safetensors holds audio\.a\.weight_scale"):
        check_layers(sd, "a.safetensors", {"audio": "sound.safetensors"})
