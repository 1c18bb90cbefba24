"""Visible attention: known answers by hand, and on the tiny model that what is recorded is what was
computed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from ccl_pack.ccl_core.alignment import tarp
from ccl_pack.ccl_core.attention_maps import AttentionMap, Recorder, context_share, image, rows
from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.model.attention import TAPS
from ccl_pack.ccl_core.model.joint import JointModel
from support.tiny import CONFIG, latents, patcher

FRAMES, TOKENS, SPATIAL, CONTEXT = 3, 18, 6, 3  # of the tiny model's latents: 4x6 in patches of 2x2


@pytest.fixture
def model() -> JointModel:
    return patcher().model.diffusion_model


@torch.no_grad()
def run(
    model: JointModel, options: dict[str, Any], routes: tuple[bool, bool] = (True, True)
) -> list[torch.Tensor]:
    text = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(7))
    time = torch.tensor([400.0, 700.0])
    return model(list(latents(batch=2)), time, text, transformer_options=options, routes=routes)


def recorded(
    model: JointModel, layers: list[int] | None = None, routes: tuple[bool, bool] = (True, True)
) -> tuple[list[AttentionMap], list[torch.Tensor]]:
    recorder = Recorder(model, layers)
    out = run(model, {TAPS: recorder.taps}, routes)
    return recorder.maps, out


def test_rows_by_hand() -> None:
    q = torch.tensor([[[2.0, 0.0, 0.0, 1.0]]])  # one query, two heads of width 2
    k = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, math.sqrt(2) * math.log(3)]]])
    e = math.exp(2 / math.sqrt(2))
    expected = torch.tensor([[[[e / (e + 1), 1 / (e + 1)]], [[1 / 4, 3 / 4]]]])
    torch.testing.assert_close(rows(q, k, 2), expected)


def test_context_share_by_hand() -> None:
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.0, 0.2, 0.8]])
    background, foreground = context_share(weights, 2, torch.tensor([False, True, True]))
    assert background == pytest.approx(0.75)
    assert foreground == pytest.approx(0.2)
    assert context_share(weights, 2, torch.zeros(3, dtype=torch.bool))[1] is None
    with pytest.raises(ValueError, match="wanted one entry for each of the 3 queries"):
        context_share(weights, 2, torch.tensor([True]))


def test_the_image_shows_the_root_of_the_weight_in_the_colour_of_its_column() -> None:
    picture = image(torch.tensor([[0.25, 1.0, 0.0]]), context_tokens=1)
    assert picture.shape == (1, 1, 3, 3)
    torch.testing.assert_close(
        picture[0, 0], torch.tensor([[0.5, 0.3, 0.05], [0.5, 0.85, 1.0], [0.0, 0.0, 0.0]])
    )


def test_recording_changes_nothing_and_leaves_nothing_behind(model: JointModel) -> None:
    plain = run(model, {})
    maps, out = recorded(model)
    assert all(torch.equal(a, b) for a, b in zip(plain, out, strict=True))
    assert [(m.layer, m.direction) for m in maps] == [(0, "a2v"), (0, "v2a"), (1, "a2v"), (1, "v2a")]
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_rows_sum_to_one_and_are_zero_outside_the_partition(model: JointModel) -> None:
    maps, _ = recorded(model)
    plan = tarp.plan(model.timeline(FRAMES, TOKENS))
    a2v = torch.zeros(FRAMES * SPATIAL, CONTEXT + TOKENS, dtype=torch.bool)
    v2a = torch.zeros(TOKENS, CONTEXT + FRAMES * SPATIAL, dtype=torch.bool)
    a2v[:, :CONTEXT] = v2a[:, :CONTEXT] = True
    for i, (window, queries) in enumerate(zip(plan.a2v, plan.v2a, strict=True)):
        a2v[i * SPATIAL : (i + 1) * SPATIAL, CONTEXT + window[0] : CONTEXT + window[1]] = True
        v2a[queries[0] : queries[1], CONTEXT + i * SPATIAL : CONTEXT + (i + 1) * SPATIAL] = True
    for found in maps:
        assert found.rows.shape[:2] == (2, 2) and found.context_tokens == CONTEXT
        torch.testing.assert_close(found.rows.sum(-1), torch.ones(found.rows.shape[:-1]))
        assert torch.equal(found.rows[0, 0] > 0, {"a2v": a2v, "v2a": v2a}[found.direction])


@pytest.mark.parametrize("name", ["a2v", "v2a"])
@pytest.mark.parametrize("route", [True, False])
def test_the_rows_times_the_values_are_the_output_of_the_attention(
    model: JointModel, name: str, route: bool
) -> None:
    direction, values, outputs = getattr(model.interaction["1"], name), [], []
    hooks = [
        direction.v.register_forward_hook(lambda _, __, out: values.append(out)),
        direction.o.register_forward_pre_hook(lambda _, args: outputs.append(args[0])),
    ]
    maps, _ = recorded(model, layers=[1], routes=(route, route))
    for hook in hooks:
        hook.remove()
    (weights,) = [found.rows for found in maps if found.direction == name]
    v = torch.cat([value.expand(2, -1, -1) for value in values], dim=1)  # the context tokens come first
    again = (weights @ v.unflatten(2, (2, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(again, outputs[0])
    assert weights.shape[-1] == (CONTEXT if not route else v.shape[1])


def test_a_batch_of_both_routes_is_refused(model: JointModel) -> None:
    with pytest.raises(ValueError, match="record passes of one route"):
        recorded(model, routes=((True, False), True))


def test_only_layers_with_a_coupling_can_be_recorded(model: JointModel) -> None:
    assert {found.layer for found in recorded(model, layers=[1])[0]} == {1}
    with pytest.raises(ValueError, match=r"layers \[2\] have no coupling to record, layers 0, 1 have one"):
        Recorder(model, [2])


def test_a_run_of_the_host_is_recorded_pass_by_pass() -> None:
    import comfy.sample

    from support.tiny import av_latent, conditioning

    loaded = patcher()
    network = loaded.model.diffusion_model
    recorder = Recorder(network, [0])
    loaded.model_options["transformer_options"][TAPS] = recorder.taps
    latent = av_latent()["samples"]
    noise = comfy.sample.prepare_noise(latent, 0)
    comfy.sample.sample(loaded, noise, 2, 1.0, "euler", "simple", conditioning(), conditioning(3), latent)
    assert [found.direction for found in recorder.maps] == ["a2v", "v2a"] * 2
    assert CONFIG.interaction.options.context_tokens == recorder.maps[0].context_tokens


@pytest.mark.parametrize("kind", ["fusion", "bridge"])
def test_a_coupling_without_context_tokens_is_recorded_whole(kind: str) -> None:
    network = patcher(interaction=InteractionConfig(kind, (0, 1), OPTIONS[kind]())).model.diffusion_model
    maps, out = recorded(network)
    assert all(torch.equal(a, b) for a, b in zip(run(network, {}), out, strict=True))
    assert sorted((found.layer, found.direction) for found in maps) == [
        (0, "a2v"),
        (0, "v2a"),
        (1, "a2v"),
        (1, "v2a"),
    ]
    video = FRAMES * SPATIAL
    for found in maps:
        queries, keys = (video, TOKENS) if found.direction == "a2v" else (TOKENS, video)
        assert found.rows.shape == (2, 2, queries, keys) and found.context_tokens == 0
        torch.testing.assert_close(found.rows.sum(-1), torch.ones(2, 2, queries))
        assert (found.rows > 0).all()


def test_a_closed_direction_of_a_coupling_without_context_tokens_has_no_map() -> None:
    network = patcher(
        interaction=InteractionConfig("fusion", (0, 1), OPTIONS["fusion"]())
    ).model.diffusion_model
    recorder = Recorder(network)
    run(network, {TAPS: recorder.taps, "a2v_cross_attn": False})
    assert {found.direction for found in recorder.maps} == {"v2a"}


def test_reference_tokens_have_neither_rows_nor_columns() -> None:
    network = patcher(video=replace(CONFIG.video, in_dim_ref_conv=16)).model.diffusion_model
    recorder, text = Recorder(network), torch.zeros(1, 5, 24)
    conds = {"reference_latent": torch.randn(1, 16, 4, 6), "transformer_options": {TAPS: recorder.taps}}
    network(list(latents()), torch.tensor([500.0]), text, **conds)
    shapes = {found.direction: tuple(found.rows.shape[2:]) for found in recorder.maps}
    assert shapes == {
        "a2v": (FRAMES * SPATIAL, CONTEXT + TOKENS),
        "v2a": (TOKENS, CONTEXT + FRAMES * SPATIAL),
    }


@torch.no_grad()
def test_two_passes_interleaved_by_layer_are_told_apart(model: JointModel) -> None:
    """As they come where two branches of guidance take turns: layer 0 of both, then layer 1 of both."""
    apart = [recorded(model, routes=routes)[0] for routes in ((True, True), (False, False))]
    recorder = Recorder(model)
    calls: list[list[tuple[Any, ...]]] = []
    for routes in ((True, True), (False, False)):
        calls.append([])
        run(model, {TAPS: {"attention": lambda *call: calls[-1].append(call)}}, routes)
    for layer in (0, 1):
        for of_pass in calls:
            for call in of_pass:
                if call[0] == layer:
                    recorder.taps["attention"](*call)
    order = [(found.layer, found.direction, found.rows.shape[-1] > CONTEXT) for found in recorder.maps]
    both = [("a2v", True), ("v2a", True), ("a2v", False), ("v2a", False)]
    assert order == [(layer, *seen) for layer in (0, 1) for seen in both]
    of_open = [found for found in recorder.maps if found.rows.shape[-1] > CONTEXT]
    of_closed = [found for found in recorder.maps if found.rows.shape[-1] <= CONTEXT]
    for made, wanted in zip((of_open, of_closed), apart, strict=True):
        assert all(torch.equal(x.rows, y.rows) for x, y in zip(made, wanted, strict=True))


@torch.no_grad()
def test_the_order_of_the_frames_within_a_pass_does_not_matter(model: JointModel) -> None:
    (wanted, _), recorder = recorded(model), Recorder(model)
    calls: list[tuple[Any, ...]] = []
    run(model, {TAPS: {"attention": lambda *call: calls.append(call)}})
    for call in reversed(calls):
        recorder.taps["attention"](*call)
    made = {(found.layer, found.direction): found.rows for found in recorder.maps}
    assert len(recorder.maps) == len(wanted)
    assert all(torch.equal(made[found.layer, found.direction], found.rows) for found in wanted)
