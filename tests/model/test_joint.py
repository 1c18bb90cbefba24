"""The joint model against the host's own Wan, and the routes of DCR."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.ops
import pytest
import torch
from comfy.ldm.wan.model import WanModel

from ccl_pack.ccl_core.config import CCLConfig
from ccl_pack.ccl_core.model.joint import JointModel
from support.tiny import CONFIG, config, latents, state_dict

VARIANTS = {
    "t2v": {},
    "i2v with CLIP and 36 channels": {"in_dim": 36, "model_type": "i2v"},
    "5B-style": {"in_dim": 48, "out_dim": 48},
}


def joint(chosen: CCLConfig = CONFIG, seed: int = 0, **weights: Any) -> JointModel:
    model = JointModel(chosen, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    model.load_state_dict(state_dict(chosen, seed) | weights)
    return model.requires_grad_(False)


def silent(model: JointModel) -> JointModel:
    """A fresh interaction: its output projections are zero."""
    for layer in model.interaction.values():
        for direction in (layer.a2v, layer.v2a):
            direction.o.weight.zero_()
            direction.o.bias.zero_()
    return model


def inputs(seed: int = 3, batch: int = 2, tokens: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, generator=generator) * 1000, torch.randn(batch, tokens, 24, generator=generator)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_fresh_model_without_audio_is_the_hosts_wan(variant: str, size: tuple[int, int]) -> None:
    stream = replace(CONFIG.video, **VARIANTS[variant])
    model = silent(joint(config(video=stream)))
    wan = WanModel(**stream.wan_arguments(), dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    wan.load_state_dict({key: value for key, value in model.state_dict().items() if key in wan.state_dict()})
    wan.requires_grad_(False)
    time, context = inputs()
    video = torch.randn(2, stream.in_dim, 3, *size)
    conds = {"clip_fea": torch.randn(2, 257, 1280)} if stream.model_type == "i2v" else {}
    if variant == "5B-style":
        time = time[:, None] * torch.tensor([[0.0, 1.0, 1.0]])  # per latent frame
    out = model(video, time, context, transformer_options={}, **conds)
    assert torch.equal(out, wan(video, time, context, transformer_options={}, **conds))
    assert out.std() > 0.1


def test_fresh_model_with_audio_is_two_independent_streams() -> None:
    model = silent(joint())
    time, context = inputs()
    video, audio = latents(batch=2)
    both = model([video, audio], time, context, transformer_options={})
    assert torch.equal(both[0], model(video, time, context, transformer_options={}))
    other = model([torch.randn_like(video), audio], time, context, transformer_options={})
    assert torch.equal(both[1], other[1])


def test_open_routes_couple_both_streams() -> None:
    model = joint()
    time, context = inputs()
    video, audio = latents(batch=2)
    base = model([video, audio], time, context, transformer_options={})
    audio_changed = model([video, audio + 1], time, context, transformer_options={})
    video_changed = model([video + 1, audio], time, context, transformer_options={})
    assert (audio_changed[0] - base[0]).abs().max() > 1e-3
    assert (video_changed[1] - base[1]).abs().max() > 1e-3


@pytest.mark.parametrize("direction", ["a2v", "v2a"])
def test_anchored_direction_has_no_effect_and_no_gradient(
    direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        comfy.model_management, "in_training", True
    )  # the host's rotary kernel has no backward
    model = joint()
    time, context = inputs()
    video, audio = (x.requires_grad_() for x in latents(batch=2))
    routes = (direction != "a2v", direction != "v2a")
    out = model([video, audio], time, context, transformer_options={}, routes=routes)
    to_video, to_audio = out[0].square().sum(), out[1].square().sum()
    cross = {"a2v": (to_video, audio), "v2a": (to_audio, video)}
    open_direction = "v2a" if direction == "a2v" else "a2v"
    assert torch.autograd.grad(*cross[direction], allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(*cross[open_direction])[0].abs().max() > 0


def test_route_per_sample_equals_each_sample_alone() -> None:
    model = joint()
    time, context = inputs(batch=3)
    video, audio = latents(batch=3)
    a2v, v2a = (True, False, True), (False, False, True)
    mixed = model([video, audio], time, context, transformer_options={}, routes=(a2v, v2a))
    for i in range(3):
        rows = slice(i, i + 1)
        alone = model(
            [video[rows], audio[rows]],
            time[rows],
            context[rows],
            transformer_options={},
            routes=(a2v[i], v2a[i]),
        )
        for whole, part in zip(mixed, alone, strict=True):
            torch.testing.assert_close(whole[rows], part, rtol=1e-4, atol=1e-4)


def test_host_flags_mean_the_anchor() -> None:
    model = joint()
    time, context = inputs()
    streams = list(latents(batch=2))
    flagged = model(
        streams, time, context, transformer_options={"a2v_cross_attn": False, "v2a_cross_attn": False}
    )
    routed = model(streams, time, context, transformer_options={}, routes=(False, False))
    assert all(torch.equal(x, y) for x, y in zip(flagged, routed, strict=True))


def test_stream_switched_off_is_absent() -> None:
    model = joint()
    time, context = inputs()
    video, audio = latents(batch=2)
    out = model([video, audio], time, context, transformer_options={"run_ax": False})
    assert torch.equal(out[0], model(video, time, context, transformer_options={}))
    assert not out[1].any()
    out = model([video, audio], time, context, transformer_options={"run_vx": False})
    anchored = model([video, audio], time, context, transformer_options={}, routes=(True, False))
    assert not out[0].any()
    torch.testing.assert_close(out[1], anchored[1])


def test_patches_see_the_video_stream_only() -> None:
    model = joint()
    time, context = inputs()
    video, audio = latents(batch=2)
    seen = []
    patch = {
        "attn1_patch": [lambda args: seen.append(args["x"].shape[1]) or args["x"]],
        "attn2_patch": [lambda args: args["x"] * 1.5],
    }
    base = model([video, audio], time, context, transformer_options={})
    patched = model([video, audio], time, context, transformer_options={"patches": patch})
    assert seen == [3 * 2 * 3] * CONFIG.video.num_layers
    assert (patched[0] - base[0]).abs().max() > 1e-3


def test_replaced_block_runs_the_whole_layer_inside() -> None:
    model = joint()
    time, context = inputs()
    streams = list(latents(batch=2))
    calls = []

    def around(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        calls.append(args["img"].shape)
        return extra["original_block"](args)

    replaced = model(
        streams,
        time,
        context,
        transformer_options={"patches_replace": {"dit": {("double_block", 1): around}}},
    )
    assert len(calls) == 1
    plain = model(streams, time, context, transformer_options={})
    assert all(torch.equal(x, y) for x, y in zip(replaced, plain, strict=True))
    skipped = model(
        streams,
        time,
        context,
        transformer_options={"patches_replace": {"dit": {("double_block", 1): lambda args, _: args}}},
    )
    left_out = model(streams, time, context, transformer_options={"skip_layers": (1,)})
    assert all(torch.equal(x, y) for x, y in zip(skipped, left_out, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    model = joint()
    time, context = inputs()
    streams = latents(batch=2)
    exact = model(list(streams), time, context, transformer_options={})
    half = JointModel(CONFIG, dtype=dtype, operations=comfy.ops.manual_cast)
    half.load_state_dict(state_dict(CONFIG))
    out = half.requires_grad_(False)(
        [x.to(dtype) for x in streams], time, context.to(dtype), transformer_options={}
    )
    for x, y in zip(out, exact, strict=True):
        assert x.dtype is dtype
        assert (x.float() - y).norm() / y.norm() < 0.05
