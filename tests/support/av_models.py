"""AV latents of every kind of model that ComfyUI has, as its own nodes make them, of noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_lt import EmptyLTXVLatentVideo, LTXVConcatAVLatent
from comfy_extras.nodes_lt_audio import LTXVEmptyLatentAudio
from comfy_extras.nodes_minimax_h3 import EmptyMiniMaxH3LatentAV

from support.ltx_vaes import ltx_audio_vae

Latent = dict[str, Any]
# Frames a second of the clips of LTX-2, whose latents do not say theirs.
LTX_FPS = 25.0


@cache
def empty_ltx(frames: int = 33, batch: int = 1) -> Latent:
    """At 25 fps: 5 latent frames of 2 x 2 cells and 33 tokens where there are 33 frames."""
    video = EmptyLTXVLatentVideo.execute(64, 64, frames, batch)[0]
    audio = LTXVEmptyLatentAudio.execute(frames, LTX_FPS, batch, ltx_audio_vae())[0]
    return LTXVConcatAVLatent.execute(video, audio)[0]


def ltx_latent(frames: int = 33, seed: int = 3, batch: int = 1) -> Latent:
    return with_noise(empty_ltx(frames, batch), seed)


def h3_latent(frames: int = 39, seed: int = 3) -> Latent:
    """39 frames at 24 fps: 12 latent frames of 4 x 4 cells and 65 tokens."""
    return with_noise(EmptyMiniMaxH3LatentAV.execute(64, 64, frames)[0], seed)


def own_latent(latent_frames: int = 5, tokens: int = 34, seed: int = 3) -> Latent:
    """Of ccl-tiny's sizes: 17 frames at 16 fps, 32 tokens a second."""
    streams = [torch.zeros(1, 16, latent_frames, 4, 4), torch.zeros(1, 8, tokens)]
    return with_noise({"samples": NestedTensor(streams), "fps": 16.0, "audio_rate": 32.0}, seed)


def with_noise(latent: Latent, seed: int) -> Latent:
    generator = torch.Generator().manual_seed(seed)
    streams = [torch.randn(stream.shape, generator=generator) for stream in latent["samples"].unbind()]
    return {**latent, "samples": NestedTensor(streams)}


AV_LATENTS: dict[str, Callable[[], Latent]] = {"ours": own_latent, "LTX-2": ltx_latent, "H3": h3_latent}
