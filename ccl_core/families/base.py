"""What a model is by name only: the fields of one row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from re import Match
from typing import Any

from ..guidance import TermScale

DIRECTIONS = frozenset(("a2v", "v2a"))
STREAMS = frozenset(("video", "audio"))
MODEL = STREAMS | DIRECTIONS

# A pattern in a published key, and what stands there in our name, as `re.sub` takes it.
Rename = tuple[str, str | Callable[[Match[str]], str]]
Renames = tuple[Rename, ...]


@dataclass(frozen=True)
class Content:
    """What one file of the family may hold."""

    # Of video, audio, a2v and v2a.
    sections: frozenset[str]
    # What the file is, in a message: "the video part of ...".
    description: str
    # What to do with it where a whole model is wanted.
    advice: str = "choose it in CCLModelAssembler, beside the other parts"

    @property
    def whole(self) -> bool:
        """Whether the file holds a whole joint model."""
        return self.sections == MODEL


@dataclass(frozen=True)
class LoraNames:
    """What trainers of the family call the weights of a model."""

    # Before the names that Wan gives the weights of a tower. Where `low_noise` has names for a second video
    # expert, those of `video` mean the first one.
    video: tuple[str, ...] = ()
    low_noise: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    # Their names of Wan's weights outside the blocks, and inside, behind the number of the block.
    tower: Mapping[str, str] = field(default_factory=dict)
    block: Mapping[str, str] = field(default_factory=dict)
    # By stream what stands for `blocks.{layer}` where the layer is coupled, and behind the coupled
    # layers, which {later} counts.
    joint_blocks: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    # For each direction its names with {layer} and {weight} to fill, and their names of our weights.
    coupling: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    # In names for which the metadata of a file states one alpha.
    whole_file_alpha: tuple[str, ...] = ()

    def of_tower(self, name: str) -> str:
        """Their name of a weight of a Wan model."""
        if not name.startswith("blocks."):
            return self.tower.get(name, name)
        _, number, rest = name.split(".", 2)
        return f"blocks.{number}.{self.block.get(rest, rest)}"

    def of_joint_block(self, stream: str, name: str, coupled: int) -> str | None:
        """Their name of a weight inside a block, None where they have none. coupled: joint layers in all."""
        if stream not in self.joint_blocks or not name.startswith("blocks."):
            return None
        _, number, rest = name.split(".", 2)
        layer = int(number)
        place = self.joint_blocks[stream][layer >= coupled]
        return f"{place.format(layer=layer, later=layer - coupled)}.{self.block.get(rest, rest)}"

    def of_coupling(self, layer: str, direction: str, weight: str) -> tuple[str, ...]:
        """Their names of a weight of the interaction."""
        theirs = self.weights.get(weight, weight)
        return tuple(name.format(layer=layer, weight=theirs) for name in self.coupling.get(direction, ()))


@dataclass(frozen=True)
class PromptStyle:
    """The marks of speech and of the audio description in the texts of a training set."""

    # The version of the model that was trained on it.
    title: str
    # Around words that are said; None: quotation marks.
    speech: tuple[str, str] | None
    # Before and behind the audio description; empty behind it: it goes on to the end. A mark behind counts in
    # every text of every family, so it is never a full stop or another sign of plain prose.
    audio: tuple[str, str]
    # Between the paragraphs.
    gap: str = " "
    # Whether the audio description stands in front of the scene.
    audio_first: bool = False
    # Tags that stand in the prose, such as sfx for <sfx>a door</sfx>. Texts in other styles go without them.
    inline: tuple[str, ...] = ()
    # A sentence in front.
    lead: str = ""


@dataclass(frozen=True)
class Preset:
    """A size the family was trained at."""

    title: str
    width: int
    height: int
    frames: int
    # None where they follow from the rates.
    audio_tokens: int | None = None
    # Width of the video stream that was trained so, None: any.
    video_dim: int | None = None


@dataclass(frozen=True)
class Sampling:
    """How the model was published to be sampled."""

    # Of guidance: a key of MODES, and the scales of its terms.
    mode: str
    settings: Mapping[str, TermScale]
    steps: int
    sampler_name: str
    scheduler: str = "simple"
    # Left out of the passes with negative text.
    skip_layers: tuple[int, ...] = ()
    # Default negative prompts; None: the audio stream reads that of the video.
    negative: str = ""
    audio_negative: str | None = None


@dataclass(frozen=True)
class Folder:
    """A part of a model that was published as folders, with its own config.json."""

    # What its fields are of: video, audio or options (those of the coupling).
    of: str
    # Our names of the fields that no shape tells.
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Download:
    """A published model: what to get, by hand."""

    # Of the model hub: owner and name.
    repository: str
    files: tuple[str, ...]
    # GB, one of the files where there are variants.
    size: float
    licence: str


@dataclass(frozen=True)
class Family:
    """One model."""

    # For people.
    title: str
    sampling: Sampling
    # The kind of its interaction, None: it is a single stream; all names that the kind has in one direction,
    # such as those of `a2v` in a state dict: q, norm_y, context.
    coupling: str | None = None
    modules: frozenset[str] = frozenset()
    # A pattern that some published keys of its interaction have, and those of no other family.
    mark: str | None = None
    # The beginning of an entry that only its files have in their metadata: they have another family's names.
    metadata_mark: str | None = None
    # From published keys to ours, in order; or these from all keys of a file, where a name depends on them.
    renames: Renames | Callable[[Collection[str]], Renames] = ()
    contents: tuple[Content, ...] = ()
    # Files that are no part of the model: what one is and what to do with it, by a key that tells it.
    other_files: Mapping[str, str] = field(default_factory=dict)
    # Endings of keys that other programs write beside its weights and no format of the host has: what such a
    # file is, and what to do.
    foreign_keys: Mapping[str, str] = field(default_factory=dict)
    # Fields of CCLConfig, and of the StreamConfig of each stream, that no shape tells: there num_heads where
    # a head is not 128 wide, text_len and rope.
    published: Mapping[str, Any] = field(default_factory=dict)
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # The sigma below which a low-noise video expert takes over, of text to video and of image to video.
    expert_boundaries: tuple[float, float] | None = None
    # The streams that were trained with a time for each token; the others know one time for all.
    token_times: frozenset[str] = frozenset()
    # Whether its values stay in the range of fp16.
    fp16: bool = False
    lora: LoraNames = LoraNames()
    # Of its versions, and sizes it was trained at, the usual one first.
    prompts: tuple[PromptStyle, ...] = ()
    presets: tuple[Preset, ...] = ()
    # Whether the audio stream reads a text of its own, of what is said and heard.
    audio_text: bool = False
    # The folders of a model that was published in parts, each the prefix of its keys in a repack.
    folders: Mapping[str, Folder] = field(default_factory=dict)
    # What to get.
    downloads: tuple[Download, ...] = ()
    # What to choose in an input of a loader, by the name of the input.
    files: Mapping[str, str] = field(default_factory=dict)

    def renames_of(self, keys: Collection[str]) -> Renames:
        """The renames for a file with these keys."""
        return self.renames(keys) if callable(self.renames) else self.renames
