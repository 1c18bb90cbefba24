"""What is asked of ccl-tiny, held-out clips, and its answers measured for guidance and ablation."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count, product
from typing import Any

import numpy as np
from torch import Tensor

from ...metrics.matching import NARROW, SyncSummary, f1, match_events, summarise_sync
from .captions import held_out
from .clip import KINDS, Attributes, Clip, Object
from .judge import Seen, hear, judge_clip, judge_video
from .scene import complete, sample_clip
from .score import Found
from .shares import WORLDS, World
from .sounds import SILENT

# Seconds, one frame at 16 fps: for recall and precision against the exact contacts.
TOLERANCE = NARROW
OBJECTS = ("1", "2", "both")
WORDS = ("colour", "motion", "sound")
RIGHT = tuple(f"{kind}_right" for kind in WORDS)

# Of tasks with a given stream: the events of the generated one, which meet the true ones of the given.
GENERATED = {"v2a": "onsets", "a2v": "contacts"}

# What a finished model must reach, by task; the recalls are of the given stream's true events.
AT_MOST = {"sync_error_ms_median": 31.0, "spurious_share": 0.05}
AT_LEAST = {
    "t2av": {"matched_62ms_share": 0.95, **dict.fromkeys(RIGHT, 0.95)},
    "v2a": {"matched_62ms_share": 0.95, "onsets_recall": 0.95, "sound_right": 0.95},
    "a2v": {"matched_62ms_share": 0.90, "contacts_recall": 0.90, "colour_right": 0.95, "motion_right": 0.95},
}


@dataclass(frozen=True)
class Result:
    """One clip as frames and sound."""

    frames: Tensor  # (f, h, w, 3) in 0..1
    waveform: Tensor  # (n,)
    sample_rate: int


@dataclass(frozen=True)
class Lesson:
    """What a checkpoint was taught: the most objects in a clip, and the combinations that no clip had."""

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
    seed: int,
    clips: int,
    frames: int,
    fps: float,
    objects: str = "1",
    unseen: Sequence[Attributes] | None = None,
    world: str = "easy",
) -> list[Clip]:
    """World clips with one object, two, or in turn, each with an object of a held-out combination.

    unseen: the combinations; None: the world's. With one object, every combination comes before one comes
    again. Two objects differ in colour and sound. world: one of WORLDS, how hard the clips are.
    """
    if objects not in OBJECTS:
        raise ValueError(f"objects must be one of {', '.join(OBJECTS)}, got {objects!r}")
    if world not in WORLDS:
        raise ValueError(f"world must be one of {', '.join(WORLDS)}, got {world!r}")
    rng = np.random.default_rng(seed)
    known = unseen_objects() if unseen is None else list(unseen)
    stream = shuffled(rng, known)
    drawn = []
    for i in range(clips):
        asked = [next(stream)]
        if objects == "2" or (objects == "both" and i % 2):
            asked = pair(rng, asked[0], known, WORLDS[world])
        drawn.append(sample_clip(rng, *asked, frames=frames, fps=fps, world=WORLDS[world]))
    return drawn


def pair(
    rng: np.random.Generator, first: Attributes, unseen: Sequence[Attributes], world: World
) -> list[Attributes]:
    """The object and another, in either order.

    The other moves alike, or is of a held-out combination too. As often as the world has it, it is silent.
    """
    if rng.random() < world.same_motion:
        other = complete(rng, [first, Attributes(motion=first.motion)], world)[1]
    else:
        fit = [thing for thing in unseen if differs(thing, first)]
        if not fit:
            raise ValueError(
                f"no unseen combination differs from {first} in colour, motion and sound: ask for one object"
            )
        other = fit[rng.integers(len(fit))]
    if rng.random() < world.silent:
        other = replace(other, sound=SILENT)
    return [first, other] if rng.random() < 0.5 else [other, first]


def differs(thing: Attributes, other: Attributes) -> bool:
    return all(getattr(thing, kind) != getattr(other, kind) for kind in WORDS)


def shuffled(rng: np.random.Generator, items: Sequence[Attributes]) -> Iterator[Attributes]:
    """All items in random order, and again in another, without end."""
    return (items[i] for _ in count() for i in rng.permutation(len(items)))


def find(asked: Clip, result: Result, fps: float) -> Found:
    """What is seen of each object asked, and all that is heard."""
    return Found(
        seen=tuple(judge_video(result.frames, fps, [thing.colour for thing in asked.objects])),
        onsets=tuple(hear(result.waveform, result.sample_rate)),
        seconds=len(result.frames) / fps,
    )


def measure(asked: Clip, result: Result, fps: float) -> dict[str, Any]:
    """What is seen and heard in one clip, and of how many of its objects it is what was asked."""
    judged = judge_clip(result.frames, fps, result.waveform, result.sample_rate, asked.objects)
    things = [measure_object(*row) for row in zip(asked.objects, judged.seen, judged.sounds, strict=True)]
    return {
        "caption": asked.caption,
        **counted(judged.sync),
        **summed(things, RIGHT),
        "objects": things,
        "contacts_s": [round(t, 4) for t in judged.contacts],
        "onsets_s": [round(t, 4) for t in judged.onsets],
        "contacts_true": sum(close(thing["true_contacts_s"], thing["contacts_s"]) for thing in things),
        "onsets_true": close(asked.contacts, judged.onsets),
    }


def counted(sync: SyncSummary) -> dict[str, Any]:
    """A clip's counts by the names of the report."""
    counts = asdict(sync)
    return {"spurious_onsets": counts.pop("spurious"), **counts}


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
    """Counts over the clips, shares of contacts, onsets and objects, F1, median error of pairs in 125 ms."""
    right = summed(rows, RIGHT)
    objects = sum(len(row["objects"]) for row in rows)
    shares = {key: share(number, objects) for key, number in right.items()}
    return {"clips": len(rows), "objects": objects, **synchrony(rows), **shares}


def synchrony(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Contacts against onsets over the clips. Recall says little without the spurious share or F1."""
    found = summed(rows, ("contacts", "onsets", "matched_62ms", "matched_125ms", "spurious_onsets"))
    errors = [error for row in rows for error in row["errors_ms"]]
    return {
        **found,
        "matched_62ms_share": share(found["matched_62ms"], found["contacts"]),
        "matched_125ms_share": share(found["matched_125ms"], found["contacts"]),
        "spurious_share": share(found["spurious_onsets"], found["onsets"]),
        "f1_62ms": rounded(f1(found["matched_62ms"], found["contacts"], found["onsets"])),
        "sync_error_ms_median": round(statistics.median(errors), 2) if errors else None,
    }


def by_objects(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Totals and chance of the clips with one object and of those with two, where both were asked for."""
    single = [row for row in rows if len(row["objects"]) == 1]
    double = [row for row in rows if len(row["objects"]) == 2]
    if not (single and double):
        return {}
    groups = {"objects_1": single, "objects_2": double}
    return {name: {**total(group), "chance": chance(group)} for name, group in groups.items()}


def against_given(task: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For v2a and a2v, generated events against the true ones of the given stream, also of a lost object."""
    return true_events(rows, GENERATED[task]) if task in GENERATED else {}


def true_events(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Recall, precision and F1 of the contacts (those of each object by themselves) or onsets found."""
    true = sum(len(thing["true_contacts_s"]) for row in rows for thing in row["objects"])
    found = sum(row[name] for row in rows)
    matched = sum(row[f"{name}_true"] for row in rows)
    return {
        f"{name}_recall": share(matched, true),
        f"{name}_precision": share(matched, found),
        f"{name}_f1": rounded(f1(matched, true, found)),
    }


def chance(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The floor: contacts of each clip against the onsets of the next, which know nothing of each other.

    It rises with the number of events, so clips of one object and of two have their own (`by_objects`).
    """
    others = [*rows[1:], *rows[:1]]
    pairs = list(zip(rows, others, strict=True)) if len(rows) > 1 else []
    return synchrony([counted(summarise_sync(row["contacts_s"], other["onsets_s"])) for row, other in pairs])


def share(part: int, whole: int) -> float | None:
    return rounded(part / whole) if whole else None


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
