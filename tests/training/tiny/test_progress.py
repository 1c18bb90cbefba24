"""A training ends by steps or minutes, counted over all runs, and goes on where it was."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ccl_pack.ccl_core.training.tiny.progress import Progress


def progress(out: Path, model: torch.nn.Module, steps: int = 10, minutes: float = 1.0) -> Progress:
    return Progress(out, {"model": model}, np.random.default_rng(0), steps, minutes)


def test_its_share_is_that_of_what_ends_first(tmp_path: Path) -> None:
    run = progress(tmp_path / "vae.safetensors", torch.nn.Linear(1, 1))
    run.step, run.seconds = 2, 45.0
    assert run.share == 0.75
    run.step = 9
    assert run.share == 0.9


def test_an_interrupted_run_goes_on_with_its_numbers_and_its_time(tmp_path: Path) -> None:
    out = tmp_path / "new" / "vae.safetensors"
    model = torch.nn.Linear(3, 3)
    run = progress(out, model)
    assert not run.resume()
    run.begin()
    for loss in (4.0, 2.0):
        run.advance(loss)
    run.seconds = 30.0
    run.save()
    drawn = (torch.rand(1).item(), run.rng.random())
    other = progress(out, torch.nn.Linear(3, 3))
    assert other.resume()
    assert (other.step, other.seconds, other.loss, other.share) == (2, 30.0, 3.0, 0.5)
    assert torch.equal(other.parts["model"].weight, model.weight)
    assert (torch.rand(1).item(), other.rng.random()) == drawn
    assert not other.due(0.0)


def test_a_state_that_was_cut_off_leaves_the_one_before(tmp_path: Path) -> None:
    run = progress(tmp_path / "vae.safetensors", torch.nn.Linear(1, 1))
    run.step = 4
    run.save()
    assert [path.name for path in tmp_path.iterdir()] == ["vae.state.pt"]
    run.path.with_suffix(".part").write_bytes(b"half")
    other = progress(tmp_path / "vae.safetensors", torch.nn.Linear(1, 1))
    assert other.resume() and other.step == 4


@pytest.mark.parametrize("other", [{"model": torch.nn.Linear(2, 2)}, {"network": torch.nn.Linear(1, 1)}])
def test_a_state_of_another_training_is_named(tmp_path: Path, other: dict[str, torch.nn.Module]) -> None:
    out = tmp_path / "vae.safetensors"
    progress(out, torch.nn.Linear(1, 1)).save()
    with pytest.raises(ValueError, match=r"vae\.state\.pt is the state of another training .*: move it away"):
        Progress(out, other, np.random.default_rng(0), 10, 1.0).resume()
