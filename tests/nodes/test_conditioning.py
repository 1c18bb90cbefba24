"""CCLDualPrompt: a text for each stream, which nodes of the host edit and samplers read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheNode

import nodes as host_nodes
from ccl_pack.ccl_core.host.texts import of_streams
from ccl_pack.nodes.conditioning import CCLDualPrompt
from ccl_pack.nodes.guidance import CCLJointSampler
from support import tiny

POSITIVE, NEGATIVE = tiny.conditioning(1), tiny.conditioning(7)


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return tiny.patcher()


def text(seed: int) -> torch.Tensor:
    return tiny.conditioning(seed)[0][0]


def dual(video: int, audio: int) -> list:
    return CCLDualPrompt.execute(tiny.conditioning(video), tiny.conditioning(audio))[0]


def streams(latent: dict) -> list[torch.Tensor]:
    return latent["samples"].unbind()


def ksampled(model: ModelPatcher, positive: list, latent: dict | None = None) -> list[torch.Tensor]:
    latent = latent or tiny.av_latent()
    return streams(
        host_nodes.common_ksampler(model, 5, 4, 4.0, "euler", "simple", positive, NEGATIVE, latent)[0]
    )


def jointly_sampled(model: ModelPatcher, positive: list) -> list[torch.Tensor]:
    scales = {"video_cfg": 3.0, "audio_cfg": 2.0, "video_modality_scale": 1.5, "audio_modality_scale": 2.5}
    mode = {"mode": "ucg", **scales}
    run = {"seed": 5, "steps": 4, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    return streams(CCLJointSampler.execute(model, positive, NEGATIVE, tiny.av_latent(), mode=mode, **run)[0])


SAMPLERS = [ksampled, jointly_sampled]


def assert_close(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def assert_same(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(got, wanted, strict=True))


def test_dual_prompt_adds_the_audio_text_to_each_entry() -> None:
    video = tiny.conditioning(1, strength=0.5) + tiny.conditioning(2)
    audio = tiny.conditioning(3)
    joined = CCLDualPrompt.execute(video, audio)[0]
    texts = [of_streams(entry[0]) for entry in joined]
    assert [text[0] for text in texts] == [entry[0] for entry in video]
    assert all(text[1] is audio[0][0] for text in texts)
    assert joined[0][1]["strength"] == 0.5


@pytest.mark.parametrize("sampled", SAMPLERS)
def test_dual_prompt_changes_the_sound(model: ModelPatcher, sampled: Callable) -> None:
    plain, equal, other = (sampled(model, text) for text in (POSITIVE, dual(1, 1), dual(1, 9)))
    assert_close(equal, plain)
    assert not torch.allclose(other[1], plain[1], atol=1e-2)


@pytest.mark.parametrize("sampled", SAMPLERS)
def test_a_zeroed_prompt_is_the_empty_one_for_both_streams(model: ModelPatcher, sampled: Callable) -> None:
    zeroed = host_nodes.ConditioningZeroOut().zero_out(dual(1, 9))[0]
    empty = [[torch.zeros(1, 5, 24), {}]]
    assert_close(sampled(model, zeroed), sampled(model, empty))


@pytest.mark.parametrize("sampled", SAMPLERS)
def test_average_at_strength_0_is_the_second_prompt_for_both_streams(
    model: ModelPatcher, sampled: Callable
) -> None:
    second = dual(3, 4)
    average = host_nodes.ConditioningAverage().addWeighted(dual(1, 9), second, 0.0)[0]
    assert_same(sampled(model, average), sampled(model, second))


@pytest.mark.parametrize("sampled", SAMPLERS)
def test_concat_is_read_by_both_streams(model: ModelPatcher, sampled: Callable) -> None:
    joined = host_nodes.ConditioningConcat().concat(dual(1, 9), dual(3, 4))[0]
    texts = [torch.cat([text(one), text(other)], dim=1) for one, other in ((1, 3), (9, 4))]
    assert_same(
        sampled(model, joined), sampled(model, CCLDualPrompt.execute(*([[text, {}]] for text in texts))[0])
    )


@pytest.mark.parametrize("sampled", SAMPLERS)
def test_a_prompt_for_a_part_of_the_run_acts_on_both_streams_there(
    model: ModelPatcher, sampled: Callable
) -> None:
    """Two ranges that meet, of one prompt, are that prompt."""

    def part(prompt: list, start: float, end: float) -> list:
        return host_nodes.ConditioningSetTimestepRange().set_range(prompt, start, end)[0]

    def run(first: list, second: list) -> list[torch.Tensor]:
        both = host_nodes.ConditioningCombine().combine(part(first, 0.0, 0.5), part(second, 0.5, 1.0))[0]
        return sampled(model, both)

    whole, other = run(dual(1, 9), dual(1, 9)), run(dual(1, 9), dual(1, 4))
    assert_close(whole, sampled(model, dual(1, 9)))
    assert not torch.allclose(other[1], whole[1], atol=1e-2)


def in_windows(model: ModelPatcher) -> ModelPatcher:
    return ContextWindowsManualNode.execute(model, 2, 1, "standard_static", 1, False, "pyramid", 2, False)[0]


def cached(model: ModelPatcher) -> ModelPatcher:
    return EasyCacheNode.execute(
        model, reuse_threshold=0.1, start_percent=0.0, end_percent=1.0, verbose=False
    )[0]


@pytest.mark.parametrize(("patch", "batch"), [(ModelPatcher.clone, 2), (in_windows, 1), (cached, 2)])
def test_texts_of_other_lengths_run_with_what_the_host_does_to_a_pass(
    model: ModelPatcher, patch: Callable[[ModelPatcher], ModelPatcher], batch: int
) -> None:
    patched, latent = patch(model), tiny.av_latent(batch=batch)
    texts = tiny.dual_conditioning(1, 9, tokens=(5, 7))
    own, shared = (ksampled(patched, positive, latent) for positive in (texts, POSITIVE))
    assert own[0].isfinite().all() and own[1].shape == (batch, 8, 18)
    assert not torch.allclose(own[1], shared[1], atol=1e-2)


def test_dual_prompt_refuses_what_it_cannot_pair() -> None:
    with pytest.raises(ValueError, match="audio_conditioning holds no conditioning"):
        CCLDualPrompt.execute(POSITIVE, [])
    with pytest.raises(ValueError, match="audio_conditioning has 2 entries, video_conditioning 1"):
        CCLDualPrompt.execute(POSITIVE, POSITIVE * 2)


def test_dual_prompt_refuses_to_lose_what_only_the_audio_carries() -> None:
    video, audio = tiny.conditioning(1, start_percent=0.2), tiny.conditioning(3, start_percent=0.2)
    assert CCLDualPrompt.execute(video, audio)[0][0][1] == {"start_percent": 0.2}
    with pytest.raises(ValueError, match=r"audio_conditioning carries start_percent, .*behind CCLDualPrompt"):
        CCLDualPrompt.execute(POSITIVE, audio)


def test_what_the_sound_s_text_carries_for_the_picture_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    image = torch.zeros(1, 16, 1, 4, 4)
    CCLDualPrompt.execute(tiny.conditioning(1), tiny.conditioning(2, reference_latents=[image]))
    assert "audio_conditioning carries reference_latents, of which nothing is used" in caplog.text
    caplog.clear()
    CCLDualPrompt.execute(tiny.conditioning(1, reference_latents=[image]), tiny.conditioning(2))
    assert caplog.text == ""
