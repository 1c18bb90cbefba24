"""Fun Control, a Wan video model that reads a control video: in a joint model what it is as plain Wan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_wan import Wan22FunControlToVideo, WanFunControlToVideo
from safetensors.torch import load_file, save_file
from torch import Tensor

from ccl_pack.ccl_core.host.files.build import load_files
from ccl_pack.ccl_core.host.files.read import ModelPaths
from ccl_pack.ccl_core.metadata import write_config
from support import tiny
from support.tiny_vaes import frames, release, video_vae
from support.uncoupled import wan_of

SIZE = {"width": 48, "height": 32, "length": 9, "batch_size": 1}
# Of Wan 2.1, and of Wan 2.2 with a mask and a reference image.
VARIANTS = {
    "48 channels": {"in_dim": 48},
    "52 channels and a reference": {"in_dim": 52, "in_dim_ref_conv": 16},
}


@pytest.fixture(scope="module", autouse=True)
def vaes_of_this_file() -> Any:
    yield
    release()


def joint_model(folder: Path, **changes: Any) -> ModelPatcher:
    """A CCL model from the file of a Fun Control tower, that of the sound and a fresh coupling."""
    config = tiny.config(video=replace(tiny.CONFIG.video, **changes))
    whole = tiny.write(folder / "whole.safetensors", video=config.video)
    tensors = load_file(whole)
    parts = {"audio": "audio.", "interaction": "interaction."}
    paths = {}
    for role in ("video", *parts):
        own = {key: value for key, value in tensors.items() if _role(key, parts) == role}
        if role == "interaction":
            own = {key: value.zero_() if ".o." in key else value for key, value in own.items()}
        paths[role] = str(folder / f"{role}.safetensors")
        save_file(own, paths[role], {"ccl_config": write_config(config)} if role == "interaction" else None)
    return load_files(ModelPaths(**paths), {"dtype": torch.float32})


def _role(key: str, parts: dict[str, str]) -> str:
    return next((role for role, prefix in parts.items() if key.startswith(prefix)), "video")


def conditioned(node: Any, control: bool) -> tuple[list[Any], list[Any], dict[str, Any]]:
    given = {"control_video": frames(9, seed=5)} if control else {}
    if node is Wan22FunControlToVideo:
        given["ref_image"] = frames(1, seed=6)
    positive, negative = tiny.conditioning(1), tiny.conditioning(2)
    with torch.inference_mode():
        made = node.execute(positive, negative, video_vae(), **SIZE, **given).args
    return made


def sample(model: ModelPatcher, node: Any, control: bool = True, sound: bool = True) -> Tensor:
    positive, negative, latent = conditioned(node, control)
    samples = latent["samples"].clone()
    pair = NestedTensor([samples, torch.zeros(1, 8, 18)])
    noise = comfy.sample.prepare_noise(pair, 3)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(3.0)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 2)
    euler = comfy.samplers.sampler_object("euler")
    if sound:
        return guider.sample(noise, pair, euler, sigmas).unbind()[0]
    return guider.sample(noise.unbind()[0], samples, euler, sigmas)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_video_is_that_of_plain_wan(tmp_path: Path, variant: str) -> None:
    node = Wan22FunControlToVideo if "52" in variant else WanFunControlToVideo
    model = joint_model(tmp_path, **VARIANTS[variant])
    assert model.model.ccl_config.video.in_dim == VARIANTS[variant]["in_dim"]
    wanted = sample(wan_of(model), node, sound=False)
    assert torch.equal(sample(model, node), wanted)
    assert torch.equal(sample(model, node, sound=False), wanted)
    uncontrolled = sample(model, node, control=False)
    assert (uncontrolled - wanted).abs().max() / wanted.abs().max() > 1e-2
