"""Talking faces whose place, size and person are known, with the codecs of ccl-tiny, and a model of them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ccl_pack.ccl_core.config import (
    AsymmetricOptions,
    AudioLatentConfig,
    CCLConfig,
    InteractionConfig,
    StreamConfig,
)
from ccl_pack.ccl_core.training.finetune.encoders import Encoders
from ccl_pack.ccl_core.training.finetune.settings import EncoderSettings
from ccl_pack.ccl_core.training.tiny.measure import coded_video
from ccl_pack.ccl_core.training.world import face
from ccl_pack.ccl_core.training.world.face_find import HEAD
from ccl_pack.ccl_core.training.world.face_picture import Place
from ccl_tools.environment import ROOT

CLIPS = 8
FPS = 16
STREAM = StreamConfig(
    in_dim=16,
    out_dim=16,
    dim=48,
    ffn_dim=64,
    num_heads=2,
    num_layers=2,
    text_dim=96,
    freq_dim=32,
    references=True,
)
# As uniavgen-tiny, but narrow: 32 tokens a second of two frames of 64 mel bands.
CONFIG = CCLConfig(
    fps=Fraction(FPS),
    video=STREAM,
    audio=replace(STREAM, in_dim=128, out_dim=128, patch_size=(1, 1, 1), text_dim=32, speech_blocks=1),
    interaction=InteractionConfig("asymmetric", (0, 1), AsymmetricOptions(1, "latents")),
    audio_latent=AudioLatentConfig("vocos", 128, Fraction(32), 16000),
    shift=3.0,
    family="uniavgen",
)


@cache
def drawn() -> tuple[face.FaceClip, ...]:
    """Of one face and of two."""
    return tuple(islice(face.clips(5), CLIPS))


def pictures(clip: face.FaceClip) -> Tensor:
    return torch.from_numpy(clip.frames).float() / 255


@cache
def encoders() -> tuple[Any, ...]:
    """Video VAE, audio VAE and text encoder."""
    whole = ROOT / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"
    return Encoders(EncoderSettings(checkpoint=str(whole)), CONFIG).parts


@cache
def coded(number: int) -> Tensor:
    """The frames of a clip of `drawn` after the round trip through the video VAE."""
    return coded_video(encoders()[0].first_stage_model, pictures(drawn()[number]))


def mean_place(clip: face.FaceClip) -> Place:
    """Where the middle of the face's picture is on average."""
    place, pose = clip.place, clip.pose
    x = place.x + place.size * float(pose.x.mean() - 32)
    return Place(x, place.y + place.size * float(pose.y.mean() - HEAD), place.size)
