"""Reading what holds tensors: safetensors files, sets of shards, GGUF; and refusing the rest."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import comfy.utils
from torch import Tensor

SAFETENSORS = (".safetensors", ".sft")
GGUF = ".gguf"
PICKLES = (".pt", ".pt2", ".pth", ".ckpt", ".bin", ".pkl")
SHARD = re.compile(r"(?P<stem>.+)-(?P<index>\d+)-of-(?P<count>\d+)(?P<ending>\.\w+)$")
QUANTIZATION = "_quantization_metadata"
# In the names of the pickles that MMAudio is published in.
MMAUDIO = ("v1-16", "netg", "mmaudio")
MMAUDIO_COMMAND = "python scripts/convert_mmaudio.py v1-16.pth best_netG.pt mmaudio_16k.safetensors"

Tensors = dict[str, Tensor]
Metadata = dict[str, str]


# What an all-in-one checkpoint holds beside the model, by the prefix of its keys.
BUNDLED = ("text_encoders.", "vae.", "audio_vae.")


@dataclass(frozen=True)
class ModelPaths:
    """The paths of the files of one model by their roles. A role without a path is played by one of the others."""

    video: str
    audio: str | None = None
    interaction: str | None = None
    low_noise: str | None = None


@dataclass(frozen=True)
class RawFile:
    """A file as it is: its tensors under the names it has, those of an all-in-one checkpoint's other models apart."""

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
        twice = next((key for key in found if key in tensors), None)
        if twice is not None:
            raise ValueError(
                f"{os.path.basename(shard)} holds {twice}, which a shard before it holds too: "
                "the shards are not of one set, download them again"
            )
        tensors |= found
        metadata = _merge(metadata, stated, os.path.basename(shard))
    return tensors, metadata


def shards(path: str) -> list[str]:
    """The files of the set that `path` (`name-00001-of-00003.safetensors`) is one of; a missing one raises ValueError.

    A file that is no shard is a set of its own.
    """
    match = SHARD.fullmatch(path)
    if match is None:
        return [path]
    count, width = int(match["count"]), len(match["index"])
    files = [f"{match['stem']}-{i:0{width}}-of-{match['count']}{match['ending']}" for i in range(1, count + 1)]
    missing = [os.path.basename(file) for file in files if not os.path.isfile(file)]
    if missing:
        raise ValueError(
            f"{os.path.basename(path)} is one of {count} shards, missing beside it: {', '.join(missing)}. "
            "Download all shards into one folder"
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
    if not os.path.isfile(path):
        raise ValueError(
            f"{name} is gone from {os.path.dirname(path)}: refresh the node list and choose the file again"
        )
    if os.path.getsize(path) == 0:
        raise ValueError(f"{name} is empty: its download did not happen, download it again")
    if is_gguf(path):
        from . import gguf  # the only reader of another pack's files: not needed without one

        return gguf.read(path)
    try:
        tensors, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    except Exception as error:  # the host wraps every kind of damage differently
        if _starts_as_pickle(path):
            raise ValueError(_refusal(name, "under the name of one")) from error
        raise ValueError(
            f"{name} cannot be read as safetensors ({error}): it is damaged, cut off or of another kind, "
            "download it again"
        ) from error
    if not tensors:
        raise ValueError(f"{name} holds no tensors: download it again")
    return tensors, metadata or {}


def _starts_as_pickle(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x04")


def _refusal(name: str, disguise: str = "") -> str:
    if not (disguise or name.lower().endswith(PICKLES)):
        return f"{name} is not a safetensors file, nor GGUF. Wanted: one of those, or the original converted to one"
    how = (
        f"run {MMAUDIO_COMMAND} in the folder of this pack"
        if any(part in name.lower() for part in MMAUDIO)
        else "on a machine where you trust it, load it with torch's weights_only=True and write the tensors with "
        "safetensors.torch.save_file"
    )
    return (
        f"{name} is not a safetensors file but a pickle{disguise and ' '}{disguise}, which can run code when it is "
        f"loaded. Convert it first: {how}"
    )


def quantised_layers(metadata: Metadata, name: str) -> dict[str, dict[str, Any]]:
    """What the metadata of the file `name` says of its quantised layers, by layer; ValueError where it is damaged."""
    try:
        return dict(json.loads(metadata.get(QUANTIZATION, '{"layers": {}}'))["layers"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{name} has a {QUANTIZATION} entry without a list of layers ({error!r}): quantise the original again"
        ) from error


def _merge(metadata: Metadata, more: Metadata, name: str) -> Metadata:
    """The entries of both; of quantised shards the layers of both."""
    merged = metadata | more
    if QUANTIZATION in merged:
        layers = quantised_layers(metadata, name) | quantised_layers(more, name)
        merged[QUANTIZATION] = json.dumps({"layers": layers})
    return merged
