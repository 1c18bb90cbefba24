"""The ablations: what each leaves out, identities with CCL, one size, one order of data, and that each
learns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.ops
import pytest
import torch

from ccl_bench.ablation_trainer import Recipe, Trainer
from ccl_pack.ccl_core.alignment.tarp import plan
from ccl_pack.ccl_core.alignment.timeline import Timeline
from ccl_pack.ccl_core.attention_maps import Recorder
from ccl_pack.ccl_core.config import CCAOptions, CCLConfig
from ccl_pack.ccl_core.model.interactions import INTERACTIONS
from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.training.flow import Batch
from ccl_pack.ccl_core.training.tiny.ablations import (
    ABLATIONS,
    VARIANTS,
    configuration,
    couple,
    index_positions,
    linear_fusion,
    parameters,
    register,
)
from support.ccl_tiny import CCL_TINY
from support.tiny import CONFIG, latents, state_dict


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    monkeypatch.setattr(comfy.model_management, "in_training", True)
    shipped = dict(INTERACTIONS)
    register()
    yield set(shipped)
    INTERACTIONS.clear()
    INTERACTIONS.update(shipped)


def model_of(config: CCLConfig, weights: dict[str, torch.Tensor] | None = None) -> JointModel:
    model = JointModel(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    model.load_state_dict(state_dict(config) if weights is None else weights)
    return model


@torch.no_grad()
def run(
    model: JointModel,
    routes: tuple[bool, bool] = (True, True),
    frames: int = 3,
    options: dict[str, Any] | None = None,
) -> list[torch.Tensor]:
    text = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(7))
    pair, time = list(latents(frames=frames, batch=2)), torch.tensor([400.0, 700.0])
    return model(pair, time, text, transformer_options=options or {}, routes=routes)


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, other, strict=True))


def test_without_partition_equals_ccl_where_one_window_covers_everything() -> None:
    ccl = model_of(CONFIG)
    plain = model_of(couple(CONFIG, "cca_unpartitioned"))
    assert same(run(ccl, frames=1), run(plain, frames=1))
    assert not same(run(ccl), run(plain))


@pytest.mark.parametrize("kind", ["cca", "cca_unpartitioned"])
def test_only_without_partition_every_frame_hears_the_whole_sound(kind: str) -> None:
    model = model_of(couple(CONFIG, kind))
    recorder = Recorder(model)
    run(model, options={"ccl_taps": recorder.taps})
    first = recorder.maps[0].rows[..., : 2 * 3, 3:]  # frame 0 of a2v, without the context tokens
    assert (
        (first > 0).all() if kind != "cca" else not first[..., plan(model.timeline(3, 18)).a2v[0][1] :].any()
    )


def test_without_dcr_a_closed_route_of_the_task_stays_open() -> None:
    ccl, plain = model_of(CONFIG), model_of(couple(CONFIG, "cca_unrouted"))
    assert same(run(ccl), run(plain))
    assert same(run(plain, routes=(False, False)), run(plain))
    off = {"a2v_cross_attn": False, "v2a_cross_attn": False}
    assert same(run(plain, options=off), run(ccl, routes=(False, False)))
    assert not same(run(ccl, routes=(False, False)), run(ccl))


@pytest.mark.parametrize("kind", ["cca_unanchored", "gated"])
def test_without_context_tokens_a_switched_off_direction_adds_nothing(kind: str) -> None:
    config = couple(CONFIG, kind, options=CCAOptions(0))
    model = model_of(config)
    uncoupled = {
        key: value for key, value in state_dict(config).items() if not key.startswith("interaction.")
    }
    streams = run(model_of(couple(config, kind, layers=()), uncoupled))
    assert same(run(model, options={"a2v_cross_attn": False, "v2a_cross_attn": False}), streams)
    assert not same(run(model), streams)


def test_without_context_tokens_routes_count_per_sample() -> None:
    model = model_of(couple(CONFIG, "cca_unanchored", options=CCAOptions(0)))
    mixed = run(model, routes=((True, False), (False, True)))
    opened, closed = run(model), run(model, routes=(False, False))
    both = run(model, routes=(True, False)), run(model, routes=(False, True))
    assert torch.allclose(mixed[0][0], both[0][0][0], atol=1e-5)
    assert torch.allclose(mixed[1][1], both[1][1][1], atol=1e-5)
    assert not same(opened, closed)


def test_a_closed_gate_is_two_streams_and_learns_to_open() -> None:
    config = couple(CONFIG, "gated", options=CCAOptions(0))
    model = Trainer(config, Recipe(batch=2, warmup=1)).model
    directions = [getattr(layer, name) for layer in model.interaction.values() for name in ("a2v", "v2a")]
    assert all(direction.gate == 0 and direction.out.weight.any() for direction in directions)
    torch.nn.init.normal_(model.head.head.weight)
    torch.nn.init.normal_(model.audio.head.head.weight)
    video, audio = latents(batch=2)
    out = model([video, audio], torch.tensor([400.0, 700.0]), torch.zeros(2, 5, 24), transformer_options={})
    other = model(
        [video, audio + 1], torch.tensor([400.0, 700.0]), torch.zeros(2, 5, 24), transformer_options={}
    )
    assert torch.equal(out[0], other[0]), "a closed gate hears nothing"
    sum(x.square().mean() for x in out).backward()
    assert any(direction.gate.grad != 0 for direction in directions)


def test_index_positions_keep_the_partition() -> None:
    plain, ccl = plan(Timeline.of(index_positions(CONFIG), 5, 34)), plan(Timeline.of(CONFIG, 5, 34))
    assert (plain.a2v, plain.v2a) == (ccl.a2v, ccl.v2a)
    assert plain.audio_positions == tuple(range(34))
    assert max(ccl.audio_positions) < 5


def test_fusion_on_a_linear_clock_counts_its_clock_in_latent_frames() -> None:
    positions = Timeline.of(linear_fusion(CONFIG), 5, 34).audio_positions
    assert float(positions[8]) == pytest.approx(1.0), (
        "8 audio tokens at 32/s last as long as 4 frames at 16/s"
    )


@pytest.mark.parametrize("base", [CONFIG, CCL_TINY], ids=["tests", "ccl-tiny"])
@pytest.mark.parametrize("name", VARIANTS)
def test_all_have_the_size_of_ccl(name: str, base: CCLConfig) -> None:
    wanted = parameters(base)
    assert abs(parameters(configuration(name, base)) - wanted) <= 0.03 * wanted


def test_a_larger_variant_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    larger = replace(CONFIG, video=replace(CONFIG.video, ffn_dim=128))
    monkeypatch.setitem(VARIANTS, "larger", replace(VARIANTS["ccl"], change=lambda _: larger))
    with pytest.raises(ValueError, match=r"larger has .* parameters"):
        configuration("larger", CONFIG)


def test_every_variant_learns_on_the_same_draws() -> None:
    def batch() -> Any:
        video, audio = latents(batch=2)
        text = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
        return Batch(video, audio, text, torch.ones_like(video[:, :1]), torch.ones_like(audio[:, :1]))

    seen = {}
    for name in VARIANTS:
        trainer = Trainer(configuration(name, CONFIG), Recipe(steps=20, batch=2, warmup=1))
        before = [value.clone() for value in trainer.model.interaction.parameters()]
        losses = [trainer.update(batch()) for _ in range(8)]
        seen[name] = [list(loss) for loss in losses], trainer.generator.get_state().tolist()
        assert all(torch.tensor(list(loss.values())).isfinite().all() for loss in losses)
        changed = [
            not torch.equal(a, b) for a, b in zip(before, trainer.model.interaction.parameters(), strict=True)
        ]
        assert sum(changed) > len(changed) / 2
    assert all(draws == seen["ccl"] for draws in seen.values()), (
        "tasks, times and noise do not depend on the variant"
    )


def test_only_shipped_kinds_are_known_without_registering(registered: set[str]) -> None:
    assert registered.isdisjoint(ABLATIONS)
    assert set(INTERACTIONS) == registered | set(ABLATIONS)
