"""What a model is by name only: the fields of one row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from re import Match
from typing import Any

from ..guidance import TermScale

DIRECTIONS = frozenset(("a2v", "v2a"))
STREAMS = frozenset(("video", "audio"))
MODEL = STREAMS | DIRECTIONS

# A pattern of a published key, and what our name has in its place (a string of `re.sub`, or a function of the match).
Rename = tuple[str, str | Callable[[Match[str]], str]]


@dataclass(frozen=True)
class Content:
    """What one file of the family may hold.

    sections: of video, audio, a2v and v2a. description: of the file in a message ("the video part of ..."). advice:
    what to do with it where a whole model is wanted.
    """

    sections: frozenset[str]
    description: str
    advice: str = "choose it in Assemble Model (CCL), beside the other parts"

    @property
    def whole(self) -> bool:
        return self.sections == MODEL


@dataclass(frozen=True)
class LoraNames:
    """What trainers of the family call the weights of a model.

    video, audio: prefixes before the names of a Wan model; of two experts `video` means the first where `low_noise`
    has prefixes for the second. tower: their names of Wan's weights outside the blocks; block: inside, behind the
    number. coupling: for each direction, names with {layer} and {weight} to fill. weights: their names of the
    direction's modules. whole_file_alpha: prefixes of the names for which the file's metadata states one alpha.
    """

    video: tuple[str, ...] = ()
    low_noise: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    tower: Mapping[str, str] = field(default_factory=dict)
    block: Mapping[str, str] = field(default_factory=dict)
    coupling: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    whole_file_alpha: tuple[str, ...] = ()

    def of_tower(self, name: str) -> str:
        """Their name of a weight of a Wan model."""
        if not name.startswith("blocks."):
            return self.tower.get(name, name)
        _, number, rest = name.split(".", 2)
        return f"blocks.{number}.{self.block.get(rest, rest)}"

    def of_coupling(self, layer: str, direction: str, weight: str) -> tuple[str, ...]:
        """Their names of a weight of the interaction."""
        theirs = self.weights.get(weight, weight)
        return tuple(name.format(layer=layer, weight=theirs) for name in self.coupling.get(direction, ()))


@dataclass(frozen=True)
class PromptStyle:
    """The marks of speech and of the audio description in the texts of a training set.

    title: the version of the model it belongs to. speech: tags around words that are said, None: quotation marks.
    audio: what stands before and behind the description. gap: between the paragraphs. lead: a sentence in front.
    """

    title: str
    speech: tuple[str, str] | None
    audio: tuple[str, str]
    gap: str = " "
    lead: str = ""


@dataclass(frozen=True)
class Preset:
    """A size the family was trained at. audio_tokens: None where they follow from the rates."""

    title: str
    width: int
    height: int
    frames: int
    audio_tokens: int | None = None


@dataclass(frozen=True)
class Sampling:
    """How the model was published to be sampled.

    mode, settings: of guidance, the scales by term. skip_layers: left out of the negative passes. negative,
    audio_negative: default negative prompts, None: the audio stream reads that of the video.
    """

    mode: str
    settings: Mapping[str, TermScale]
    steps: int
    sampler_name: str
    scheduler: str = "simple"
    skip_layers: tuple[int, ...] = ()
    negative: str = ""
    audio_negative: str | None = None


@dataclass(frozen=True)
class Family:
    """One model.

    title: for people. coupling: the kind of its interaction, None: it is a single stream. modules: all module names of
    one direction of it, under our names. mark: pattern of a published key of the interaction that no other family has.
    renames: of published keys, in order. contents: what its files hold. other_files: description of a file that is no
    part of the model, by a key it holds. published, streams: fields of CCLConfig and of each StreamConfig that no
    shape tells. expert_boundaries: the sigma below which a low-noise video expert takes over, of text to video and of
    image to video. fp16: its values stay in the range of fp16. audio_vae is named in the published audio_latent.
    """

    title: str
    sampling: Sampling
    coupling: str | None = None
    modules: frozenset[str] = frozenset()
    mark: str | None = None
    renames: tuple[Rename, ...] = ()
    contents: tuple[Content, ...] = ()
    other_files: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, Any] = field(default_factory=dict)
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    expert_boundaries: tuple[float, float] | None = None
    fp16: bool = False
    lora: LoraNames = LoraNames()
    prompts: tuple[PromptStyle, ...] = ()
    presets: tuple[Preset, ...] = ()
