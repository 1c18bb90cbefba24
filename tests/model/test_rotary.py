"""Rotary tables by hand and against those of the host, and the two ways to pair the numbers of a head."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from comfy.ldm.flux.math import apply_rope1
from torch import Tensor

from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.model.rotary import axis_table, rotate, rotate_halves, time_table
from support.tiny import patcher

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> JointModel:
    return patcher().model.diffusion_model


def turn(angle: float) -> list[list[float]]:
    return [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]


def test_the_angles_of_an_axis_by_hand() -> None:
    """Position times 10000^(-2i / width): in a head of 4 the second pair turns a hundredth of the first."""
    table = axis_table(torch.tensor([0.0, 1.5]), 4)
    wanted = [[turn(0.0), turn(0.0)], [turn(1.5), turn(0.015)]]
    torch.testing.assert_close(table, torch.tensor(wanted)[None, :, None])


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_a_time_table_is_the_host_s_table_of_one_spatial_position(model: JointModel, stream: str) -> None:
    wan = model if stream == "video" else model.audio
    made = time_table(wan, [Fraction(i) for i in range(5)], CPU)
    assert torch.equal(made, wan.rope_encode(5, 1, 1, device=CPU, dtype=torch.float32))


def test_half_a_frame_is_half_the_turn(model: JointModel) -> None:
    half, whole = time_table(model, [Fraction(1, 2), Fraction(1)], CPU).unbind(1)
    torch.testing.assert_close(half @ half, whole)


def pairs(x: Tensor, table: Tensor) -> Tensor:
    """Each pair (…, 2) of a head times its matrix."""
    return (table @ x[..., None])[..., 0]


@pytest.mark.parametrize("heads", [1, 2])
def test_interleaved_pairs_turn_as_the_host_turns_them(heads: int) -> None:
    x, table = torch.randn(2, 3, 8), axis_table(torch.tensor([0.0, 1.0, 2.5]), 8 // heads)
    of_heads = x.unflatten(2, (heads, -1))
    assert torch.equal(rotate(x, table, heads), apply_rope1(of_heads, table).flatten(2))
    torch.testing.assert_close(
        rotate(x, table, heads), pairs(of_heads.unflatten(3, (-1, 2)), table).flatten(2)
    )


@pytest.mark.parametrize("heads", [1, 2])
def test_halves_of_a_head_turn_as_pairs(heads: int) -> None:
    x, table = torch.randn(2, 3, 8), axis_table(torch.tensor([0.0, 1.0, 2.5]), 8 // heads)
    halves = x.unflatten(2, (heads, 2, -1)).transpose(3, 4)  # (b, n, heads, width / 2, 2)
    wanted = pairs(halves, table).transpose(3, 4).flatten(2)
    torch.testing.assert_close(rotate_halves(x, table, heads), wanted)


@pytest.mark.parametrize("turned", [rotate, rotate_halves])
def test_a_product_of_query_and_key_depends_on_their_distance_alone(turned: Callable[..., Tensor]) -> None:
    q, k = torch.randn(2, 1, 1, 8, generator=torch.Generator().manual_seed(0))

    def product(of_query: float, of_key: float) -> Tensor:
        tables = [axis_table(torch.tensor([position]), 8) for position in (of_query, of_key)]
        return (turned(q, tables[0], 1) * turned(k, tables[1], 1)).sum()

    torch.testing.assert_close(product(3.25, 1.0), product(12.25, 10.0), rtol=1e-4, atol=1e-4)
    assert abs(product(3.25, 1.0) - product(3.25, 2.0)) > 1e-3
