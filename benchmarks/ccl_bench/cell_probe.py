"""What held-out clips say of a cell while it trains: losses at fixed noise, and the use of the other stream.

The gap of a task is its loss with the given stream of another clip, less that with its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ccl_pack.ccl_core.training.finetune.order import generator_of, shuffled
from ccl_pack.ccl_core.training.flow import FACE

if TYPE_CHECKING:
    from ccl_pack.ccl_core.training.finetune.cache import EncodedClip
    from ccl_pack.ccl_core.training.finetune.trainer import FineTuner

# By task, what of a clip is given: a stream, and the words that are said in it.
GIVEN = {"a2v": ("audio", "speech"), "v2a": ("video",)}
TASKS = (*GIVEN, "joint")
# Clips in a pass without gradients.
AT_ONCE = 16


def with_given(clip: EncodedClip, other: EncodedClip, task: str) -> EncodedClip:
    """A clip whose given stream is that of another clip; what is asked stays its own."""
    stream, *words = GIVEN[task]
    beside = {name: other.beside[name] for name in words if name in other.beside}
    return replace(clip, **{stream: getattr(other, stream)}, beside={**clip.beside, **beside})


def strangers(clips: Sequence[EncodedClip], task: str) -> list[EncodedClip]:
    """Each clip with what is given of the next one."""
    following = [*clips[1:], clips[0]]
    return [with_given(clip, other, task) for clip, other in zip(clips, following, strict=True)]


def times(count: int) -> torch.Tensor:
    """Uniform numbers (count,), the middles of equal parts of 0..1 in a fixed order."""
    return (torch.tensor(shuffled(list(range(count)), generator_of(0, "probe times"))) + 0.5) / count


@torch.no_grad()
def losses(trainer: FineTuner, clips: Sequence[EncodedClip], task: str) -> dict[str, float]:
    """Losses by "task/stream", at noise and times that hang on the place of a clip alone."""
    sums: dict[str, float] = {}
    uniform = times(len(clips))
    for first in range(0, len(clips), AT_ONCE):
        some = clips[first : first + AT_ONCE]
        noise = generator_of(0, "probe", first)
        found = trainer.losses(some, [task] * len(some), uniform[first : first + AT_ONCE], noise)
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(some)
    return {name: total / len(clips) for name, total in sums.items() if name != FACE}


class Probe:
    """The losses of the held-out clips, own and with a stranger's stream, as a line of the trainer's log."""

    def __init__(self, clips: Sequence[EncodedClip]) -> None:
        self.clips = list(clips)
        self.strange = {task: strangers(self.clips, task) for task in GIVEN}

    def __call__(self, trainer: FineTuner) -> dict[str, Any]:
        own: dict[str, float] = {}
        other: dict[str, float] = {}
        with trainer.averaged():
            for task in TASKS:
                own |= losses(trainer, self.clips, task)
            for task, clips in self.strange.items():
                other |= losses(trainer, clips, task)
        return {"validation": own, "other": other}


def gaps(probe: Mapping[str, Any]) -> dict[str, float]:
    """By "task/stream" how much worse the stream of another clip makes it."""
    return {name: value - probe["validation"][name] for name, value in probe["other"].items()}
