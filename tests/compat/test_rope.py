"""The host's RoPE options: on the video as on plain Wan, while the coupling keeps the true time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_rope import ScaleROPE

from support.uncoupled import KINDS, model_of, sample, wan_of

STILL = {"scale_x": 1.0, "shift_x": 0.0, "scale_y": 1.0, "shift_y": 0.0, "scale_t": 1.0, "shift_t": 0.0}
SHIFTS = [{"shift_t": 5.0}, {"shift_x": 3.0}, {"shift_y": -2.0}, {"shift_t": 1.5, "shift_x": 7.0}]


SCALES = [{"scale_t": 1.7}, {"scale_x": 2.0, "scale_y": 0.5, "shift_t": 2.0}]


def moved(model: ModelPatcher, **options: float) -> ModelPatcher:
    return ScaleROPE.execute(model, **{**STILL, **options}).args[0]


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@KINDS
@pytest.mark.parametrize("options", SHIFTS, ids=str)
def test_a_shift_of_all_positions_changes_neither_stream(kind: str, options: dict[str, float]) -> None:
    """Attention sees differences of positions. In 0.2.0 a shift moved the sound by a fifth of its range."""
    model = model_of(kind, fresh=False)
    for made, wanted in zip(sample(moved(model, **options)), sample(model), strict=True):
        assert distance(made, wanted) < 2e-5


@KINDS
@pytest.mark.parametrize(
    "options", [{"scale_t": 1.7}, {"scale_x": 2.0, "scale_y": 0.5, "shift_t": 2.0}], ids=str
)
def test_a_scale_is_that_of_plain_wan_on_a_fresh_coupling(kind: str, options: dict[str, float]) -> None:
    model = model_of(kind, fresh=True)
    wanted = sample(moved(wan_of(model), **options), sound=False)[0]
    assert torch.equal(sample(moved(model, **options))[0], wanted)
    assert distance(wanted, sample(model, sound=False)[0]) > 1e-3


@pytest.mark.parametrize("kind", ["cca", "fusion"])
@pytest.mark.parametrize("reference", [False, True])
def test_the_coupling_sees_the_true_time(kind: str, reference: bool) -> None:
    """Its tables are those without options, also behind a reference image."""
    model = model_of(kind, fresh=False).model.diffusion_model
    seen: list[Any] = []
    hook = model.interaction[0].register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    latent = [torch.zeros(1, 16, 3, 4, 6), torch.zeros(1, 8, 18)]
    more = {"time_dim_concat": torch.zeros(1, 16, 1, 4, 6)} if reference else {}
    for options in ({}, {"rope_options": {"scale_t": 1.7, "shift_t": 2.0, "shift_y": 1.0}}):
        model(latent, torch.tensor([500.0]), torch.zeros(1, 5, 24), transformer_options=options, **more)
    hook.remove()
    still, moved_ones = seen
    for direction in ("a2v", "v2a"):
        for one, other in zip(getattr(still, direction), getattr(moved_ones, direction), strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(still.video.freqs, moved_ones.video.freqs)
