"""Each token has its own diffusion time, also where references stand beside the latent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from comfy.ldm.wan.model import repeat_e
from torch import Tensor

from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.model.streams import StreamPass
from ccl_pack.ccl_core.model.times import gated, modulated, of_tokens, times_of
from support.tiny import CONFIG, latents, patcher

FRAMES, SPATIAL = 3, 6  # of tiny.latents: 4x6 cells in patches of 2x2
TOKENS = FRAMES * SPATIAL
# What may stand beside the latent, and how many tokens before and after it.
BESIDE: dict[str, tuple[dict[str, Any], int, int]] = {
    "nothing": ({}, 0, 0),
    "reference_latent": ({"reference_latent": torch.randn(1, 16, 4, 6)}, 6, 0),
    "context_latents": (
        {"context_latents": [torch.randn(1, 16, 1, 4, 6), torch.randn(1, 16, 2, 6, 4)]},
        0,
        6 + 12,
    ),
    "time_dim_concat": ({"time_dim_concat": torch.randn(1, 16, 2, 4, 6)}, 0, 12),
}
BESIDE["all of them"] = ({key: value for way in BESIDE.values() for key, value in way[0].items()}, 6, 12 + 18)
WAYS = pytest.mark.parametrize("beside", BESIDE)


# ---- known answers


@pytest.mark.parametrize("timestep", [torch.tensor([3.0, 5.0]), torch.tensor([[3.0], [5.0]])])
def test_one_time_is_that_of_all_tokens(timestep: Tensor) -> None:
    values, rows = times_of(timestep, 6, before=2, after=1)
    assert values.tolist() == [[3.0], [5.0]] and rows is None


def test_a_time_per_latent_frame_is_that_of_its_tokens() -> None:
    timestep = torch.tensor([[1.0, 2.0, 3.0]])
    values, rows = times_of(timestep, 6)
    assert torch.equal(values, timestep) and rows == 2
    assert of_tokens(values[..., None], rows).flatten().tolist() == [1, 1, 2, 2, 3, 3]


def test_a_frame_cut_short_has_an_index_per_token() -> None:
    _, rows = times_of(torch.tensor([[1.0, 2.0, 3.0]]), 5)
    assert rows.tolist() == [0, 0, 1, 1, 2]


def test_modulation_by_frame_is_that_of_a_spread_table_bit_for_bit() -> None:
    x, y = torch.randn(2, 2, 12, 8)
    shift, scale, gate = torch.randn(3, 2, 3, 8)
    rows = torch.arange(12) // 4
    assert torch.equal(modulated(x, shift, scale, 4), modulated(x, shift, scale, rows))
    assert torch.equal(gated(x, y, gate, 4), gated(x, y, gate, rows))
    spread = torch.addcmul(of_tokens(shift, rows), x, 1 + of_tokens(scale, rows))
    assert torch.equal(modulated(x, shift, scale, 4), spread)


def test_tokens_beside_the_latent_have_its_largest_time_in_each_sample() -> None:
    values, rows = times_of(torch.tensor([[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]]), 6, before=2, after=1)
    assert values.tolist() == [[1.0, 2.0, 3.0, 3.0], [6.0, 5.0, 4.0, 6.0]]
    assert rows.tolist() == [3, 3, 0, 0, 1, 1, 2, 2, 3]


def test_a_mask_with_two_values_is_a_table_of_two_columns() -> None:
    mask = torch.tensor([[0.0, 1, 1, 0, 1, 1]])
    values, rows = times_of(900 * mask, 6)
    assert values.tolist() == [[0.0, 900.0]] and rows.tolist() == [0, 1, 1, 0, 1, 1]
    values, rows = times_of(900 * mask, 6, before=1, after=2)
    assert values.tolist() == [[0.0, 900.0, 900.0]] and rows.tolist() == [2, 0, 1, 1, 0, 1, 1, 2, 2]


def test_a_column_of_the_table_is_shared_where_all_samples_agree() -> None:
    timestep = torch.tensor([[0.0, 7, 7, 0], [5.0, 0, 5, 5]])
    values, rows = times_of(timestep, 4)
    assert values.shape == (2, 3) and torch.equal(values[:, rows], timestep)


@pytest.mark.parametrize(("tokens", "count"), [(6, 1), (6, 3), (7, 3), (8, 3), (6, 6)])
def test_a_spread_table_is_that_of_the_host(tokens: int, count: int) -> None:
    table = torch.randn(2, count, 5)
    timestep = torch.arange(float(count)).expand(2, -1)
    spread = of_tokens(table, times_of(timestep, tokens).rows)
    assert torch.equal(
        spread.expand(-1, tokens, -1), repeat_e(table, torch.empty(2, tokens, 5)).expand(-1, tokens, -1)
    )


# ---- in the model


@pytest.fixture(scope="module")
def model() -> JointModel:
    return patcher(video=replace(CONFIG.video, in_dim_ref_conv=16)).model.diffusion_model


@torch.no_grad()
def embedded(model: JointModel, times: Tensor, beside: str) -> StreamPass:
    return model.embed_video(latents()[0], times, torch.randn(1, 5, 24), {}, **BESIDE[beside][0])[1]


def run(model: JointModel, times: Tensor, beside: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    text = torch.randn(1, 5, 24, generator=generator)
    both = times, torch.tensor([900.0])
    return model(list(latents()), both, text, transformer_options={}, **BESIDE[beside][0])


def wanted_times(own: Tensor, beside: str) -> Tensor:
    """The time of every token (1, n): those of the latent their own, the others its largest."""
    _, before, after = BESIDE[beside]
    largest = own.amax().reshape(1, 1)
    return torch.cat([largest.expand(1, before), own, largest.expand(1, after)], dim=1)


def assert_own_times(model: JointModel, made: StreamPass, wanted: Tensor) -> None:
    """The modulation of each token is nearest to that of its own time: 0 tokens at another one's."""
    distinct = wanted.unique()
    known = torch.stack([embedded(model, value[None], "nothing").e[0, 0] for value in distinct])  # (k, 6, d)
    found = of_tokens(made.e, made.rows)[0]  # (n, 6, d)
    nearest = torch.cdist(found.flatten(1), known.flatten(1)).argmin(dim=1)
    assert torch.equal(distinct[nearest], wanted[0])
    torch.testing.assert_close(found, known[nearest])


@WAYS
def test_a_latent_frame_s_tokens_have_its_own_time(model: JointModel, beside: str) -> None:
    times = torch.tensor([[0.0, 500.0, 900.0]])
    own = times.repeat_interleave(SPATIAL, dim=1)
    assert_own_times(model, embedded(model, times, beside), wanted_times(own, beside))


@WAYS
def test_a_token_has_its_own_time(model: JointModel, beside: str) -> None:
    times = torch.full((1, TOKENS), 900.0)
    times[:, :3], times[:, 7] = 0.0, 400.0
    made = embedded(model, times, beside)
    assert_own_times(model, made, wanted_times(times, beside))
    assert made.e.shape[1] == 3 + (beside != "nothing"), "one row of modulation for each distinct time"


@WAYS
@pytest.mark.parametrize("count", [FRAMES, TOKENS])
def test_equal_times_of_all_tokens_are_one_time(model: JointModel, beside: str, count: int) -> None:
    made = run(model, torch.full((1, count), 600.0), beside)
    for stream, wanted in zip(made, run(model, torch.tensor([600.0]), beside), strict=True):
        torch.testing.assert_close(stream, wanted, rtol=1e-4, atol=1e-4)


@WAYS
def test_times_by_frame_are_the_same_times_by_token(model: JointModel, beside: str) -> None:
    times = torch.tensor([[0.0, 500.0, 900.0]])
    by_token = run(model, times.repeat_interleave(SPATIAL, dim=1), beside)
    for stream, wanted in zip(by_token, run(model, times, beside), strict=True):
        torch.testing.assert_close(stream, wanted, rtol=1e-4, atol=1e-4)


@WAYS
def test_the_head_of_a_frame_reads_its_own_time(model: JointModel, beside: str) -> None:
    times = torch.tensor([[0.0, 500.0, 900.0]])
    made = embedded(model, times, beside)
    frames = FRAMES + (2 if "time_dim_concat" in BESIDE[beside][0] else 0)
    tokens = torch.randn(1, frames * SPATIAL, CONFIG.video.dim)
    velocity = model.unembed(tokens, made)
    for frame, time in enumerate([0.0, 500.0, 900.0]):
        alone = embedded(model, torch.tensor([time]), beside)
        torch.testing.assert_close(velocity[:, :, frame], model.unembed(tokens, alone)[:, :, frame])
