"""Published layouts: which one a state dict has, its tensors under our names, its configuration (design section 7).

Our names are those of JointModel: the video stream under Wan's names at the root, `audio.` + Wan's names,
`interaction.{i}.a2v.` and `interaction.{i}.v2a.`; beside them `low_noise.` + Wan's names for a second video expert.
Names are told by tables, sizes by first dimensions: a quantised file packs the others.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any

import comfy.model_detection
import comfy.supported_models
import comfy.utils
import torch
from torch import Tensor

from ...config import OPTIONS, AudioLatentConfig, CCLConfig, InteractionConfig, StreamConfig
from .read import quantised_layers

MODEL_PREFIX = "model.diffusion_model."
OTHER_FILES = {
    "decoder.head.0.gamma": "a Wan VAE: use Load VAE",
    "decoder.model.7.weight": "MOVA's audio VAE: use Load Audio VAE (CCL)",
    "vocoder.conv_post.weight": "the audio VAE of Ovi: use Load Audio VAE (CCL)",
    "backbone.embed.weight": "a Vocos vocoder: use Load Audio VAE (CCL)",
    "encoder.block.0.layer.0.SelfAttention.q.weight": "a T5 text encoder: use Load CLIP",
    "vision_model.embeddings.class_embedding": "a CLIP vision model: use Load CLIP Vision",
}
RENAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        # Ovi: the coupling stands inside each stream's text attention.
        (r"^video_model\.", ""),
        (r"^audio_model\.", "audio."),
        (r"^blocks\.(\d+)\.cross_attn\.(?=\w+_fusion\.)", r"interaction.\1.a2v."),
        (r"^audio\.blocks\.(\d+)\.cross_attn\.(?=\w+_fusion\.)", r"interaction.\1.v2a."),
        (r"^(interaction\.\d+\.\w+\.)pre_attn_norm_fusion\.", r"\1norm_y."),
        (r"^(interaction\.\d+\.\w+\.)(k|v|norm_k)_fusion\.", r"\1\2."),
        (r"^((?:audio\.)?blocks\.\d+\.modulation)\.modulation$", r"\1"),
        # MOVA: four parts.
        (r"^video_dit_2\.", "low_noise."),
        (r"^video_dit\.", ""),
        (r"^audio_dit\.", "audio."),
        (r"^dual_tower_bridge\.", ""),
        (r"^audio_to_video_conditioners\.(\d+)\.", r"interaction.\1.a2v."),
        (r"^video_to_audio_conditioners\.(\d+)\.", r"interaction.\1.v2a."),
        (r"^(interaction\.\d+\.\w+\.)y_norm\.", r"\1norm_y."),
        (r"^(interaction\.\d+\.\w+\.)inner\.", r"\1"),
    )
)
INTERACTION_KEY = re.compile(r"interaction\.(\d+)\.(a2v|v2a)\.(\w+)")
# What only this kind has in each direction; the first that is there decides.
COUPLING_MARKS = {"context": "cca", "q": "bridge", "k": "fusion"}


@dataclass(frozen=True)
class Kind:
    """What a file is by the sections it holds and the coupling of its interaction."""

    sections: frozenset[str]
    coupling: str | None
    description: str


DIRECTIONS = ("a2v", "v2a")
KINDS = {
    "ccl": Kind(frozenset(("video", "audio", *DIRECTIONS)), "cca", "a CCL model"),
    "ovi": Kind(frozenset(("video", "audio", *DIRECTIONS)), "fusion", "an Ovi model"),
    "mova": Kind(frozenset(("video", "audio", *DIRECTIONS)), "bridge", "a MOVA model"),
    "ovi_video": Kind(frozenset(("video", "a2v")), "fusion", "the video part of Ovi"),
    "ovi_audio": Kind(frozenset(("audio", "v2a")), "fusion", "the audio part of Ovi"),
    "ccl_interaction": Kind(frozenset(DIRECTIONS), "cca", "an interaction of CCL"),
    "mova_bridge": Kind(frozenset(DIRECTIONS), "bridge", "the bridge of MOVA"),
    "streams": Kind(frozenset(("video", "audio")), None, "two streams without an interaction"),
    "wan": Kind(frozenset(("video",)), None, "a Wan model without an audio stream"),
    "audio": Kind(frozenset(("audio",)), None, "an audio stream"),
}
WHOLE = ("ccl", "ovi", "mova")

# What no shape tells. arXiv 2510.01284 (Ovi), 2602.08794 (MOVA) and their published configurations.
PUBLISHED: dict[str, dict[str, Any]] = {
    "ovi": {
        "fps": Fraction(24),
        "audio_latent": AudioLatentConfig("mmaudio", 20, Fraction(125, 4), 16000),
        "clock": "linear",
        "clock_scale": 0.19676,
        "shift": 5.0,
    },
    "mova": {
        "fps": Fraction(24),
        "audio_latent": AudioLatentConfig("dac", 128, Fraction(50), 48000),
        "clock": "causal",
        "shift": 5.0,
        "expert_boundary": 0.9,
    },
}
PUBLISHED_STREAMS: dict[str, dict[str, dict[str, Any]]] = {
    "ovi": {"video": {"text_len": 512}, "audio": {"text_len": 512}},
    "mova": {"video": {}, "audio": {"rope": "token"}},
}
HEAD_WIDTH = 128  # of every published tower
TEXT_WIDTH, TIME_WIDTH = 4096, 256  # where a quantised weight hides them
PREFIXES = {"video": "", "audio": "audio.", "low_noise": "low_noise."}
PATCHES = {"video": (1, 2, 2), "audio": (1, 1, 1), "low_noise": (1, 2, 2)}
# Fields of a Wan video model that only the host's detection knows.
EXTRAS = {"model_type", "flf_pos_embed_token_number", "in_dim_ref_conv"}
VIDEO_CLASSES = (comfy.supported_models.WAN21_T2V, comfy.supported_models.WAN21_I2V, comfy.supported_models.WAN22_T2V)


def translate(
    sd: Mapping[str, Tensor], name: str, metadata: Mapping[str, str] | None = None
) -> tuple[str, dict[str, Tensor]]:
    """The kind of a file (a key of KINDS) and its tensors under our names, every quantised layer with `.comfy_quant`.

    sd: the file as it is. name: the file's, for messages. metadata: read for the layers it says are quantised.
    Raises ValueError for a file of another kind, for two keys of one meaning, and for weights it cannot honour.
    """
    sd = {key.removeprefix(MODEL_PREFIX): value for key, value in sd.items()}
    _as_layers(sd, metadata or {}, name)
    sd = _convert_quants(sd)
    renamed: dict[str, Tensor] = {}
    root = "audio." if _is_audio_at_root(sd) else ""
    for key, value in sd.items():
        ours = rename(root + key)
        if ours in renamed:
            raise ValueError(f"{name} holds {ours} twice, under different names (one is {key}): the file is mixed up")
        renamed[ours] = value
    _drop_neutral_scales(renamed, name)
    patch = renamed.get("audio.patch_embedding.weight")
    if patch is not None and patch.ndim == 3:  # a convolution over time alone
        renamed["audio.patch_embedding.weight"] = patch[..., None, None]
    return _kind(renamed, name), renamed


def rename(key: str) -> str:
    """A published key of a model, with the prefix of its part, under our name."""
    for pattern, name in RENAMES:
        key = pattern.sub(name, key)
    return key


def section(key: str) -> str:
    """The part of the model that one of our names belongs to: video, audio, low_noise, a2v or v2a."""
    first, *rest = key.split(".")
    if first == "interaction":
        return rest[1] if len(rest) > 1 else first
    return first if first in ("audio", "low_noise") else "video"


def sections(sd: Mapping[str, Any]) -> frozenset[str]:
    """The sections there are at all; a stream counts from its first block or its head on."""
    found = {section(key) for key in sd if INTERACTION_KEY.match(key)}
    marks = ("head.modulation", "blocks.0.self_attn.norm_q.weight")
    return frozenset(found | {s for s, prefix in PREFIXES.items() if any(prefix + mark in sd for mark in marks)})


def coupling(sd: Mapping[str, Any]) -> str | None:
    """The kind of interaction the keys are of, None without one."""
    modules = {match[3] for match in map(INTERACTION_KEY.match, sd) if match}
    return next((kind for module, kind in COUPLING_MARKS.items() if module in modules), None)


def configure(
    kind: str,
    sd: Mapping[str, Tensor],
    name: str = "the model",
    video: Mapping[str, Any] | None = None,
    audio: Mapping[str, Any] | None = None,
    interaction: Mapping[str, Any] | None = None,
    **changes: Any,
) -> CCLConfig:
    """The configuration of a whole model of the kind "ovi" or "mova" from its tensors under our names.

    video, audio: StreamConfig fields that replace what the shapes or the published models say (heads, text_len,
    freq_dim of a model that was not published); interaction: options of its coupling; changes: fields of CCLConfig.
    Raises ValueError with the name and the key where a tensor is missing.
    """
    streams = {}
    for stream, given in (("video", video), ("audio", audio)):
        streams[stream] = stream_config(sd, stream, name, PUBLISHED_STREAMS[kind][stream] | dict(given or {}))
    layers = sorted({int(match[1]) for match in map(INTERACTION_KEY.match, sd) if match})
    coupled = KINDS[kind].coupling
    options = OPTIONS[coupled](**(interaction or {}))
    known = PUBLISHED[kind] | {"family": kind} | streams
    return CCLConfig(**(known | {"interaction": InteractionConfig(coupled, tuple(layers), options)} | changes))


def fit(config: CCLConfig, sd: Mapping[str, Tensor], names: Mapping[str, str]) -> CCLConfig:
    """An interaction's configuration for the streams in sd, which may be others of the same widths.

    names: the file of each section. ValueError where the streams do not fit what the interaction was made for.
    """
    streams = {}
    for stream in ("video", "audio"):
        stated, name = getattr(config, stream), names[stream]
        found = streams[stream] = stream_config(sd, stream, name, shapeless(stated))
        for size in ("dim", "text_dim"):
            if getattr(found, size) != getattr(stated, size):
                raise ValueError(
                    f"{name} has a {stream} stream of {size} {getattr(found, size)}, wanted {getattr(stated, size)}, "
                    f"for which {names.get('a2v', 'the interaction')} was made: choose files that belong together"
                )
        if max(config.interaction.layers, default=-1) >= found.num_layers:
            raise ValueError(
                f"{name} has a {stream} stream of {found.num_layers} layers, wanted "
                f"{max(config.interaction.layers) + 1} or more, which {names.get('a2v', 'the interaction')} couples"
            )
    return replace(config, **streams)


def shapeless(stream: StreamConfig) -> dict[str, Any]:
    """What no shape tells of a stream, as `stream_config` takes it for another one like it."""
    same = {key: getattr(stream, key) for key in ("patch_size", "text_len", "rope")}
    return same | {"head_width": stream.dim // stream.num_heads}


def stream_config(
    sd: Mapping[str, Tensor], stream: str, name: str, known: Mapping[str, Any] | None = None
) -> StreamConfig:
    """Sizes of the stream "video", "audio" or "low_noise" in sd; `known` fields come before what the shapes say.

    The heads are `num_heads` of the known fields, or as many as `head_width` (128, as published) makes of the width.
    ValueError names a missing key, and a video model the joint model cannot run.
    """
    prefix = PREFIXES[stream]
    tensors = _Tensors(sd, prefix, name)
    known = {"patch_size": PATCHES[stream]} | dict(known or {})
    head_width = known.pop("head_width", HEAD_WIDTH)
    dim = tensors.size("head.modulation", 2)
    stem = f"{prefix}patch_embedding.2.w1.weight" in sd
    read = {
        "in_dim": tensors.size("patch_embedding.0.weight" if stem else "patch_embedding.weight", 1),
        "out_dim": tensors.size("head.head.weight", 0) // math.prod(known["patch_size"]),
        "dim": dim,
        "ffn_dim": tensors.size("blocks.0.ffn.0.weight", 0),
        "num_heads": known.get("num_heads") or _heads(dim, head_width, f"{name} has a {stream} stream"),
        "num_layers": comfy.model_detection.count_blocks(list(sd), prefix + "blocks.{}."),
        "text_dim": tensors.columns("text_embedding.0", TEXT_WIDTH),
        "freq_dim": tensors.columns("time_embedding.0", TIME_WIDTH),
        "stem_dim": tensors.size("patch_embedding.2.w1.weight", 0) if stem else 0,
    }
    if stream != "audio":
        read |= _variant({key.removeprefix(prefix): v for key, v in sd.items() if section(key) == stream}, name)
    return StreamConfig(**(read | known))


class _Tensors:
    """The tensors of one stream; what is missing is named with its file."""

    def __init__(self, sd: Mapping[str, Tensor], prefix: str, name: str) -> None:
        self.sd, self.prefix, self.name = sd, prefix, name

    def size(self, key: str, axis: int) -> int:
        key = self.prefix + key
        if key not in self.sd:
            raise ValueError(f"{self.name} lacks {key}: the file is incomplete or of another model")
        shape = self.sd[key].shape
        if len(shape) <= axis:
            raise ValueError(
                f"{self.name}: {key} has shape {tuple(shape)}, wanted {axis + 1} axes or more: it is damaged"
            )
        return shape[axis]

    def columns(self, layer: str, published: int) -> int:
        """The input width of a layer; packed integers do not show it."""
        key = f"{layer}.weight"
        width, packed = self.size(key, 1), not self.sd[self.prefix + key].dtype.is_floating_point
        return published if packed and f"{self.prefix}{layer}.comfy_quant" in self.sd else width


def _heads(dim: int, width: int, what: str) -> int:
    if dim % width:
        raise ValueError(
            f"{what} of width {dim}, wanted a multiple of {width}: a ccl_config in its metadata can name other heads"
        )
    return dim // width


def _variant(video: dict[str, Tensor], name: str) -> dict[str, Any]:
    """Fields of a Wan video model that the host reads from its keys; ValueError for conditions we do not feed."""
    found = comfy.model_detection.detect_unet_config(video, "")
    model = comfy.model_detection.model_config_from_unet_config(found, video)
    in_dim, out_dim = found["in_dim"], found["out_dim"]
    if type(model) not in VIDEO_CLASSES or in_dim not in (out_dim, 2 * out_dim + 4):
        raise ValueError(
            f"{name} is a Wan video model of the type {found['model_type']} with {in_dim} input channels, wanted one "
            f"of text to video ({out_dim}) or image to video ({2 * out_dim + 4}): nothing feeds other conditions"
        )
    return {field.name: found[field.name] for field in fields(StreamConfig) if field.name in EXTRAS & found.keys()}


def _is_audio_at_root(sd: Mapping[str, Tensor]) -> bool:
    patch = sd.get("patch_embedding.weight")
    return "patch_embedding.2.w1.weight" in sd or ("head.modulation" in sd and patch is not None and patch.ndim == 3)


def _as_layers(sd: dict[str, Tensor], metadata: Mapping[str, str], name: str) -> None:
    """Put what the metadata says of quantised layers beside their weights, under `.comfy_quant`."""
    for layer, entry in quantised_layers(metadata, name).items():
        layer = layer.removeprefix(MODEL_PREFIX)
        if f"{layer}.weight" in sd:  # an all-in-one file lists its text encoder too
            sd[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(entry).encode()), dtype=torch.uint8)


def _convert_quants(sd: dict[str, Tensor]) -> dict[str, Tensor]:
    """The host's conversion of files from before `.comfy_quant`, for the whole and for each part with its own mark."""
    for mark in [key for key in sd if key == "scaled_fp8" or key.endswith(".scaled_fp8")]:
        sd, _ = comfy.utils.convert_old_quants(sd, mark.removesuffix("scaled_fp8"))
    return sd


def _drop_neutral_scales(sd: dict[str, Tensor], name: str) -> None:
    """MOVA's optional trained bridge strength, 1 in effect where it is not trained; another one has no place here."""
    for key in [key for key in sd if key == "condition_scale" or key.endswith(".condition_scale")]:
        strength = sd.pop(key).float()
        if not torch.all(strength == 1):
            raise ValueError(
                f"{name}: {key} is {strength.flatten().tolist()}, wanted 1: bridges with a trained strength are not "
                "supported. Use the published bridge"
            )


def _kind(sd: Mapping[str, Tensor], name: str) -> str:
    found, coupled = sections(sd), coupling(sd)
    if not found:
        raise ValueError(f"{name} is {_describe(sd)}. Wanted: a CCL, Ovi, MOVA or Wan model, or a part of one")
    for kind, known in KINDS.items():
        if found - {"low_noise"} == known.sections and coupled == known.coupling:
            return kind
    raise ValueError(
        f"{name} holds only {', '.join(sorted(found))} of a joint model: it is incomplete or mixed up, get it again"
    )


def _describe(sd: Mapping[str, Tensor]) -> str:
    if any(".lora_" in key for key in sd):
        return "a LoRA: use Load LoRA (CCL)"
    return next(
        (text for key, text in OTHER_FILES.items() if key in sd), f"a file of an unknown kind ({len(sd)} tensors)"
    )
