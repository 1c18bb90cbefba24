"""Fusion against the golden tensors of Ovi's reference, and against each stream alone."""

from __future__ import annotations

import comfy.ops
import golden
import pytest
import torch

from ccl_pack.ccl_core.model.joint import JointModel

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
def ovi():
    tensors, info = golden.read("ovi")
    weights = {renamed(key): value for key, value in tensors.items() if key.startswith("weights/")}
    config = golden.ovi_config(info, weights["audio.patch_embedding.2.w1.weight"].shape[0])
    model = JointModel(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    model.load_state_dict(weights)
    return model.requires_grad_(False), tensors, info


def run(model, tensors, timestep=None, **options):
    video, audio = tensors["inputs/video_latent"], tensors["inputs/audio_latent"].transpose(1, 2)
    time = tensors["inputs/timestep"] if timestep is None else timestep
    contexts = tensors["inputs/video_context"], tensors["inputs/audio_context"]
    video, audio = model([video, audio], time, contexts[0], audio_context=contexts[1], transformer_options=options)
    return video, audio.transpose(1, 2)


def close(found, tensors, info, name):
    bound = info["tolerance"]["max_abs"]["outputs/{*}"]
    for value, stream in zip(found, ("video", "audio"), strict=True):
        torch.testing.assert_close(value, tensors[f"outputs/{name}{stream}"], rtol=0, atol=bound)


def test_joint_forward(ovi):
    model, tensors, info = ovi
    close(run(model, tensors), tensors, info, "joint/")


def test_clean_first_frame(ovi):
    model, tensors, info = ovi
    t = tensors["inputs/timestep"]
    clean = torch.ones(1, tensors["inputs/video_latent"].shape[2])
    clean[:, 0] = 0.0
    close(run(model, tensors, (t[:, None] * clean, t)), tensors, info, "first_frame_clean/")


def test_skipped_layer(ovi):
    model, tensors, info = ovi
    close(run(model, tensors, skip_layers=(info["config"]["slg_layer"],)), tensors, info, "skip_layer/")


def test_states_after_the_first_layer(ovi):
    model, tensors, info = ovi
    inputs = {}
    hooks = [
        stream.blocks[1].norm1.register_forward_pre_hook(lambda module, args: inputs.setdefault(module, args[0]))
        for stream in (model, model.audio)
    ]
    run(model, tensors)
    for hook in hooks:
        hook.remove()
    close([inputs[stream.blocks[1].norm1] for stream in (model, model.audio)], tensors, info, "joint/block0_")


@pytest.mark.parametrize(("flag", "stream"), [("a2v_cross_attn", 0), ("v2a_cross_attn", 1)])
def test_a_closed_direction_is_the_stream_alone(ovi, flag, stream):
    model, tensors, _ = ovi
    video, audio = tensors["inputs/video_latent"], tensors["inputs/audio_latent"].transpose(1, 2)
    time, contexts = tensors["inputs/timestep"], (tensors["inputs/video_context"], tensors["inputs/audio_context"])
    closed = run(model, tensors, **{flag: False})[stream]
    alone_options = {"run_ax": False} if stream == 0 else {"run_vx": False}
    alone = model([video, audio], time, contexts[0], audio_context=contexts[1], transformer_options=alone_options)
    alone = alone[0] if stream == 0 else alone[1].transpose(1, 2)
    assert torch.equal(closed, alone)
    assert (closed - run(model, tensors)[stream]).abs().max() > 1e-3


def test_the_task_of_a_run_does_not_close_a_direction(ovi):
    """Ovi has no anchor: DCR routes, which a given stream sets, are for models that learned one."""
    model, tensors, _ = ovi
    video, audio = tensors["inputs/video_latent"], tensors["inputs/audio_latent"].transpose(1, 2)
    time, context = tensors["inputs/timestep"], tensors["inputs/video_context"]
    both = model([video, audio], time, context, transformer_options={})
    routed = model([video, audio], time, context, transformer_options={}, routes=(False, False))
    assert all(torch.equal(a, b) for a, b in zip(both, routed, strict=True))
