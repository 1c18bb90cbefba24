"""Files of a model as a module to train: weights as in their file, layers run again for gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import comfy.ops
import comfy.quant_ops
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...config import CCLConfig
from ...host.files.assemble import Assembly
from ...host.files.build import put_together
from ...host.files.check import check_keys, wanted_tensors
from ...host.files.identify import identify_files, section, sections
from ...host.files.read import read_files
from ...metadata import read_config
from ...model.interactions import INTERACTIONS, Link
from ...model.joint import JointModel
from ...model.layer import Layer, run_layer
from ..flow import initialise_tensor
from .settings import ModelSettings

TRAINABLE = (torch.float32, torch.bfloat16, torch.float16)


class CheckpointedModel(JointModel):
    """The joint model that keeps only tokens between layers and computes a layer again for its gradient."""

    def _run_layer(
        self,
        i: int,  # noqa: ARG002 - the model's signature
        layer: Layer,
        v: Tensor | None,
        a: Tensor | None,
        link: Link,
        kept: Any,  # noqa: ARG002
    ) -> tuple[Tensor | None, Tensor | None]:
        def run(v: Tensor | None, a: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
            return run_layer(layer, v, a, link)

        # No layer draws random numbers, so their state need not be kept.
        return checkpoint(run, v, a, use_reentrant=False, preserve_rng_state=False)


@cache
def give_rope_a_gradient() -> None:
    """Tell torch the gradient of the host's kernel of rotate-half RoPE, which is the rotation back."""
    torch.library.register_autograd(
        "comfy_kitchen::apply_rope_split_half1", _rotate_back, setup_context=_keep_angles
    )


def _keep_angles(
    ctx: Any,
    inputs: tuple[Tensor, ...],
    output: Tensor,  # noqa: ARG001 - torch's signature
) -> None:
    ctx.save_for_backward(inputs[1])


def _rotate_back(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    (angles,) = ctx.saved_tensors
    back = angles.transpose(-1, -2).contiguous()
    return comfy.quant_ops.ck.apply_rope_split_half1(gradient.contiguous(), back), None


def read_model(model: ModelSettings) -> tuple[Assembly, CCLConfig]:
    """The files of a model put together, or no tensors and what a configuration says of them."""
    if model.config is None:
        return put_together(identify_files(read_files(model.parts)))
    path = Path(model.config)
    try:
        config = read_config(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"model.config: {path} cannot be read as a configuration: {error}") from error
    wanted = sections(wanted_tensors(config))
    return Assembly({}, {}, dict.fromkeys(wanted, path.name), config.family, False), config


def load(
    assembly: Assembly,
    config: CCLConfig,
    checkpointing: bool,
    device: torch.device,
    random: Sequence[str] = (),
    seed: int = 0,
) -> JointModel:
    """The model of some files; it computes in the type of its input. ValueError for what cannot train.

    random: parts of it (`part_of`) that start anew, from this seed.
    """
    sources = assembly.sources
    for key, value in assembly.sd.items():
        if value.dtype not in TRAINABLE or assembly.gguf:
            raise ValueError(
                f"{sources.get(section(key), 'the model')} is quantised ({key} is {value.dtype}): "
                "train on the files in bf16, fp16 or fp32"
            )
    if config.video.model_type == "i2v":
        raise ValueError(
            f"{sources['video']} is a Wan 2.1 model of image to video, which reads CLIP vision: "
            "train text to video, Wan 2.2 or MOVA"
        )
    if INTERACTIONS[config.interaction.kind].rotates_halves:
        give_rope_a_gradient()
    # On meta, so that the weights of the file are the only copy.
    kind = CheckpointedModel if checkpointing else JointModel
    model = kind(config, device="meta", operations=comfy.ops.manual_cast)
    wanted = model.state_dict()
    sd = assembly.sd | fresh_tensors(wanted, random, seed)
    check_keys(sd, wanted, sources["video"], sources)
    model.load_state_dict(sd, assign=True)
    return model.to(device)


def fresh_tensors(wanted: Mapping[str, Tensor], parts: Sequence[str], seed: int) -> dict[str, Tensor]:
    """First numbers for the tensors of these parts, in single precision."""
    # A fork, so that a run draws the same with fresh parts and without.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        return {
            name: initialise_tensor(name, torch.empty(value.shape))
            for name, value in wanted.items()
            if part_of(name) in parts
        }


def part_of(name: str) -> str:
    """interaction, audio or video, of a weight or layer of the model."""
    found = section(name)
    return found if found in ("audio", "video") else "interaction"
