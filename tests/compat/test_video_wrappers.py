"""Wrappers around a pass that were written for a video: they get one, with sound and without."""

from __future__ import annotations

from typing import Any

import comfy.ldm.wan.model_multitalk as multitalk
import comfy.patcher_extension
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from support.uncoupled import KINDS, model_of, sample, wan_of

APPLY_MODEL = comfy.patcher_extension.WrappersMP.APPLY_MODEL
OUTER_SAMPLE = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE


def wrapped(model: ModelPatcher, wrapper: Any, key: str = "somebody") -> ModelPatcher:
    clone = model.clone()
    clone.add_wrapper_with_key(APPLY_MODEL, key, wrapper)
    return clone


@KINDS
def test_latent_frames_that_infinite_talk_puts_in_are_those_of_plain_wan(kind: str) -> None:
    model = model_of(kind, fresh=True)
    frames = torch.randn(1, 16, 1, 4, 6, generator=torch.Generator().manual_seed(3))
    wrapper = multitalk.MultiTalkApplyModelWrapper(frames)
    wanted = sample(wrapped(wan_of(model), wrapper), sound=False)[0]
    video, audio = sample(wrapped(model, wrapper))
    assert torch.equal(video, wanted)
    assert torch.equal(audio, sample(model)[1])
    assert not torch.equal(video, sample(model)[0])


@KINDS
@pytest.mark.parametrize("overlap", [1, 2])
def test_the_mode_of_infinite_talk_that_extends_a_clip_is_that_of_plain_wan(kind: str, overlap: int) -> None:
    model = model_of(kind, fresh=True)
    frames = torch.randn(1, 16, overlap, 4, 6, generator=torch.Generator().manual_seed(3))

    def extending(patched: ModelPatcher) -> ModelPatcher:
        clone = patched.clone()
        wrapper = multitalk.InfiniteTalkOuterSampleWrapper(frames, None, is_extend=True)
        clone.add_wrapper_with_key(OUTER_SAMPLE, "infinite_talk_outer_sample", wrapper)
        return clone

    wanted = sample(extending(wan_of(model)), sound=False)[0]
    video, audio = sample(extending(model))
    assert torch.equal(video, wanted) and torch.equal(video[:, :, :overlap], frames)
    assert torch.equal(audio, sample(model)[1])


@pytest.mark.parametrize("sound", [True, False])
def test_a_wrapper_of_a_run_sees_its_video_and_may_run_it_twice(sound: bool) -> None:
    model = model_of("cca", fresh=False)
    wanted = sample(model, sound)
    seen: list[tuple[int, ...]] = []

    def twice(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        made = [executor(*args, **kwargs) for _ in range(2)]
        seen.extend(tuple(result.shape) for result in made)
        return made[1] + 1.0

    clone = model.clone()
    clone.add_wrapper_with_key(OUTER_SAMPLE, "somebody", twice)
    video, *audio = sample(clone, sound)
    assert seen == [(1, 16, 3, 4, 6)] * 2
    assert torch.equal(video, wanted[0] + 1.0) and all(map(torch.equal, audio, wanted[1:]))


def test_wrappers_nest_and_see_the_model_and_a_video() -> None:
    model = model_of("cca", fresh=False)
    seen: list[Any] = []

    def note(executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append((tuple(x.shape[1:]), executor.class_obj is model.model))
        return 0.5 * executor(x, t, *args, **kwargs)

    once = sample(wrapped(model, note))
    twice = sample(wrapped(wrapped(model, note), note, "another"))
    assert set(seen) == {((16, 3, 4, 6), True)}
    assert not torch.equal(once[0], twice[0])


def test_the_sound_comes_through_a_wrapper_that_does_not_call_the_model() -> None:
    def nothing(executor: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:  # noqa: ARG001
        return torch.zeros_like(x)

    for stream in sample(wrapped(model_of("cca", fresh=False), nothing)):
        assert torch.isfinite(stream).all()


@pytest.mark.parametrize("sound", [True, False])
def test_without_a_wrapper_nothing_changes(sound: bool) -> None:
    def through(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        return executor(*args, **kwargs)

    model = model_of("cca", fresh=False)
    for made, wanted in zip(sample(wrapped(model, through), sound), sample(model, sound), strict=True):
        assert torch.equal(made, wanted)
