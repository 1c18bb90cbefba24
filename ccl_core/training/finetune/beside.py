"""What clips of a batch have beside latents and text: references, a voice, words, faces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..flow import TRAINED
from .cache import EncodedClip


def task_of(clip: EncodedClip, task: str) -> str:
    """The task of a clip that drew one; without a voice, or with one stream alone, it has no choice."""
    if TRAINED[task].voice and "voice" not in clip.beside:
        task = "joint"
    return clip.only_task or task


def beside_of(clips: Sequence[EncodedClip], dropped: Sequence[bool]) -> dict[str, Tensor]:
    """The fields of a batch for what all these clips have. dropped: clips whose words are left out."""
    found = {}
    for name in ("reference", "voice", "face"):
        if all(name in clip.beside for clip in clips):
            found[name] = torch.stack([clip.beside[name] for clip in clips])
    if "face" in found:
        found["face"] = found["face"].flatten(1)[..., None]  # (b, t * h * w, 1)
    if all("speech" in clip.beside for clip in clips):
        said = [clip.beside["speech"] * (not drop) for clip, drop in zip(clips, dropped, strict=True)]
        found["speech"] = torch.nn.utils.rnn.pad_sequence(said, batch_first=True)
    return found
