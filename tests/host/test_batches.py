"""A clip of a batch is what it is alone, and a pass of both texts is two passes: every coupling and mode."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import comfy.samplers
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from torch import Tensor

from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.guidance import MODES, TermScale
from ccl_pack.ccl_core.host.experts import attach_low_noise
from ccl_pack.ccl_core.host.guider import AVGuider
from ccl_pack.nodes.shift import CCLStreamShift
from ccl_pack.nodes.sparse import CCLSparseAttention
from nodes import common_ksampler
from support import tiny

Change = Callable[[ModelPatcher], ModelPatcher]
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
    change: Change = ModelPatcher.clone,
    **sizes: int,
) -> list[Tensor]:
    """Video and audio of these clips. rows: takes the rows of each pass."""
    patched = change(model(coupling)).clone()

    def note(function: Any, options: dict[str, Any]) -> Tensor:
        if rows is not None:
            rows.append(len(options["input"]))
        return function(options["input"], options["timestep"], **options["c"])

    patched.set_model_unet_function_wrapper(note)
    guider = AVGuider(patched)
    guider.set_conds(texts(1, clips), texts(11, clips))
    guider.set_guidance(mode, dict.fromkeys(MODES[mode].terms, TermScale(3.0, 2.0)))
    latent, noise = _pair(2, clips, **sizes), _pair(5, clips, **sizes)
    mask = None if masks is None else NestedTensor([part[clips] for part in masks])
    sigmas = comfy.samplers.calculate_sigmas(patched.get_model_object("model_sampling"), "simple", STEPS)
    euler = comfy.samplers.sampler_object("euler")
    options = {"denoise_mask": mask, "disable_pbar": True, "seed": 5}
    return list(guider.sample(noise, latent, euler, sigmas, **options).unbind())


def _pair(seed: int, clips: slice, **sizes: int) -> NestedTensor:
    return NestedTensor([stream[clips] for stream in tiny.latents(seed, batch=CLIPS, **sizes)])


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


def with_own_shift(patched: ModelPatcher) -> ModelPatcher:
    return CCLStreamShift.execute(patched, video_shift=3.0, audio_shift=7.0)[0]


def with_two_experts(patched: ModelPatcher) -> ModelPatcher:
    clone = patched.clone()
    config = patched.model.ccl_config
    weights = tiny.state_dict(config, seed=9)
    shared = patched.model.diffusion_model.state_dict()
    weights |= {key: shared[key] for key in weights if key.startswith(("audio.", "interaction."))}
    attach_low_noise(clone, tiny.patcher(weights=weights, interaction=config.interaction), 0.8)
    return clone


def with_windows(patched: ModelPatcher) -> ModelPatcher:
    sizes = {"context_length": 4, "context_overlap": 2, "context_stride": 1, "closed_loop": False, "dim": 2}
    ways = {"context_schedule": "standard_static", "fuse_method": "pyramid", "freenoise": False}
    return ContextWindowsManualNode.execute(patched, **sizes, **ways)[0]


def with_sparse_video(patched: ModelPatcher) -> ModelPatcher:
    return CCLSparseAttention.execute(patched, keep=0.5)[0]


def masks_in_part(frames: int, tokens: int) -> list[Tensor]:
    """Of each clip another part of video and sound is kept."""
    generator = torch.Generator().manual_seed(4)
    shapes = (CLIPS, 1, frames, 4, 6), (CLIPS, 1, tokens)
    return [(torch.rand(shape, generator=generator) > 0.4).float() for shape in shapes]


@pytest.mark.parametrize("coupling", ["cca", "fusion", "bridge"])
@pytest.mark.parametrize("change", [with_own_shift, with_two_experts, with_sparse_video])
@pytest.mark.parametrize("masked", [False, True])
def test_each_clip_is_what_it_is_alone_under_what_changes_a_run(
    coupling: str, change: Change, masked: bool
) -> None:
    sizes = {"frames": 8, "tokens": 58}
    masks = masks_in_part(**sizes) if masked else None
    both = sampled(coupling, "dual", masks=masks, change=change, **sizes)
    for clip in (slice(0, 1), slice(1, 2)):
        alone = sampled(coupling, "dual", clip, masks, change=change, **sizes)
        assert difference([x[clip] for x in both], alone) < ROUNDING
    plain = sampled(coupling, "dual", masks=masks, **sizes)
    assert difference(both, plain) > 0.01, "it changes something"


@pytest.mark.parametrize("sound", [True, False])
def test_context_windows_of_a_batch_are_refused_in_a_sentence(sound: bool) -> None:
    windowed = with_windows(model("cca"))
    video, audio = tiny.latents(batch=CLIPS, frames=8, tokens=58)
    texts = tiny.conditioning(1), tiny.conditioning(2)

    def run(clips: slice, frames: slice, tokens: slice) -> None:
        streams = [video[clips][:, :, frames], audio[clips][..., tokens]]
        samples = NestedTensor(streams) if sound else streams[0]
        common_ksampler(windowed, 1, 1, 3.0, "euler", "simple", *texts, {"samples": samples})

    with pytest.raises(
        ValueError, match=r"got 2 clips of 8 latent frames, and the context windows .* \(4 frames"
    ):
        run(ALL, ALL, ALL)
    run(slice(1), ALL, ALL)
    run(ALL, slice(4), slice(26))


@pytest.mark.parametrize("coupling", ["cca", "fusion", "bridge"])
def test_a_batch_of_clips_with_and_without_sound_is_what_each_is_alone_or_refused(coupling: str) -> None:
    def run(clips: slice) -> list[Tensor]:
        video, audio = tiny.latents(batch=CLIPS)
        audio[0] = 0.0
        samples = NestedTensor([video[clips], audio[clips]])
        mask = NestedTensor([part[clips] for part in masks_of_two_tasks()])
        latent = {"samples": samples, "noise_mask": mask, "batch_index": [0, 1][clips]}
        texts = tiny.conditioning(1), tiny.conditioning(2)
        made = common_ksampler(model(coupling), 1, 2, 3.0, "euler", "simple", *texts, latent)[0]["samples"]
        return list(made.unbind())

    if coupling != "cca":
        with pytest.raises(
            ValueError, match=r"of 2 clips \[1\] have no audio and the others have: sample them"
        ):
            run(ALL)
        return
    both = run(ALL)
    for clip in (slice(0, 1), slice(1, 2)):
        assert all((x[clip] - y).abs().max() < ROUNDING * 10 for x, y in zip(both, run(clip), strict=True))
