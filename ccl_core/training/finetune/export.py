"""What a run trained, as files that the loaders of the pack read."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...host.files.identify import section
from ...host.files.read import ModelPaths
from ...metadata import write_config
from .bundle import bundle
from .load import part_of
from .trainer import FineTuner

EXPORT = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LORA = "lora.safetensors"
WHOLE = "model.safetensors"
# By the parts in a file. A file that held the whole model gives a whole model again, for CCLModelLoader.
NAMES = {
    frozenset(("interaction",)): "interaction.safetensors",
    frozenset(("audio",)): "audio.safetensors",
    frozenset(("video",)): "video.safetensors",
    frozenset(("audio", "interaction", "video")): WHOLE,
}


def export_trained(trainer: FineTuner, folder: Path) -> None:
    """Write each file of the model in which something was trained, whole, and the LoRA.

    Where the run keeps averages, the files hold these.
    """
    with trainer.averaged(), torch.no_grad():
        if trainer.settings.train.export_whole:
            _write_whole(trainer, folder / WHOLE)
        else:
            for file, name in names_of(trainer).items():
                _write(trainer, folder / name, sections_of(trainer, file))
        if trainer.adapters:
            _write_lora(trainer, folder / LORA)


def names_of(trainer: FineTuner) -> dict[str, str]:
    """What a file is called in a save, by its name where it was read, for those that a save has."""
    own = dict(trainer.model.named_parameters())
    trained = {part_of(name) for name in trainer.trained if name in own}
    names = {}
    for file in dict.fromkeys(trainer.assembly.sources.values()):
        # A second expert lies in the video's file and is written back with it.
        parts = frozenset(map(_part, sections_of(trainer, file) - {"low_noise"}))
        if parts & trained:
            names[file] = NAMES.get(parts, f"{'_'.join(sorted(parts))}.safetensors")
    return names


def sections_of(trainer: FineTuner, file: str) -> set[str]:
    return {name for name, holder in trainer.assembly.sources.items() if holder == file}


def paths_of(trainer: FineTuner, folder: Path) -> ModelPaths:
    """The files of the model as a save has it; what was not trained lies where it was read."""
    model = trainer.settings.model
    if trainer.settings.train.export_whole or model.config is not None:
        return ModelPaths(str(folder / WHOLE))
    names = names_of(trainer)
    read = {role: path for role, path in asdict(model.parts).items() if path is not None}
    saved = {role: folder / names[Path(path).name] for role, path in read.items() if Path(path).name in names}
    return ModelPaths(**read | {role: str(path) for role, path in saved.items()})


def _part(name: str) -> str:
    return "interaction" if name in ("a2v", "v2a") else name


def _write(trainer: FineTuner, path: Path, sections: set[str]) -> None:
    tensors = {key: value for key, value in trainer.model.state_dict().items() if section(key) in sections}
    stored = {key: _stored(trainer, value, key in trainer.trained) for key, value in tensors.items()}
    _save(stored, path, {"ccl_config": write_config(trainer.config), "format": "pt"})


def _write_whole(trainer: FineTuner, path: Path) -> None:
    """The model and its encoders in one file, for CCLCheckpointLoader."""
    beside = bundle(trainer.settings.encoders, trainer.config)
    own = trainer.model.state_dict().items()
    stored = {key: _stored(trainer, value, key in trainer.trained) for key, value in own}
    metadata = beside.metadata | {"ccl_config": write_config(beside.config), "format": "pt"}
    _save(stored | beside.tensors, path, metadata)


def _write_lora(trainer: FineTuner, path: Path) -> None:
    tensors = {
        key: _stored(trainer, value, value.ndim > 1)
        for name, adapter in trainer.adapters.items()
        for key, value in adapter.tensors(name).items()
    }
    _save(tensors, path, {"format": "pt"})


def _stored(trainer: FineTuner, value: Tensor, narrowed: bool) -> Tensor:
    """A tensor of the file; what was not trained keeps the type it came in."""
    dtype = EXPORT[trainer.settings.train.export] if narrowed else value.dtype
    return value.detach().to("cpu", dtype).contiguous()


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    save_file(tensors, path, metadata=metadata)
    # On the disk before its folder gets the name of a save.
    with path.open("rb+") as file:
        os.fsync(file.fileno())
