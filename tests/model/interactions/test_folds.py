"""Folded products of CCA against the plain ones, and where they must not be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.ops
import pytest
import torch
from comfy.quant_ops import QuantizedTensor
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ccl_pack.ccl_core.attention_maps import Recorder
from ccl_pack.ccl_core.model.attention import TAPS
from ccl_pack.ccl_core.model.interactions import folds
from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.model.sparse import OVERRIDE, SparseOverride
from support.tiny import latents, patcher

NEVER, ALWAYS = 2**60, -(2**60)
MASKED = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
# What a pass is given, by name.
PASSES: dict[str, dict[str, Any]] = {
    "joint": {},
    "a2v": {"routes": (True, False)},
    "v2a": {"routes": (False, True)},
    "anchors": {"routes": (False, False)},
    "a route for each clip": {"routes": ((True, False), (False, True))},
    "kept frames": {"masked": True},
    "the video alone": {"run_ax": False},
    "the sound alone": {"run_vx": False},
}


@pytest.fixture
def model() -> JointModel:
    return patcher().model.diffusion_model


@torch.no_grad()
def velocities(
    model: JointModel,
    routes: Any = (True, True),
    masked: bool = False,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> list[Tensor]:
    pair = [stream.to(dtype) for stream in latents(2, batch=2)]
    time = torch.tensor([900.0, 700.0])
    times = (time[:, None] * MASKED if masked else time), time
    text = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(7)).to(dtype)
    return model(pair, times, text, transformer_options=options, routes=routes)


def at(worth: int, monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> Any:
    with monkeypatch.context() as patched:
        patched.setattr(folds, "WORTH", worth)
        return run()


def calls_of_projections(model: JointModel, monkeypatch: pytest.MonkeyPatch, worth: int) -> list[int]:
    """How often `o` of a2v and `v` of v2a were multiplied as they stand, in the first layer."""
    counts = [0, 0]
    plain = comfy.ops.disable_weight_init.Linear.forward
    layer = model.interaction[0]
    watched = {id(layer.a2v.o): 0, id(layer.v2a.v): 1}

    def forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        if id(self) in watched:
            counts[watched[id(self)]] += 1
        return plain(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(folds, "WORTH", worth)
        patched.setattr(comfy.ops.disable_weight_init.Linear, "forward", forward)
        velocities(model)
    return counts


@pytest.mark.parametrize("name", PASSES)
def test_folded_products_are_the_plain_ones(
    model: JointModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made, wanted = (
        at(worth, monkeypatch, lambda: velocities(model, **PASSES[name])) for worth in (ALWAYS, NEVER)
    )
    for x, y in zip(made, wanted, strict=True):
        assert (x - y).abs().max() <= 1e-5 * max(y.abs().max(), 1.0)


def test_both_folds_are_taken(model: JointModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the values' projection the context tokens are left, which the plain way needs once more."""
    assert calls_of_projections(model, monkeypatch, NEVER) == [1, 2]
    assert calls_of_projections(model, monkeypatch, ALWAYS) == [0, 1]


def test_in_bf16_a_fold_is_as_near_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = velocities(patcher().model.diffusion_model)
    low = patcher(model_options={"dtype": torch.bfloat16}).model.diffusion_model
    errors = []
    for worth in (ALWAYS, NEVER):
        made = at(worth, monkeypatch, lambda: velocities(low, dtype=torch.bfloat16))
        errors.append([(x.float() - y).square().mean().sqrt() for x, y in zip(made, exact, strict=True)])
    assert all(folded < 1.25 * plain for folded, plain in zip(*errors, strict=True)), errors


def test_an_observer_sees_the_same_attention(model: JointModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for worth in (ALWAYS, NEVER):
        recorder = Recorder(model)
        at(worth, monkeypatch, lambda: velocities(model, **{TAPS: recorder.taps}))  # noqa: B023
        rows.append(recorder.maps)
    assert len(rows[0]) == len(rows[1]) > 0
    for one, other in zip(*rows, strict=True):
        assert (one.direction, one.layer) == (other.direction, other.layer)
        torch.testing.assert_close(one.rows, other.rows, rtol=1e-4, atol=1e-5)


def test_weights_that_the_host_changes_on_the_way_are_those_of_the_fold(
    model: JointModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A LoRA on weights that stay in RAM is a function of the weight."""
    for linear in (model.interaction[0].a2v.o, model.interaction[0].v2a.v):
        linear.weight_function, linear.comfy_cast_weights = [lambda weight: 1.5 * weight], True
    made, wanted = (at(worth, monkeypatch, lambda: velocities(model)) for worth in (ALWAYS, NEVER))
    for x, y in zip(made, wanted, strict=True):
        assert (x - y).abs().max() <= 1e-5 * y.abs().max()


# ---- where it must not be used


def by_object_patch(linear: Any) -> None:
    linear.forward = lambda x: 2 * type(linear).forward(linear, x)


def by_hook(linear: Any) -> None:
    linear.register_forward_hook(lambda _, __, out: 2 * out)


@pytest.mark.parametrize("patch", [by_object_patch, by_hook])
def test_what_stands_in_the_place_of_a_projection_acts(
    model: JointModel, monkeypatch: pytest.MonkeyPatch, patch: Callable[[Any], None]
) -> None:
    before = at(ALWAYS, monkeypatch, lambda: velocities(model))
    patch(model.interaction[0].a2v.o)
    patch(model.interaction[0].v2a.v)
    made, wanted = (at(worth, monkeypatch, lambda: velocities(model)) for worth in (ALWAYS, NEVER))
    for x, y, old in zip(made, wanted, before, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
        assert (x - old).abs().max() > 1e-4


def linear(kind: type) -> Any:
    made = kind(4, 4, device="cpu", dtype=torch.float32)
    return made.requires_grad_(False)


@torch.no_grad()
def test_projections_that_are_no_plain_matrix() -> None:
    plain = linear(comfy.ops.manual_cast.Linear)
    assert folds.is_plain(plain, {}) and folds.is_plain(linear(comfy.ops.disable_weight_init.Linear), {})
    assert not folds.is_plain(linear(comfy.ops.fp8_ops.Linear), {})
    quantised = linear(comfy.ops.manual_cast.Linear)
    weight = QuantizedTensor.from_float(torch.randn(4, 4), "TensorCoreFP8E4M3Layout")
    quantised.weight = torch.nn.Parameter(weight, requires_grad=False)
    assert not folds.is_plain(quantised, {})


@torch.no_grad()
def test_an_attention_of_somebody_else_is_not_passed_by() -> None:
    plain = linear(comfy.ops.manual_cast.Linear)
    other = lambda func, *args, **kwargs: func(*args, **kwargs)  # noqa: E731
    assert not folds.is_plain(plain, {OVERRIDE: other})
    assert not folds.is_plain(plain, {OVERRIDE: SparseOverride(0.5, other)})
    assert folds.is_plain(plain, {OVERRIDE: SparseOverride(0.5)})


def test_where_gradients_are_wanted_nothing_is_folded() -> None:
    plain = linear(comfy.ops.manual_cast.Linear)
    with torch.enable_grad():
        assert not folds.is_plain(plain, {})


# ---- where it saves


class Shape:
    """A projection of which only the size is asked."""

    def __init__(self, out: int, into: int) -> None:
        self.weight = torch.empty(out, into, device="meta")


@pytest.mark.parametrize(
    ("queries", "seen", "keys", "width", "heads", "folded"),
    [
        (18480, 40, 184, 5120, 40, True),  # a2v of 14B, 16 context tokens and a window of 24
        (18480, 16, 16, 5120, 40, True),  # its anchor
        (168, 896, 18496, 1536, 12, False),  # v2a: a query sees a whole frame
        (168, 16, 16, 1536, 12, True),  # its anchor
        (144, 40, 80, 256, 4, False),  # ccl-tiny: further kernels would take longer
    ],
)
def test_wo_is_folded_where_that_takes_fewer_multiplications(
    monkeypatch: pytest.MonkeyPatch, queries: int, seen: int, keys: int, width: int, heads: int, folded: bool
) -> None:
    monkeypatch.setattr(folds, "is_plain", lambda *_: True)
    assert folds.out_is_folded(Shape(width, width), {}, queries, seen, keys, heads) is folded


@pytest.mark.parametrize(
    ("queries", "seen", "keys", "width", "source", "heads", "last"),
    [
        (168, 896, 18496, 1536, 5120, 12, True),  # v2a of 14B: 8 queries a frame
        (18480, 40, 184, 5120, 1536, 40, False),  # a2v: many queries, few keys
        (18496, 18496, 18496, 1536, 5120, 12, False),  # where all see all
    ],
)
def test_wv_comes_last_where_that_takes_fewer_multiplications(
    monkeypatch: pytest.MonkeyPatch,
    queries: int,
    seen: int,
    keys: int,
    width: int,
    source: int,
    heads: int,
    last: bool,
) -> None:
    monkeypatch.setattr(folds, "is_plain", lambda *_: True)
    assert folds.values_are_last(Shape(width, source), {}, queries, seen, keys, heads) is last


@torch.no_grad()
def test_counted_multiplications_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a video 12 times as wide as a head."""
    wide = {"dim": 768, "num_heads": 6, "ffn_dim": 64, "num_layers": 1, "text_dim": 24, "freq_dim": 32}
    config = patcher().model.ccl_config
    model = patcher(
        video=replace(config.video, **wide),
        audio=replace(config.audio, **{**wide, "dim": 384, "num_heads": 3}),
        interaction=replace(config.interaction, layers=(0,)),
    ).model.diffusion_model
    pair = latents(2, frames=5, height=16, width=16, tokens=34)

    def flops() -> int:
        text = torch.randn(1, 5, 24)
        with FlopCounterMode(display=False) as counter:
            model(list(pair), torch.tensor([500.0]), text, transformer_options={})
        return counter.get_total_flops()

    plain, folded = (at(worth, monkeypatch, flops) for worth in (NEVER, folds.WORTH))
    assert folded < 0.95 * plain
