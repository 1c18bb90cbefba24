"""What a training run of a real model is told: the JSON file of scripts/train.py (docs/training.md)."""

from __future__ import annotations

import json
import types
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ...host.files.read import ModelPaths
from ..flow import PAPER_MIX

SECTIONS = ("interaction", "audio", "video")
How = Literal["frozen", "lora", "full"]


@dataclass(frozen=True)
class ModelSettings:
    """The files of the model, as for CCL Model Assembler.

    fresh_interaction: start the interaction anew, whatever the files hold.
    """

    video: str
    audio: str | None = None
    interaction: str | None = None
    fresh_interaction: bool = False

    @property
    def parts(self) -> ModelPaths:
        return ModelPaths(self.video, self.audio, self.interaction)


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


@dataclass(frozen=True)
class TrainSettings:
    """How the run goes.

    interaction, audio, video: what happens to the weights of each part. rates: learning rate of each part,
    for LoRA too. batch: clips in a pass; accumulate: passes in a step. tasks: the mix, shares of any sum.
    shift: of the times that are drawn, None: the model's. times: the range of noise levels that is trained
    (for one of two experts). save_every, validate_every: steps. threads: of the CPU, None: torch's choice.
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
    lora_rank: int = 32
    lora_alpha: float = 32.0
    batch: int = 1
    accumulate: int = 1
    precision: Literal["bf16", "fp32"] = "bf16"
    checkpointing: bool = True
    tasks: dict[str, float] = field(default_factory=lambda: dict(PAPER_MIX))
    text_drop: float = 0.1
    shift: float | None = None
    times: tuple[float, float] = (0.0, 1.0)
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
    export: Literal["bf16", "fp16", "fp32"] = "bf16"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch",
            "accumulate",
            "lora_rank",
            "save_every",
            "validate_every",
            "validation_times",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} is {getattr(self, name)}: give 1 or more")
        if all(self.how(section) == "frozen" for section in SECTIONS):
            raise ValueError(
                'train: interaction, audio and video are all "frozen": set one to "lora" or "full"'
            )
        unknown = set(self.tasks) - set(PAPER_MIX)
        if unknown or not sum(self.tasks.values()) > 0 or min(self.tasks.values()) < 0:
            raise ValueError(
                f"train.tasks is {self.tasks}: give shares of {', '.join(PAPER_MIX)}, none negative"
            )
        if set(self.rates) - set(SECTIONS) or any(rate <= 0 for rate in self.rates.values()):
            raise ValueError(f"train.rates is {self.rates}: give rates above 0 for {', '.join(SECTIONS)}")
        if missing := [section for section in self.trained if section not in self.rates]:
            raise ValueError(f"train.rates has none for {', '.join(missing)}, which is trained: add it")
        if not 0 <= self.times[0] < self.times[1] <= 1:
            raise ValueError(
                f"train.times is {list(self.times)}: give two noise levels from 0 to 1, the lower first"
            )

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
        if self.model.fresh_interaction and self.train.interaction != "full":
            raise ValueError(
                f"model.fresh_interaction starts the interaction from zero, and train.interaction is "
                f'"{self.train.interaction}", which does not train it: set train.interaction to "full"'
            )

    def deciding(self) -> dict[str, Any]:
        """What a run that goes on must share with the one that began."""
        free = ("out", "steps", "save_every", "validate_every", "validation_times", "export", "threads")
        train = {name: value for name, value in asdict(self.train).items() if name not in free}
        return {"model": asdict(self.model), "train": train}


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
    "model": ("video", "audio", "interaction"),
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
    return Settings(
        **{part: _absolute(getattr(settings, part), names, folder) for part, names in PATHS.items()}
    )


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
