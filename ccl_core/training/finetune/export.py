"""What a run trained, as files that the loaders of the pack read."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...host.files.identify import section
from ...metadata import write_config
from .trainer import FineTuner, part_of

EXPORT = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LORA = "lora.safetensors"
# By the parts in a file. A file that held the whole model gives a whole model again, for CCLModelLoader.
NAMES = {
    frozenset(("interaction",)): "interaction",
    frozenset(("audio",)): "audio",
    frozenset(("video",)): "video",
    frozenset(("audio", "interaction", "video")): "model",
}


def export_trained(trainer: FineTuner, out: Path) -> list[Path]:
    """Write each file of the model in which something was trained, whole, and the LoRA.

    Where the run keeps averages, the files hold these.
    """
    written = []
    with trainer.averaged(), torch.no_grad():
        own = dict(trainer.model.named_parameters())
        trained = {part_of(name) for name in trainer.trained if name in own}
        for file in dict.fromkeys(trainer.assembly.sources.values()):
            sections = {name for name, holder in trainer.assembly.sources.items() if holder == file}
            # A second expert lies in the video's file and is written back with it.
            parts = frozenset(map(_part, sections - {"low_noise"}))
            if parts & trained:
                name = NAMES.get(parts, "_".join(sorted(parts)))
                written.append(_write(trainer, out / f"{name}.safetensors", sections))
        if trainer.adapters:
            written.append(_write_lora(trainer, out / LORA))
    return written


def _part(name: str) -> str:
    return "interaction" if name in ("a2v", "v2a") else name


def _write(trainer: FineTuner, path: Path, sections: set[str]) -> Path:
    tensors = {key: value for key, value in trainer.model.state_dict().items() if section(key) in sections}
    stored = {key: _stored(trainer, value, key in trainer.trained) for key, value in tensors.items()}
    return _save(stored, path, {"ccl_config": write_config(trainer.config), "format": "pt"})


def _write_lora(trainer: FineTuner, path: Path) -> Path:
    tensors = {
        key: _stored(trainer, value, value.ndim > 1)
        for name, adapter in trainer.adapters.items()
        for key, value in adapter.tensors(name).items()
    }
    return _save(tensors, path, {"format": "pt"})


def _stored(trainer: FineTuner, value: Tensor, narrowed: bool) -> Tensor:
    """A tensor of the file; what was not trained keeps the type it came in."""
    dtype = EXPORT[trainer.settings.train.export] if narrowed else value.dtype
    return value.detach().to("cpu", dtype).contiguous()


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> Path:
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata=metadata)
    return part.replace(path)
