"""A short run of a joint model on the host's sampler."""

from __future__ import annotations

import torch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor
from torch import Tensor

import nodes as host_nodes
from support.tiny import conditioning


def sampled(model: ModelPatcher, steps: int = 4, denoise: float = 1.0) -> list[Tensor]:
    """Video and audio of a run from a latent of zeros in the channels of the model."""
    config = model.model.ccl_config
    video = torch.zeros(1, config.video.out_dim, 3, 4, 4)
    audio = torch.zeros(1, config.audio_latent.channels, 18)
    latent = {"samples": NestedTensor([video, audio])}
    texts = [_text(seed, config.video.text_dim) for seed in (1, 2)]
    arguments = (model, 1, steps, 3.0, "euler", "simple", *texts, latent)
    return host_nodes.common_ksampler(*arguments, denoise=denoise)[0]["samples"].unbind()


def _text(seed: int, width: int) -> list:
    ((text, options),) = conditioning(seed)
    return [[text.repeat(1, 1, -(-width // text.shape[-1]))[..., :width], options]]
