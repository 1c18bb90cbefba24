"""The files of one model: what each is, and whether they belong together (design section 7)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from torch import Tensor

from ...config import CCLConfig
from ...metadata import read_config
from .identify import (
    KINDS,
    PREFIXES,
    WHOLE,
    configure,
    coupling,
    fit,
    section,
    sections,
    shapeless,
    stream_config,
    translate,
)
from .read import is_gguf, read_tensors

PARTS = ("text_encoders.", "vae.", "audio_vae.")
# What the roles of the files are called where a user chooses them.
INPUTS = {"video": "video_model", "audio": "audio_stream", "low_noise": "low_noise_model"}
# Wan 2.2 A14B: where its low-noise expert takes over, text to video and image to video.
WAN_BOUNDARIES = (0.875, 0.9)


@dataclass(frozen=True)
class Parts:
    """The paths of the files of one model. A part without a file of its own is in one of the others."""

    video: str
    audio: str | None = None
    interaction: str | None = None
    low_noise: str | None = None


@dataclass(frozen=True)
class CheckpointFile:
    """A read file: what it is (a key of layouts.KINDS), its tensors under our names, what else it holds by prefix."""

    name: str
    kind: str
    sd: dict[str, Tensor]
    metadata: dict[str, str]
    parts: dict[str, dict[str, Tensor]]
    gguf: bool

    @property
    def config(self) -> CCLConfig | None:
        if "ccl_config" not in self.metadata:
            return None
        try:
            return read_config(self.metadata["ccl_config"])
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def part(self, prefix: str, content: str) -> dict[str, Tensor]:
        if not self.parts[prefix]:
            raise ValueError(
                f"{self.name} holds no {content} (no keys under {prefix!r}): it is no all-in-one checkpoint. "
                "Load the model with Load Model (CCL), the rest with Load CLIP, Load VAE and Load Audio VAE (CCL)"
            )
        return self.parts[prefix]


@dataclass(frozen=True)
class Assembly:
    """The files of one model put together: tensors of the model and of its low-noise expert, names by section."""

    sd: dict[str, Tensor]
    low_noise: dict[str, Tensor]
    config: CCLConfig
    names: dict[str, str]
    gguf: bool


def read(path: str) -> CheckpointFile:
    """Read a file, or all shards of which it is one; ValueError says what else it is and what to do."""
    sd, metadata = read_tensors(path)
    name = os.path.basename(path)
    parts = {prefix: _take(sd, prefix) for prefix in PARTS}
    kind, sd = translate(sd, name, metadata)
    return CheckpointFile(name, kind, sd, metadata, parts, is_gguf(path))


def read_parts(parts: Parts) -> dict[str, CheckpointFile]:
    return {role: read(path) for role, path in asdict(parts).items() if path is not None}


def assemble(files: Mapping[str, CheckpointFile]) -> Assembly:
    """Put files together by role ("video", "audio", "interaction", "low_noise"); ValueError where they do not fit."""
    sd: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for role, file in files.items():
        tensors = _of_role(role, file)
        both = next((key for key in tensors if key in sd), None)
        if both is not None:
            raise ValueError(
                f"{names.get(section(both), 'another file')} and {file.name}, chosen as {INPUTS.get(role, role)}, both "
                f"hold {both}: choose 'none' for the latter, or a video model without {section(both)} part"
            )
        sd |= tensors
        names |= dict.fromkeys(sections(tensors), file.name)
    _check_complete(files, names)
    config = _config(files, sd, names)
    low_noise = _take(sd, PREFIXES["low_noise"])
    if low_noise:
        _check_experts(config, low_noise, names)
    return Assembly(sd, low_noise, config, names, any(file.gguf for file in files.values()))


def _check_complete(files: Mapping[str, CheckpointFile], names: Mapping[str, str]) -> None:
    missing = [stream for stream in ("video", "audio") if stream not in names]
    directions = [direction for direction in ("a2v", "v2a") if direction not in names]
    if directions:
        missing.append("interaction" if len(directions) == 2 else f"interaction ({directions[0]})")
    if missing:
        found = ", ".join(f"{file.name} is {KINDS[file.kind].description}" for file in files.values())
        raise ValueError(f"the files hold no {' and no '.join(missing)}: {found}. Choose files that make up one model")


def boundary_of(config: CCLConfig) -> float:
    """The sigma below which a low-noise expert takes over: the configuration's, else that of Wan 2.2 A14B."""
    if config.expert_boundary is not None:
        return config.expert_boundary
    return WAN_BOUNDARIES[config.video.in_dim > config.video.out_dim]


def _of_role(role: str, file: CheckpointFile) -> dict[str, Tensor]:
    """The tensors a file gives in a role; ValueError where it has none for it."""
    wanted = {"interaction": {"a2v", "v2a"}, "low_noise": {"video"}}.get(role, {role})
    if not wanted <= sections(file.sd) or (role == "low_noise" and file.kind != "wan"):
        what = "Wan or MOVA video model without other parts" if role == "low_noise" else f"file with the {role} part"
        raise ValueError(
            f"{file.name}, chosen as {INPUTS.get(role, role)}, is {KINDS[file.kind].description}. Wanted: a {what}"
        )
    return {f"low_noise.{key}": value for key, value in file.sd.items()} if role == "low_noise" else file.sd


def _config(files: Mapping[str, CheckpointFile], sd: dict[str, Tensor], names: dict[str, str]) -> CCLConfig:
    """The configuration of the model: that of the interaction's file if it states one, else the published one."""
    stated = [files[role].config for role in ("interaction", "audio", "video") if role in files]
    config = next((config for config in stated if config is not None), None)
    if config is not None and len(files) == 1:
        return config
    kind = next((kind for kind in WHOLE if KINDS[kind].coupling == coupling(sd)), "ccl")
    if config is not None:
        config = fit(config, sd, names)
    elif kind == "ccl":
        raise ValueError(
            f"{names['a2v']} has no ccl_config entry in its metadata, wanted one beside an interaction of the kind "
            f"{coupling(sd)}: use the file as scripts/new_interaction.py or the training wrote it"
        )
    else:
        config = configure(kind, sd, names["video"])
    if config.video.text_dim != config.audio.text_dim:
        raise ValueError(
            f"{names['video']} reads text of width {config.video.text_dim}, {names['audio']} of width "
            f"{config.audio.text_dim}: wanted two streams of one text encoder"
        )
    return config


def _check_experts(config: CCLConfig, low_noise: dict[str, Tensor], names: Mapping[str, str]) -> None:
    found = stream_config(low_noise, "video", names["low_noise"], shapeless(config.video))
    for field in fields(found):
        low, high = getattr(found, field.name), getattr(config.video, field.name)
        if low != high:
            raise ValueError(
                f"{names['low_noise']} has the {field.name} {low}, {names['video']} {high}: "
                "wanted the two experts of one model"
            )


def _take(sd: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    keys = [key for key in sd if key.startswith(prefix)]
    return {key.removeprefix(prefix): sd.pop(key) for key in keys}
