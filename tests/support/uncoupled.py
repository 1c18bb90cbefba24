"""Joint models whose coupling adds nothing, and the host's Wan with the same video weights."""

from __future__ import annotations

import comfy.supported_models
import pytest
import torch
from comfy.model_patcher import CoreModelPatcher, ModelPatcher
from comfy.nested_tensor import NestedTensor
from torch import Tensor

import nodes as host_nodes
from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.host.experts import attach_low_noise
from support.tiny import av_latent, conditioning, config, patcher, state_dict

KINDS = pytest.mark.parametrize("kind", ["cca", "fusion", "bridge", "asymmetric"])
# What adds the coupling to its stream: a model in which it is zero is two streams that do not meet.
LAST = {"cca": ".o.", "fusion": ".v.", "bridge": ".o.", "asymmetric": ".o."}


def model_of(kind: str, fresh: bool) -> ModelPatcher:
    interaction = InteractionConfig(kind, (0, 1), OPTIONS[kind]())
    weights = state_dict(config(interaction=interaction))
    if fresh:
        weights = uncoupled(weights, kind)
    return patcher(weights=weights, interaction=interaction)


def uncoupled(weights: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The weights with a coupling that adds nothing."""
    for key, value in weights.items():
        if key.startswith("interaction.") and LAST[kind] in key:
            value.zero_()
    return weights


def wan_of(joint: ModelPatcher) -> ModelPatcher:
    """The host's own Wan with the video weights of a joint model."""
    chosen = joint.model.ccl_config
    settings = comfy.supported_models.WAN21_T2V({"image_model": "wan2.1", **chosen.video.wan_arguments()})
    settings.set_inference_dtype(torch.float32, None)
    settings.sampling_settings = {"shift": chosen.shift}
    model = settings.get_model({})
    own = model.diffusion_model.state_dict()
    weights = {key: value for key, value in joint.model.diffusion_model.state_dict().items() if key in own}
    model.diffusion_model.load_state_dict(weights)
    return CoreModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def sample(model: ModelPatcher, sound: bool = True, steps: int = 2, denoise: float = 1.0) -> list[Tensor]:
    """The streams of a run on the host's sampler; the video begins with the same noise with and without
    sound.
    """
    latent = av_latent()
    if not sound:
        latent["samples"] = latent["samples"].unbind()[0]
    texts = [widened(conditioning(seed), model) for seed in (1, 2)]
    made = host_nodes.common_ksampler(
        model, 1, steps, 3.0, "euler", "simple", *texts, latent, denoise=denoise
    )[0]["samples"]
    return made.unbind() if isinstance(made, NestedTensor) else [made]


def widened(texts: list, model: ModelPatcher) -> list:
    """The texts in the width that the model reads."""
    width = model.model.diffusion_model.text_embedding[0].in_features
    return [[text.repeat(1, 1, -(-width // text.shape[-1]))[..., :width], extra] for text, extra in texts]


def two_experts() -> tuple[ModelPatcher, ModelPatcher]:
    """A model of two video experts whose coupling adds nothing, and its low-noise expert."""
    high, low = (model_of("bridge", fresh=True) for _ in range(2))
    generator = torch.Generator().manual_seed(9)
    for name, value in low.model.diffusion_model.named_parameters():
        if not name.startswith(("audio.", "interaction.")):
            value.data += 0.02 * torch.randn(value.shape, generator=generator)
    attach_low_noise(high, low, 0.95)
    return high, low
