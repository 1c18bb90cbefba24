"""A training run of the tiny model on clips of random latents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ccl_pack.ccl_core.metadata import write_config
from ccl_pack.ccl_core.training.finetune.cache import NO_TEXT, Cache
from ccl_pack.ccl_core.training.finetune.saves import saves
from ccl_pack.ccl_core.training.finetune.settings import Settings
from ccl_pack.ccl_core.training.finetune.settings_file import read_settings
from ccl_pack.ccl_core.training.flow import Batch
from support.tiny import CONFIG, latents, write

TRAIN = {
    "out": "out",
    "steps": 6,
    "rates": {"interaction": 3e-3, "audio": 1e-3, "video": 1e-3},
    "batch": 2,
    "warmup": 1,
    "precision": "fp32",
    "lora_rank": 4,
    "lora_alpha": 8.0,
    "export": "fp32",
}


def fill_cache(folder: Path, clips: int = 5, image: bool = False, lone: bool = False) -> None:
    """Clips of two lengths; lone: two more of sound alone, and one without sound."""
    folder.mkdir(exist_ok=True)
    cache, files = Cache(folder), []
    for i in range(clips):
        video, audio = latents(i, frames=2 + i % 2, tokens=10 + 8 * (i % 2))
        text = torch.randn(5, 24, generator=torch.Generator().manual_seed(i))
        tensors = {"video": video[0], "audio": audio[0], "text": text}
        if image:
            tensors["image"] = torch.randn(20, *video.shape[2:], generator=torch.Generator().manual_seed(i))
        files.append(cache.write(f"clip-{i}.mp4", tensors, {}))
    for i in range(3 if lone else 0):
        video, audio = latents(i)
        parts = {"video": video[0], "audio": audio[0], "text": torch.ones(5, 24)}
        parts |= {"audio": audio[0, :, :0]} if i == 2 else {"video": video[0, ..., :0, :0]}
        files.append(cache.write(f"lone-{i}", parts, {}))
    cache._write(NO_TEXT, {"text": torch.zeros(5, 24)}, "", {})
    cache.index(files)


def configuration(
    folder: Path,
    train: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    held_out: int = 0,
    lone: bool = False,
    **config: Any,
) -> Path:
    """The file of a run in that folder, with its model and its cache. config: changes of the tiny model's."""
    if not (folder / "tiny.safetensors").exists():
        write(folder / "tiny.safetensors", **config)
        (folder / "tiny.json").write_text(write_config(CONFIG))
        fill_cache(folder / "cache", image="video" in config, lone=lone)
    whole = {
        "model": {"video": "tiny.safetensors"} | (model or {}),
        "encoders": {"checkpoint": "tiny.safetensors"},
        "data": {
            "clips": "clips",
            "cache": "cache",
            "sizes": [[48, 32]],
            "frames": [5],
            "validation_clips": held_out,
        },
        "train": TRAIN | (train or {}),
    }
    (folder / "train.json").write_text(json.dumps(whole))
    return folder / "train.json"


def random_batch(seed: int = 0, count: int = 2) -> Batch:
    """Random latents and texts whose losses all weigh the same."""
    video, audio = latents(seed, batch=count)
    text = torch.randn(count, 5, 24, generator=torch.Generator().manual_seed(seed))
    return Batch(video, audio, text, torch.ones_like(video[:, :1]), torch.ones_like(audio[:, :1]))


def settings(folder: Path, **given: Any) -> Settings:
    return read_settings(configuration(folder, **given))


def saved(folder: Path) -> Path:
    """The newest save of the run in that folder."""
    return list(saves(folder / "out").values())[-1]


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The log without what a clock measured."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line.pop("seconds", None)
    return lines
