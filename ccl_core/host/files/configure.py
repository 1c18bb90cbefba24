"""The configuration of a model.

Its files state it (`ccl_config`), or it follows from what is published of its family and from the shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ...config import OPTIONS, CCLConfig, InteractionConfig, StreamConfig
from ...families import FAMILIES
from ...metadata import ENTRY
from ...repository import REPOSITORY
from .assemble import Assembly
from .identify import INTERACTION_KEY, ModelFile
from .shapes import stream_config

# The first of these files that states a configuration counts. An interaction comes first, since it was
# trained for both streams, while a stream may come from a model of another use.
STATING_ROLES = ("interaction", "audio", "video")


def configure(files: Mapping[str, ModelFile], assembly: Assembly) -> CCLConfig:
    """The configuration of the files of an assembly by their roles; ValueError where nothing tells it."""
    stated = [files[role].config for role in STATING_ROLES if role in files]
    config = next((config for config in stated if config is not None), None)
    if config is None:
        _require_published(assembly)
        return published_config(assembly.family, assembly.sd, assembly.sources["video"])
    # A single file states the configuration of the very streams in it. Several files may hold other streams.
    return config if len(files) == 1 else fit(config, assembly.sd, assembly.sources)


def _require_published(assembly: Assembly) -> None:
    family = FAMILIES[assembly.family]
    if not family.published:
        raise ValueError(
            f"{assembly.sources['a2v']} has no {ENTRY} entry in its metadata, wanted one beside an "
            f"interaction of the kind {family.coupling}: use the file as scripts/new_interaction.py or the "
            f"training of {REPOSITORY} wrote it"
        )


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

    video, audio: fields of StreamConfig that replace what the shapes or the published models say (heads,
    text_len, freq_dim of a model that was not published). options: of its coupling. changes: fields of
    CCLConfig. ValueError with the name and the key where a tensor is missing.
    """
    row = FAMILIES[family]
    streams = {
        "video": stream_config(sd, "video", name, row.streams.get("video", {}) | dict(video or {})),
        "audio": stream_config(sd, "audio", name, row.streams.get("audio", {}) | dict(audio or {})),
    }
    matches = [INTERACTION_KEY.match(key) for key in sd]
    layers = sorted({int(match[1]) for match in matches if match})
    interaction = InteractionConfig(row.coupling, tuple(layers), OPTIONS[row.coupling](**(options or {})))
    known = row.published | streams | {"interaction": interaction, "family": family}
    return CCLConfig(**(known | changes))


def boundary_of(config: CCLConfig) -> float:
    """The sigma below which a low-noise expert takes over.

    The configuration states it, or the family has one, or Wan 2.2 A14B's counts.
    """
    if config.expert_boundary is not None:
        return config.expert_boundary
    boundaries = FAMILIES[config.family].expert_boundaries or FAMILIES["wan"].expert_boundaries
    text_to_video, image_to_video = boundaries
    # The input of an image-to-video model has channels for the image and its mask behind those of the latent.
    return image_to_video if config.video.in_dim > config.video.out_dim else text_to_video


def fit(config: CCLConfig, sd: Mapping[str, Tensor], sources: Mapping[str, str]) -> CCLConfig:
    """An interaction's configuration for the streams in sd, which may be others of the same widths.

    sources: the file of each section. ValueError where the interaction was made for streams of other widths.
    """
    video = _fitting(config, "video", sd, sources)
    audio = _fitting(config, "audio", sd, sources)
    return replace(config, video=video, audio=audio)


def _fitting(
    config: CCLConfig, stream: str, sd: Mapping[str, Tensor], sources: Mapping[str, str]
) -> StreamConfig:
    stated: StreamConfig = getattr(config, stream)
    name = sources[stream]
    interaction = sources.get("a2v", "the interaction")
    found = like(stated, sd, stream, name)
    # An interaction reads the hidden states, and both streams read one text.
    for size in ("dim", "text_dim"):
        got = getattr(found, size)
        wanted = getattr(stated, size)
        if got != wanted:
            raise ValueError(
                f"{name} has a {stream} stream of {size} {got}, wanted {wanted}, "
                f"for which {interaction} was made: choose files that belong together"
            )
    last = max(config.interaction.layers, default=-1)
    if last >= found.num_layers:
        raise ValueError(
            f"{name} has a {stream} stream of {found.num_layers} layers, wanted {last + 1} or more, which "
            f"{interaction} couples: choose files that belong together"
        )
    return found


def like(other: StreamConfig, sd: Mapping[str, Tensor], stream: str, name: str) -> StreamConfig:
    """The configuration of the stream in sd that is like another in all that no shape tells."""
    same = {field: getattr(other, field) for field in ("patch_size", "text_len", "rope")}
    return stream_config(sd, stream, name, same, other.dim // other.num_heads)
