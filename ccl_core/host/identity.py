"""A number for what decides the result of a run, to find the work of one that was stopped.

Of weights of models some are read. What nodes put into a model as functions counts by name, so that another
setting of such a node is not seen; nor is what lies in objects of other packs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from functools import singledispatch
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor
from comfy.sd import VAE
from torch import Tensor

from .media.picture import Film
from .texts import StreamTexts

# Numbers that are read of each weight: of its start, its middle and its end.
SAMPLED = 32
MODEL = "diffusion_model."


def identity(*values: Any) -> str:
    """The same for the same values, on this machine with this torch."""
    found = hashlib.sha256()
    for part in _flat((torch.__version__, *values)):
        found.update(part)
        found.update(b"\0")
    return found.hexdigest()[:24]


def _flat(value: Any) -> Iterable[bytes]:
    for part in parts(value):
        if isinstance(part, bytes):
            yield part
        else:
            yield from _flat(part)


@singledispatch
def parts(value: Any) -> Iterable[Any]:
    """What a value consists of: bytes, or values that consist of some. An unknown one is its name."""
    yield getattr(value, "__qualname__", type(value).__qualname__).encode()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    # Adapters of the host, such as LoRA.
    yield from (value.weights,) if isinstance(getattr(value, "weights", None), (tuple, list)) else ()


@parts.register(type(None))
@parts.register(bool)
@parts.register(int)
@parts.register(float)
@parts.register(str)
@parts.register(torch.dtype)
def _(value: Any) -> Iterable[Any]:
    yield repr(value).encode()


@parts.register(list)
@parts.register(tuple)
def _(value: Iterable[Any]) -> Iterable[Any]:
    yield b"["
    yield from value


@parts.register(dict)
def _(value: Mapping[Any, Any]) -> Iterable[Any]:
    yield b"{"
    for key in sorted(value, key=str):
        yield str(key).encode()
        yield value[key]


@parts.register(Tensor)
def _(value: Tensor) -> Iterable[Any]:
    yield f"{tuple(value.shape)} {value.dtype}".encode()
    plain = value.detach().cpu().contiguous().flatten()
    yield plain.view(torch.uint8).numpy().tobytes()


@parts.register(StreamTexts)
def _(value: StreamTexts) -> Iterable[Any]:
    yield value.video
    yield value.audio


@parts.register(NestedTensor)
def _(value: NestedTensor) -> Iterable[Any]:
    yield from value.unbind()


@parts.register(io.BytesIO)
def _(value: io.BytesIO) -> Iterable[Any]:
    yield hashlib.sha256(value.getbuffer()).digest()


@parts.register(Film)
def _(value: Film) -> Iterable[Any]:
    """A file by its size and time, since a film may have gigabytes."""
    window = str(value.start), str(value.seconds)
    if isinstance(value.file, io.BytesIO):
        yield value.file, window
    else:
        state = os.stat(value.file)
        yield value.file, state.st_size, state.st_mtime_ns, window


@parts.register(VAE)
def _(value: VAE) -> Iterable[Any]:
    yield _sampled(value.first_stage_model.state_dict())


@parts.register(ModelPatcher)
def _(value: ModelPatcher) -> Iterable[Any]:
    yield type(value.model).__qualname__.encode()
    yield repr(getattr(value.model, "ccl_config", None)).encode()
    # Where a LoRA is in the weights, the ones before it are kept beside.
    weights = value.model.state_dict() | {name: entry.weight for name, entry in value.backup.items()}
    # The schedule of noise is a module too, which a patch of an object changes.
    yield _sampled({name: weight for name, weight in weights.items() if name.startswith(MODEL)})
    yield {name: list(map(tuple, patches)) for name, patches in value.patches.items()}
    yield from (value.object_patches, value.model_options, value.attachments)


@parts.register(torch.nn.Module)
def _(value: torch.nn.Module) -> Iterable[Any]:
    yield type(value).__qualname__.encode()
    plain = {name: entry for name, entry in vars(value).items() if isinstance(entry, (int, float, str))}
    yield plain
    yield _sampled(value.state_dict())


def _sampled(weights: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _some(weight) for name, weight in weights.items()}


def _some(weight: Any) -> Any:
    """Shape, type and a few numbers of a weight; of one without numbers at hand the first two."""
    about = f"{tuple(weight.shape)} {weight.dtype}"
    if type(weight) not in (Tensor, torch.nn.Parameter) or weight.is_meta:
        return about
    flat = weight.detach().flatten()
    middle = flat.numel() // 2
    return about, torch.cat([flat[:SAMPLED], flat[middle : middle + SAMPLED], flat[-SAMPLED:]])
