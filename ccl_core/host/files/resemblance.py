"""What a file that is refused resembles: a known model with other keys, or a model of the host's own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import product

import comfy.model_detection
import comfy.ops
from torch import Tensor

from ...config import MODEL_TYPES, OPTIONS, AudioLatentConfig, CCLConfig, InteractionConfig, StreamConfig
from ...families import FAMILIES
from ...model.joint import JointModel
from ...repository import page
from .translate import rename

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# What stands beside a weight and belongs to it.
BESIDE = re.compile(
    r"\.(?:comfy_quant|weight_scale(?:_2)?|input_scale|pre_quant_scale|scale_weight|scale_input)$"
)
# A file with fewer known keys than this part resembles nothing.
LIKENESS = 0.3
# How many keys a message names.
SHOWN = 3
# The smallest streams; which keys there are depends on no width.
STREAM = StreamConfig(in_dim=4, out_dim=4, dim=128, ffn_dim=8, num_heads=1, num_layers=1, text_dim=8)
VIDEO = (STREAM, replace(STREAM, model_type="i2v", flf_pos_embed_token_number=4, in_dim_ref_conv=4))
SOUND = replace(STREAM, patch_size=(1, 1, 1))
AUDIO = (SOUND, replace(SOUND, stem_dim=8), replace(SOUND, speech_blocks=1))


@dataclass(frozen=True)
class Resemblance:
    """The model that a file is most like. fitting, total: kinds of keys, numbers left out.

    unknown: keys of the file that the model has not. missing: kinds of keys, under our names, it has not.
    """

    title: str
    fitting: int
    total: int
    unknown: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"resembles {self.title}: {self.fitting} of {self.total} kinds of its keys fit"]
        if self.unknown:
            parts.append(f"unknown {_some(self.unknown)}")
        if self.missing:
            parts.append(f"missing {_some(self.missing)}")
        return "; ".join(parts)


def nearest(keys: Collection[str]) -> Resemblance | None:
    """The model whose keys these are most like; None where they are like those of none."""
    # Of several that all keys fit the smallest: a Wan model is the video stream of each.
    names = sorted(FAMILIES, key=lambda name: len(_kinds(name)[0]))
    found = [_compared(name, keys) for name in names]
    best = max(found, key=lambda one: one.fitting / max(1, one.total))
    return best if best.fitting >= LIKENESS * best.total else None


def refusal(keys: Collection[str], tensors: Mapping[str, Tensor]) -> str | None:
    """What to say of a file that is no model of a family: what it is like, and what to do.

    keys: as the file has them. tensors: under our names. None where it is like nothing known.
    """
    host = host_model(tensors)
    like = nearest(keys)
    if host is not None:
        also = "" if like is None else f"{like}. "
        return f"{also}ComfyUI knows it as {host}, no joint model of this pack: use Load Diffusion Model"
    if like is None:
        return None
    return (
        f"{like}. It is of another version, or was converted for another program: get the release that "
        f"{page('docs/models.md')} names, or update the pack"
    )


def strange(sd: Iterable[str]) -> list[str]:
    """Keys under our names that no known model has."""
    known = frozenset().union(*(_kinds(name)[1] for name in FAMILIES))
    return [key for key in sd if _kind(key) not in known]


def host_model(sd: Mapping[str, Tensor]) -> str | None:
    """What the host's own detection calls a file; None for what it does not know, and for a plain Wan."""
    try:
        found = comfy.model_detection.detect_unet_config(dict(sd), "")
    # The detection reads keys that it expects, and raises whatever their absence does.
    except Exception:
        return None
    if found is None or found.get("model_type") in MODEL_TYPES:
        return None
    return " ".join(filter(None, (found.get("image_model"), found.get("model_type"))))


def _compared(name: str, keys: Collection[str]) -> Resemblance:
    needed, known = _kinds(name)
    renames = FAMILIES[name].renames_of(keys)
    # The first key of each kind, as the file has it.
    given: dict[str, str] = {}
    for key in keys:
        given.setdefault(_kind(rename(key, renames)), key)
    unknown = tuple(key for kind, key in given.items() if kind not in known)
    present = {_part(kind) for kind in given if kind in known}
    # Of a part of a model nobody wants the other parts.
    whole = {"video", "audio"} <= present
    missing = tuple(sorted(kind for kind in needed - given.keys() if whole or _part(kind) in present))
    return Resemblance(FAMILIES[name].title, len(given) - len(unknown), len(given), unknown, missing)


def _part(kind: str) -> str:
    first = kind.partition(".")[0]
    return first if first in ("audio", "interaction") else "video"


def _kind(key: str) -> str:
    """A key without its numbers; of a quantised layer that of its weight."""
    return NUMBER.sub("N", BESIDE.sub(".weight", key).removeprefix("low_noise."))


@cache
def _kinds(name: str) -> tuple[frozenset[str], frozenset[str]]:
    """The kinds of keys that every model of a family has, and those that one may have."""
    variants = [_keys(name, video, audio) for video, audio in product(VIDEO, AUDIO)]
    return frozenset.intersection(*variants), frozenset.union(*variants)


def _keys(name: str, video: StreamConfig, audio: StreamConfig) -> frozenset[str]:
    """The kinds of keys of a model with these streams, the video's alone for a family without sound."""
    coupling = FAMILIES[name].coupling
    kind = next(iter(OPTIONS)) if coupling is None else coupling
    config = CCLConfig(
        video=video,
        audio=audio,
        interaction=InteractionConfig(kind, (0,), OPTIONS[kind]()),
        audio_latent=AudioLatentConfig("", 4, Fraction(1), 1),
        fps=Fraction(1),
    )
    model = JointModel(config, device="meta", operations=comfy.ops.disable_weight_init)
    keys = frozenset(map(_kind, model.state_dict()))
    alone = coupling is None
    return frozenset(key for key in keys if not (alone and key.startswith(("audio.", "interaction."))))


def _some(keys: Collection[str]) -> str:
    first = list(keys)[:SHOWN]
    more = len(keys) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")
