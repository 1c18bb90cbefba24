"""Flow matching with a task per sample: the path, its end points, and the routes of each task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.ops
import pytest
import torch

from ccl_pack.ccl_core.config import CCLConfig, FusionOptions, InteractionConfig
from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.training.flow import (
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
    for name, tensor in vars(data).items():
        there = getattr(moved, name)
        assert (there.device.type, there.shape, there.dtype) == ("meta", tensor.shape, tensor.dtype)


def test_end_points_of_the_path() -> None:
    clean, noise, made = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.tensor([True, True])
    start, target, _ = noised(clean, made, torch.zeros(2), noise)
    assert torch.equal(start, clean)
    end, target, _ = noised(clean, made, torch.ones(2), noise)
    torch.testing.assert_close(end - target, clean)
    half, _, time = noised(clean, torch.tensor([False, True]), torch.full((2,), 0.7), noise)
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
            Batch(*(x[i : i + 1] for x in vars(data).values())),
            [task],
            Draw(*(x[i : i + 1] for x in vars(draw).values())),
        )
        for name, value in alone.items():
            torch.testing.assert_close(mixed[name], value)


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
