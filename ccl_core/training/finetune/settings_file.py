"""The JSON file of scripts/train.py read into its settings; every fault is named with its place."""

from __future__ import annotations

import json
import types
import typing
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .settings import Settings

# What the errors call the types of fields.
WANTED = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list",
    dict: "an object",
}
# The entries that are paths, by part.
PATHS = {
    "model": ("config", "video", "audio", "interaction"),
    "encoders": ("checkpoint", "video_vae", "audio_vae", "vocoder", "text_encoder"),
    "data": ("clips", "cache", "captions"),
    "train": ("out",),
}


def read_settings(path: Path) -> Settings:
    """Read a file; its paths count from its folder. ValueError names an entry, its value, what is wanted."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): give the configuration as --config"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    try:
        settings = _convert(Settings, data, "")
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    folder = path.resolve().parent
    parts = {part: _absolute(getattr(settings, part), names, folder) for part, names in PATHS.items()}
    samples = tuple(_absolute(sample, ("clip",), folder) for sample in settings.train.samples)
    return Settings(**parts | {"train": replace(parts["train"], samples=samples)})


def _absolute(part: Any, names: tuple[str, ...], folder: Path) -> Any:
    given = {name: getattr(part, name) for name in names}
    return replace(part, **{name: str(folder / value) for name, value in given.items() if value is not None})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """A value of JSON as the type of a field; ValueError with its place where it is of another."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if is_dataclass(hint):
        return _object(hint, value, where)
    # The only unions are `X | None`.
    if origin is types.UnionType:
        return None if value is None else _convert(arguments[0], value, where)
    if origin is Literal:
        if value in arguments:
            return value
        raise ValueError(f"{where} is {value!r}, known are {', '.join(map(repr, arguments))}")
    if origin is tuple and isinstance(value, list):
        return _tuple(arguments, value, where)
    if origin is dict and isinstance(value, dict):
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    # JSON writes 1.0 as 1, and True is an int in Python.
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # The exact type: isinstance would take true for a whole number.
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise ValueError(f"{where} is {value!r}, wanted {WANTED[origin or hint]}")


def _tuple(kinds: tuple[Any, ...], value: list[Any], where: str) -> tuple[Any, ...]:
    """A list of JSON as a tuple of these types; an Ellipsis at the end means any number of the first type."""
    inner = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
    if len(inner) != len(value):
        raise ValueError(f"{where} has {len(value)} entries, wanted {len(inner)}")
    pairs = enumerate(zip(inner, value, strict=True))
    return tuple(_convert(kind, item, f"{where}[{i}]") for i, (kind, item) in pairs)


def _object(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'the file'} is {value!r}, wanted an object")
    known = {entry.name: entry for entry in fields(kind)}
    if unknown := sorted(set(value) - set(known)):
        raise ValueError(
            f"{where or 'the file'} has the unknown entries {unknown}, known are {', '.join(known)}"
        )
    needed = [
        name for name, entry in known.items() if entry.default is MISSING and entry.default_factory is MISSING
    ]
    if missing := [name for name in needed if name not in value]:
        raise ValueError(f"{where or 'the file'} lacks {', '.join(missing)}")
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    return kind(**{name: _convert(hints[name], item, prefix + name) for name, item in value.items()})
