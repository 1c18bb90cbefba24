"""A sampler that waits: it gets its answers in order, its result and faults come out, and it can be ended."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ccl_pack.ccl_core.host.turns import Turns


def halving(ask: Callable[..., Tensor]) -> Tensor:
    x = torch.ones(1)
    for sigma in (3.0, 2.0):
        x = x + ask(x, torch.tensor([sigma, sigma]), model_options={"a": 1}, seed=4)
    return x


def test_it_asks_one_at_a_time_and_gives_its_result() -> None:
    turns = Turns(halving)
    assert turns.asked.level == 3.0 and turns.asked.options == {"a": 1} and turns.asked.seed == 4
    turns.answer(torch.tensor([1.0]))
    assert turns.asked.level == 2.0 and turns.asked.x == 2
    turns.answer(torch.tensor([5.0]))
    assert turns.asked is None and turns.result == 7
    turns.close()


def test_a_sampler_that_never_asks_has_ended() -> None:
    turns = Turns(lambda _: torch.zeros(1))
    assert turns.asked is None and turns.result == 0
    turns.close()


@pytest.mark.parametrize("asks", [0, 1])
def test_its_fault_is_raised_where_it_is_answered(asks: int) -> None:
    def failing(ask: Callable[..., Tensor]) -> Tensor:
        for _ in range(asks):
            ask(torch.ones(1), torch.ones(1))
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        Turns(failing).answer(torch.ones(1))


def test_a_sampler_that_waits_is_ended_though_it_catches_exceptions() -> None:
    def stubborn(ask: Callable[..., Tensor]) -> Tensor:
        while True:
            with contextlib.suppress(Exception):
                ask(torch.ones(1), torch.ones(1))

    before = threading.active_count()
    turns = Turns(stubborn)
    assert threading.active_count() == before + 1
    turns.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_it_runs_in_the_modes_of_torch_of_its_owner(mode: Any) -> None:
    found = []

    def look(_: Any) -> Tensor:
        found.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
        return torch.zeros(1)

    with mode():
        Turns(look).close()
        assert found == [(torch.is_inference_mode_enabled(), torch.is_grad_enabled())]
