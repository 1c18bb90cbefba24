"""The trainer of the comparison: what each task trains, and that a run goes on where it was cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import comfy.model_management
import pytest
import torch
from safetensors.torch import save_file

from ccl_bench.ablation_data import Mixture
from ccl_bench.ablation_trainer import (
    Recipe,
    Trainer,
    loss,
    sample_time,
)
from ccl_pack.ccl_core.training.flow import PAPER_MIX, SEPARATE
from support.tiny import CONFIG, state_dict
from support.tiny_runs import random_batch

RECIPE = Recipe(batch=2, warmup=1)


@pytest.fixture(autouse=True)
def in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfy.model_management, "in_training", True)


@pytest.mark.parametrize(
    ("task", "trained"),
    [("joint", ["video", "audio"]), ("a2v", ["video"]), ("v2a", ["audio"]), (SEPARATE, ["video", "audio"])],
)
def test_each_task_trains_the_streams_it_generates(task: str, trained: list[str]) -> None:
    model = Trainer(CONFIG, RECIPE).model
    losses = loss(model, random_batch(), task, RECIPE, torch.Generator().manual_seed(0))
    assert list(losses) == trained
    assert task in PAPER_MIX


def test_a_fresh_model_predicts_zero_so_the_loss_is_the_power_of_the_target() -> None:
    data = random_batch()
    losses = loss(Trainer(CONFIG, RECIPE).model, data, "joint", RECIPE, torch.Generator().manual_seed(0))
    # target = noise - clean, both of unit power
    assert losses["video"].item() == pytest.approx(2.0, rel=0.15)
    assert losses["audio"].item() == pytest.approx(2.0, rel=0.3)


def test_time_is_stratified_under_the_shift() -> None:
    time = sample_time(1000, 3.0, torch.Generator().manual_seed(0))
    assert time.min() >= 0 and time.max() <= 1
    assert time.median().item() == pytest.approx(0.75, abs=0.01)  # 3 * .5 / (1 + 2 * .5)


def test_training_begins_from_given_weights() -> None:
    weights = state_dict(CONFIG)
    streams = {key: value for key, value in weights.items() if not key.startswith("interaction.")}
    whole, fresh = Trainer(CONFIG, RECIPE, weights).model, Trainer(CONFIG, RECIPE, streams).model
    assert all(torch.equal(value, weights[key]) for key, value in whole.state_dict().items())
    assert all(torch.equal(fresh.get_parameter(key), value) for key, value in streams.items())
    assert not any(layer.a2v.o.weight.any() for layer in fresh.interaction.values()), "the coupling is new"
    part = {key: value for key, value in weights.items() if not key.startswith("interaction.1.")}
    for other in (part, streams | {"blocks.9.norm.weight": torch.ones(1)}, {}):
        with pytest.raises(ValueError, match="those of another model"):
            Trainer(CONFIG, RECIPE, other)


def test_tasks_are_drawn_by_the_shares_of_the_recipe() -> None:
    trainer = Trainer(CONFIG, replace(RECIPE, tasks={"a2v": 1.0, "v2a": 1.0, SEPARATE: 0.0}))
    assert {trainer.draw_task() for _ in range(50)} == {"a2v", "v2a"}


def test_steps_lower_the_loss_and_every_parameter_moves() -> None:
    trainer = Trainer(CONFIG, replace(RECIPE, muon_rate=0.02, adam_rate=3e-3))
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    data = random_batch()

    def measured() -> float:
        with torch.no_grad():
            return float(
                sum(loss(trainer.model, data, "joint", RECIPE, torch.Generator().manual_seed(1)).values())
            )

    start = measured()
    for _ in range(40):
        trainer.update(data)
    assert measured() < 0.9 * start
    still = [key for key, value in trainer.model.state_dict().items() if torch.equal(value, before[key])]
    assert still == []


def test_a_cut_run_goes_on_exactly(tmp_path: Path) -> None:
    whole = Trainer(CONFIG, RECIPE)
    expected = [whole.update(random_batch(i)) for i in range(6)]
    first = Trainer(CONFIG, RECIPE)
    for i in range(3):
        first.update(random_batch(i))
    first.save(tmp_path / "joint.pt")
    second = Trainer(CONFIG, RECIPE)
    second.resume(tmp_path / "joint.pt")
    assert [second.update(random_batch(i)) for i in range(3, 6)] == expected[3:]
    for key, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[key], value)


def dataset_file(path: Path, clips: int, frames: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(clips)
    tensors = {
        "video": torch.randn(clips, 16, frames, 4, 4, generator=generator),
        "audio": torch.randn(clips, 8, tokens, generator=generator),
        "text": torch.randn(clips, 5, 24, generator=generator),
        "no_text": torch.zeros(1, 5, 24),
    }
    save_file({key: value.half() for key, value in tensors.items()}, path)


def test_mixture_draws_by_size(tmp_path: Path) -> None:
    dataset_file(tmp_path / "data-9-0.safetensors", 30, 3, 18)
    dataset_file(tmp_path / "data-13-1.safetensors", 10, 4, 26)
    mixture, generator = Mixture(tmp_path), torch.Generator().manual_seed(0)
    frames = [mixture.draw(generator, 1, 0.0).video.shape[2] for _ in range(200)]
    assert 0.15 < frames.count(4) / 200 < 0.35


def test_text_is_dropped_as_often_as_asked(tmp_path: Path) -> None:
    dataset_file(tmp_path / "data-9-0.safetensors", 50, 3, 18)
    drawn = Mixture(tmp_path).draw(torch.Generator().manual_seed(0), 2000, 0.1)
    assert 0.07 < (drawn.text == 0).all(dim=(1, 2)).float().mean() < 0.13


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no data"):
        Mixture(tmp_path)
