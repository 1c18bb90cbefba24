"""Contacts that are seen against onsets that are heard, as times in seconds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

# Seconds, two frames at 16 fps, beyond which contact and onset have nothing to do with each other.
# Pairs that chance makes within this limit have a median error near 60 ms.
WIDE = 0.125
# Seconds, one frame at 16 fps.
NARROW = 0.0625


@dataclass(frozen=True)
class Matches:
    """Pairs are (contact, onset) in seconds; missed contacts and spurious onsets found no partner."""

    pairs: list[tuple[float, float]]
    missed: list[float]
    spurious: list[float]


@dataclass(frozen=True)
class SyncSummary:
    """Counts of one clip; `median_error_ms` over the pairs within 125 ms, None without any pair."""

    contacts: int
    onsets: int
    matched_62ms: int
    matched_125ms: int
    spurious: int
    median_error_ms: float | None
    errors_ms: tuple[float, ...]


def match_events(
    contacts: Sequence[float], onsets: Sequence[float], tolerance: float, agree: Tensor | None = None
) -> Matches:
    """One-to-one, the smallest differences first, none beyond the tolerance (seconds).

    agree: (contacts, onsets) booleans, which onsets sound as the contact should; their pairs come first.
    """
    # False sorts before True: pairs that agree come first. The indices make equal differences deterministic.
    order = sorted(
        (agree is not None and not agree[i, j], abs(c - o), i, j)
        for i, c in enumerate(contacts)
        for j, o in enumerate(onsets)
    )
    taken: dict[int, int] = {}
    for _, difference, i, j in order:
        if difference <= tolerance and i not in taken and j not in taken.values():
            taken[i] = j
    return Matches(
        pairs=[(contacts[i], onsets[taken[i]]) for i in sorted(taken)],
        missed=[c for i, c in enumerate(contacts) if i not in taken],
        spurious=[o for j, o in enumerate(onsets) if j not in taken.values()],
    )


def summarise_sync(
    contacts: Sequence[float], onsets: Sequence[float], agree: Tensor | None = None
) -> SyncSummary:
    """Counts at 62.5 ms (one frame at 16 fps) and 125 ms; a spurious onset has no contact within 125 ms."""
    wide = match_events(contacts, onsets, WIDE, agree)
    errors = tuple(1000 * abs(c - o) for c, o in wide.pairs)
    return SyncSummary(
        contacts=len(contacts),
        onsets=len(onsets),
        matched_62ms=len(match_events(contacts, onsets, NARROW, agree).pairs),
        matched_125ms=len(wide.pairs),
        spurious=len(wide.spurious),
        median_error_ms=statistics.median(errors) if errors else None,
        errors_ms=errors,
    )


def f1(matched: int, contacts: int, onsets: int) -> float | None:
    """Harmonic mean of recall and precision; None where there are neither contacts nor onsets.

    Recall alone is 1 for a click every 125 ms: one of them is always within 62.5 ms.
    """
    events = contacts + onsets
    return 2 * matched / events if events else None
