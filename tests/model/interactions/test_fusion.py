"""Fusion against the golden tensors of Ovi's reference, and against each stream alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.ops
import pytest
import torch
from comfy.ldm.wan.model import WanModel

from ccl_pack.ccl_core.config import FusionOptions, InteractionConfig
from ccl_pack.ccl_core.model.joint import JointModel
from support import golden, tiny
from support.tiny import patcher

Golden = tuple[JointModel, dict[str, torch.Tensor], dict[str, Any]]
FUSION = {
    "k_fusion": "k",
    "v_fusion": "v",
    "pre_attn_norm_fusion": "norm_y",
    "norm_k_fusion": "norm_k",
}


def renamed(key: str) -> str:
    """A published key under the name it has in JointModel."""
    tower, _, rest = key.removeprefix("weights/").partition(".")
    rest = rest.replace("modulation.modulation", "modulation") if rest.startswith("blocks.") else rest
    parts = rest.split(".")
    if parts[0] == "blocks" and len(parts) > 4 and parts[3] in FUSION:
        direction = {"video_model": "a2v", "audio_model": "v2a"}[tower]
        return ".".join(["interaction", parts[1], direction, FUSION[parts[3]], *parts[4:]])
    return rest if tower == "video_model" else f"audio.{rest}"


@pytest.fixture(scope="module")
def ovi() -> Golden:
    tensors, info = golden.read("ovi")
    weights = {renamed(key): value for key, value in tensors.items() if key.startswith("weights/")}
    config = golden.ovi_config(info, weights["audio.patch_embedding.2.w1.weight"].shape[0])
    model = JointModel(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    model.load_state_dict(weights)
    return model.requires_grad_(False), tensors, info


def run(
    model: JointModel,
    tensors: dict[str, torch.Tensor],
    timestep: tuple[torch.Tensor, torch.Tensor] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    video, audio = tensors["inputs/video_latent"], tensors["inputs/audio_latent"].transpose(1, 2)
    time = tensors["inputs/timestep"] if timestep is None else timestep
    contexts = tensors["inputs/video_context"], tensors["inputs/audio_context"]
    video, audio = model(
        [video, audio], time, contexts[0], audio_context=contexts[1], transformer_options=options
    )
    return video, audio.transpose(1, 2)


def close(
    found: tuple[torch.Tensor, torch.Tensor] | list[torch.Tensor],
    tensors: dict[str, torch.Tensor],
    info: dict[str, Any],
    name: str,
) -> None:
    bound = info["tolerance"]["max_abs"]["outputs/{*}"]
    for value, stream in zip(found, ("video", "audio"), strict=True):
        torch.testing.assert_close(value, tensors[f"outputs/{name}{stream}"], rtol=0, atol=bound)


def test_joint_forward(ovi: Golden) -> None:
    model, tensors, info = ovi
    close(run(model, tensors), tensors, info, "joint/")


def test_clean_first_frame(ovi: Golden) -> None:
    model, tensors, info = ovi
    t = tensors["inputs/timestep"]
    clean = torch.ones(1, tensors["inputs/video_latent"].shape[2])
    clean[:, 0] = 0.0
    close(run(model, tensors, (t[:, None] * clean, t)), tensors, info, "first_frame_clean/")


def test_skipped_layer(ovi: Golden) -> None:
    model, tensors, info = ovi
    close(run(model, tensors, skip_layers=(info["config"]["slg_layer"],)), tensors, info, "skip_layer/")


def test_states_after_the_first_layer(ovi: Golden) -> None:
    model, tensors, info = ovi
    inputs = {}
    hooks = [
        stream.blocks[1].norm1.register_forward_pre_hook(
            lambda module, args: inputs.setdefault(module, args[0])
        )
        for stream in (model, model.audio)
    ]
    run(model, tensors)
    for hook in hooks:
        hook.remove()
    close([inputs[stream.blocks[1].norm1] for stream in (model, model.audio)], tensors, info, "joint/block0_")


@pytest.mark.parametrize(("flag", "stream"), [("a2v_cross_attn", 0), ("v2a_cross_attn", 1)])
def test_a_closed_direction_is_the_stream_alone(ovi: Golden, flag: str, stream: int) -> None:
    model, tensors, _ = ovi
    video, audio = tensors["inputs/video_latent"], tensors["inputs/audio_latent"].transpose(1, 2)
    time, contexts = (
        tensors["inputs/timestep"],
        (tensors["inputs/video_context"], tensors["inputs/audio_context"]),
    )
    closed = run(model, tensors, **{flag: False})[stream]
    alone_options = {"run_ax": False} if stream == 0 else {"run_vx": False}
    alone = model(
        [video, audio], time, contexts[0], audio_context=contexts[1], transformer_options=alone_options
    )
    alone = alone[0] if stream == 0 else alone[1].transpose(1, 2)
    assert torch.equal(closed, alone)
    assert (closed - run(model, tensors)[stream]).abs().max() > 1e-3


def test_the_task_of_a_run_does_not_close_a_direction(ovi: Golden) -> None:
    """Ovi has no anchor: DCR routes, which a given stream sets, are for models that learned one."""
    model, tensors, _ = ovi
    video, audio = tensors["inputs/video_latent"], tensors["inputs/audio_latent"].transpose(1, 2)
    time, context = tensors["inputs/timestep"], tensors["inputs/video_context"]
    both = model([video, audio], time, context, transformer_options={})
    routed = model([video, audio], time, context, transformer_options={}, routes=(False, False))
    assert all(torch.equal(a, b) for a, b in zip(both, routed, strict=True))


# ---- what stands beside the latent

REFERENCE, TOKENS = 6, 18  # of a 4x6 latent in patches of 2x2, and of three such frames
FUSION_KIND = InteractionConfig("fusion", (0, 1), FusionOptions())


def fused(**video: Any) -> JointModel:
    return patcher(video=replace(tiny.CONFIG.video, **video), interaction=FUSION_KIND).model.diffusion_model


def text_attention(
    model: JointModel, conds: dict[str, Any], channels: int = 16, **options: Any
) -> torch.Tensor:
    """What the text attention of the video gives in the first layer."""
    given = []
    hook = model.blocks[0].cross_attn.register_forward_hook(lambda _, __, made: given.append(made))
    video, audio = tiny.latents(channels=channels)
    text = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(7))
    model([video, audio], torch.tensor([600.0]), text, transformer_options=options, **conds)
    hook.remove()
    return given[0]


@pytest.mark.parametrize(
    ("conds", "own"),
    [
        ({"reference_latent": torch.randn(1, 16, 4, 6)}, slice(REFERENCE, REFERENCE + TOKENS)),
        ({"context_latents": [torch.randn(1, 16, 1, 4, 6)]}, slice(0, TOKENS)),
        ({"time_dim_concat": torch.randn(1, 16, 1, 4, 6)}, slice(0, TOKENS)),
    ],
    ids=["reference latent", "context latents", "further frames"],
)
def test_tokens_beside_the_latent_do_not_ask_the_sound(conds: dict[str, Any], own: slice) -> None:
    model = fused(in_dim_ref_conv=16)
    heard, closed = text_attention(model, conds), text_attention(model, conds, a2v_cross_attn=False)
    changed = (heard - closed).abs().amax(dim=(0, 2))  # (n,)
    assert changed.shape == (REFERENCE + TOKENS,) and (changed[own] > 1e-5).all()
    changed[own] = 0
    assert not changed.any()


def test_the_sound_reads_the_latent_and_no_token_beside_it() -> None:
    model, sizes = fused(in_dim_ref_conv=16), []
    model.interaction["0"].v2a.k.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[1]))
    conds = {"reference_latent": torch.randn(1, 16, 4, 6), "context_latents": [torch.randn(1, 16, 1, 4, 6)]}
    text_attention(model, conds)
    assert sizes == [TOKENS]


def test_clip_vision_tokens_are_read_as_an_image_and_not_as_text() -> None:
    model, read = fused(in_dim=36, model_type="i2v"), []
    attention = model.blocks[0].cross_attn
    for name in ("k", "v", "k_img", "v_img"):
        projection = getattr(attention, name)
        projection.register_forward_pre_hook(
            lambda _, given, name=name: read.append((name, given[0].shape[1]))
        )
    heard = text_attention(model, {"clip_fea": torch.randn(1, 257, 1280)}, channels=36)
    assert sorted(read) == [("k", 5), ("k_img", 257), ("v", 5), ("v_img", 257)]
    other = text_attention(model, {"clip_fea": torch.randn(1, 257, 1280)}, channels=36)
    assert (heard - other).abs().max() > 1e-5


def test_closed_it_reads_clip_vision_as_the_host_does() -> None:
    model = fused(in_dim=36, model_type="i2v")
    wan = WanModel(**model.ccl_config.video.wan_arguments(), operations=comfy.ops.disable_weight_init)
    wan.load_state_dict({key: value for key, value in model.state_dict().items() if key in wan.state_dict()})
    wan.requires_grad_(False)
    video, audio = tiny.latents(channels=36)
    time, text, conds = torch.tensor([600.0]), torch.randn(1, 5, 24), {"clip_fea": torch.randn(1, 257, 1280)}
    made, _ = model([video, audio], time, text, transformer_options={"a2v_cross_attn": False}, **conds)
    assert torch.equal(made, wan(video, time, text, transformer_options={}, **conds))
