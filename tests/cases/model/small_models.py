"""What the cases of this folder share: small models of each family, and their runs on the host's sampler."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from ccl_tools.environment import load_pack, reexec

reexec()
# The host reads the command line of whoever imports it.
ARGUMENTS, sys.argv = sys.argv[1:], sys.argv[:1]
load_pack()

import comfy.supported_models  # noqa: E402
import torch  # noqa: E402
from comfy.model_patcher import CoreModelPatcher, ModelPatcher  # noqa: E402
from comfy.nested_tensor import NestedTensor  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import Tensor  # noqa: E402

import nodes as host_nodes  # noqa: E402
from ccl_pack.ccl_core.host.experts import low_noise_of  # noqa: E402
from ccl_pack.ccl_core.host.files.build import load_model  # noqa: E402
from ccl_tools import published  # noqa: E402
from support import tiny  # noqa: E402

FOLDER = Path(tempfile.mkdtemp(prefix="cases-"))
FLOAT = {"dtype": torch.float32}
# Part of the names of the weights that add a coupling to its stream: zeros there keep the streams apart.
LAST = {"ccl": ".o.", "ovi": ".v_fusion.", "mova": ".inner.o."}

torch.set_grad_enabled(False)


def ccl(fresh: bool = False) -> ModelPatcher:
    weights = tiny.state_dict(tiny.CONFIG)
    if fresh:
        _silence({key: value for key, value in weights.items() if key.startswith("interaction.")}, "ccl")
    return tiny.patcher(weights=weights)


def ovi(fresh: bool = False) -> ModelPatcher:
    return _from_file("ovi", published.weights(published.ovi(*published.TINY_OVI)), fresh)


def mova(fresh: bool = False, experts: int = 2) -> ModelPatcher:
    return _from_file("mova", published.weights(published.mova(*published.TINY_MOVA, experts=experts)), fresh)


def _silence(weights: dict[str, Tensor], family: str) -> None:
    for key, value in weights.items():
        if LAST[family] in key:
            value.zero_()


def _from_file(family: str, weights: dict[str, Tensor], fresh: bool) -> ModelPatcher:
    """The published layout, written and loaded as a user loads it."""
    if fresh:
        _silence(weights, family)
    path = FOLDER / f"{family}{'-fresh' if fresh else ''}.safetensors"
    save_file(weights, path)
    return load_model(str(path), FLOAT)


def wan_of(joint: ModelPatcher, low_noise: bool = False) -> ModelPatcher:
    """The host's own Wan with the video weights of a joint model, or of its low-noise expert."""
    config = joint.model.ccl_config
    kinds = {48: comfy.supported_models.WAN22_T2V, 36: comfy.supported_models.WAN21_I2V}
    kind = kinds.get(config.video.in_dim, comfy.supported_models.WAN21_T2V)
    settings = kind({"image_model": "wan2.1", **config.video.wan_arguments()})
    settings.set_inference_dtype(torch.float32, None)
    settings.sampling_settings = {"shift": config.shift}
    model = settings.get_model({})
    source = low_noise_of(joint) if low_noise else joint
    own = model.diffusion_model.state_dict()
    weights = {key: value for key, value in source.model.diffusion_model.state_dict().items() if key in own}
    model.diffusion_model.load_state_dict(weights)
    return CoreModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def av_latent(model: ModelPatcher, sound: bool = True) -> dict:
    """Zeros of 3 latent frames and the sound beside them, or of the video alone."""
    config = model.model.ccl_config
    video = torch.zeros(1, config.video.out_dim, 3, 4, 4)
    audio = torch.zeros(1, config.audio_latent.channels, 18)
    return {"samples": NestedTensor([video, audio]) if sound else video, "fps": float(config.fps)}


def sample(model: ModelPatcher, latent: dict, cfg: float = 3.0, denoise: float = 1.0) -> list[Tensor]:
    """The streams of four steps; the video begins with the same noise with and without sound."""
    texts = _padded(tiny.conditioning(1)), _padded(tiny.conditioning(7))
    made = host_nodes.common_ksampler(model, 3, 4, cfg, "euler", "simple", *texts, latent, denoise=denoise)[0]
    samples = made["samples"]
    return samples.unbind() if isinstance(samples, NestedTensor) else [samples]


def _padded(conditioning: list) -> list:
    """As many tokens as joint models pad a text to: the host's Wan does not, and reads the same text then."""
    ((text, options),) = conditioning
    return [[torch.nn.functional.pad(text, (0, 0, 0, 512 - text.shape[1])), options]]


def relative(x: Tensor, y: Tensor) -> float:
    """The largest difference as a part of the largest value of y."""
    return float((x - y).abs().max() / y.abs().max())
