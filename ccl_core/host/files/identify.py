"""What a file is: its family and its sections of a joint model, or what to do with another file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...config import CCLConfig
from ...families import FAMILIES
from ...families.base import DIRECTIONS, Content
from ...metadata import ENTRY, read_config
from .read import RawFile
from .resemblance import refusal, strange
from .translate import bare, marked_family, translate

INTERACTION_KEY = re.compile(r"interaction\.(\d+)\.(a2v|v2a)\.(\w+)")
PREFIXES = {"video": "", "audio": "audio.", "low_noise": "low_noise."}
# The head and the first block of a Wan model. A stream with only one of the two is there, but incomplete.
STREAM_MARKS = ("head.modulation", "blocks.0.self_attn.norm_q.weight")


@dataclass(frozen=True)
class ModelFile:
    """A file with sections of a joint model: its tensors under our names, the configuration it states."""

    name: str
    family: str
    content: Content
    tensors: dict[str, Tensor]
    config: CCLConfig | None
    gguf: bool = False


def identify(file: RawFile) -> ModelFile:
    """Tell what a file is; ValueError says what else it is and what to do with it."""
    config = stated_config(file)
    tensors = translate(file.tensors, file.name, file.metadata)
    _refuse_foreign(tensors, file.name)
    found = sections(tensors)
    if not found:
        titles = ", ".join(family.title for family in FAMILIES.values())
        what = _describe(file, tensors)
        raise ValueError(f"{file.name} {what}. Wanted: a model of {titles}, or a part of one")
    family = None if config is None else config.family
    if family is None:
        family = family_of_metadata(file.metadata)
    if family is None and found & DIRECTIONS:
        family = marked_family(bare(file.tensors)) or family_of_modules(tensors, file.name)
    family, content = _content(found, family, file.name)
    # A part may be what is left where the keys of the rest are not known.
    if not content.whole and strange(tensors):
        raise ValueError(f"{file.name} {refusal(file.tensors, tensors) or _unknown(tensors)}")
    _refuse_pieces(tensors, found, file.name)
    return ModelFile(file.name, family, content, tensors, config, file.gguf)


def _refuse_pieces(keys: Iterable[str], found: frozenset[str], name: str) -> None:
    """ValueError for keys of a stream that is not there: of a model that was cut into files by its blocks."""
    pieces = [key for key in keys if section(key) in PREFIXES and section(key) not in found]
    if pieces:
        raise ValueError(
            f"{name} holds {len(pieces)} keys of the {section(pieces[0])} stream such as {pieces[0]}, and "
            "neither its head nor its first block: it is a piece of a model. Use a release in one file, or "
            "in shards with names such as model-00001-of-00003.safetensors"
        )


def _refuse_foreign(keys: Iterable[str], name: str) -> None:
    """ValueError for keys of another program that no format of the host has."""
    names = list(keys)
    for family in FAMILIES.values():
        for ending, what in family.foreign_keys.items():
            found = [key for key in names if key.endswith(ending)]
            if found:
                raise ValueError(f"{name} holds {len(found)} keys such as {found[0]}: it is {what}")


def identify_files(files: Mapping[str, RawFile]) -> dict[str, ModelFile]:
    """The files of one model by their roles."""
    return {role: identify(file) for role, file in files.items()}


def stated_config(file: RawFile) -> CCLConfig | None:
    """The configuration in the file's metadata; ValueError names the file where it is damaged."""
    if ENTRY not in file.metadata:
        return None
    try:
        return read_config(file.metadata[ENTRY])
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error


def section(key: str) -> str:
    """The part of the model that one of our names belongs to: video, audio, low_noise, a2v or v2a."""
    first, *rest = key.split(".")
    if first == "interaction":
        return rest[1] if len(rest) > 1 else first
    return first if first in ("audio", "low_noise") else "video"


def sections(sd: Mapping[str, Any]) -> frozenset[str]:
    """The sections there are at all; a stream counts from its first block or its head on."""
    found = {section(key) for key in sd if INTERACTION_KEY.match(key)}
    streams = {name for name, prefix in PREFIXES.items() if _has_stream(sd, prefix)}
    return frozenset(found | streams)


def _has_stream(sd: Mapping[str, Any], prefix: str) -> bool:
    return any(prefix + mark in sd for mark in STREAM_MARKS)


def family_of_modules(keys: Iterable[str], name: str) -> str:
    """The first family whose interaction has exactly these modules; ValueError lists modules that none has.

    All modules count, not a few marks: a new coupling may share most of its names with a known one.
    """
    matches = [INTERACTION_KEY.match(key) for key in keys]
    modules = {match[3] for match in matches if match}
    for family_name, family in FAMILIES.items():
        if family.modules == modules:
            return family_name
    coupled = [family for family in FAMILIES.values() if family.modules]
    known = [f"{family.title} ({', '.join(sorted(family.modules))})" for family in coupled]
    raise ValueError(
        f"{name} holds an interaction of the modules {', '.join(sorted(modules))}, known are those of "
        f"{'; '.join(known)}: update the pack, or use a file that states its ccl_config"
    )


def family_of_metadata(metadata: Iterable[str]) -> str | None:
    """The family whose files have such an entry in their metadata."""
    keys = list(metadata)
    for name, family in FAMILIES.items():
        mark = family.metadata_mark
        if mark is not None and any(key.startswith(mark) for key in keys):
            return name
    return None


def _content(found: frozenset[str], family: str | None, name: str) -> tuple[str, Content]:
    """The family and the row of its contents that holds these sections, the second video expert not counted.

    family: None where nothing tells it yet.
    """
    wanted = found - {"low_noise"}
    # A stream alone (a Wan, an audio tower) may be described by the row of any family.
    asked = [family] if family is not None and wanted & DIRECTIONS else list(FAMILIES)
    for name_of_row in asked:
        for content in FAMILIES[name_of_row].contents:
            if content.sections == wanted:
                return family or name_of_row, content
    raise ValueError(
        f"{name} holds only {', '.join(sorted(found))} of a joint model: "
        "the file is incomplete or mixed up, get it again"
    )


def _describe(file: RawFile, sd: Mapping[str, Tensor]) -> str:
    if any(".lora_" in key for key in sd):
        return "is a LoRA: use CCLLoraLoader"
    for family in FAMILIES.values():
        for key, description in family.other_files.items():
            if key in sd:
                return f"is {description}"
    return refusal(file.tensors, sd) or _unknown(sd)


def _unknown(sd: Mapping[str, Tensor]) -> str:
    return f"is a file of an unknown kind ({len(sd)} tensors, such as {min(sd, default='none')})"
