"""UniAVGen at the sizes of its paper, and Wan 2.2 with a fresh coupling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.ops
import comfy.supported_models
import pytest
import torch
from comfy.model_patcher import CoreModelPatcher, ModelPatcher
from comfy.nested_tensor import NestedTensor
from torch import Tensor

import nodes as host_nodes
from ccl_bench.published_sizes import uniavgen
from ccl_pack.ccl_core.config import AsymmetricOptions, InteractionConfig
from ccl_pack.ccl_core.host.base_model import CCLModelConfig
from ccl_pack.ccl_core.host.memory import Plan
from ccl_pack.ccl_core.host.texts import StreamTexts
from ccl_pack.ccl_core.memory import Machine, parameters
from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.model.speech_text import bytes_of
from ccl_pack.ccl_core.training.flow import initialise_tensor
from support import tiny

CPU = torch.device("cpu")
# The paper's count.
PUBLISHED = 7.1e9


def test_the_paper_s_sizes_have_the_paper_s_parameters() -> None:
    config = uniavgen()
    counted = parameters(config)
    assert sum(counted.values()) == pytest.approx(PUBLISHED, rel=0.01)
    model = JointModel(config, device="meta", operations=comfy.ops.disable_weight_init)
    assert sum(value.numel() for value in model.state_dict().values()) == sum(counted.values())
    assert [int(layer) for layer in model.interaction] == list(range(0, 30, 2))


@pytest.mark.parametrize(("gigabytes", "fit"), [(24, "whole"), (12, "offload")])
def test_the_memory_plan_knows_what_a_card_holds_of_it(gigabytes: int, fit: str) -> None:
    """480p, 81 frames at 16 a second: 14.2 GB of weights in bf16, and a step."""
    description = CCLModelConfig(uniavgen())
    description.set_inference_dtype(torch.bfloat16, torch.bfloat16)
    model = ModelPatcher(description.get_model({}, device="meta"), CPU, CPU)
    streams = torch.zeros(1, 48, 21, 30, 52), torch.zeros(1, 100, 475)
    room = gigabytes * 10**9
    machine = Machine("card", 2**40, 2**40, vram_free=room, vram_total=room)
    plan = Plan(model, {"samples": NestedTensor(streams), "fps": 16.0}, "ma_cfg", machine)
    assert plan.verdict.fit == fit
    assert plan.weights.active == pytest.approx(2 * PUBLISHED, rel=0.01)


def fresh() -> ModelPatcher:
    """Wan 2.2 5B's form in small, with an audio stream that reads words, and an interaction as training
    begins with it.
    """
    model = tiny.patcher(
        video=replace(tiny.CONFIG.video, in_dim=48, out_dim=48, references=True),
        audio=replace(tiny.CONFIG.audio, references=True, speech_blocks=2),
        interaction=InteractionConfig("asymmetric", (0,), AsymmetricOptions()),
        family="uniavgen",
    )
    with torch.no_grad():
        for name, value in model.model.diffusion_model.named_parameters():
            if name.startswith("interaction."):
                initialise_tensor(name, value)
    return model


def wan_of(joint: ModelPatcher) -> ModelPatcher:
    """The host's Wan 2.2 with the video weights of a joint model."""
    config = joint.model.ccl_config
    settings = comfy.supported_models.WAN22_T2V({"image_model": "wan2.1", **config.video.wan_arguments()})
    settings.set_inference_dtype(torch.float32, None)
    settings.sampling_settings = {"shift": config.shift}
    model = settings.get_model({})
    own = model.diffusion_model.state_dict()
    weights = joint.model.diffusion_model.state_dict()
    model.diffusion_model.load_state_dict({key: weights[key] for key in own})
    return CoreModelPatcher(model, CPU, CPU)


def sampled(model: ModelPatcher, samples: Any, *texts: Tensor) -> list[Tensor]:
    conditions = [[[text, {}]] for text in texts]
    latent = {"samples": samples, "fps": 16.0}
    made = host_nodes.common_ksampler(model, 1, 2, 3.0, "euler", "simple", *conditions, latent)[0]["samples"]
    return list(made.unbind()) if made.is_nested else [made]


def test_wan_22_with_a_fresh_coupling_is_wan_22() -> None:
    joint = fresh()
    streams = tiny.latents(channels=48)
    texts = [tiny.conditioning(seed)[0][0] for seed in (1, 2)]
    both = [
        StreamTexts.join(text, bytes_of(words)) for text, words in zip(texts, ("kama", "sulo"), strict=True)
    ]
    (wanted,) = sampled(wan_of(joint), streams[0], *texts)
    video, sound = sampled(joint, NestedTensor(streams), *both)
    assert torch.equal(video, wanted) and sound.std() > 0
    with torch.no_grad():
        joint.model.diffusion_model.interaction[0].a2v.o.weight.fill_(0.1)
    assert not torch.equal(sampled(joint, NestedTensor(streams), *both)[0], wanted)
