"""A fault in the middle of a step, such as a layer that raises: the next call gives the bytes of before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import pytest
import torch
from comfy.model_management import InterruptProcessingException
from comfy.nested_tensor import NestedTensor
from torch import Tensor, nn

from ccl_pack.ccl_core.host.files.build import load_checkpoint
from ccl_pack.ccl_core.host.media.decode import Tiling, decode_audio, decode_video
from ccl_pack.nodes import CHECKPOINTS
from nodes import common_ksampler

FAULTS = [RuntimeError("a layer broke"), InterruptProcessingException(), KeyError("x")]


@dataclass(frozen=True)
class Step:
    """A step of a workflow, and a module of it that runs in its middle."""

    run: Callable[[], Any]
    module: nn.Module
    call: int = 1  # the call of the module in which the fault comes, from 1


@cache
def steps() -> dict[str, Step]:
    model, clip, picture, sound = load_checkpoint(str(CHECKPOINTS / "ccl-tiny.safetensors"))
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(1, 16, 3, 4, 6, generator=generator)
    audio = torch.randn(1, sound.latent_channels, 18, generator=generator)
    frames = torch.rand(5, 32, 48, 3, generator=generator)
    waveform = torch.rand(1, 8000, 1, generator=generator) - 0.5

    def encoded(text: str) -> list:
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    def sampled() -> Any:
        texts = encoded("a red ball falls, click"), encoded("")
        latent = {"samples": NestedTensor([video, audio])}
        return common_ksampler(model, 1, 3, 3.0, "euler", "simple", *texts, latent)[0]["samples"]

    decoder = picture.first_stage_model.decoder
    tiling = Tiling(64, 16, 8, 4)
    blocks = model.model.diffusion_model.blocks
    layers = clip.cond_stage_model.umt5xxl.transformer.encoder.block
    return {
        "text": Step(lambda: encoded("a red ball falls, click")[0][0], layers[len(layers) // 2]),
        "sampling": Step(sampled, blocks[len(blocks) // 2], call=3),
        "video decode": Step(lambda: decode_video(picture, video), decoder, call=2),
        "tiled decode": Step(lambda: decode_video(picture, video, tiling), decoder, call=2),
        "audio decode": Step(
            lambda: decode_audio(sound, audio, Fraction(1))["waveform"], sound.first_stage_model.backbone
        ),
        "video encode": Step(lambda: picture.encode(frames), picture.first_stage_model.encoder),
        "audio encode": Step(lambda: sound.encode(waveform), sound.first_stage_model.feature_extractor),
    }


STEPS = ["text", "sampling", "video decode", "tiled decode", "audio decode", "video encode", "audio encode"]


@contextmanager
def breaking(step: Step, fault: BaseException) -> Iterator[list[int]]:
    """The module raises in the chosen call; gives the calls."""
    calls: list[int] = []

    def hook(*_: Any) -> None:
        calls.append(1)
        if len(calls) == step.call:
            raise fault

    handle = step.module.register_forward_hook(hook)
    try:
        yield calls
    finally:
        handle.remove()


def streams(made: Any) -> list[Tensor]:
    return list(made.unbind()) if made.is_nested else [made]


# As the host executes a node.
@torch.inference_mode()
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_after_a_fault_the_same_call_gives_the_same_bytes(name: str, fault: BaseException) -> None:
    step = steps()[name]
    wanted = streams(step.run())
    with breaking(step, fault) as calls, pytest.raises(type(fault)):
        step.run()
    assert len(calls) == step.call
    assert all(torch.equal(x, y) for x, y in zip(streams(step.run()), wanted, strict=True))
