"""Reading what holds tensors: safetensors files, sets of shards, GGUF; and refusing the rest."""

from __future__ import annotations

import json
import logging
import os
import pickle
import pickletools
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import comfy.utils
from torch import Tensor

from ...metadata import ENTRIES, from_tensor
from ...repository import REPOSITORY

SAFETENSORS = (".safetensors", ".sft")
GGUF = ".gguf"
PICKLES = (".pt", ".pt2", ".pth", ".ckpt", ".bin", ".pkl")
# The names of shards that Hugging Face's `save_pretrained` writes: name-00001-of-00003.safetensors.
SHARD = re.compile(r"(?P<stem>.+)-(?P<index>\d+)-of-(?P<count>\d+)(?P<ending>\.\w+)$")
# The host's list of quantised layers: JSON such as {"layers": {"blocks.0.ffn.0": {"format": "nvfp4"}}}.
QUANTIZATION = "_quantization_metadata"
# In the names of the pickles that MMAudio is published as (v1-16.pth, best_netG.pt).
MMAUDIO = ("v1-16", "netg", "mmaudio")
MMAUDIO_REMEDY = (
    "run python scripts/convert_mmaudio.py v1-16.pth best_netG.pt mmaudio_16k.safetensors "
    f"in a clone of {REPOSITORY}"
)
# What an all-in-one checkpoint holds beside the model: the prefixes of the host's Wan and LTX-2 checkpoints.
BUNDLED = ("text_encoders.", "vae.", "audio_vae.")
# JSON as bytes, such as [{"attention": "comfy_kitchen_int8"}], beside an attention module or a LoRA's weight.
PREFERENCE = re.compile(r"\.(?:comfy_attention\.)?config$")
# Of the largest published models there are fewer: a count in a name that is larger is none.
MOST_SHARDS = 1000
# How many of several names a message has.
SHOWN = 3
# How torch.save begins a file: as a zip archive.
ZIP = b"PK"
# Bytes of a file and steps of a pickle in them that tell whether it is one: a header has zeros, no step.
PICKLE_BYTES = 4096
PICKLE_STEPS = 8

Tensors = dict[str, Tensor]
Metadata = dict[str, str]


@dataclass(frozen=True)
class ModelPaths:
    """The paths of the files of one model by role. Another file holds the part of a role without a path."""

    video: str
    audio: str | None = None
    interaction: str | None = None
    low_noise: str | None = None


@dataclass(frozen=True)
class RawFile:
    """A file as it is: its tensors under the names it has. Those of BUNDLED stand apart, by their prefix."""

    name: str
    tensors: Tensors
    metadata: Metadata
    bundled: dict[str, Tensors]
    gguf: bool

    def bundle(self, prefix: str, content: str) -> Tensors:
        """The tensors behind a prefix of BUNDLED; ValueError where the file is no all-in-one checkpoint."""
        if not self.bundled[prefix]:
            raise ValueError(
                f"{self.name} holds no {content} (no keys under {prefix!r}): it is no all-in-one checkpoint. "
                "Load the model with CCLModelLoader, the rest with Load CLIP, Load VAE and CCLAudioVAELoader"
            )
        return self.bundled[prefix]


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the name of a file before what is wrong with a part of it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def read(path: str) -> RawFile:
    """Read a file, or all shards of which it is one."""
    tensors, metadata = read_tensors(path)
    bundled = {prefix: take(tensors, prefix) for prefix in BUNDLED}
    return RawFile(os.path.basename(path), tensors, metadata, bundled, is_gguf(path))


def read_files(paths: ModelPaths) -> dict[str, RawFile]:
    """The files of one model by their roles."""
    return {role: read(path) for role, path in asdict(paths).items() if path is not None}


def take(tensors: Tensors, prefix: str) -> Tensors:
    """Take the tensors behind a prefix out of the others."""
    keys = [key for key in tensors if key.startswith(prefix)]
    return {key.removeprefix(prefix): tensors.pop(key) for key in keys}


def read_tensors(path: str) -> tuple[Tensors, Metadata]:
    """All tensors and the metadata of a file, or of the set of shards it is one of.

    Raises ValueError with the file's name and what to do where it is missing, damaged or of another kind.
    """
    tensors: Tensors = {}
    metadata: Metadata = {}
    for shard in shards(path):
        found, stated = _read_file(shard)
        # What stands in the metadata counts: whoever wrote it knew it there.
        stated = _take_entries(found, os.path.basename(shard)) | stated
        twice = next((key for key in found if key in tensors), None)
        if twice is not None:
            raise ValueError(
                f"{os.path.basename(shard)} holds {twice}, which a shard before it holds too: "
                "the shards are not of one set, download them again"
            )
        tensors |= found
        metadata = _merge(metadata, stated, os.path.basename(shard))
    return tensors, metadata


def _take_entries(tensors: Tensors, name: str) -> Metadata:
    """Take the entries out that the host has saved as tensors."""
    keys = [key for key in tensors if key.rpartition(".")[2] in ENTRIES]
    try:
        return {key.rpartition(".")[2]: from_tensor(tensors.pop(key)) for key in keys}
    except ValueError as error:
        raise ValueError(f"{name}: the configuration in {keys[0]} cannot be read: {error}") from error


def shards(path: str) -> list[str]:
    """The files of the set that `path` (`name-00001-of-00003.safetensors`) is one of.

    A file that is no shard is a set of its own. ValueError where a shard is missing.
    """
    match = SHARD.fullmatch(path)
    if match is None:
        return [path]
    index, count = int(match["index"]), int(match["count"])
    if not (1 <= index <= count <= MOST_SHARDS):
        raise ValueError(
            f"{os.path.basename(path)} has the name of shard {index} of {count}, wanted a number from 1 to "
            f"the count, and at most {MOST_SHARDS}: give the file the name that it was published with"
        )
    width = len(match["index"])
    files = [
        f"{match['stem']}-{i:0{width}}-of-{match['count']}{match['ending']}" for i in range(1, count + 1)
    ]
    missing = [os.path.basename(file) for file in files if not os.path.isfile(file)]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise ValueError(
            f"{os.path.basename(path)} is one of {count} shards, missing beside it: "
            f"{', '.join(missing[:SHOWN])}{more}. Download all shards into one folder"
        )
    return files


def without_later_shards(names: Iterable[str]) -> list[str]:
    """File names, of each set of shards only the first that is there."""
    sets: dict[tuple[str, ...], str] = {}
    for name in sorted(names):
        match = SHARD.fullmatch(name)
        sets.setdefault((name,) if match is None else match.group("stem", "count", "ending"), name)
    return list(sets.values())


def is_gguf(path: str) -> bool:
    return path.lower().endswith(GGUF)


def _read_file(path: str) -> tuple[Tensors, Metadata]:
    name = os.path.basename(path)
    if not path.lower().endswith((*SAFETENSORS, GGUF)):
        raise ValueError(_refusal(name))
    require_readable(path)
    if os.path.getsize(path) == 0:
        raise ValueError(f"{name} is empty: its download did not happen, download it again")
    if is_gguf(path):
        # Imported here: only a GGUF file needs the pack that this module looks for.
        from . import gguf

        tensors, metadata = gguf.read(path)
    else:
        tensors, metadata = _read_safetensors(path, name)
    tensors = without_preferences(tensors, name)
    if not tensors:
        raise ValueError(f"{name} holds no tensors: download it again")
    return tensors, metadata


def require_readable(path: str) -> None:
    """ValueError with the remedy where a file is not there, or may not be read."""
    name, folder = os.path.basename(path), os.path.dirname(path)
    # A pipe would wait for whoever writes into it.
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{name} in {folder} is a folder or no plain file: choose a file in the list again")
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        raise ValueError(f"{name} {_fault_of_path(path, folder, error)}") from error


def _fault_of_path(path: str, folder: str, error: OSError) -> str:
    if os.path.islink(path) and not os.path.exists(path):
        target = os.readlink(path)
        return f"is a link in {folder} to {target}, which is not there: put the file there, or link it anew"
    if isinstance(error, FileNotFoundError):
        return f"is gone from {folder}: refresh the node list and choose the file again"
    if isinstance(error, PermissionError):
        closed = path if os.path.lexists(path) else folder
        return f"may not be read by the user that ComfyUI runs as: change the permissions of {closed}"
    return f"cannot be opened in {folder} ({error.strerror}): copy it to another disk, or mend this one"


def _read_safetensors(path: str, name: str) -> tuple[Tensors, Metadata]:
    try:
        tensors, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    # `load_torch_file` lets errors of safetensors, of the file system and of its own through.
    except Exception as error:
        # It may have gone while it was read.
        require_readable(path)
        if _is_pickle(path):
            raise ValueError(_pickle_refusal(name, "a pickle under the name of one")) from error
        raise ValueError(
            f"{name} cannot be read as safetensors ({error}): the file is damaged, cut off or of another "
            "kind, download it again"
        ) from error
    return tensors, metadata or {}


def without_preferences(tensors: Tensors, name: str) -> Tensors:
    """The tensors without what newer hosts keep beside them: which attention a module would rather have."""
    kept = {key: value for key, value in tensors.items() if not PREFERENCE.search(key)}
    left_out = len(tensors) - len(kept)
    if left_out:
        logging.info(
            "%s states %d preferences of attention, which are no weights and are not applied: the attention "
            "that ComfyUI was started with runs, or that of a node",
            name,
            left_out,
        )
    return kept


def _is_pickle(path: str) -> bool:
    """Whether a file begins as a pickle of any protocol, or as torch's archive of one. Nothing of it runs."""
    with open(path, "rb") as file:
        start = file.read(PICKLE_BYTES)
    if start.startswith(ZIP):
        return True
    steps = []
    try:
        for step, value, _ in islice(pickletools.genops(start), PICKLE_STEPS):
            steps.append(step.name)
            # Protocols from 2 on begin with their number.
            if step.name == "STOP" or (step.name == "PROTO" and value <= pickle.HIGHEST_PROTOCOL):
                return True
    # Whatever is no pickle: the parser reads numbers and texts as it finds them.
    except Exception:
        return False
    return len(steps) == PICKLE_STEPS


def _refusal(name: str) -> str:
    """What to say of a file that has the name neither of safetensors nor of GGUF."""
    if name.lower().endswith(PICKLES):
        return _pickle_refusal(name, "a pickle")
    return (
        f"{name} is not a safetensors file, nor GGUF. Wanted: one of those, or the original converted to one"
    )


def _pickle_refusal(name: str, what: str) -> str:
    how = (
        "on a machine where you trust it, load it with torch's weights_only=True and write the tensors with "
        "safetensors.torch.save_file"
    )
    if any(part in name.lower() for part in MMAUDIO):
        how = MMAUDIO_REMEDY
    return (
        f"{name} is not a safetensors file but {what}, which can run code when it is loaded. "
        f"Convert it first: {how}"
    )


def quantised_layers(metadata: Metadata, name: str) -> dict[str, dict[str, Any]]:
    """What the metadata of the file `name` says of each quantised layer; ValueError where it is damaged."""
    try:
        return dict(json.loads(metadata.get(QUANTIZATION, '{"layers": {}}'))["layers"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{name} has a {QUANTIZATION} entry without a list of layers ({error!r}): "
            "quantise the original again"
        ) from error


def _merge(metadata: Metadata, more: Metadata, name: str) -> Metadata:
    """The entries of both; of quantised shards the layers of both."""
    merged = metadata | more
    if QUANTIZATION in merged:
        layers = quantised_layers(metadata, name) | quantised_layers(more, name)
        merged[QUANTIZATION] = json.dumps({"layers": layers})
    return merged
