"""A clip of a batch is what it is alone, and a pass of both texts is two passes: every coupling and mode."""

from __future__ import annotations

from functools import cache
from typing import Any

import comfy.samplers
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor
from torch import Tensor

from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.guidance import MODES, TermScale
from ccl_pack.ccl_core.host.guider import AVGuider
from support import tiny

STEPS, CLIPS = 3, 2
ALL = slice(None)
# Of the largest value: a product of other sizes rounds otherwise. Measured: 1.6e-6.
ROUNDING = 5e-6
EACH = [
    pytest.mark.parametrize("coupling", ["cca", "fusion", "bridge"]),
    pytest.mark.parametrize("mode", MODES),
]


def each(test: Any) -> Any:
    """The test with every coupling and mode."""
    for mark in EACH:
        test = mark(test)
    return test


@cache
def model(coupling: str) -> ModelPatcher:
    return tiny.patcher(interaction=InteractionConfig(coupling, (0, 1), OPTIONS[coupling]()))


def texts(seed: int, clips: slice) -> list:
    """A text for each clip."""
    rows = [tiny.conditioning(seed + i)[0][0] for i in range(CLIPS)]
    return [[torch.cat(rows)[clips], {}]]


def masks_of_two_tasks() -> list[Tensor]:
    """The first clip has its sound given, the second makes it."""
    video, audio = tiny.given("audio", batch=CLIPS)
    audio[1] = 1.0
    return [video, audio]


def sampled(
    coupling: str,
    mode: str,
    clips: slice = ALL,
    masks: list[Tensor] | None = None,
    rows: list[int] | None = None,
) -> list[Tensor]:
    """Video and audio of these clips. rows: takes the rows of each pass."""
    patched = model(coupling).clone()

    def note(function: Any, options: dict[str, Any]) -> Tensor:
        if rows is not None:
            rows.append(len(options["input"]))
        return function(options["input"], options["timestep"], **options["c"])

    patched.set_model_unet_function_wrapper(note)
    guider = AVGuider(patched)
    guider.set_conds(texts(1, clips), texts(11, clips))
    guider.set_guidance(mode, dict.fromkeys(MODES[mode].terms, TermScale(3.0, 2.0)))
    latent, noise = _pair(2, clips), _pair(5, clips)
    mask = None if masks is None else NestedTensor([part[clips] for part in masks])
    sigmas = comfy.samplers.calculate_sigmas(patched.get_model_object("model_sampling"), "simple", STEPS)
    euler = comfy.samplers.sampler_object("euler")
    options = {"denoise_mask": mask, "disable_pbar": True, "seed": 5}
    return list(guider.sample(noise, latent, euler, sigmas, **options).unbind())


def _pair(seed: int, clips: slice) -> NestedTensor:
    return NestedTensor([stream[clips] for stream in tiny.latents(seed, batch=CLIPS)])


def difference(made: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest of both streams, as a part of the largest value."""
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(made, wanted, strict=True))


@each
@pytest.mark.parametrize("masks", [None, masks_of_two_tasks()], ids=["one-task", "two-tasks"])
def test_each_clip_of_a_batch_is_what_it_is_alone(
    coupling: str, mode: str, masks: list[Tensor] | None
) -> None:
    both = sampled(coupling, mode, masks=masks)
    assert difference([x[:1] for x in both], [x[1:] for x in both]) > 0.1, "the clips differ"
    for clip in (slice(0, 1), slice(1, 2)):
        assert difference([x[clip] for x in both], sampled(coupling, mode, clip, masks)) < ROUNDING


@each
def test_both_texts_in_one_pass_are_what_they_are_in_two(
    coupling: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []
    apart: list[int] = []
    monkeypatch.setattr(ModelPatcher, "get_free_memory", lambda *_: 1 << 40)
    wanted = sampled(coupling, mode, masks=masks_of_two_tasks(), rows=together)
    monkeypatch.setattr(ModelPatcher, "get_free_memory", lambda *_: 0)
    made = sampled(coupling, mode, masks=masks_of_two_tasks(), rows=apart)
    assert sum(apart) == sum(together) and set(apart) == {CLIPS}
    assert difference(made, wanted) < ROUNDING


def test_where_memory_is_free_both_texts_run_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    monkeypatch.setattr(ModelPatcher, "get_free_memory", lambda *_: 1 << 40)
    sampled("cca", "cfg", rows=rows)
    assert rows == [2 * CLIPS] * STEPS
