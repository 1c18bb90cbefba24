"""The models of the recorded runs, and what they are given.

The models are files of 0.2.0 (the shipped checkpoint, published layouts, tiny models with the keys and the
configuration of that version), read by the loaders of whatever version runs. Weights are drawn per key, so
that no order of keys decides them. Import this after `load_pack`.
"""

from __future__ import annotations

import json
import math
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import comfy.clip_vision
import torch
from comfy.model_patcher import ModelPatcher
from safetensors.torch import save_file
from torch import Tensor

from ccl_tools import published
from ccl_tools.recorded_pack import JointModel, StreamTexts, load_checkpoint, load_model

CHECKPOINT = Path(__file__).resolve().parents[2] / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"

Tensors = dict[str, Tensor]
Size = tuple[int, int, int]  # t, h, w of a video latent
SCRATCH = tempfile.TemporaryDirectory(prefix="ccl-runs-")


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def drawn(shapes: published.Shapes, seed: int = 0) -> Tensors:
    """Random weights that keep the scale of what passes through; norms near 1, none neutral."""
    return {key: _weight(key, shape, seed) for key, shape in shapes.items()}


def _weight(key: str, shape: tuple[int, ...], seed: int) -> Tensor:
    values = noise(zlib.crc32(f"{seed} {key}".encode()), *shape)
    if len(shape) == 1:
        return 0.05 * values + (1.0 if "norm" in key and key.endswith("weight") else 0.0)
    return 0.5 * values if "modulation" in key else values / math.prod(shape[1:]) ** 0.5


def saved(name: str, tensors: Tensors, metadata: dict[str, str] | None = None) -> str:
    path = Path(SCRATCH.name) / f"{name}.safetensors"
    save_file(tensors, path, metadata=metadata)
    return str(path)


@dataclass(frozen=True)
class Kind:
    """A model and what fits it: its texts (positive, negative) and a clip's latents of a size."""

    load: Callable[[], ModelPatcher]
    texts: Callable[[], tuple[Tensor, Tensor]]
    clip: Callable[[Size], tuple[Tensor, Tensor]]  # (1, c, t, h, w), (1, c, a)
    size: Size = (3, 4, 6)


@cache
def shipped() -> tuple[Any, Any, Any, Any]:
    """Model, text encoder, video VAE and audio VAE."""
    return load_checkpoint(str(CHECKPOINT))


@cache
def shipped_texts() -> tuple[Tensor, Tensor]:
    clip = shipped()[1]
    texts = ("a small red ball bounces on a blue floor", "")
    return tuple(clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0] for text in texts)


@cache
def shipped_clip(size: Size) -> tuple[Tensor, Tensor]:
    """A square that moves to the right and a tone that fades, through the VAEs."""
    _, _, video_vae, audio_vae = shipped()
    frames = 4 * (size[0] - 1) + 1
    height = 8 * size[1]
    width = 8 * size[2]
    images = torch.full((frames, height, width, 3), 0.2)
    for i in range(frames):
        images[i, 16:32, 2 * i : 2 * i + 16, 0] = 0.9
    time = torch.arange(frames * 1000) / 16000
    sound = torch.sin(time * 2 * math.pi * 440) * torch.exp(-3 * time)
    return video_vae.encode(images), audio_vae.encode(sound[None, :, None])


TOWER = {"text_dim": 24, "freq_dim": 32, "text_len": None, "stem_dim": 0, "rope": "tarp"}
TOWER |= {"flf_pos_embed_token_number": None, "num_heads": 2}
VIDEO = TOWER | {"out_dim": 16, "dim": 48, "ffn_dim": 64, "num_layers": 3, "patch_size": [1, 2, 2]}
AUDIO = TOWER | {
    "in_dim": 8,
    "out_dim": 8,
    "dim": 32,
    "ffn_dim": 48,
    "num_layers": 2,
    "patch_size": [1, 1, 1],
}
AUDIO |= {"model_type": "t2v", "in_dim_ref_conv": None}
SOUND = {"vae": "vocos", "channels": 8, "rate": "32", "sample_rate": 16000}


def tiny_config(coupling: str, image: bool, reference: bool, audio_shift: float | None) -> dict[str, Any]:
    """The configuration as version 0.2.0 writes it, schema 1."""
    video = {"in_dim": 36 if image else 16, "model_type": "i2v" if image else "t2v"}
    interaction = {"kind": coupling, "layers": [0, 1], "context_tokens": 3 if coupling == "cca" else 0}
    return {
        "fps": "16",
        "video": VIDEO | video | {"in_dim_ref_conv": 16 if reference else None},
        "audio": AUDIO,
        "interaction": interaction | {"head_width": None, "first_frame_bias": False},
        "audio_latent": SOUND,
        "clock": "causal",
        "shift": 3.0,
        "audio_shift": audio_shift,
        "schema": 1,
    }


def direction_shapes(name: str, coupling: str, width: int, source: int) -> published.Shapes:
    """One direction of a coupling under the names that files of 0.2.0 have."""
    shapes = published.norm(f"{name}.norm_y", source) | {f"{name}.norm_k.weight": (width,)}
    for key in "kv":
        shapes |= published.linear(f"{name}.{key}", width, source)
    if coupling != "fusion":
        shapes |= published.linear(f"{name}.q", width, width) | published.linear(f"{name}.o", width, width)
        shapes |= {f"{name}.norm_q.weight": (width,)}
    if coupling == "cca":
        shapes |= published.norm(f"{name}.norm_x", width) | {f"{name}.context": (3, source)}
    return shapes


def tiny_shapes(coupling: str, image: bool, reference: bool) -> published.Shapes:
    video = published.Sizes(48, 64, 3, 36 if image else 16, 16, 24, 32)
    shapes = published.wan(video, image) | ({"ref_conv.weight": (48, 16, 2, 2)} if reference else {})
    shapes |= {"ref_conv.bias": (48,)} if reference else {}
    audio = published.tower(published.Sizes(32, 48, 2, 8, 8, 24, 32), 8)
    audio |= {"patch_embedding.weight": (32, 8, 1, 1, 1), "patch_embedding.bias": (32,)}
    for layer in range(2):
        for name, width, source in (("a2v", 48, 32), ("v2a", 32, 48)):
            shapes |= direction_shapes(f"interaction.{layer}.{name}", coupling, width, source)
    return shapes | published.prefixed("audio.", audio)


@cache
def tiny_model(coupling: str, image: bool, reference: bool, audio_shift: float | None) -> ModelPatcher:
    config = tiny_config(coupling, image, reference, audio_shift)
    weights = drawn(tiny_shapes(coupling, image, reference))
    return load_model(saved("tiny", weights, {"ccl_config": json.dumps(config)}), {"dtype": torch.float32})


@cache
def published_model(name: str) -> ModelPatcher:
    shapes = published.ovi(*published.TINY_OVI) if name == "ovi" else published.mova(*published.TINY_MOVA)
    return load_model(saved(name, drawn(shapes)), {"dtype": torch.float32})


def fresh_tiny_module(coupling: str) -> JointModel:
    """The module of a tiny model that no other run has."""
    return tiny_model.__wrapped__(coupling, False, False, None).model.diffusion_model


def random_texts() -> tuple[Tensor, Tensor]:
    return noise(1, 1, 5, 24), noise(2, 1, 5, 24)


def random_clip(video: int, audio: int, size: Size) -> tuple[Tensor, Tensor]:
    return noise(3, 1, video, *size), noise(4, 1, audio, 6 * size[0])


def tiny(
    coupling: str = "cca", image: bool = False, reference: bool = False, audio_shift: float | None = None
) -> Kind:
    return Kind(
        partial(tiny_model, coupling, image, reference, audio_shift),
        random_texts,
        partial(random_clip, 16, 8),
    )


CCL = Kind(lambda: shipped()[0], shipped_texts, shipped_clip, (5, 8, 8))
OVI = Kind(partial(published_model, "ovi"), random_texts, partial(random_clip, 48, 20))
MOVA = Kind(partial(published_model, "mova"), random_texts, partial(random_clip, 16, 128))


# ---- entries of a conditioning


def reference() -> dict[str, Any]:
    return {"reference_latents": [noise(11, 1, 16, 1, 4, 6)]}


def context_latents() -> dict[str, Any]:
    return {"context_latents": [noise(12, 1, 16, 1, 4, 6), noise(13, 1, 16, 1, 6, 4)]}


def time_concat() -> dict[str, Any]:
    return {"time_dim_concat": noise(14, 1, 16, 1, 4, 6)}


def start_image(channels: int = 16) -> dict[str, Any]:
    mask = torch.ones(1, 1, 3, 4, 6)
    mask[:, :, :1] = 0
    return {"concat_latent_image": noise(15, 1, channels, 3, 4, 6), "concat_mask": mask}


def clip_vision() -> dict[str, Any]:
    vision = comfy.clip_vision.Output()
    vision["penultimate_hidden_states"] = noise(16, 1, 257, 1280)
    return start_image() | {"clip_vision_output": vision}


def with_audio_text(text: Tensor) -> Tensor:
    return StreamTexts.join(text, noise(17, 1, 7, 24))


# ---- masks, changed in place: 0 keeps


def keep_first_frame(video: Tensor, audio: Tensor) -> None:  # noqa: ARG001 - the form of all
    video[:, :, 0] = 0


def keep_corner(video: Tensor, audio: Tensor) -> None:
    """Per token: a corner of every frame, and the beginning of the sound."""
    video[..., :2, :2] = 0
    audio[..., :5] = 0


def keep_video(video: Tensor, audio: Tensor) -> None:  # noqa: ARG001
    video.zero_()


def keep_audio(video: Tensor, audio: Tensor) -> None:  # noqa: ARG001
    audio.zero_()


def keep_in_second(video: Tensor, audio: Tensor) -> None:
    """The second sample of a batch keeps its first frame and the beginning of its sound."""
    video[1, :, 0] = 0
    audio[1, :, :5] = 0
