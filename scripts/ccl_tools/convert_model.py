"""A published joint model as files of the wanted size, tensor by tensor: one, or one for each expert."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccl_tools.console import ScriptError, Ticker, say
from ccl_tools.model_source import ModelSource, open_model
from ccl_tools.quantise import FORMATS, Format
from ccl_tools.tensor_file import Entry, Source, Writer

if TYPE_CHECKING:
    from torch import Tensor

    from ccl_pack.ccl_core.config import CCLConfig

LOW_NOISE = "low_noise."
# Linear layers of blocks and of the coupling. Embeddings, heads, norms and modulations stay.
MATRIX = re.compile(r"(?:(?:audio\.|low_noise\.)?blocks|interaction)\.\d+\..+\.weight")
FLOATS = ("float32", "float16", "bfloat16")
# What is written for each choice of experts: the ending of the file, and whether it is the low-noise one.
EXPERTS: dict[str, tuple[tuple[str, str], ...]] = {
    "both": (("", "both"),),
    "high": (("", "high"),),
    "low": (("", "low"),),
    "each": (("_high", "high"), ("_low", "low")),
}
GB = 1e9


@dataclass(frozen=True)
class Piece:
    """A tensor of the input: its key there, our name of it, and its name in the output."""

    key: str
    ours: str
    name: str
    entry: Entry

    @property
    def matrix(self) -> bool:
        return len(self.entry.shape) == 2 and bool(MATRIX.fullmatch(self.ours))

    def format(self, chosen: Format) -> Format:
        return chosen if self.matrix else FORMATS["bf16"]


@dataclass(frozen=True)
class Model:
    """A published model of which everything but the numbers is known."""

    name: str
    title: str
    tensors: Source
    names: dict[str, str]
    config: CCLConfig

    def pieces(self, expert: str) -> list[Piece]:
        """Of the file for "both" experts, for "high" with all that both share, or for "low" alone.

        The latter stands at the root: so a loader takes it as a second expert.
        """
        pieces = []
        for key, ours in self.names.items():
            low = ours.startswith(LOW_NOISE)
            if expert == "both" or low == (expert == "low"):
                name = ours.removeprefix(LOW_NOISE) if expert == "low" else key
                pieces.append(Piece(key, ours, name, self.tensors.entries[key]))
        return pieces


@dataclass(frozen=True)
class Plan:
    """One file to write."""

    path: Path
    expert: str
    pieces: list[Piece]
    format: Format

    @property
    def entries(self) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for piece in self.pieces:
            entries |= piece.format(self.format).entries(piece.name, piece.entry.shape)
        return entries

    def sizes(self) -> dict[str, int]:
        """Bytes of each part of the model in it."""
        from ccl_pack.ccl_core.host.files.identify import section

        sizes: dict[str, int] = {}
        for piece in self.pieces:
            made = piece.format(self.format).entries(piece.name, piece.entry.shape)
            part = section(piece.ours)
            sizes[part] = sizes.get(part, 0) + sum(entry.size for entry in made.values())
        return sizes


def understand(source: ModelSource) -> Model:
    """What the loader makes of these tensors; ScriptError with its own words where it would refuse them."""
    from ccl_pack.ccl_core.families import FAMILIES
    from ccl_pack.ccl_core.host.files.build import put_together
    from ccl_pack.ccl_core.host.files.identify import identify
    from ccl_pack.ccl_core.host.files.read import RawFile, without_preferences
    from ccl_pack.ccl_core.host.files.translate import bare, our_names

    outline = without_preferences(source.tensors.outline(), source.name)
    check_numbers(source, outline)
    try:
        file = identify(RawFile(source.name, outline, dict(source.tensors.metadata), {}, False))
        if not file.content.whole:
            raise ValueError(f"it is {file.content.description}, wanted a whole model")
        config = file.config or folder_config(file.family, file.tensors, source)
        put_together({"video": replace(file, config=config)})
    except ValueError as error:
        raise ScriptError(
            f"{source.name} is no joint model as it was published: {error}",
            "start the script without arguments: it says what to download",
        ) from error
    names = dict(zip(outline, our_names(bare(outline)).values(), strict=True))
    return Model(source.name, FAMILIES[file.family].title, source.tensors, names, config)


def folder_config(family: str, tensors: dict[str, Tensor], source: ModelSource) -> CCLConfig:
    """The configuration of a model that states none: of its family, its shapes and its config.json files."""
    from ccl_pack.ccl_core.families import FAMILIES
    from ccl_pack.ccl_core.host.files.configure import published_config

    stated: dict[str, dict[str, Any]] = {}
    for name, folder in FAMILIES[family].folders.items():
        config = source.configs.get(name, {})
        found = {ours: config[theirs] for theirs, ours in folder.fields.items() if theirs in config}
        stated.setdefault(folder.of, {}).update(found)
    if not FAMILIES[family].published:
        raise ValueError("nothing in it states its configuration (ccl_config)")
    return published_config(family, tensors, source.name, **stated)


def check_numbers(source: ModelSource, keys: Iterable[str]) -> None:
    """ScriptError where something is quantised already."""
    other = [key for key in keys if source.tensors.entries[key].dtype not in FLOATS]
    if other:
        key = other[0]
        raise ScriptError(
            f"{source.name} holds {len(other)} tensors in other numbers than {', '.join(FLOATS)}, the first "
            f"is {key} in {source.tensors.entries[key].dtype}",
            "it is quantised already: use it as it is, or name the original",
        )


def plans(model: Model, output: Path, form: str, experts: str) -> list[Plan]:
    """The files to write."""
    if output.suffix not in (".safetensors", ".sft"):
        raise ScriptError(
            f"{output.name} does not end in .safetensors", "name the output something.safetensors"
        )
    if experts in ("low", "each") and not model.pieces("low"):
        raise ScriptError(f"{model.name} has one video expert only", "leave --experts away")
    return [
        Plan(
            output.with_name(output.stem + ending + output.suffix),
            expert,
            model.pieces(expert),
            FORMATS[form],
        )
        for ending, expert in EXPERTS[experts]
    ]


def listing(model: Model, made: list[Plan]) -> Iterator[str]:
    """What will be written, in lines."""
    others = [model.tensors.entries[key].dtype for key in model.names]
    rounded = len(others) - others.count("bfloat16")
    yield f"{model.name} is {model.title}, {len(model.names)} tensors."
    if rounded:
        yield f"{rounded} of them are finer than bf16: what is not quantised is rounded to it."
    for plan in made:
        parts = ", ".join(f"{part} {size / GB:.2f}" for part, size in plan.sizes().items())
        yield f"  {plan.path}: {sum(plan.sizes().values()) / GB:.2f} GB ({parts})"


def convert(
    path: Path, output: Path, *, form: str = "bf16", experts: str = "both", only_list: bool = False
) -> list[Plan]:
    """Write the files that are not there yet; each appears under its name when it is complete.

    only_list: say what would be written.
    """
    model = understand(open_model(path))
    made = plans(model, output, form, experts)
    there = finished(model, made)
    for line in listing(model, made):
        say(line)
    if only_list:
        return made
    for plan in made:
        if plan in there:
            say(f"{plan.path} is there already, made of the same: left as it is.")
        else:
            write(model, plan)
    return made


def finished(model: Model, made: list[Plan]) -> list[Plan]:
    """The files that an earlier call of the same command completed; ScriptError where another is there."""
    there = [plan for plan in made if plan.path.exists()]
    for plan in there:
        source = Source.open([plan.path])
        if source.entries != plan.entries or source.metadata != metadata(model):
            raise ScriptError(
                f"{plan.path} is there already, and is not what this command makes",
                "choose another name, or delete it first",
            )
    return there


def write(model: Model, plan: Plan) -> None:
    """One file, one tensor in memory at a time; an unfinished one of the same is gone on with."""
    with Writer(plan.path, plan.entries, metadata(model), resumable=True) as writer:
        ticker = Ticker(f"writing {plan.path.name}")
        for count, piece in enumerate(plan.pieces):
            write_piece(model, piece, piece.format(plan.format), writer)
            ticker.tick(f"{count + 1} of {len(plan.pieces)} tensors")
    ticker.done(f"{writer.total / GB:.2f} GB, {len(writer.entries)} tensors")


def write_piece(model: Model, piece: Piece, form: Format, writer: Writer) -> None:
    """A function of its own: at its end nothing of the piece is left in memory."""
    left = writer.left & form.entries(piece.name, piece.entry.shape).keys()
    if left:
        for name, value in form.tensors(piece.name, read(model, piece)).items():
            if name in left:
                writer.write(name, value)


def read(model: Model, piece: Piece) -> Tensor:
    """ScriptError for numbers that no model has."""
    tensor = model.tensors.read(piece.key)
    if not tensor.isfinite().all():
        raise ScriptError(
            f"{model.tensors.places[piece.key][0]}: {piece.key} holds numbers that are not finite",
            "it is damaged: download it again",
        )
    return tensor


def metadata(model: Model) -> dict[str, str]:
    """The configuration, and of which files the output was made: two releases may have the same shapes."""
    from ccl_pack.ccl_core.metadata import write_config

    states = [(file.name, file.stat()) for file in model.tensors.files]
    files = json.dumps([(name, state.st_size, state.st_mtime_ns) for name, state in states])
    return {
        "ccl_config": write_config(model.config),
        "ccl_made_of": hashlib.sha256(files.encode()).hexdigest(),
        "format": "pt",
    }


def downloads() -> Iterator[str]:
    """What there is to convert, in lines."""
    from ccl_pack.ccl_core.families import FAMILIES

    yield "Download by hand, from the model hub (Hugging Face):"
    for family in FAMILIES.values():
        for item in family.downloads:
            yield f"  {family.title}: {item.repository}, {', '.join(item.files)}"
            yield f"    {item.size} GB in bf16; licence {item.licence}"
    yield "docs/models.md names VAEs and text encoder, and the sizes of what this script makes."
