"""The host's bypass LoRAs on joint models: what they change by a forward of their own, a LoRA on the weights
changes too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.host.experts import attach_low_noise
from support.sampling import sampled
from support.tiny import config, patcher, state_dict

KINDS = pytest.mark.parametrize("kind", ["cca", "fusion", "bridge"])
PARTS = {"video": "blocks.", "audio": "audio.blocks.", "coupling": "interaction."}
LARGEST = 1e-6
Load = Callable[..., tuple[ModelPatcher, None]]


def model(kind: str, experts: int) -> ModelPatcher:
    interaction = InteractionConfig(kind, (0, 1), OPTIONS[kind]())
    high = patcher(interaction=interaction)
    if experts == 2:
        own = state_dict(config(interaction=interaction), seed=3)
        shared = high.model.diffusion_model.state_dict()
        weights = {key: shared[key] if _is_shared(key) else own[key] for key in own}
        attach_low_noise(high, patcher(weights=weights, interaction=interaction), 0.9)
    return high


def _is_shared(key: str) -> bool:
    return key.startswith(("audio.", "interaction."))


def lora(patched: ModelPatcher, part: str) -> dict[str, Tensor]:
    """A LoRA of rank 2 for each linear layer of a part."""
    generator = torch.Generator().manual_seed(7)
    made = {}
    for key, weight in patched.model.diffusion_model.state_dict().items():
        if key.startswith(PARTS[part]) and key.endswith(".weight") and weight.ndim == 2:
            name = f"diffusion_model.{key.removesuffix('.weight')}"
            rows, columns = weight.shape
            made[f"{name}.lora_A.weight"] = 0.2 * torch.randn(2, columns, generator=generator)
            made[f"{name}.lora_B.weight"] = 0.2 * torch.randn(rows, 2, generator=generator)
    return made


def with_lora(load: Load, patched: ModelPatcher, part: str) -> list[Tensor]:
    return sampled(load(patched, None, lora(patched, part), 1.0, 0)[0])


def difference(x: list[Tensor], y: list[Tensor]) -> float:
    """The largest of both streams, as a part of the largest value."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(x, y, strict=True))


@KINDS
@pytest.mark.parametrize("experts", [1, 2])
@pytest.mark.parametrize("part", PARTS)
def test_a_bypass_lora_does_what_the_lora_on_the_weights_does(
    kind: str, experts: int, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    base = model(kind, experts)
    plain = sampled(base)
    wanted = with_lora(comfy.sd.load_lora_for_models, base, part)
    with caplog.at_level(logging.WARNING):
        found = with_lora(comfy.sd.load_bypass_lora_for_models, base, part)
    assert not [record for record in caplog.records if "Bypass" in record.getMessage()]
    assert difference(wanted, plain) > 1e-3, "the LoRA changes something"
    assert difference(found, wanted) < LARGEST
    assert difference(sampled(base), plain) == 0.0, "and nothing of it stays"


def test_only_the_shared_part_of_a_bypass_reaches_the_low_noise_expert() -> None:
    """As a LoRA of the host on the weights: the video stream of each expert is its own."""
    base = model("cca", 2)
    late = {"denoise": 0.3}
    video = comfy.sd.load_bypass_lora_for_models(base, None, lora(base, "video"), 1.0, 0)[0]
    assert difference(sampled(video, **late), sampled(base, **late)) == 0.0
    audio = comfy.sd.load_bypass_lora_for_models(base, None, lora(base, "audio"), 1.0, 0)[0]
    assert difference(sampled(audio, **late), sampled(base, **late)) > 1e-3
