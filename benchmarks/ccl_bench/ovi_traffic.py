"""Bytes that a layer of Ovi moves at its published width, ours against the order of work of its own code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.ops
import torch
from torch import Tensor

from ccl_bench.counters import Traffic, attention
from ccl_bench.published_sizes import ovi
from ccl_bench.upstream_ovi import Stream, layers
from ccl_pack.ccl_core.model.joint import JointModel

# 960 x 960, 121 frames.
LATENT, TOKENS, TEXT = (31, 60, 60), 157, 512
Grid = tuple[int, int, int]


def ratios(
    latent: tuple[int, int, int] = LATENT, tokens: int = TOKENS, width: int = 3072
) -> dict[str, float]:
    """Ours over upstream's, from text and from an image: there a first frame is clean."""
    upstream = of_upstream(latent, tokens, width)
    return {
        f"ovi_traffic_over_upstream_{name}": of_ours(latent, tokens, width, frames) / upstream
        for name, frames in (("t2v", 1), ("i2v", latent[0]))
    }


def of_ours(latent: Grid, tokens: int, width: int, times: int) -> int:
    """What a third layer adds to a pass. times: distinct diffusion times of the video."""
    moved = [_pass_of_ours(latent, tokens, width, times, count) for count in (2, 3)]
    return moved[1] - moved[0]


def _pass_of_ours(latent: Grid, tokens: int, width: int, times: int, count: int) -> int:
    kind = {"dtype": torch.bfloat16, "device": "meta"}
    whole = ovi()
    heads = whole.video.num_heads * width // whole.video.dim
    ffn = whole.video.ffn_dim * width // whole.video.dim
    sizes = {"dim": width, "ffn_dim": ffn, "num_heads": heads, "num_layers": count}
    config = replace(
        whole,
        video=replace(whole.video, **sizes),
        audio=replace(whole.audio, **sizes),
        interaction=replace(whole.interaction, layers=tuple(range(count))),
    )
    model = JointModel(config, operations=comfy.ops.disable_weight_init, **kind).requires_grad_(False)
    pair = [torch.empty(1, config.video.in_dim, *latent, **kind)]
    pair.append(torch.empty(1, config.audio.in_dim, tokens, **kind))
    time = torch.empty(1, times, device="meta") if times > 1 else torch.empty(1, device="meta")
    text = torch.empty(1, TEXT, config.video.text_dim, **kind)
    with torch.inference_mode(), attention(uncounted), Traffic() as counter:
        model(pair, (time, torch.empty(1, device="meta")), text, transformer_options={})
    return counter.bytes


def uncounted(q: Tensor, *_: Any, **__: Any) -> Tensor:
    """In the place of attention, whose kernel is the same on both sides."""
    return torch.empty_like(q)


def of_upstream(latent: Grid, tokens: int, width: int) -> int:
    """What a third layer adds."""
    whole = ovi().video
    t, h, w = latent
    sizes = width, whole.ffn_dim * width // whole.dim, whole.num_heads * width // whole.dim
    streams = Stream(*sizes, (t, h // 2, w // 2)), Stream(*sizes, (tokens,))
    moved = []
    for count in (2, 3):
        with torch.inference_mode(), Traffic() as counter:
            layers(*streams, count, 1, TEXT, uncounted)
        moved.append(counter.bytes)
    return moved[1] - moved[0]
