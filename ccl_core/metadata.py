"""The `ccl_config` entry in a file's metadata: the configuration of a joint model as JSON.

A file that the host wrote has the entry as a tensor: the save nodes write metadata of their own alone.
Schema 1 kept the options of every interaction in one flat object and named no family. It is read, and schema
2 is written.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from fractions import Fraction
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from .config import OPTIONS, CCLConfig, InteractionConfig
from .families import FAMILIES

ENTRY = "ccl_config"
# Entries that may be a tensor of that name: of the model, and of the audio VAEs.
ENTRIES = (ENTRY, "vocos_config", "dac_config")
# Types that hold the codes of ASCII exactly: a converter may have cast the tensor with the weights.
EXACT = (torch.uint8, torch.bfloat16, torch.float16, torch.float32)
SCHEMA = 2
# Whole numbers of a configuration are sizes: none of a published model comes near.
LARGEST = 1_000_000
# The least value of a field, and where it is not LARGEST the greatest.
RANGES: dict[str, tuple[float, float]] = {
    "in_dim": (1, 65536),
    "out_dim": (1, 65536),
    "dim": (1, 65536),
    "num_heads": (1, 1024),
    "num_layers": (1, 1024),
    "text_len": (1, 65536),
    "patch_size": (1, 64),
    "layers": (0, 1023),
    "context_tokens": (0, 65536),
    "window": (0, 65536),
    "stem_dim": (0, LARGEST),
    "speech_blocks": (0, 1024),
    "fps": (1, 240),
    "rate": (Fraction(1, 100), 100_000),
    "sample_rate": (1000, LARGEST),
    "shift": (0.001, 1000),
    "audio_shift": (0.001, 1000),
    "clock_scale": (1e-6, 1000),
    "expert_boundary": (0, 1),
}


def read_config(text: str) -> CCLConfig:
    """Read the entry; ValueError names a field that is missing, unknown, of a wrong type or out of range."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"the ccl_config metadata is not JSON ({error}): the file was not written by this pack"
        ) from error
    if not isinstance(data, dict):
        raise ValueError(f"the ccl_config metadata is a JSON {type(data).__name__}, wanted an object")
    schema = data.pop("schema", None)
    if schema == 1:
        data = _from_schema_1(data)
    elif schema != SCHEMA:
        raise ValueError(
            f"ccl_config has schema {schema!r}, this version of the pack reads 1 to {SCHEMA}: update the pack"
        )
    config = _build(CCLConfig, data, ENTRY)
    if config.family not in FAMILIES:
        raise ValueError(
            f"ccl_config names the family {config.family!r}, known are {', '.join(FAMILIES)}: update the pack"
        )
    return config


def write_config(config: CCLConfig) -> str:
    """The entry of a configuration, in the newest schema."""
    # Fractions are no JSON: they become text such as "125/4".
    return json.dumps(asdict(config) | {"schema": SCHEMA}, default=str)


def as_tensor(text: str) -> Tensor:
    """An entry as the bytes of its ASCII, in the form of the host's `.comfy_quant`."""
    return torch.tensor(list(text.encode("ascii")), dtype=torch.uint8)


def from_tensor(tensor: Tensor) -> str:
    """The entry in such a tensor; ValueError for a type that has rounded the codes."""
    if tensor.dtype not in EXACT or tensor.ndim != 1:
        raise ValueError(
            f"it is {tensor.dtype} with {tensor.ndim} dimensions, wanted one dimension of uint8: a tool has "
            "converted it with the weights, let that leave it as it is"
        )
    return bytes(tensor.to(torch.uint8).tolist()).decode("ascii", "replace")


def _from_schema_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """Schema 2 of an entry in schema 1. Its fields for other kinds than its own are left out."""
    flat = data.get("interaction")
    if not isinstance(flat, dict) or flat.get("kind") not in list(OPTIONS):
        return dict(data)
    # Schema 1 wrote the options of all kinds into one object.
    own = {field.name for field in fields(OPTIONS[flat["kind"]])}
    of_any_kind = {field.name for kind in OPTIONS.values() for field in fields(kind)}
    options = {name: value for name, value in flat.items() if name in own}
    interaction = {name: value for name, value in flat.items() if name not in of_any_kind}
    # Every coupling of schema 1 had one family.
    coupled = (name for name, family in FAMILIES.items() if family.coupling == flat["kind"])
    return data | {"interaction": interaction | {"options": options}, "family": next(coupled, "ccl")}


def _build(kind: type, data: Any, where: str) -> Any:
    """An instance of the dataclass `kind` from a JSON object."""
    if not isinstance(data, dict):
        raise ValueError(f"{where} is {data!r}, wanted an object")
    hints = get_type_hints(kind)
    if kind is InteractionConfig:
        named = data.get("kind")
        hints["options"] = OPTIONS.get(named, dict) if isinstance(named, str) else dict
    unknown = set(data) - hints.keys()
    if unknown:
        raise ValueError(f"{where} has the unknown entries {sorted(unknown)}: update the pack")
    values = {name: _value(hints[name], value, f"{where}.{name}") for name, value in data.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where} is incomplete: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    """A JSON value as the type that a field wants, in its range."""
    if is_dataclass(hint):
        return _build(hint, value, where)
    if isinstance(hint, types.UnionType):
        return None if value is None else _value(get_args(hint)[0], value, where)
    if get_origin(hint) is tuple:
        return _tuple(get_args(hint), value, where)
    if hint in (int, float, Fraction):
        return _number(hint, value, where)
    wanted = get_origin(hint) or hint
    if not isinstance(value, wanted):
        raise ValueError(f"{where} is {value!r}, wanted a value of the type {wanted.__name__}")
    return value


def _tuple(parts: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """parts: a type for each element, or one type and an ellipsis for any number of them."""
    if not isinstance(value, list):
        raise ValueError(f"{where} is {value!r}, wanted a list")
    if parts[-1] is ...:
        parts = parts[:1] * len(value)
    if len(parts) != len(value):
        raise ValueError(f"{where} has {len(value)} elements, wanted {len(parts)}")
    return tuple(_value(part, element, where) for part, element in zip(parts, value, strict=True))


def _number(kind: type, value: Any, where: str) -> Any:
    """Fractions are written as text such as "125/4"; a bool is no number."""
    types_of = {int: int, float: (int, float), Fraction: (int, str)}
    low, high = RANGES.get(where.rpartition(".")[2], (-LARGEST if kind is float else 1, LARGEST))
    try:
        number = kind(value) if isinstance(value, types_of[kind]) and not isinstance(value, bool) else None
    except (ValueError, ZeroDivisionError):
        number = None
    # A comparison with NaN is false, so it is refused here too.
    if number is None or not low <= number <= high:
        raise ValueError(f"{where} is {value!r}, wanted a {kind.__name__} from {low} to {high}")
    return number
