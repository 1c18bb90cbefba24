"""What a training run of a real model is told: the JSON file of scripts/train.py (docs/training.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from ...host.files.read import ModelPaths
from ..flow import MIXED, PAPER_MIX

COMPUTE = {"bf16": torch.bfloat16, "fp32": torch.float32}
SECTIONS = ("interaction", "audio", "video")
# What of a clip its losses may weigh more, as flow.py defines it.
EMPHASES = ("motion", "loudness")
# Entries of `train` that a run may change when it goes on.
FREE = (
    *("out", "steps", "save_every", "validate_every", "validation_times", "keep", "samples"),
    *("export", "export_whole", "threads"),
)
# What is wanted of numbers of `train`, and of which.
LIMITS: dict[str, tuple[Callable[[float], bool], tuple[str, ...]]] = {
    "1 or more": (
        lambda value: value >= 1,
        (
            *("steps", "batch", "accumulate", "lora_rank", "save_every", "validate_every"),
            *("validation_times", "keep", "threads"),
        ),
    ),
    "a number above 0": (lambda value: value > 0, ("shift", "clip", "lora_alpha")),
    "a share from 0 to 1": (lambda value: 0 <= value <= 1, ("text_drop", "decay")),
    "0 or more, and less than 1": (lambda value: 0 <= value < 1, ("ema",)),
}
Section = Literal["interaction", "audio", "video"]
How = Literal["frozen", "lora", "full"]


@dataclass(frozen=True)
class ModelSettings:
    """The files of the model, as for CCL Model Assembler, or a configuration (JSON) of one without weights.

    fresh: parts that start at random, whatever the files hold.
    """

    video: str | None = None
    audio: str | None = None
    interaction: str | None = None
    config: str | None = None
    fresh: tuple[Section, ...] = ()

    def __post_init__(self) -> None:
        if (self.config is None) == (self.video is None):
            raise ValueError(
                f"model has {'neither' if self.config is None else 'both'} video and config: name the files "
                "of a model as video, audio and interaction, or as config a JSON file that describes one "
                "without weights"
            )
        if self.config is not None and (self.audio, self.interaction, self.fresh) != (None, None, ()):
            raise ValueError("model.config stands alone: all parts of its model start at random")

    @property
    def parts(self) -> ModelPaths:
        return ModelPaths(self.video, self.audio, self.interaction)

    @property
    def random(self) -> tuple[Section, ...]:
        """The parts that start at random."""
        return self.fresh if self.config is None else SECTIONS


@dataclass(frozen=True)
class EncoderSettings:
    """What makes latents and text embeddings: one all-in-one file, or a file each.

    vocoder: of an audio VAE that comes in two files.
    """

    checkpoint: str | None = None
    video_vae: str | None = None
    audio_vae: str | None = None
    vocoder: str | None = None
    text_encoder: str | None = None

    def __post_init__(self) -> None:
        missing = [name for name in ("video_vae", "audio_vae", "text_encoder") if getattr(self, name) is None]
        if self.checkpoint is None and missing:
            raise ValueError(
                f"encoders: nothing says where {', '.join(missing)} is: name them, or one checkpoint"
            )


@dataclass(frozen=True)
class DataSettings:
    """The clips, where their latents go, and the sizes they are cut to.

    sizes: (width, height) in pixels; each clip takes the one nearest to its own shape. frames: lengths; each
    clip takes the longest that it fills. validation_clips: so many are held out, always the same ones.
    """

    clips: str
    cache: str
    sizes: tuple[tuple[int, int], ...]
    frames: tuple[int, ...]
    captions: str | None = None
    validation_clips: int = 0

    def __post_init__(self) -> None:
        if not self.sizes or not self.frames:
            raise ValueError(
                "data: sizes and frames need at least one entry each, such as [[832, 480]] and [81]"
            )
        if self.validation_clips < 0:
            raise ValueError(f"data.validation_clips is {self.validation_clips}: give 0 or more")


@dataclass(frozen=True)
class Sample:
    """A clip that is made at every save. clip: the file whose picture (v2a) or sound (a2v) is given."""

    task: Literal["t2av", "a2v", "v2a"]
    caption: str
    clip: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.task == "t2av") != (self.clip is None):
            raise ValueError(
                f"train.samples has {self.task} with the clip {self.clip}: name the clip that a2v and v2a "
                "are given, and none for t2av"
            )


@dataclass(frozen=True)
class TrainSettings:
    """How the run goes.

    interaction, audio, video: what happens to the weights of each part. rates: learning rate of each part,
    for LoRA too; muon_rates: of the matrices that Muon trains. batch: clips in a pass; accumulate: passes in
    a step. tasks: the mix, shares of any sum. task_of: whether each clip draws its task or all of a pass one.
    shift: of the times that are drawn, None: the model's. audio_lag: the shift of the audio's time over the
    video's, drawn between these for each clip; None: the model's. times: the range of noise levels that is
    trained (for one of two experts). loss_weights: how much more the losses weigh where something moves or
    sounds. face_weight: of the loss of face masks, at the first step and at the last, where clips have faces
    and the model masks. save_every, validate_every: steps. keep: so many saves, and the best. export_whole:
    encoders in the file of the model. threads: of the CPU, None: torch's choice.
    """

    out: str
    steps: int
    interaction: How = "full"
    audio: How = "frozen"
    video: How = "frozen"
    # The paper trains the coupling with 1e-4 and the rest with 1e-5 (as a survey quotes it).
    rates: dict[str, float] = field(
        default_factory=lambda: {"interaction": 1e-4, "audio": 1e-5, "video": 1e-5}
    )
    optimiser: Literal["adamw", "muon"] = "adamw"
    muon_rates: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SECTIONS, 0.015))
    lora_rank: int = 32
    lora_alpha: float = 32.0
    batch: int = 1
    accumulate: int = 1
    precision: Literal["bf16", "fp32"] = "bf16"
    checkpointing: bool = True
    tasks: dict[str, float] = field(default_factory=lambda: dict(PAPER_MIX))
    task_of: Literal["clip", "pass"] = "clip"
    text_drop: float = 0.1
    shift: float | None = None
    audio_lag: tuple[float, float] | None = None
    times: tuple[float, float] = (0.0, 1.0)
    loss_weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(EMPHASES, 0.0))
    face_weight: tuple[float, float] = (0.1, 0.0)
    warmup: int = 100
    decay: float = 0.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float | None = None
    seed: int = 0
    save_every: int = 500
    validate_every: int = 500
    validation_times: int = 4
    keep: int = 2
    samples: tuple[Sample, ...] = ()
    export: Literal["bf16", "fp16", "fp32"] = "bf16"
    export_whole: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        for wanted, (fits, names) in LIMITS.items():
            self._check_numbers(wanted, fits, names)
        if all(self.how(section) == "frozen" for section in SECTIONS):
            raise ValueError(
                'train: interaction, audio and video are all "frozen": set one to "lora" or "full"'
            )
        unknown = set(self.tasks) - set(MIXED)
        if unknown or not sum(self.tasks.values()) > 0 or min(self.tasks.values()) < 0:
            raise ValueError(f"train.tasks is {self.tasks}: give shares of {', '.join(MIXED)}, none negative")
        self._check_rates("rates", self.trained)
        if self.optimiser == "muon":
            # A LoRA is Adam's.
            self._check_rates("muon_rates", [part for part in self.trained if self.how(part) == "full"])
        if set(self.loss_weights) - set(EMPHASES) or min(self.loss_weights.values(), default=0) < 0:
            raise ValueError(
                f"train.loss_weights is {self.loss_weights}: give {' and '.join(EMPHASES)}, none negative"
            )
        if min(self.face_weight) < 0:
            raise ValueError(
                f"train.face_weight is {list(self.face_weight)}: give two weights, none negative"
            )
        if self.audio_lag is not None and not 0 < self.audio_lag[0] <= self.audio_lag[1]:
            raise ValueError(
                f"train.audio_lag is {list(self.audio_lag)}: give two shifts above 0, the lower first"
            )
        if not 0 <= self.times[0] < self.times[1] <= 1:
            raise ValueError(
                f"train.times is {list(self.times)}: give two noise levels from 0 to 1, the lower first"
            )

    def _check_numbers(self, wanted: str, fits: Callable[[float], bool], names: tuple[str, ...]) -> None:
        """ValueError for one that does not fit; None is for the model or torch to choose."""
        for name in names:
            value = getattr(self, name)
            if value is not None and not fits(value):
                raise ValueError(f"train.{name} is {value}: give {wanted}")

    def _check_rates(self, name: str, parts: list[str]) -> None:
        """ValueError unless the rates of this name are above 0, and there for these parts."""
        rates: dict[str, float] = getattr(self, name)
        if set(rates) - set(SECTIONS) or any(rate <= 0 for rate in rates.values()):
            raise ValueError(f"train.{name} is {rates}: give rates above 0 for {', '.join(SECTIONS)}")
        if missing := [part for part in parts if part not in rates]:
            raise ValueError(f"train.{name} has none for {', '.join(missing)}, which is trained: add it")

    def how(self, section: str) -> How:
        return getattr(self, section)

    @property
    def trained(self) -> list[str]:
        return [section for section in SECTIONS if self.how(section) != "frozen"]


@dataclass(frozen=True)
class Settings:
    """The whole file."""

    model: ModelSettings
    encoders: EncoderSettings
    data: DataSettings
    train: TrainSettings

    def __post_init__(self) -> None:
        for part in self.model.random:
            if self.train.how(part) != "full":
                raise ValueError(
                    f'the {part} starts at random (model), and train.{part} is "{self.train.how(part)}", '
                    f'which does not train it: set train.{part} to "full"'
                )
        if self.train.export_whole and self.encoders.vocoder is not None:
            raise ValueError(
                "train.export_whole: an audio VAE with a vocoder of its own has no place in one file: "
                "convert them with scripts/convert_mmaudio.py, or leave export_whole out"
            )

    def deciding(self) -> dict[str, Any]:
        """What a run that goes on must share with the one that began."""
        train = {name: value for name, value in asdict(self.train).items() if name not in FREE}
        return {"model": asdict(self.model), "train": train}
