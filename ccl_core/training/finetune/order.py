"""What chance decides in a run: which clips each pass takes, and the numbers drawn in a step.

All of it follows from the seed and what it is drawn for, never from what was drawn before.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from .cache import Entry

Item = TypeVar("Item")


class Order:
    """Which clips each pass takes: all in an epoch, in an order of its own, clips of one shape together."""

    def __init__(self, entries: list[Entry], batch: int, seed: int) -> None:
        groups: dict[Any, list[Entry]] = {}
        for entry in entries:
            groups.setdefault(entry.shapes, []).append(entry)
        self.groups = list(groups.values())
        self.size = batch
        self.seed = seed
        self.count = sum(math.ceil(len(group) / batch) for group in self.groups)
        # All passes of an epoch ask for the same list.
        self.epoch = lru_cache(maxsize=1)(self._epoch)

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in chain(*self.groups)]

    def batch(self, index: int) -> list[Entry]:
        """The clips of the pass `index`, counted from the start of the run."""
        epoch, position = divmod(index, self.count)
        return self.epoch(epoch)[position]

    def _epoch(self, epoch: int) -> list[list[Entry]]:
        generator = generator_of(self.seed, "epoch", epoch)
        batches = []
        for group in self.groups:
            mixed = shuffled(group, generator)
            batches += [mixed[k : k + self.size] for k in range(0, len(mixed), self.size)]
        return shuffled(batches, generator)


def generator_of(seed: int, *purpose: Any) -> torch.Generator:
    """The random numbers of one purpose, such as ("step", 7), on the CPU whatever the device."""
    # Python's own hash of a text differs from process to process.
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def shuffled(items: list[Item], generator: torch.Generator) -> list[Item]:
    return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers (count,), one from each of `count` equal parts of 0..1, in random order."""
    ascending = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return ascending[torch.randperm(count, generator=generator)]


def split_validation(entries: list[Entry], count: int) -> tuple[list[Entry], list[Entry]]:
    """The clips for validation, chosen by their names alone, and the others; ValueError if none is left."""
    if count >= len(entries):
        raise ValueError(f"data.validation_clips is {count} of {len(entries)} clips: leave some to train on")
    # By a hash of the name: clips that are added later leave the choice nearly as it was.
    by_hash = sorted(entries, key=lambda entry: hashlib.sha256(entry.name.encode()).digest())
    chosen = by_hash[:count]
    return chosen, [entry for entry in entries if entry not in chosen]
