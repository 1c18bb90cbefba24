"""The files that ship: ccl-tiny with its encoders, uniavgen-tiny without them; in half precision."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...config import CCLConfig
from ...metadata import read_config, write_config
from ..world.evaluate import lesson

# The encoders' files, by the prefix of their keys in the all-in-one file.
ENCODERS = {
    "text_encoders.": "text_encoder.safetensors",
    "vae.": "video_vae.safetensors",
    "audio_vae.": "audio_vae.safetensors",
}


def publish(trained: Path, rgb: Tensor, out: Path) -> Path:
    """The file to ship of a save of a training (`export_whole`): with the preview's colours and the lesson.

    rgb: (channels + 1, 3) factors and bias of the preview, see `preview_factors`.
    """
    said = metadata(trained)
    own = {"ccl_config": write_config(coloured(said, rgb)), "lesson": lesson().to_json()}
    save_file(packed_tensors(trained), out, metadata=said | own)
    return out


def publish_model(trained: Path, rgb: Tensor, out: Path) -> Path:
    """The model of such a save alone, for those whose encoders lie in the file of another."""
    config = replace(coloured(metadata(trained), rgb), text_encoder=None)
    tensors = {
        key: value for key, value in packed_tensors(trained).items() if not key.startswith(tuple(ENCODERS))
    }
    save_file(tensors, out, metadata={"ccl_config": write_config(config), "format": "pt"})
    return out


def coloured(said: dict[str, str], rgb: Tensor) -> CCLConfig:
    """The configuration in a file's metadata, with the colours of the preview."""
    return replace(read_config(said["ccl_config"]), latent_rgb_factors=tuple(map(tuple, rgb.tolist())))


def packed_tensors(trained: Path) -> dict[str, Tensor]:
    return {key: packed(key.split(".")[-1], value) for key, value in load_file(trained).items()}


def unpack(path: Path, folder: Path) -> None:
    """Put the encoders of an all-in-one file into `folder`, those that are not there."""
    whole = load_file(path)
    said = metadata(path)
    text_encoder = read_config(said["ccl_config"]).text_encoder
    stated = {
        "text_encoders.": {"text_encoder": json.dumps(text_encoder)},
        "vae.": {},
        "audio_vae.": {"vocos_config": said["vocos_config"]},
    }
    for prefix, name in ENCODERS.items():
        if not (folder / name).exists():
            part = {key.removeprefix(prefix): value for key, value in whole.items() if key.startswith(prefix)}
            save_file(part, folder / name, metadata=stated[prefix])


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def packed(key: str, value: Tensor) -> Tensor:
    """Half precision, but for the statistics of the mel bands, which scale everything that is heard."""
    keep = key.startswith("latent_") or not value.is_floating_point()
    return (value if keep else value.half()).contiguous()


def preview_factors(latent: Tensor, frames: Tensor) -> Tensor:
    """Least-squares map from a normalised video latent to the colours a preview shows.

    latent: (n, c, t, h, w); frames: (n, t, h, w, 3) in 0..1, the pictures at the size of the latent. Returns
    (c + 1, 3), the bias last; the host's previews expect colours in -1..1.
    """
    cells = latent.movedim(1, -1).flatten(0, -2).double()  # (cells, c)
    # A column of ones: its factors are the bias.
    cells = torch.cat([cells, torch.ones(len(cells), 1, dtype=cells.dtype)], dim=1)
    return torch.linalg.lstsq(cells, frames.flatten(0, -2).double() * 2 - 1).solution.float()
