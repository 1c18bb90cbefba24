"""The configuration of a model: what its files state, else what is published of its family and what the shapes say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ...config import OPTIONS, CCLConfig, InteractionConfig, StreamConfig
from ...families import FAMILIES
from ...metadata import ENTRY
from .assemble import Assembly
from .identify import INTERACTION_KEY, ModelFile
from .shapes import stream_config

# Whose statement counts, the first that has one.
STATING_ROLES = ("interaction", "audio", "video")


def configure(files: Mapping[str, ModelFile], assembly: Assembly) -> CCLConfig:
    """The configuration of the files of an assembly by their roles; ValueError where nothing tells it."""
    stated = [files[role].config for role in STATING_ROLES if role in files]
    config = next((config for config in stated if config is not None), None)
    if config is not None and len(files) == 1:
        return config
    if config is not None:
        return fit(config, assembly.sd, assembly.sources)
    if not FAMILIES[assembly.family].published:
        raise ValueError(
            f"{assembly.sources['a2v']} has no {ENTRY} entry in its metadata, wanted one beside an interaction of the "
            f"kind {FAMILIES[assembly.family].coupling}: use the file as scripts/new_interaction.py or the training "
            "wrote it"
        )
    return published_config(assembly.family, assembly.sd, assembly.sources["video"])


def published_config(
    family: str,
    sd: Mapping[str, Tensor],
    name: str = "the model",
    video: Mapping[str, Any] | None = None,
    audio: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    **changes: Any,
) -> CCLConfig:
    """The configuration of a whole model of a published family from its tensors under our names.

    video, audio: fields of StreamConfig that replace what the shapes or the published models say (heads, text_len,
    freq_dim of a model that was not published); options: of its coupling; changes: fields of CCLConfig. ValueError with
    the name and the key where a tensor is missing.
    """
    row = FAMILIES[family]
    streams = {
        "video": stream_config(sd, "video", name, row.streams.get("video", {}) | dict(video or {})),
        "audio": stream_config(sd, "audio", name, row.streams.get("audio", {}) | dict(audio or {})),
    }
    layers = sorted({int(match[1]) for match in map(INTERACTION_KEY.match, sd) if match})
    interaction = InteractionConfig(row.coupling, tuple(layers), OPTIONS[row.coupling](**(options or {})))
    known = row.published | streams | {"interaction": interaction, "family": family}
    return CCLConfig(**(known | changes))


def boundary_of(config: CCLConfig) -> float:
    """The sigma below which a low-noise expert takes over: the configuration's, else that of its family, or of Wan."""
    if config.expert_boundary is not None:
        return config.expert_boundary
    text_to_video, image_to_video = FAMILIES[config.family].expert_boundaries or FAMILIES["wan"].expert_boundaries
    return image_to_video if config.video.in_dim > config.video.out_dim else text_to_video


def fit(config: CCLConfig, sd: Mapping[str, Tensor], sources: Mapping[str, str]) -> CCLConfig:
    """An interaction's configuration for the streams in sd, which may be others of the same widths.

    sources: the file of each section. ValueError where the streams do not fit what the interaction was made for.
    """
    video = _fitting(config, "video", sd, sources)
    audio = _fitting(config, "audio", sd, sources)
    return replace(config, video=video, audio=audio)


def _fitting(config: CCLConfig, stream: str, sd: Mapping[str, Tensor], sources: Mapping[str, str]) -> StreamConfig:
    stated: StreamConfig = getattr(config, stream)
    name, interaction = sources[stream], sources.get("a2v", "the interaction")
    found = like(stated, sd, stream, name)
    for size in ("dim", "text_dim"):
        if getattr(found, size) != getattr(stated, size):
            raise ValueError(
                f"{name} has a {stream} stream of {size} {getattr(found, size)}, wanted {getattr(stated, size)}, "
                f"for which {interaction} was made: choose files that belong together"
            )
    last = max(config.interaction.layers, default=-1)
    if last >= found.num_layers:
        raise ValueError(
            f"{name} has a {stream} stream of {found.num_layers} layers, wanted {last + 1} or more, which "
            f"{interaction} couples"
        )
    return found


def like(other: StreamConfig, sd: Mapping[str, Tensor], stream: str, name: str) -> StreamConfig:
    """The configuration of the stream in sd that is like another in all that no shape tells."""
    same = {field: getattr(other, field) for field in ("patch_size", "text_len", "rope")}
    return stream_config(sd, stream, name, same, other.dim // other.num_heads)
