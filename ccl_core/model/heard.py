"""What the audio reads of the video in a step, kept so that further passes of the audio alone read it again.

A pass of both streams with HEARING hands it out; passes with HEARD run the audio alone on it: those of the
same text on what that text's pass handed out, others on that of the first positive text.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .interactions import KV
from .kept import Kept, Memory

# Transformer options: a `Heard` that a pass fills, and one that a pass of the audio alone reads.
HEARING = "ccl_hearing"
HEARD = "ccl_heard"


class Source(Protocol):
    """Keys and values of a stream that does not run."""

    def take(self, i: int, device: torch.device) -> KV | None:
        """Those of layer i, on the device."""
        ...


@dataclass(frozen=True)
class Rows:
    """Keys and values of some texts of an earlier pass. places: of each text that reads, among `count`."""

    parts: Sequence[tuple[Kept, int, int]]

    def take(self, i: int, device: torch.device) -> KV | None:
        sources = {id(kept): kept.take(i, device) for kept, *_ in self.parts}
        rows = [_of_text(sources[id(kept)], place, count) for kept, place, count in self.parts]
        # A layer that one text skips hands out nothing for it: no other one reads it then.
        if any(source is None for source in rows):
            return None
        return rows[0] if len(rows) == 1 else KV(*map(torch.cat, zip(*rows, strict=True)))


def _of_text(source: KV | None, place: int, count: int) -> KV | None:
    """The rows of one text of a pass that holds so many, one behind the other."""
    if source is None:
        return None
    size = source.k.shape[0] // count
    return source.of(slice(place * size, (place + 1) * size))


class Heard:
    """What the passes of a step handed out, by their texts and the context window."""

    def __init__(self, memory: Memory | None = None) -> None:
        self.memory = memory
        self._kept: dict[Hashable, Kept] = {}
        # Of this step: where each text is found in each window, and the first positive one.
        self._places: dict[Hashable, tuple[Kept, int, int]] = {}
        self._first: dict[Hashable, tuple[Kept, int, int]] = {}

    def forget(self) -> None:
        """A new step comes."""
        self._places.clear()
        self._first.clear()

    @torch.compiler.disable
    def begin(self, options: dict[str, Any]) -> Kept:
        """What gets the layers of a pass with these transformer options."""
        texts, window = _key(options)
        kept = self._kept.setdefault((texts, window), Kept("video", self.memory))
        kept.begin()
        signs = options["cond_or_uncond"]
        for place, text in enumerate(texts):
            self._places[text, window] = kept, place, len(texts)
            # The host numbers the lists of conditions that it runs: 0 is the positive one.
            if signs[place] == 0:
                self._first.setdefault(window, (kept, place, len(texts)))
        return kept

    @torch.compiler.disable
    def of(self, options: dict[str, Any]) -> Source:
        """What a pass with these transformer options reads. LookupError where no pass was heard."""
        texts, window = _key(options)
        first = self._first.get(window)
        parts = [self._places.get((text, window), first) for text in texts]
        if None in parts:
            raise LookupError("the audio has no pass of the video to read in this step")
        kept = self._kept.get((texts, window))
        whole = kept is not None and all(part[0] is kept for part in parts)
        return kept if whole else Rows(parts)

    def close(self) -> None:
        for kept in self._kept.values():
            kept.close()


def _key(options: dict[str, Any]) -> tuple[tuple[Hashable, ...], Hashable]:
    """The texts of a pass by the host's `uuids`, and the frames of its context window."""
    window = options.get("context_window")
    return tuple(options["uuids"]), None if window is None else tuple(window.index_list)
