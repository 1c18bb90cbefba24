"""Flow matching with a task per sample: the path, its end points, and the routes of each task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.ops
import pytest
import torch

from ccl_pack.ccl_core.config import AsymmetricOptions, CCLConfig, FusionOptions, InteractionConfig
from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.training.flow import (
    FACE,
    PAPER_MIX,
    SEPARATE,
    Batch,
    Draw,
    absent,
    initialise,
    level,
    losses,
    loudness,
    motion,
    noised,
    on,
    routes,
    sample_lag,
    save_atomically,
    shifted,
    switches,
)
from support.tiny import CONFIG, config, state_dict
from support.tiny_runs import random_batch


@pytest.fixture(autouse=True)
def in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfy.model_management, "in_training", True)


def model_of(chosen: CCLConfig) -> JointModel:
    model = JointModel(chosen, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    model.load_state_dict(state_dict(chosen))
    return model


def test_a_batch_goes_to_the_device_whole() -> None:
    data = random_batch()
    moved = on(data, torch.device("meta"))
    tensors = {name: tensor for name, tensor in vars(data).items() if tensor is not None}
    assert len(tensors) == 5
    for name, tensor in tensors.items():
        there = getattr(moved, name)
        assert (there.device.type, there.shape, there.dtype) == ("meta", tensor.shape, tensor.dtype)


def test_end_points_of_the_path() -> None:
    clean, noise, made = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.tensor([True, True])
    start, target, *_ = noised(clean, made, torch.zeros(2), noise)
    assert torch.equal(start, clean)
    end, target, *_ = noised(clean, made, torch.ones(2), noise)
    torch.testing.assert_close(end - target, clean)
    half, _, time, _ = noised(clean, torch.tensor([False, True]), torch.full((2,), 0.7), noise)
    assert torch.equal(half[0], clean[0]) and not torch.equal(half[1], clean[1])
    assert time.tolist() == pytest.approx([0, 0.7])


def test_a_batch_of_several_tasks_is_the_tasks_one_by_one() -> None:
    model = model_of(CONFIG)
    tasks = list(PAPER_MIX)
    data = random_batch(count=len(tasks))
    generator = torch.Generator().manual_seed(3)
    draw = Draw(
        torch.randn(data.video.shape), torch.randn(data.audio.shape), *torch.rand(2, 4, generator=generator)
    )
    mixed = losses(model, data, tasks, draw)
    assert routes(tasks) == ((True, True, False, False), (True, False, True, False))
    for i, task in enumerate(tasks):
        alone = losses(
            model,
            Batch(*(x[i : i + 1] for x in vars(data).values() if x is not None)),
            [task],
            Draw(*(x[i : i + 1] for x in vars(draw).values() if x is not None)),
        )
        for name, value in alone.items():
            torch.testing.assert_close(mixed[name], value)


TALKING = {
    "video": replace(CONFIG.video, references=True),
    "audio": replace(CONFIG.audio, references=True, speech_blocks=1, text_len=8),
    "interaction": InteractionConfig("asymmetric", (0, 1), AsymmetricOptions(1, "latents")),
}


def talking_batch(count: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(4)
    return replace(
        random_batch(count=count),
        reference=torch.randn(count, 16, 4, 6, generator=generator),
        voice=torch.randn(count, 8, 4, generator=generator),
        speech=torch.tensor([[98.0, 99, 0]] * count)[..., None],
        face=torch.rand(count, 18, 1, generator=generator),
    )


def drawn(data: Batch, seed: int = 5) -> Draw:
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(clean.shape, generator=generator) for clean in (data.video, data.audio)]
    count = len(data.video)
    times = torch.rand(2, count, generator=generator)
    return Draw(*noise, *times, torch.arange(count) % 2 + 1)


def test_a_prefix_is_given_and_has_no_loss() -> None:
    """One latent frame of three, and the tokens nearest to it, in the first clip; two in the second."""
    model, data = model_of(config(**TALKING)), talking_batch()
    draw, seen = drawn(data), []
    hook = model.register_forward_pre_hook(lambda _, given: seen.append(given))
    found = losses(model, data, ["continuation"] * 2, draw)
    (video, audio), (video_time, audio_time) = seen[0][:2]
    ranges = model.timeline(3, 18).tokens_of_frames
    for i, frames in enumerate((1, 2)):
        tokens = ranges[frames][0]
        assert torch.equal(video[i, :, :frames], data.video[i, :, :frames])
        assert torch.equal(audio[i, :, :tokens], data.audio[i, :, :tokens])
        assert video_time[i].eq(0).tolist() == [at < frames for at in range(3)]
        assert audio_time[i].eq(0).tolist() == [at < tokens for at in range(18)]
        draw.video_noise[i, :, :frames] += 1
        draw.audio_noise[i, :, :tokens] += 1
    hook.remove()
    again = losses(model, data, ["continuation"] * 2, draw)
    assert found.keys() == {"continuation/video", "continuation/audio", FACE}
    for name, value in found.items():
        torch.testing.assert_close(again[name], value)


def test_a_reference_voice_is_heard_by_all_or_by_none() -> None:
    model, data = model_of(config(**TALKING)), talking_batch()
    draw = drawn(data)
    alone, heard = (losses(model, data, [task] * 2, draw) for task in ("joint", "reference"))
    assert (alone["joint/audio"] - heard["reference/audio"]).abs() > 1e-6
    with pytest.raises(ValueError, match="all hear a voice, or none does"):
        losses(model, data, ["joint", "reference"], draw)


def test_the_reference_of_a_dubbed_video_is_its_first_frame() -> None:
    model, data, seen = model_of(config(**TALKING)), talking_batch(), []
    hook = model.register_forward_pre_hook(
        lambda _, __, named: seen.append(named["reference_latent"]), with_kwargs=True
    )
    losses(model, data, ["v2a", "joint"], drawn(data))
    hook.remove()
    assert torch.equal(seen[0], torch.stack([data.video[0, :, 0], data.reference[1]]))


def test_masks_learn_the_face() -> None:
    model, data = model_of(config(**TALKING)), talking_batch()
    masks: list[torch.Tensor] = []
    hooks = [
        layer.a2v.face.register_forward_hook(lambda _, __, made: masks.append(made))
        for layer in model.interaction.values()
    ]
    found = losses(model, data, ["joint"] * 2, drawn(data))[FACE]
    for hook in hooks:
        hook.remove()
    wanted = sum((mask - data.face).square().mean() for mask in masks)
    torch.testing.assert_close(found, wanted)
    found.backward()
    # Only the layers in front of a mask, and its own weights, get a gradient of it.
    assert all(layer.a2v.face.project.weight.grad.abs().max() > 0 for layer in model.interaction.values())
    assert model.interaction[1].a2v.o.weight.grad is None
    model.zero_grad()
    assert FACE not in losses(model, replace(data, face=None), ["joint"] * 2, drawn(data))


def test_an_interaction_without_routes_is_closed_as_a_whole() -> None:
    model = model_of(config(interaction=InteractionConfig("fusion", (0, 1), FusionOptions())))
    assert switches(model, [SEPARATE, SEPARATE]) == {"a2v_cross_attn": False, "v2a_cross_attn": False}
    assert switches(model, ["joint", "a2v"]) == {}
    with pytest.raises(ValueError, match="stands alone"):
        switches(model, [SEPARATE, "joint"])


def test_a_shift_keeps_the_ends_and_is_undone_by_its_inverse() -> None:
    time = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert shifted(time, 3.0).tolist() == pytest.approx([0.0, 0.5, 0.75, 1.0])
    torch.testing.assert_close(shifted(shifted(time, 5.0), 1 / 5.0), time)


def test_a_stream_that_a_batch_has_not_is_left_out() -> None:
    assert absent(["joint", SEPARATE]) == {}
    assert absent(["t2a", "t2a"]) == {"run_vx": False} and absent(["t2v"]) == {"run_ax": False}
    with pytest.raises(ValueError, match="stand alone"):
        absent(["t2a", "joint"])
    model, data = model_of(CONFIG), random_batch()
    draw = Draw(torch.randn_like(data.video), torch.randn_like(data.audio), *torch.full((2, 2), 0.5))
    both = losses(model, data, [SEPARATE] * 2, draw)
    nothing = replace(data, video=data.video[..., :0, :0])
    found = losses(model, nothing, ["t2a"] * 2, replace(draw, video_noise=draw.video_noise[..., :0, :0]))
    torch.testing.assert_close(found, {"t2a/audio": both[f"{SEPARATE}/audio"]})
    silent = replace(data, audio=data.audio[..., :0])
    found = losses(model, silent, ["t2v"] * 2, replace(draw, audio_noise=draw.audio_noise[..., :0]))
    torch.testing.assert_close(found, {"t2v/video": both[f"{SEPARATE}/video"]})


def test_weights_are_larger_where_something_moves_or_sounds() -> None:
    video, audio = torch.zeros(1, 16, 5, 4, 4), torch.zeros(1, 8, 34)
    video[0, :, 2, 1, 1] = 1
    audio[0, :, 10] = 1
    assert motion(video)[0, 0, 2, 1, 1] == 1 and motion(video).sum() == 1
    assert (
        loudness(audio, 0.7)[0, 0, 10] == pytest.approx(1 / 0.7) and loudness(audio, 0.7).count_nonzero() == 1
    )
    assert loudness(audio, 0.1).max() == 2
    assert torch.equal(level(audio - 3), level(audio))


def test_the_audio_lags_by_a_factor_of_the_shift() -> None:
    lag = sample_lag(1000, (0.5, 4.0), torch.Generator().manual_seed(0))
    assert 0.5 <= lag.min() < 0.55 and 3.6 < lag.max() <= 4
    assert lag.median().item() == pytest.approx(2**0.5, rel=0.1)  # the middle of the octaves -1 to 2
    time = torch.rand(1000)
    torch.testing.assert_close(shifted(shifted(time, 3.0), lag), shifted(time, 3.0 * lag))
    assert sample_lag(3, (1.0, 1.0), torch.Generator()).tolist() == [1, 1, 1]


def test_a_fresh_model_predicts_nothing_and_its_interaction_adds_nothing() -> None:
    model = model_of(CONFIG)
    initialise(model)
    assert not any(
        layer.a2v.o.weight.any() or layer.v2a.o.weight.any() for layer in model.interaction.values()
    )
    assert not model.head.head.weight.any() and not model.audio.head.head.weight.any()
    assert all(layer.a2v.context.any() for layer in model.interaction.values())


def test_a_file_that_cannot_be_written_leaves_the_one_before_it(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_atomically({"step": 1}, path)
    with pytest.raises(AttributeError):
        save_atomically({"step": lambda: 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
