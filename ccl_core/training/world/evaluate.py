"""What is asked of ccl-tiny and how its answers are counted: held-out clips, measures, totals and bars."""

from __future__ import annotations

import json
import operator
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, product
from typing import Any

import numpy as np
from torch import Tensor

from ...metrics.matching import match_events, summarise_sync
from .captions import held_out
from .judge import Seen, judge_clip
from .scene import KINDS, Attributes, Clip, Object, sample_clip

TOLERANCE = 0.0625  # seconds, one frame at 16 fps: for recall and precision against the exact contacts
OBJECTS = ("1", "2", "both")
WORDS = ("colour", "motion", "sound")
RIGHT = tuple(f"{kind}_right" for kind in WORDS)

HOLDS = {"at_least": operator.ge, "at_most": operator.le}
# What a finished model must reach, by task.
AT_MOST = {"sync_error_ms_median": 31.0, "spurious_share": 0.05}
AT_LEAST = {
    "t2av": {"matched_62ms_share": 0.95, **dict.fromkeys(RIGHT, 0.95)},
    "v2a": {"matched_62ms_share": 0.95, "sound_right": 0.95},
    "a2v": {"matched_62ms_share": 0.90, "colour_right": 0.95, "motion_right": 0.95},
}


@dataclass(frozen=True)
class Result:
    """One clip as frames and sound."""

    frames: Tensor  # (f, h, w, 3) in 0..1
    waveform: Tensor  # (n,)
    sample_rate: int


@dataclass(frozen=True)
class Lesson:
    """What a checkpoint was taught: most objects in a clip, and the combinations that none of its clips had."""

    objects: int
    held_out: tuple[Attributes, ...]

    def to_json(self) -> str:
        """The metadata entry `lesson`."""
        # Without the size, which is no part of a combination and is often left open.
        combinations = [thing.values()[1:] for thing in self.held_out]
        return json.dumps({"objects": self.objects, "held_out": combinations})

    @classmethod
    def from_json(cls, text: str) -> Lesson:
        data = json.loads(text)
        return cls(data["objects"], tuple(Attributes(None, *words) for words in data["held_out"]))


def lesson() -> Lesson:
    """Of a checkpoint that is trained on the world as it is now."""
    return Lesson(2, tuple(unseen_objects()))


def unseen_objects() -> list[Attributes]:
    """Every combination of colour, shape, motion and sound that no training clip has."""
    grid = (Attributes(None, *words) for words in product(*KINDS.values()))
    return [thing for thing in grid if held_out(thing)]


def draw_clips(
    seed: int, clips: int, frames: int, fps: float, objects: str = "1", unseen: Sequence[Attributes] | None = None
) -> list[Clip]:
    """World clips of held-out combinations only (`unseen`, by default the world's), with one object, two, or in turn.

    With one object, every combination comes before one comes again. Two differ in colour and sound.
    """
    if objects not in OBJECTS:
        raise ValueError(f"objects must be one of {', '.join(OBJECTS)}, got {objects!r}")
    rng = np.random.default_rng(seed)
    stream = shuffled(rng, unseen_objects() if unseen is None else unseen)
    drawn = []
    for i in range(clips):
        asked = [next(stream)]
        if objects == "2" or (objects == "both" and i % 2):
            first = asked[0]
            asked.append(next(t for t in stream if t.colour != first.colour and t.sound != first.sound))
        drawn.append(sample_clip(rng, *asked, frames=frames, fps=fps))
    return drawn


def shuffled(rng: np.random.Generator, items: Sequence[Attributes]) -> Iterator[Attributes]:
    """All items in random order, and again in another, without end."""
    return (items[i] for _ in count() for i in rng.permutation(len(items)))


def measure(asked: Clip, result: Result, fps: float) -> dict[str, Any]:
    """What is seen and heard in one clip, and of how many of its objects it is what was asked."""
    judged = judge_clip(result.frames, fps, result.waveform, result.sample_rate, asked.objects)
    sync = asdict(judged.sync)
    things = [measure_object(*row) for row in zip(asked.objects, judged.seen, judged.sounds, strict=True)]
    return {
        "caption": asked.caption,
        **{"spurious_onsets" if key == "spurious" else key: value for key, value in sync.items()},
        **summed(things, RIGHT),
        "objects": things,
        "contacts_s": [round(t, 4) for t in judged.contacts],
        "onsets_s": [round(t, 4) for t in judged.onsets],
        "contacts_true": sum(close(thing["true_contacts_s"], thing["contacts_s"]) for thing in things),
        "onsets_true": close(asked.contacts, judged.onsets),
    }


def measure_object(asked: Object, seen: Seen, sound: str) -> dict[str, Any]:
    """What is seen and heard of one object, and whether each word is what was asked."""
    named = {"colour": seen.colour, "motion": seen.motion, "sound": sound}
    return {
        **named,
        "contacts_s": [round(t, 4) for t in seen.contacts],
        "true_contacts_s": list(asked.contacts),
        **{f"{kind}_right": getattr(asked, kind) == value for kind, value in named.items()},
    }


def summed(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> dict[str, int]:
    """The sum over the rows of each of these counts."""
    sums = dict.fromkeys(keys, 0)
    for row in rows:
        for key in keys:
            sums[key] += row[key]
    return sums


def close(contacts: Sequence[float], found: Sequence[float]) -> int:
    return len(match_events(list(contacts), list(found), TOLERANCE).pairs)


def total(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts summed over the clips, shares of contacts, onsets and objects, median error over pairs in 125 ms."""
    counts = ("contacts", "onsets", "matched_62ms", "matched_125ms", "spurious_onsets")
    found = summed(rows, counts)
    right = summed(rows, RIGHT)
    objects = sum(len(row["objects"]) for row in rows)
    errors = [error for row in rows for error in row["errors_ms"]]
    return {
        "clips": len(rows),
        "objects": objects,
        **found,
        "matched_62ms_share": share(found["matched_62ms"], found["contacts"]),
        "matched_125ms_share": share(found["matched_125ms"], found["contacts"]),
        "spurious_share": share(found["spurious_onsets"], found["onsets"]),
        **{key: share(number, objects) for key, number in right.items()},
        "sync_error_ms_median": round(statistics.median(errors), 2) if errors else None,
    }


def by_objects(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Totals of the clips with one object and of those with two, where both were asked for."""
    single = [row for row in rows if len(row["objects"]) == 1]
    double = [row for row in rows if len(row["objects"]) == 2]
    return {"objects_1": total(single), "objects_2": total(double)} if single and double else {}


def ceiling(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Totals, and the recall and precision of what was seen and heard against the exact contacts."""
    true = sum(len(thing["true_contacts_s"]) for row in rows for thing in row["objects"])
    found = summed(rows, ("contacts_true", "onsets_true"))
    detected = summed(rows, ("contacts", "onsets"))
    return {
        **total(rows),
        **{f"{name}_recall": share(found[f"{name}_true"], true) for name in detected},
        **{f"{name}_precision": share(found[f"{name}_true"], number) for name, number in detected.items()},
    }


def chance(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The floor: contacts of each clip against the onsets of the next, which know nothing of each other."""
    pairs = zip(rows, [*rows[1:], rows[0]], strict=True)
    syncs = [asdict(summarise_sync(row["contacts_s"], other["onsets_s"])) for row, other in pairs]
    contacts = sum(sync["contacts"] for sync in syncs)
    matched = summed(syncs, ("matched_62ms", "matched_125ms"))
    return {**matched, **{f"{key}_share": share(number, contacts) for key, number in matched.items()}}


def bars(task: str, totals: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every bar of the task with the value reached and whether that is enough; nothing measured is not."""
    least = {name: against(totals[name], "at_least", bar) for name, bar in AT_LEAST[task].items()}
    most = {name: against(totals[name], "at_most", bar) for name, bar in AT_MOST.items()}
    return least | most


def against(value: float | None, side: str, bar: float) -> dict[str, Any]:
    return {"value": value, side: bar, "met": value is not None and HOLDS[side](value, bar)}


def share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
