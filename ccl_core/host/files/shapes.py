"""The sizes of a stream from the first dimensions of its tensors: a quantised file packs the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import comfy.model_detection
import comfy.supported_models
from torch import Tensor

from ...alignment.timeline import TEMPORAL_STRIDE
from ...config import StreamConfig
from .identify import PREFIXES, section

# Of every Wan, of Ovi and of MOVA, in both streams.
HEAD_WIDTH = 128
# Of umT5-XXL and of Wan's sinusoids, where the packed integers of a quantised weight hide them.
TEXT_WIDTH = 4096
TIME_WIDTH = 256
# Wan's patches of the latent (t, h, w); no shape tells how a head's outputs divide into patch and channels.
PATCHES = {"video": (1, 2, 2), "audio": (1, 1, 1), "low_noise": (1, 2, 2)}
# Ovi's audio latent enters through two convolutions with a gated one between; others have one linear layer.
STEM = "patch_embedding.2.w1.weight"
SPEECH = "speech_text.blocks.{}."
# Fields of a Wan video model that only the host's detection knows.
HOST_FIELDS = ("model_type", "flf_pos_embed_token_number", "in_dim_ref_conv")
VIDEO_CLASSES = (
    comfy.supported_models.WAN21_T2V,
    comfy.supported_models.WAN21_I2V,
    comfy.supported_models.WAN22_T2V,
    comfy.supported_models.WAN21_FunControl2V,
)


def stream_config(
    sd: Mapping[str, Tensor],
    stream: str,
    name: str,
    known: Mapping[str, Any] | None = None,
    head_width: int = HEAD_WIDTH,
) -> StreamConfig:
    """The configuration of the stream "video", "audio" or "low_noise" in sd.

    known: fields that no shape tells, or that are wanted in place of what the shapes say. head_width: of a
    head, where `known` does not name their number. ValueError names a missing key with the file `name`, and a
    video model that the joint model cannot run.
    """
    known = {"patch_size": PATCHES[stream]} | dict(known or {})
    dim = _size(sd, f"{PREFIXES[stream]}head.modulation", 2, name)
    heads = known.get("num_heads") or _heads(dim, head_width, f"{name} has a {stream} stream")
    of_shapes = _of_shapes(sd, PREFIXES[stream], math.prod(known["patch_size"]), heads, name)
    # The host detects video models only.
    detected = {} if stream == "audio" else _variant(sd, stream, name)
    # What the caller knows counts before what the host detects, and that before what the shapes say.
    return replace(of_shapes, **(detected | known))


def _of_shapes(
    sd: Mapping[str, Tensor], prefix: str, patch_cells: int, heads: int, name: str
) -> StreamConfig:
    """What the shapes say of the stream behind a prefix. patch_cells: latent cells of a token."""
    stem = prefix + STEM in sd
    patch = f"{prefix}patch_embedding.0.weight" if stem else f"{prefix}patch_embedding.weight"
    return StreamConfig(
        in_dim=_size(sd, patch, 1, name),
        out_dim=_size(sd, f"{prefix}head.head.weight", 0, name) // patch_cells,
        dim=_size(sd, f"{prefix}head.modulation", 2, name),
        ffn_dim=_size(sd, f"{prefix}blocks.0.ffn.0.weight", 0, name),
        num_heads=heads,
        num_layers=comfy.model_detection.count_blocks(list(sd), prefix + "blocks.{}."),
        text_dim=_columns(sd, f"{prefix}text_embedding.0", TEXT_WIDTH, name),
        freq_dim=_columns(sd, f"{prefix}time_embedding.0", TIME_WIDTH, name),
        stem_dim=_size(sd, prefix + STEM, 0, name) if stem else 0,
        speech_blocks=comfy.model_detection.count_blocks(list(sd), prefix + SPEECH),
    )


def _size(sd: Mapping[str, Tensor], key: str, axis: int, name: str) -> int:
    if key not in sd:
        raise ValueError(f"{name} lacks {key}: the file is incomplete or of another model, get it again")
    shape = sd[key].shape
    if len(shape) <= axis:
        raise ValueError(
            f"{name}: {key} has shape {tuple(shape)}, wanted {axis + 1} axes or more: it is damaged"
        )
    return shape[axis]


def _columns(sd: Mapping[str, Tensor], layer: str, published: int, name: str) -> int:
    """The input width of a layer; packed integers do not show it."""
    width = _size(sd, f"{layer}.weight", 1, name)
    packed = not sd[f"{layer}.weight"].dtype.is_floating_point and f"{layer}.comfy_quant" in sd
    return published if packed else width


def _heads(dim: int, width: int, what: str) -> int:
    if dim % width:
        raise ValueError(
            f"{what} of width {dim}, wanted a multiple of {width}: "
            "a ccl_config in its metadata can name other heads"
        )
    return dim // width


def conditions(latent: int) -> dict[int, str]:
    """The input channels of a video model and what it is, by the channels of its latent.

    The host's nodes of Wan feed these: the latents of a control video and of an image, each as wide as the
    latent, and a mask with a channel for each pixel frame of a latent frame (`WAN21.concat_cond`).
    """
    return {
        latent: "text to video",
        latent + TEMPORAL_STRIDE + latent: "image to video",
        latent + 2 * latent: "Fun Control",
        latent + TEMPORAL_STRIDE + 2 * latent: "Fun Control with a mask",
    }


def _variant(sd: Mapping[str, Tensor], stream: str, name: str) -> dict[str, Any]:
    """Fields of a Wan video model that the host reads from its keys; ValueError for other conditions."""
    video = {key.removeprefix(PREFIXES[stream]): value for key, value in sd.items() if section(key) == stream}
    found = comfy.model_detection.detect_unet_config(video, "")
    model = comfy.model_detection.model_config_from_unet_config(found, video)
    in_dim = found["in_dim"]
    out_dim = found["out_dim"]
    known = conditions(out_dim)
    if type(model) not in VIDEO_CLASSES or in_dim not in known:
        wanted = ", ".join(f"{what} ({channels})" for channels, what in known.items())
        raise ValueError(
            f"{name} is a Wan video model of the type {found['model_type']} with {in_dim} input channels, "
            f"wanted one of {wanted}: nothing feeds other conditions, choose another file"
        )
    return {field: found[field] for field in HOST_FIELDS if field in found}
