"""NaN in a prediction ends the run at its first step, with the likeliest cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from comfy.model_patcher import ModelPatcher

from ccl_pack.ccl_core.host.experts import attach_low_noise
from ccl_pack.ccl_core.host.files.build import load_model
from ccl_pack.ccl_core.host.files.values import all_finite, not_finite
from nodes import common_ksampler
from support.tiny import CONFIG, av_latent, conditioning, count_blocks, patcher, state_dict, write

WEIGHT = "blocks.1.ffn.0.weight"


def sample(model: ModelPatcher, positive: Any = None, negative: Any = None, steps: int = 4) -> Any:
    texts = (positive or conditioning(1), negative or conditioning(2))
    return common_ksampler(model, 1, steps, 3.0, "euler", "simple", *texts, av_latent())[0]["samples"]


def damaged(value: float = float("nan"), key: str = WEIGHT) -> dict[str, torch.Tensor]:
    weights = state_dict(CONFIG)
    weights[key].view(-1)[3] = value
    return weights


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", [WEIGHT, "audio.blocks.0.ffn.2.bias", "interaction.1.v2a.o.weight"])
def test_a_damaged_weight_is_named_after_one_pass(value: float, key: str) -> None:
    model = patcher(weights=damaged(value, key))
    calls = count_blocks(model.model.diffusion_model)
    with pytest.raises(
        ValueError, match=rf"1 weights of the model hold them, the first is {key}\. The file is"
    ):
        sample(model)
    assert calls["video"] == CONFIG.video.num_layers


def test_the_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "broken.safetensors")
    model = load_model(str(path))
    model.model.diffusion_model.get_parameter(WEIGHT).data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"1 weights of broken\.safetensors hold them"):
        sample(model)


def test_a_damaged_lora_is_told_from_a_damaged_file() -> None:
    model = patcher().clone()
    model.add_patches({f"diffusion_model.{WEIGHT}": (torch.full((64, 48), float("nan")),)}, 1.0)
    with pytest.raises(
        ValueError, match=rf"a LoRA holds them for diffusion_model\.{WEIGHT}\. Choose another"
    ):
        sample(model)


@pytest.mark.parametrize("which", ["positive", "negative"])
def test_a_damaged_text_is_told(which: str) -> None:
    text = conditioning(3)
    text[0][0][0, 2, 5] = float("nan")
    with pytest.raises(ValueError, match="its input text holds them already"):
        sample(patcher(), **{which: text})


def test_an_attention_that_makes_nan_is_told() -> None:
    model = patcher().clone()

    def broken(function: Any, options: dict[str, Any]) -> torch.Tensor:
        return function(options["input"], options["timestep"], **options["c"]) * float("nan")

    model.set_model_unet_function_wrapper(broken)
    # The wrapper stands around the pass, so that what it makes is found in the decoder.
    assert not all_finite(sample(model).unbind()[0])

    def attention(*args: Any, **kwargs: Any) -> torch.Tensor:
        return args[0](*args[1:], **kwargs) * float("nan")

    model = patcher().clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = attention
    with pytest.raises(
        ValueError, match="inputs and weights are finite, so a patch of the model or an attention"
    ):
        sample(model)


def test_the_low_noise_expert_is_looked_at_in_its_first_step() -> None:
    high, low = patcher().clone(), patcher(weights=damaged())
    attach_low_noise(high, low, 0.6)
    calls = count_blocks(high.model.diffusion_model)
    with pytest.raises(ValueError, match=rf"1 weights of the model hold them, the first is {WEIGHT}"):
        sample(high)
    assert calls["video"] > 0


def test_a_whole_model_is_looked_at_once() -> None:
    assert all(all_finite(stream) for stream in sample(patcher()).unbind())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_all_finite_tells_each_type(dtype: torch.dtype) -> None:
    largest = torch.full((1000,), torch.finfo(dtype).max).to(dtype)
    assert all_finite(largest)
    assert all_finite(torch.zeros(0, dtype=dtype))
    broken = largest.clone()
    broken[500] = float("nan")
    assert not all_finite(broken)
    assert not_finite({"a": largest, "b": broken, "c": torch.ones(2, dtype=torch.uint8)}) == ["b"]
