"""FSDP2 over two processes: a sharded joint model has the losses and the gradients of the whole one."""

from __future__ import annotations

from typing import Any

import pytest

from support import sharded

SECONDS = 240  # two imports of the host on a busy machine, and nine passes of a tiny model
CASES = [f"{kind} {loss}" for kind in sharded.KINDS for loss in sharded.LOSSES]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return sharded.run(tmp_path_factory.mktemp("fsdp"), SECONDS)


@pytest.mark.parametrize("case", CASES)
def test_each_process_has_the_loss_of_its_batch(found: dict[str, dict[str, Any]], case: str) -> None:
    own, wanted = found[case]["loss"]
    assert own == wanted > 0


@pytest.mark.parametrize("case", CASES)
def test_the_gradients_are_the_mean_over_both_batches(found: dict[str, dict[str, Any]], case: str) -> None:
    assert found[case]["difference"] < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_a_loss_reaches_the_weights_that_it_reaches_in_the_whole_model(
    found: dict[str, dict[str, Any]], case: str
) -> None:
    """The loss of one stream alone also reaches the other stream, through the coupling."""
    reached = found[case]["reached"]
    assert reached == found[case]["wanted"]
    for section in ("blocks.0.", "audio.blocks.0.", "interaction.0."):
        assert any(name.startswith(section) for name in reached)
