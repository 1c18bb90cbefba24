"""The published files as tables of keys and shapes, from their descriptions, with tensors of any device.

`Sizes` holds what differs between full-size and small files of one layout. Every generator returns {key:
shape}.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """One Wan tower."""

    dim: int
    ffn: int
    layers: int
    channels_in: int
    channels_out: int
    text: int = 4096
    time: int = 256


OVI_VIDEO = Sizes(3072, 14336, 30, 48, 48)
OVI_AUDIO = Sizes(3072, 14336, 30, 20, 20)
OVI_STEM = 8192
MOVA_VIDEO = Sizes(5120, 13824, 40, 36, 16)
MOVA_AUDIO = Sizes(1536, 8960, 30, 128, 128)
WAN = {
    "wan2.1_t2v_1.3B": Sizes(1536, 8960, 30, 16, 16),
    "wan2.1_t2v_14B": Sizes(5120, 13824, 40, 16, 16),
    "wan2.1_i2v_14B": Sizes(5120, 13824, 40, 36, 16),
    "wan2.2_t2v_A14B": Sizes(5120, 13824, 40, 16, 16),
    "wan2.2_i2v_A14B": Sizes(5120, 13824, 40, 36, 16),
    "wan2.2_ti2v_5B": Sizes(3072, 14336, 30, 48, 48),
}
CLIP_VISION = 1280

TINY_OVI_VIDEO = Sizes(128, 160, 2, 48, 48, 24, 32)
TINY_OVI_AUDIO = Sizes(128, 96, 2, 20, 20, 24, 32)
TINY_OVI_STEM = 64
TINY_MOVA_VIDEO = Sizes(256, 160, 3, 36, 16, 24, 32)
TINY_MOVA_AUDIO = Sizes(128, 96, 2, 128, 128, 24, 32)
TINY_WAN = Sizes(256, 160, 3, 16, 16, 24, 32)


def linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def tower(s: Sizes, values_per_token: int, modulation: str = "modulation", image: bool = False) -> Shapes:
    """A Wan tower without its patch embedding. image: Wan 2.1 image to video, with CLIP vision."""
    shapes = linear("text_embedding.0", s.dim, s.text) | linear("text_embedding.2", s.dim, s.dim)
    shapes |= linear("time_embedding.0", s.dim, s.time) | linear("time_embedding.2", s.dim, s.dim)
    shapes |= linear("time_projection.1", 6 * s.dim, s.dim)
    for i in range(s.layers):
        block = f"blocks.{i}"
        for attention in ("self_attn", "cross_attn"):
            for projection in "qkvo":
                shapes |= linear(f"{block}.{attention}.{projection}", s.dim, s.dim)
            shapes |= {f"{block}.{attention}.norm_{x}.weight": (s.dim,) for x in "qk"}
        if image:
            shapes |= linear(f"{block}.cross_attn.k_img", s.dim, s.dim) | linear(
                f"{block}.cross_attn.v_img", s.dim, s.dim
            )
            shapes |= {f"{block}.cross_attn.norm_k_img.weight": (s.dim,)}
        shapes |= norm(f"{block}.norm3", s.dim)
        shapes |= linear(f"{block}.ffn.0", s.ffn, s.dim) | linear(f"{block}.ffn.2", s.dim, s.ffn)
        shapes |= {f"{block}.{modulation}": (1, 6, s.dim)}
    if image:
        shapes |= norm("img_emb.proj.0", CLIP_VISION) | linear("img_emb.proj.1", CLIP_VISION, CLIP_VISION)
        shapes |= linear("img_emb.proj.3", s.dim, CLIP_VISION) | norm("img_emb.proj.4", s.dim)
    shapes |= {"head.modulation": (1, 2, s.dim)}
    return shapes | linear("head.head", values_per_token, s.dim)


def video_patch(s: Sizes) -> Shapes:
    return {"patch_embedding.weight": (s.dim, s.channels_in, 1, 2, 2), "patch_embedding.bias": (s.dim,)}


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + key: shape for key, shape in shapes.items()}


def wan(s: Sizes, image: bool = False) -> Shapes:
    """A plain Wan file, and each of MOVA's two video experts."""
    return tower(s, 4 * s.channels_out, image=image) | video_patch(s)


def audio_tower(s: Sizes) -> Shapes:
    """MOVA's audio_dit: a patch embedding over time alone."""
    shapes = tower(s, s.channels_out)
    return shapes | {"patch_embedding.weight": (s.dim, s.channels_in, 1), "patch_embedding.bias": (s.dim,)}


def fusion(s: Sizes, other: Sizes) -> Shapes:
    shapes: Shapes = {}
    for i in range(s.layers):
        block = f"blocks.{i}.cross_attn"
        shapes |= linear(f"{block}.k_fusion", s.dim, other.dim) | linear(
            f"{block}.v_fusion", s.dim, other.dim
        )
        shapes |= norm(f"{block}.pre_attn_norm_fusion", other.dim) | {
            f"{block}.norm_k_fusion.weight": (s.dim,)
        }
    return shapes


def ovi_video(s: Sizes, audio: Sizes, modulation: str = "modulation.modulation") -> Shapes:
    return tower(s, 4 * s.channels_out, modulation) | video_patch(s) | fusion(s, audio)


def ovi_audio(s: Sizes, video: Sizes, stem: int, modulation: str = "modulation.modulation") -> Shapes:
    shapes = tower(s, s.channels_out, modulation) | fusion(s, video)
    shapes |= {"patch_embedding.0.weight": (s.dim, s.channels_in, 7), "patch_embedding.0.bias": (s.dim,)}
    shapes |= {f"patch_embedding.2.{w}.weight": (stem, s.dim, 7) for w in ("w1", "w3")}
    return shapes | {"patch_embedding.2.w2.weight": (s.dim, stem, 7)}


def ovi(
    video: Sizes = OVI_VIDEO,
    audio: Sizes = OVI_AUDIO,
    stem: int = OVI_STEM,
    modulation: str = "modulation.modulation",
    split: bool = False,
) -> Shapes:
    """Ovi in one file; split: the names of the repacks, video at the top."""
    shapes = prefixed("" if split else "video_model.", ovi_video(video, audio, modulation))
    return shapes | prefixed("audio_model.", ovi_audio(audio, video, stem, modulation))


def bridge(video: Sizes = MOVA_VIDEO, audio: Sizes = MOVA_AUDIO) -> Shapes:
    shapes: Shapes = {}
    for i in range(min(video.layers, audio.layers)):
        for direction, x, y in (("audio_to_video", video, audio), ("video_to_audio", audio, video)):
            conditioner = f"{direction}_conditioners.{i}"
            shapes |= norm(f"{conditioner}.y_norm", y.dim)
            for projection, columns in (("q", x.dim), ("k", y.dim), ("v", y.dim), ("o", x.dim)):
                shapes |= linear(f"{conditioner}.inner.{projection}", x.dim, columns)
            shapes |= {f"{conditioner}.inner.norm_{n}.weight": (x.dim,) for n in "qk"}
    return shapes


def mova(video: Sizes = MOVA_VIDEO, audio: Sizes = MOVA_AUDIO, experts: int = 2) -> Shapes:
    """Our repack of MOVA into one file."""
    shapes = prefixed("video_dit.", wan(video)) | prefixed("audio_dit.", audio_tower(audio))
    shapes |= prefixed("dual_tower_bridge.", bridge(video, audio))
    return shapes | (prefixed("video_dit_2.", wan(video)) if experts == 2 else {})


def prism(video: Sizes = MOVA_VIDEO, audio: Sizes = MOVA_AUDIO) -> Shapes:
    """Prism's one file: MOVA's weights, those of the coupled layers together."""
    return {prism_key(key, audio.layers): shape for key, shape in mova(video, audio).items()}


def prism_key(key: str, coupled: int) -> str:
    """What Prism calls a weight of our repack of MOVA. coupled: the number of layers with a bridge."""
    part, first, *rest = key.split(".")
    if part == "dual_tower_bridge":
        direction = {"audio_to_video_conditioners": "a2v", "video_to_audio_conditioners": "v2a"}[first]
        return ".".join(["fusion_blocks", rest[0], f"{direction}_conditioner", *rest[1:]])
    if part == "video_dit_2" or first != "blocks":
        return key
    layer = int(rest[0])
    if layer >= coupled:
        return ".".join(["remaining_video_blocks", str(layer - coupled), *rest[1:]])
    return ".".join(["fusion_blocks", str(layer), f"{part.removesuffix('_dit')}_block", *rest[1:]])


TINY_OVI = (TINY_OVI_VIDEO, TINY_OVI_AUDIO, TINY_OVI_STEM)
TINY_MOVA = (TINY_MOVA_VIDEO, TINY_MOVA_AUDIO)


def meta(shapes: Shapes, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, dtype=dtype, device="meta") for key, shape in shapes.items()}


def weights(shapes: Shapes, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Random weights, none neutral: norms near 1, no zero."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, shape in shapes.items():
        scale = 0.05 if len(shape) > 1 else 0.02
        value = scale * torch.randn(shape, generator=generator)
        tensors[key] = (value + (1.0 if "norm" in key and key.endswith("weight") else 0.0)).to(dtype)
    return tensors


def is_matrix(key: str, tensor: torch.Tensor) -> bool:
    """A Linear of a block or of a bridge: what quantised repacks quantise."""
    return tensor.ndim == 2 and key.endswith(".weight") and ("blocks." in key or "conditioners." in key)


def fp8_scaled(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As the fp8_scaled repacks hold it: `.scale_weight` beside each matrix, and the mark."""
    out: dict[str, torch.Tensor] = {"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)}
    for key, value in tensors.items():
        if not is_matrix(key, value):
            out[key] = value.bfloat16()
            continue
        scale = value.abs().amax().float() / 448
        out[key] = (value / scale).to(torch.float8_e4m3fn)
        out[key.removesuffix("weight") + "scale_weight"] = scale.reshape(1)
    return out


def fp8_listed(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """As the host writes it: `.weight_scale` beside each matrix, and the layers in the metadata."""
    scaled = fp8_scaled(tensors)
    del scaled["scaled_fp8"]
    layers = [key.removesuffix(".scale_weight") for key in scaled if key.endswith(".scale_weight")]
    entries = {"layers": {layer: {"format": "float8_e4m3fn"} for layer in layers}}
    renamed = {key.replace(".scale_weight", ".weight_scale"): value for key, value in scaled.items()}
    return renamed, {"_quantization_metadata": json.dumps(entries)}


def group_of(columns: int) -> int:
    """The size of the groups that a repack rotates: the largest of its three that divides the columns."""
    return next(size for size in (256, 64, 16) if columns % size == 0)


def int8_rotated(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices in int8 with a scale per row, rotated in groups, as the host knows them; the rest in bf16."""
    from comfy.quant_ops import QuantizedTensor

    out = {}
    for key, tensor in tensors.items():
        if not is_matrix(key, tensor):
            out[key] = tensor.bfloat16()
            continue
        group = group_of(tensor.shape[1])
        options = {"per_channel": True, "convrot": True, "convrot_groupsize": group}
        quantised = QuantizedTensor.from_float(tensor, "TensorWiseINT8Layout", **options)
        out |= quantised.state_dict(key)
        entry = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": group}
        text = list(json.dumps(entry).encode())
        out[f"{key.removesuffix('.weight')}.comfy_quant"] = torch.tensor(text, dtype=torch.uint8)
    return out
