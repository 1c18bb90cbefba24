"""The bridge against the golden tensors of MOVA's reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.ops
import pytest
import torch

from ccl_pack.ccl_core.config import BridgeOptions
from ccl_pack.ccl_core.model.joint import JointModel
from support import golden

Golden = tuple[JointModel, dict[str, torch.Tensor], dict[str, Any]]
CONDITIONERS = {"audio_to_video_conditioners": "a2v", "video_to_audio_conditioners": "v2a"}


def renamed(key: str) -> str:
    """A published key under the name it has in JointModel."""
    part, _, rest = key.removeprefix("weights/").partition("/")
    if part == "dual_tower_bridge":
        conditioner, layer, *names = rest.split(".")
        name = ".".join(names).replace("y_norm", "norm_y").removeprefix("inner.")
        return f"interaction.{layer}.{CONDITIONERS[conditioner]}.{name}"
    return rest if part == "video_dit" else f"audio.{rest}"


@pytest.fixture(scope="module")
def mova() -> Golden:
    tensors, info = golden.read("mova")
    weights = {renamed(key): value for key, value in tensors.items() if key.startswith("weights/")}
    patch = "audio.patch_embedding.weight"
    weights[patch] = weights[patch][..., None, None]
    model = JointModel(
        golden.mova_config(info), dtype=torch.float32, operations=comfy.ops.disable_weight_init
    )
    model.load_state_dict(weights)
    return model.requires_grad_(False), tensors, info


def run(
    model: JointModel,
    tensors: dict[str, torch.Tensor],
    audio_time: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    video = torch.cat([tensors["inputs/video_latent"], tensors["inputs/video_condition"]], dim=1)
    time = tensors["inputs/timestep"]
    times = time if audio_time is None else (time, audio_time)
    video, audio = model(
        [video, tensors["inputs/audio_latent"]], times, tensors["inputs/context"], transformer_options=options
    )
    return video[:, :16], audio


def close(
    found: tuple[torch.Tensor, torch.Tensor] | list[torch.Tensor],
    tensors: dict[str, torch.Tensor],
    info: dict[str, Any],
    name: str,
) -> None:
    bound = info["tolerance"]["max_abs"]["outputs/{*}"]
    for value, stream in zip(found, ("video", "audio"), strict=True):
        torch.testing.assert_close(value, tensors[f"outputs/{name}{stream}"], rtol=0, atol=bound)


def test_joint_forward(mova: Golden) -> None:
    model, tensors, info = mova
    close(run(model, tensors), tensors, info, "joint/")


def test_times_of_their_own(mova: Golden) -> None:
    model, tensors, info = mova
    close(run(model, tensors, tensors["inputs/audio_timestep"]), tensors, info, "split_timesteps/")


@pytest.mark.parametrize(
    "options",
    [{"a2v_cross_attn": False, "v2a_cross_attn": False}, {"a2v_scale": 0.0, "v2a_scale": 0.0}],
    ids=["flags", "scales"],
)
def test_bridge_off(mova: Golden, options: dict[str, Any]) -> None:
    model, tensors, info = mova
    close(run(model, tensors, **options), tensors, info, "bridge_off/")


def test_bridge_scales(mova: Golden) -> None:
    model, tensors, info = mova
    scales = info["config"]["bridge_scaled"]
    options = {"a2v_scale": scales["audio_to_video"], "v2a_scale": scales["video_to_audio"]}
    close(run(model, tensors, **options), tensors, info, "bridge_scaled/")


def test_states_after_the_bridge_and_the_first_layer(mova: Golden) -> None:
    model, tensors, info = mova
    modulated = {}
    hooks = [
        stream.blocks[i].norm1.register_forward_pre_hook(
            lambda module, args: modulated.setdefault(module, args[0])
        )
        for stream in (model, model.audio)
        for i in (0, 1)
    ]
    coupled = []
    hooks.append(model.interaction["1"].register_forward_pre_hook(lambda _, args: coupled.extend(args[:2])))
    run(model, tensors)
    for hook in hooks:
        hook.remove()
    close(
        [modulated[stream.blocks[0].norm1] for stream in (model, model.audio)],
        tensors,
        info,
        "joint/bridge0_",
    )
    close(coupled, tensors, info, "joint/block0_")


def test_rotary_tables(mova: Golden) -> None:
    """Of the first frame, the second and so on; the reference stores cosine and sine of both halves."""
    model, tensors, info = mova
    bound = info["tolerance"]["max_abs"]["outputs/cross_rope/{*}"]
    kept = []
    hook = model.interaction["0"].register_forward_pre_hook(lambda _, args: kept.append(args[2]))
    run(model, tensors)
    hook.remove()
    of_video, of_audio = kept[0].a2v
    for stream, table in (("video", of_video), ("audio", of_audio)):
        matrix = table[:, :, 0]  # (1, n, width / 2, 2, 2): cos, -sin, sin, cos
        for name, entry in (("cos", matrix[..., 0, 0]), ("sin", matrix[..., 1, 0])):
            expected = tensors[f"outputs/cross_rope/{stream}_{name}"]
            torch.testing.assert_close(torch.cat([entry, entry], dim=-1), expected, rtol=0, atol=bound)


def test_heads_of_the_bridge_may_be_narrower_than_those_of_the_streams(mova: Golden) -> None:
    _, _, info = mova
    config = golden.mova_config(info)
    narrow = replace(config, interaction=replace(config.interaction, options=BridgeOptions(10)))
    with torch.device("meta"):
        model = JointModel(narrow, operations=comfy.ops.disable_weight_init)
    coupling = model.interaction["0"]
    assert (coupling.a2v.heads, coupling.v2a.heads) == (config.video.dim // 10, config.audio.dim // 10)
    assert model.blocks[0].self_attn.num_heads == config.video.num_heads
