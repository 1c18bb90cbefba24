"""A LATENT as a file: all its tensors to the bit, pairs of video and audio too, and its other entries.

It is a safetensors file. A tensor has the name of its entry, those of a pair have `name/0` and `name/1`. The
metadata MARK is JSON: `version`, `pairs` (entry and count), `values` (the entries that are no tensors).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files.read import require_readable
from .pair import Pair

MARK = "ccl_av_latent"
VERSION = 1
# Not `.latent`, which ComfyUI's LoadLatent lists and cannot read as a pair.
ENDING = ".latent.safetensors"

Latent = dict[str, Any]


def save(path: str, latent: Latent, more: Mapping[str, str]) -> list[str]:
    """Write a file as a whole or not at all; the entries that no file can hold.

    more: metadata beside that of the latent. ValueError where the file cannot be written.
    """
    pairs = {name: len(value.unbind()) for name, value in latent.items() if _is_pair(value)}
    values = {name: value for name, value in latent.items() if _is_plain(value)}
    tensors = _tensors(latent)
    contents = {"version": VERSION, "pairs": pairs, "values": values}
    part = f"{path}.part"
    try:
        save_file(tensors, part, metadata={**more, MARK: json.dumps(contents)})
        os.replace(part, path)
    # safetensors has errors of its own for what the disk refuses.
    except Exception as error:
        if os.path.exists(part):
            os.remove(part)
        raise ValueError(
            f"{os.path.basename(path)} cannot be written in {os.path.dirname(path)} ({error}): free some of "
            "the disk, or choose another filename_prefix"
        ) from error
    stored = {*pairs, *values, *tensors}
    return [name for name in latent if name not in stored]


def load(path: str) -> Latent:
    """The LATENT of a file that `save` wrote; ValueError, with the file's name, for any other."""
    require_readable(path)
    name = os.path.basename(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except Exception as error:
        raise ValueError(
            f"{name} cannot be read as safetensors ({error}): it is damaged, cut off or of another kind. "
            "Wanted: a file of CCLSaveAVLatent; copy it again, or save the latent again"
        ) from error
    contents = _contents(metadata, list(tensors), name)
    latent: Latent = dict(contents["values"])
    for entry, count in contents["pairs"].items():
        latent[entry] = Pair(tensors.pop(f"{entry}/{place}") for place in range(count))
    return latent | tensors


def _tensors(latent: Latent) -> dict[str, Tensor]:
    """All tensors by their names in the file, each in memory of its own, which safetensors asks for."""
    found = {name: value for name, value in latent.items() if isinstance(value, Tensor)}
    for name, value in latent.items():
        if _is_pair(value):
            found |= {f"{name}/{place}": tensor for place, tensor in enumerate(value.unbind())}
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in found.items()
    }


def _is_pair(value: Any) -> bool:
    return getattr(value, "is_nested", False) and not isinstance(value, Tensor)


def _is_plain(value: Any) -> bool:
    """Whether JSON gives a value back as it was."""
    if isinstance(value, Tensor) or _is_pair(value):
        return False
    try:
        return json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        return False


def _contents(metadata: Mapping[str, str], tensors: list[str], name: str) -> dict[str, Any]:
    """What the metadata says of the latent; ValueError where the file is another's, newer or damaged."""
    if MARK not in metadata:
        remedy = "choose a file that it wrote"
        if "latent_tensor" in tensors:
            remedy = "it is one of SaveLatent, for which LoadLatent is made"
        raise ValueError(
            f"{name} holds {', '.join(sorted(tensors)[:3]) or 'no tensors'} and no {MARK}; wanted: a file of "
            f"CCLSaveAVLatent: {remedy}"
        )
    try:
        contents = json.loads(metadata[MARK])
        version, pairs, values = (contents[field] for field in ("version", "pairs", "values"))
        named = {f"{entry}/{place}" for entry, count in pairs.items() for place in range(count)}
        whole = isinstance(values, dict) and named <= set(tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(_damaged(name, metadata[MARK])) from error
    if version != VERSION:
        raise ValueError(
            f"{name} is of version {version!r} of {MARK}, this pack reads {VERSION}: update the pack, or "
            "save the latent again with this one"
        )
    if not whole or "samples" not in {*tensors, *pairs}:
        raise ValueError(_damaged(name, metadata[MARK]))
    return contents


def _damaged(name: str, found: str) -> str:
    return (
        f"{name} says of its latent {found[:200]}, which its tensors do not fit: it is damaged. Save the "
        "latent again"
    )
