"""A published model as its tensors by name: a safetensors file, shards, or a folder for each of its parts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ccl_tools.console import ScriptError
from ccl_tools.tensor_file import Source

SAFETENSORS = "*.safetensors"
INDEX = "*.safetensors.index.json"
# Named in a message at most.
SHOWN = 4


@dataclass(frozen=True)
class ModelSource:
    """The tensors under their published names, those of a folder behind its name; each part's config.json."""

    name: str
    tensors: Source
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)


def open_model(path: Path) -> ModelSource:
    """Headers only. ScriptError where the input is not one whole model, as far as names tell."""
    if path.is_file():
        return ModelSource(path.name, Source.open(shards_of(path)))
    if not path.is_dir():
        raise ScriptError(
            f"{path} is neither a file nor a folder",
            "start the script without arguments: it says what to download",
        )
    parts = [name for name in part_names() if (path / name).is_dir()]
    if not parts:
        return ModelSource(path.name, open_folder(path))
    tensors = Source({}, {}, {})
    for name in parts:
        tensors = tensors.beside(open_folder(path / name).behind(f"{name}."))
    configs = {name: read_json(path / name / "config.json") for name in parts}
    return ModelSource(path.name, tensors, configs)


def part_names() -> list[str]:
    """The folders of all models that were published in parts."""
    from ccl_pack.ccl_core.families import FAMILIES

    return list(dict.fromkeys(name for family in FAMILIES.values() for name in family.folders))


def shards_of(path: Path) -> list[Path]:
    """The file, or all files of its set."""
    from ccl_pack.ccl_core.host.files.read import shards

    try:
        return [Path(file) for file in shards(str(path))]
    except ValueError as error:
        raise ScriptError(f"{path.parent}: {error}", "download the rest of the model") from error


def open_folder(folder: Path) -> Source:
    """One model or part, with or without shards and an index."""
    indices = sorted(folder.glob(INDEX))
    if len(indices) > 1:
        raise several(folder, indices)
    if indices:
        return open_index(indices[0])
    files = sorted(folder.glob(SAFETENSORS))
    if not files:
        below = [str(file.relative_to(folder)) for file in sorted(folder.glob(f"*/{SAFETENSORS}"))]
        found = f", but below it {shown(below)}" if below else ""
        raise ScriptError(
            f"{folder} holds no safetensors file{found}",
            "name a file, or the folder of a model as it was published: of a file, of a set of shards, or "
            "with the folders " + ", ".join(part_names()),
        )
    first = shards_of(files[0])
    if others := set(files) - set(first):
        raise several(folder, [files[0], *sorted(others)])
    return Source.open(first)


def several(folder: Path, files: Iterable[Path]) -> ScriptError:
    return ScriptError(
        f"{folder} holds more than one model: {shown([file.name for file in files])}",
        "name the file that you want, or leave only the files of one in the folder",
    )


def shown(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def open_index(index: Path) -> Source:
    """The shards that an index names; ScriptError where it names another place, or a tensor that is gone."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ScriptError(f"{index} has no weight_map that names files", "download it again")
    names = sorted({inside(index, name) for name in places.values()})
    lacking = [name for name in names if not (index.parent / name).is_file()]
    if lacking:
        raise ScriptError(
            f"{index.parent} lacks {shown(lacking)}, which {index.name} names",
            "download the rest of the model",
        )
    source = Source.open([index.parent / name for name in names])
    if gone := set(places) - set(source.entries):
        raise ScriptError(
            f"{index.parent} lacks {min(gone)}, which {index.name} names", "download its shard again"
        )
    return source


def inside(index: Path, name: object) -> str:
    """A file name of an index; ScriptError unless it stays in the index's folder, on any system."""
    kinds = (PurePosixPath, PureWindowsPath) if isinstance(name, str) and name else ()
    if not kinds or any(kind(name).anchor or ".." in kind(name).parts for kind in kinds):
        raise ScriptError(
            f"{index} names the file {name!r}, wanted a name inside {index.parent}",
            "it is damaged, or made to read another file: download it again from where it was published",
        )
    return str(name)


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file, empty where there is no file."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        raise ScriptError(f"{path} is no JSON file ({error})", "download it again") from error
    return value
