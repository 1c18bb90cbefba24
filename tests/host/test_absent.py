"""A stream that is kept and holds nothing but zeros is absent: t2a and t2v in a pair, on every coupling."""

from __future__ import annotations

from typing import Any

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from torch import Tensor

from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.guidance import MODES, TermScale
from ccl_pack.ccl_core.host.guider import AVGuider
from nodes import common_ksampler
from support.tiny import CONFIG, av_latent, conditioning, count_blocks, given, latents, patcher

KINDS = pytest.mark.parametrize("kind", OPTIONS)
STREAMS = pytest.mark.parametrize("absent", ["video", "audio"])
OTHER = {"video": "audio", "audio": "video"}


def without(absent: str, **sizes: Any) -> dict[str, Any]:
    """A latent that keeps the zeros of one stream."""
    samples = [torch.zeros_like(stream) for stream in latents(**sizes)]
    return {"samples": NestedTensor(samples), "noise_mask": NestedTensor(given(absent)), "fps": 16.0}


def of_kind(kind: str) -> Any:
    return patcher(interaction=InteractionConfig(kind, (0, 1), OPTIONS[kind]()))


def sampled(model: Any, latent: dict[str, Any]) -> list[Tensor]:
    texts = conditioning(1), conditioning(2)
    made = common_ksampler(model, 1, 3, 3.0, "euler", "simple", *texts, latent)[0]["samples"]
    return list(made.unbind()) if made.is_nested else [made]


@KINDS
@STREAMS
def test_no_block_of_an_absent_stream_runs_and_it_stays_zero(kind: str, absent: str) -> None:
    model = of_kind(kind)
    calls = count_blocks(model.model.diffusion_model)
    made = dict(zip(("video", "audio"), sampled(model, without(absent)), strict=True))
    assert calls[absent] == 0 and calls[OTHER[absent]] > 0
    assert not made[absent].any() and made[OTHER[absent]].abs().mean() > 0.1


@KINDS
def test_a_pair_without_sound_gives_the_video_of_a_plain_video_latent(kind: str) -> None:
    model = of_kind(kind)
    (wanted,) = sampled(model, {"samples": torch.zeros_like(latents()[0])})
    assert torch.equal(sampled(model, without("audio"))[0], wanted)


@STREAMS
@pytest.mark.parametrize("mode", MODES)
def test_a_stream_that_runs_alone_is_guided_as_a_video_latent(mode: str, absent: str) -> None:
    """Branches with and without a coupling are one then: no mode runs the model more than once for both."""
    model = patcher()
    calls = count_blocks(model.model.diffusion_model)
    guider = AVGuider(model)
    guider.set_conds(conditioning(1), conditioning(2))
    guider.set_guidance(mode, {term: TermScale(2.0, 3.0) for term in MODES[mode].terms})
    latent = without(absent)
    noise, euler = comfy.sample.prepare_noise(latent["samples"], 1), comfy.samplers.sampler_object("euler")
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    guider.sample(noise, latent["samples"], euler, sigmas, denoise_mask=latent["noise_mask"])
    depth = {"video": CONFIG.video.num_layers, "audio": CONFIG.audio.num_layers}[OTHER[absent]]
    assert calls == {absent: 0, OTHER[absent]: 2 * depth}


def test_a_kept_stream_that_holds_something_is_given() -> None:
    model = patcher()
    calls = count_blocks(model.model.diffusion_model)
    sampled(model, av_latent(masks=given("video")))
    assert calls["video"] > 0
