"""NaN in a prediction ends the run at its first step, with the likeliest cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.samplers
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
    # The wrapper stands around the pass, so no pass is found to make it.
    with pytest.raises(
        ValueError, match=r"^the run ends in NaN or infinity: pass 2 of 4, .* a patch around a"
    ):
        sample(model)

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


def breaking(step: int) -> ModelPatcher:
    """A model whose attention makes NaN from this pass on."""
    model, calls = patcher().clone(), []

    def attention(function: Any, q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        broken = len(calls) >= step * per_pass
        calls.append(1)
        return function(q, *args, **kwargs) * (float("nan") if broken else 1.0)

    model.model_options["transformer_options"]["optimized_attention_override"] = attention
    per_pass = 10**9
    sample(model, steps=1)
    per_pass = len(calls)
    calls.clear()
    return model


@pytest.mark.parametrize("step", [1, 3])
def test_nan_of_a_later_step_is_told_at_the_end_of_the_run(step: int) -> None:
    words = (
        rf"^the run ends in NaN or infinity: pass {step + 1} of 4, at noise level .* the first that predicts"
    )
    with pytest.raises(ValueError, match=rf"{words} it\. inputs and weights are finite, so a patch"):
        sample(breaking(step))


def test_the_noise_level_of_the_fault_is_that_of_its_step() -> None:
    model = breaking(2)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 4)
    with pytest.raises(ValueError, match=rf"pass 3 of 4, at noise level {sigmas[2]:.3g}, is"):
        sample(model)


def test_a_sampler_that_makes_nan_is_told_from_a_model() -> None:
    model = patcher().clone()

    def astray(args: dict[str, Any]) -> torch.Tensor:
        return args["denoised"] * (float("inf") if args["sigma"][0] < 0.9 else 1.0)

    model.set_model_sampler_post_cfg_function(astray)
    with pytest.raises(
        ValueError, match=r"pass \d of 4, at noise level 0\.\d+, is the first that is given it, and"
    ):
        sample(model)


def test_nan_in_the_last_step_alone_is_told() -> None:
    model = patcher().clone()
    calls: list[int] = []

    def last(args: dict[str, Any]) -> torch.Tensor:
        calls.append(1)
        return args["denoised"] * (float("nan") if len(calls) == 4 else 1.0)

    model.set_model_sampler_post_cfg_function(last, disable_cfg1_optimization=True)
    with pytest.raises(ValueError, match=r"^the run ends in NaN or infinity: every pass predicts numbers"):
        sample(model)


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
