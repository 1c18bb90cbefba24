"""The report of many clips: every column with its interval, ceilings and chance; two reports compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ...metrics.matching import WIDE
from .clip import Clip, Object
from .judge import Onset, Seen
from .score import COLUMNS, FAULTS, MAKES, TIMED, Counts, Found, count
from .sounds import SILENT, SOUNDS

RESAMPLED = 2000
INTERVAL = (0.025, 0.975)

# What a finished model must reach; in FAULTS stay under.
GOALS = {
    "f1_62ms": {"t2av": 0.95, "v2a": 0.95, "a2v": 0.9},
    "bound_right": dict.fromkeys(MAKES, 0.95),
    "objects_lost": dict.fromkeys(MAKES, 0.02),
    "distractors_silent": dict.fromkeys(MAKES, 0.95),
    "offscreen_kept": dict.fromkeys(MAKES, 0.95),
}

Row = dict[str, Any]


def is_coincident(clip: Clip) -> bool:
    """Whether objects hit so close together that neither time tells whose sound it is."""
    events = sorted((time, k) for k, thing in enumerate(clip.objects) for time in thing.contacts)
    return any(later - earlier <= WIDE and i != k for (earlier, i), (later, k) in pairwise(events))


def same_motion(clip: Clip) -> bool:
    return len(clip.objects) > len({thing.motion for thing in clip.objects})


def has_distractor(clip: Clip) -> bool:
    return any(thing.sound == SILENT for thing in clip.objects)


# What makes a clip hard; each is a row of its own too.
DIFFICULTIES: dict[str, Callable[[Clip], bool]] = {
    "coincident": is_coincident,
    "same_motion": same_motion,
    "distractor": has_distractor,
    "offscreen": lambda clip: bool(clip.offscreen),
    "bed": lambda clip: clip.bed > 0,
}
GROUPS = ("easy", "hard", "objects_1", "objects_2", *DIFFICULTIES)


def groups_of(clip: Clip) -> list[str]:
    hard = [name for name, holds in DIFFICULTIES.items() if holds(clip)]
    return ["hard" if hard else "easy", f"objects_{len(clip.objects)}", *hard]


def make_rows(
    task: str,
    clips: Sequence[Clip],
    answers: Sequence[Found],
    world: Sequence[Found],
    vae: Sequence[Found],
) -> list[Row]:
    """Every clip with its counts: of the answer, of both ceilings, and of chance."""
    partners = [partner(clips, i) for i in range(len(clips))]
    rows = []
    for i, (clip, answer, j) in enumerate(zip(clips, answers, partners, strict=True)):
        counts = {
            name: count(clip, found[i], task)
            for name, found in (("answer", answers), ("world", world), ("vae", vae))
        }
        if j is not None:
            counts["chance"] = by_chance(task, clip, answer, clips[j], answers[j])
        rows.append(
            {"caption": clip.caption, "groups": groups_of(clip), "counts": counts, **facts(clip, answer)}
        )
    return rows


def facts(clip: Clip, found: Found) -> Row:
    """What was asked, seen and heard, for a reader of the report."""
    outside = [[sound.sound, list(sound.onsets)] for sound in clip.offscreen]
    return {
        "objects": [facts_of(*pair) for pair in zip(clip.objects, found.seen, strict=True)],
        "offscreen": outside,
        "onsets": [[round(onset.time, 4), onset.sound] for onset in found.onsets],
    }


def facts_of(asked: Object, seen: Seen) -> Row:
    return {
        "asked": [asked.colour, asked.shape, asked.motion, asked.sound],
        "seen": [seen.colour, seen.motion],
        "true_contacts_s": list(asked.contacts),
        "contacts_s": [round(time, 4) for time in seen.contacts],
    }


def partner(clips: Sequence[Clip], i: int) -> int | None:
    """The next clip with as many objects, from the first again after the last."""
    others = [j % len(clips) for j in range(i + 1, i + len(clips))]
    return next((j for j in others if len(clips[j].objects) == len(clips[i].objects)), None)


def by_chance(task: str, clip: Clip, answer: Found, other: Clip, others: Found) -> Counts:
    """The floor: another clip's answer, which knows nothing of this one.

    Its times count with the sounds renamed to those asked here, so that the rhythm alone decides; its words
    count as they are.
    """
    audio = MAKES[task][1]
    timed = Found(
        seen=answer.seen if audio else others.seen,
        onsets=renamed(others.onsets, sounds_of(other), sounds_of(clip)),
        seconds=answer.seconds,
    )
    times = count(clip, timed, task)
    words = count(clip, others, task)
    return {name: (times if name in TIMED else words)[name] for name in COLUMNS}


def sounds_of(clip: Clip) -> list[str]:
    """All sounds of the world, those of the objects first, then those off screen."""
    asked = [*(thing.sound for thing in clip.objects), *(sound.sound for sound in clip.offscreen)]
    return list(dict.fromkeys(name for name in (*asked, *SOUNDS) if name != SILENT))


def renamed(onsets: Sequence[Onset], old: Sequence[str], new: Sequence[str]) -> tuple[Onset, ...]:
    names = dict(zip(old, new, strict=True))
    return tuple(Onset(onset.time, names.get(onset.sound, onset.sound)) for onset in onsets)


def tabulate(rows: Sequence[Row]) -> dict[str, Row]:
    """Every column: its value and interval, of how many, with ceilings and chance beside."""
    return {name: column(rows, name) for name in COLUMNS}


def column(rows: Sequence[Row], name: str) -> Row:
    parts, wholes = tallies(rows, "answer", name)
    drawn = ratios(parts, wholes)
    beside = {kind: ratio(*tallies(rows, kind, name)) for kind in ("world", "vae", "chance")}
    return {
        "value": ratio(parts, wholes),
        "interval": interval(drawn),
        "of": int(wholes.sum()),
        "ceiling": {"world": beside["world"], "vae": beside["vae"]},
        "chance": beside["chance"],
    }


def tallies(rows: Sequence[Row], kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Parts and wholes of one column, clip by clip, each (n,); a clip without chance counts 0 of 0."""
    pairs = [row["counts"].get(kind, {}).get(name, (0, 0)) for row in rows]
    parts, wholes = np.array(pairs, dtype=float).reshape(-1, 2).T
    return parts, wholes


def ratio(parts: np.ndarray, wholes: np.ndarray) -> float | None:
    return round(float(parts.sum() / wholes.sum()), 4) if wholes.sum() else None


def ratios(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """The column over clips drawn again; (RESAMPLED,)."""
    drawn = drawn_again(len(parts))
    whole = wholes[drawn].sum(1)
    return np.divide(parts[drawn].sum(1), whole, out=np.full(RESAMPLED, np.nan), where=whole > 0)


def drawn_again(clips: int) -> np.ndarray:
    """Clips drawn with replacement, always the same for as many; (RESAMPLED, clips)."""
    return np.random.default_rng(0).integers(clips, size=(RESAMPLED, clips))


def interval(drawn: np.ndarray) -> list[float] | None:
    """The middle 95 %."""
    known = drawn[~np.isnan(drawn)]
    return [round(float(value), 4) for value in np.quantile(known, INTERVAL)] if len(known) else None


def by_group(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """The columns of each subset that has clips."""
    groups = ((name, in_group(rows, name)) for name in GROUPS)
    return {name: {"clips": len(some), **tabulate(some)} for name, some in groups if some}


def in_group(rows: Sequence[Row], name: str) -> list[Row]:
    return [row for row in rows if name in row["groups"]]


def goals(task: str, total: dict[str, Row]) -> dict[str, Row]:
    """Every goal with the value reached and whether it is enough; what no clip asked for is left out."""
    reached = {name: total[name]["value"] for name in GOALS}
    return {
        name: {"value": value, "goal": GOALS[name][task], "met": is_enough(name, value, GOALS[name][task])}
        for name, value in reached.items()
        if value is not None
    }


def is_enough(name: str, value: float, goal: float) -> bool:
    return value <= goal if name in FAULTS else value >= goal


def compare(mine: Sequence[Row], theirs: Sequence[Row]) -> dict[str, Row]:
    """By column, how much better the first report is than the second: the interval of the paired difference.

    The verdict is "better" or "worse" where the interval does not hold 0, "perfect" where neither has a
    fault, else "undecided". ValueError unless both asked the same captions.
    """
    for number, (a, b) in enumerate(zip(mine, theirs, strict=False)):
        if a["caption"] != b["caption"]:
            raise ValueError(
                f"clip {number} asks {a['caption']!r} here and {b['caption']!r} there: "
                "measure both checkpoints with the same --clips, --seed, --objects, --world and --unseen-by"
            )
    if len(mine) != len(theirs):
        raise ValueError(
            f"{len(mine)} clips here and {len(theirs)} there: measure both with the same --clips"
        )
    return {name: difference(name, mine, theirs) for name in COLUMNS}


def difference(name: str, mine: Sequence[Row], theirs: Sequence[Row]) -> Row:
    sign = -1 if name in FAULTS else 1
    values = [ratio(*tallies(rows, "answer", name)) for rows in (mine, theirs)]
    drawn = [ratios(*tallies(rows, "answer", name)) for rows in (mine, theirs)]
    found = interval(sign * (drawn[0] - drawn[1]))
    return {
        "here": values[0],
        "there": values[1],
        "better_by": found,
        "verdict": verdict(name, values, found),
    }


def verdict(name: str, values: Sequence[float | None], found: Sequence[float] | None) -> str:
    if found is None:
        return "not asked"
    if set(values) == {0.0 if name in FAULTS else 1.0}:
        return "perfect"
    return "better" if found[0] > 0 else "worse" if found[1] < 0 else "undecided"
