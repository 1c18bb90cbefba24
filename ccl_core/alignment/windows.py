"""Windows of a clip that is longer than one pass of a model: each goes on from the end of the one before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """Places of a window in the whole clip: from start up to stop, of which those before `new` are made."""

    start: int
    new: int
    stop: int

    @property
    def kept(self) -> int:
        return self.new - self.start


def spans(places: int, length: int, overlap: int, borders: Sequence[int] = ()) -> tuple[Span, ...]:
    """The windows of a clip of so many latent frames, each of `length` of them, or of all there are so far.

    overlap: what a window keeps of the one before it, from 1 up to less than length. borders: places where a
    window has to end; there and at the end of the clip it is moved back, so that it keeps more.
    """
    if not 1 <= overlap < length:
        raise ValueError(f"windows of {length} places overlap in {overlap}: give 1 to {length - 1}")
    found: list[Span] = []
    done = 0
    for end in sorted({border for border in borders if 0 < border < places} | {places}):
        while done < end:
            stop = min(end, max(0, done - overlap) + length)
            found.append(Span(max(0, stop - length), done, stop))
            done = stop
    return tuple(found)
