"""The files of one model put together, each in its role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ...families import FAMILIES
from ...families.base import DIRECTIONS
from .identify import PREFIXES, ModelFile, section, sections
from .read import take

# What the inputs of CCLModelAssembler call the roles, for messages.
INPUTS = {"video": "video_model", "audio": "audio_stream", "low_noise": "low_noise_model"}


@dataclass(frozen=True)
class Expert:
    """The tensors of a model with one video expert, and the file of each section.

    The tensors of audio and interaction are the very ones of the other expert.
    """

    sd: dict[str, Tensor]
    sources: dict[str, str]


@dataclass(frozen=True)
class Assembly:
    """The tensors of a model and of its low-noise expert under our names.

    sources: the name of the file of each section. family: see `_family`.
    """

    sd: dict[str, Tensor]
    low_noise: dict[str, Tensor]
    sources: dict[str, str]
    family: str
    gguf: bool

    def experts(self) -> list[Expert]:
        """The model with each of its video experts, the one for high noise first."""
        high = Expert(self.sd, self.sources)
        if not self.low_noise:
            return [high]
        shared = {key: value for key, value in self.sd.items() if section(key) != "video"}
        return [high, Expert(shared | self.low_noise, self.sources | {"video": self.sources["low_noise"]})]


def assemble(files: Mapping[str, ModelFile]) -> Assembly:
    """Put files together by role ("video", "audio", "interaction", "low_noise").

    ValueError where two files hold the same key or a part of the model is missing.
    """
    sd: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    for role, file in files.items():
        tensors = _in_role(role, file)
        both = next((key for key in tensors if key in sd), None)
        if both is not None:
            part = section(both)
            raise ValueError(
                f"{sources.get(part, 'another file')} and {file.name}, chosen as {INPUTS.get(role, role)}, "
                f"both hold {both}: choose 'none' for the latter, or a video model without {part} part"
            )
        sd |= tensors
        sources |= dict.fromkeys(sections(tensors), file.name)
    _check_complete(files, sources)
    low_noise = take(sd, PREFIXES["low_noise"])
    return Assembly(sd, low_noise, sources, _family(files), any(file.gguf for file in files.values()))


def _family(files: Mapping[str, ModelFile]) -> str:
    """That of the interaction, or the one with the same modules that another file's metadata says.

    A family with such a mark has the keys of another: a bridge that lost its metadata looks like that one's.
    """
    coupled = next(file.family for file in files.values() if file.content.sections & DIRECTIONS)
    for file in files.values():
        family = FAMILIES[file.family]
        if family.metadata_mark is not None and family.modules == FAMILIES[coupled].modules:
            return file.family
    return coupled


def _check_complete(files: Mapping[str, ModelFile], sources: Mapping[str, str]) -> None:
    missing = [stream for stream in ("video", "audio") if stream not in sources]
    directions = sorted(DIRECTIONS - sources.keys())
    if directions:
        missing.append("interaction" if len(directions) == 2 else f"interaction ({directions[0]})")
    if missing:
        found = ", ".join(f"{file.name} is {file.content.description}" for file in files.values())
        raise ValueError(
            f"the files hold no {' and no '.join(missing)}: {found}. Choose files that make up one model"
        )


def _in_role(role: str, file: ModelFile) -> dict[str, Tensor]:
    """The tensors a file gives in a role; ValueError where it has none for it."""
    # Both experts of MOVA or Wan 2.2 A14B have the same keys and shapes: only the role tells them apart.
    if role == "low_noise":
        if file.content.sections != {"video"} or "low_noise" in sections(file.tensors):
            raise ValueError(_refusal(role, file, "video model without other parts"))
        return {f"low_noise.{key}": value for key, value in file.tensors.items()}
    wanted = DIRECTIONS if role == "interaction" else {role}
    if not wanted <= file.content.sections:
        raise ValueError(_refusal(role, file, f"file with the {role} part"))
    return file.tensors


def _refusal(role: str, file: ModelFile, wanted: str) -> str:
    return (
        f"{file.name}, chosen as {INPUTS.get(role, role)}, is {file.content.description}. Wanted: a {wanted}"
    )
