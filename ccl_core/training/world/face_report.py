"""The report of talking clips: columns with intervals and ceilings, and whether each cheat is left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .face import FaceClip
from .face_score import COLUMNS, TASKS, FaceTask, FoundFace, count, lag_of, late_by, seen_of
from .report import Row, drawn_again, in_group, interval, ratio, ratios, tallies, verdict

ANSWER = "answer"
WORLD = "world"
CODED = "vae"
UNCOUPLED = "uncoupled"
CEILINGS = (WORLD, CODED)
# The quantile of the lag's size that nine of ten clips stay within.
LAG = "lag_ms_p90"
# Columns of the round trip through the VAEs, beside those of the answer.
BESIDE = {"envelope_ceiling": "envelope_correlation", "viseme_ceiling": "visemes_right"}
TOTAL = (LAG, *COLUMNS, *BESIDE)
# The columns that refuse a cheat.
REFUSED_BY = {
    "other clip": ("lag_right", "envelope_correlation", "visemes_right"),
    "other words": ("visemes_right", "words_right"),
    "one shape": ("visemes_right",),
    "constant": ("lag_right", "envelope_correlation", "visemes_right"),
    "metronome": ("lag_right", "envelope_correlation", "visemes_right"),
    "late": ("lag_right", "visemes_right"),
}
# What a finished model must reach, by task; of envelope and visemes parts of their ceilings.
GOALS: dict[str, dict[str, float]] = {
    "lag_right": {**dict.fromkeys(TASKS, 0.95), "joint": 0.9},
    "words_right": dict.fromkeys(("joint", "reference", "dubbing"), 0.9),
    "identity_right": dict.fromkeys(("joint", "reference", "continuation", "driven"), 0.95),
    "pitch_right": dict.fromkeys(("reference", "continuation"), 0.9),
    "prefix_exact": {"continuation": 1.0},
    "seam_smooth": {"continuation": 1.0},
}
SHARES = {"envelope_correlation": (0.9, 1.1), "visemes_right": (0.85, np.inf)}

Found = Mapping[str, Sequence[FoundFace]]


def make_rows(
    task: FaceTask, clips: Sequence[FaceClip], found: Found, exact: Mapping[str, Sequence[bool]]
) -> list[Row]:
    """Every clip with its counts and lags by kind: the answer, ceilings, cheats, without coupling.

    exact: of kinds that were generated behind a prefix, whether it came back to the bit.
    """
    usual = late_by(found[WORLD])
    return [row_of(task, clip, i, found, exact, usual) for i, clip in enumerate(clips)]


def row_of(
    task: FaceTask,
    clip: FaceClip,
    i: int,
    found: Found,
    exact: Mapping[str, Sequence[bool]],
    usual: float,
) -> Row:
    counts = {}
    for kind, some in found.items():
        kept = exact[kind][i] if kind in exact else None
        counts[kind] = count(clip, some[i], task, usual, kept)
    for beside, name in BESIDE.items():
        counts[ANSWER][beside] = counts[CODED][name]
    lags = {kind: round(lag_of(some[i], usual), 1) for kind, some in found.items()}
    return {**facts(clip, found[ANSWER][i]), **values_of(counts[ANSWER], lags[ANSWER])} | {
        "groups": groups_of(clip),
        "counts": counts,
        "lags": lags,
    }


def values_of(counts: Mapping[str, tuple[float, int]], lag: float) -> Row:
    """The columns of one clip as plain values, None where nothing is asked."""
    shares = {name: round(part / whole, 4) if whole else None for name, (part, whole) in counts.items()}
    return {LAG: abs(lag), **shares}


def facts(clip: FaceClip, found: FoundFace) -> Row:
    """What was asked, seen and heard, for a reader of the report."""
    place = found.place
    return {
        "words": clip.transcript,
        "heard": "".join(found.whole.heard),
        "shown": "".join(vowel or "-" for vowel in found.whole.shown),
        "pitch_hz": [round(clip.identity.voice.pitch, 1), found.made.pitch and round(found.made.pitch, 1)],
        "place": [round(value, 2) for value in (place.x, place.y, place.size)],
        "wrong": [name for name, right in seen_of(clip, found).items() if not right],
    }


def groups_of(clip: FaceClip) -> list[str]:
    words = len(clip.transcript.split())
    return ["faces_1" if clip.beside is None else "faces_2", f"words_{words}"]


def drawn_values(rows: Sequence[Row], kind: str, name: str) -> tuple[float | None, np.ndarray]:
    """A column of a kind: its value, and its values over clips drawn again."""
    if name == LAG:
        lags = np.abs([row["lags"][kind] for row in rows])
        return round(float(np.quantile(lags, 0.9)), 1), np.quantile(lags[drawn_again(len(lags))], 0.9, axis=1)
    pairs = tallies(rows, kind, name)
    return ratio(*pairs), ratios(*pairs)


def tabulate(rows: Sequence[Row]) -> dict[str, Row]:
    """Every column: its value and interval, of how many, with the ceilings beside."""
    return {name: column(rows, name) for name in TOTAL}


def column(rows: Sequence[Row], name: str) -> Row:
    value, drawn = drawn_values(rows, ANSWER, name)
    whole = len(rows) if name == LAG else int(tallies(rows, ANSWER, name)[1].sum())
    # Of a ceiling itself there is none.
    ceilings = () if name in BESIDE else CEILINGS
    return {
        "value": value,
        "interval": interval(drawn),
        "of": whole,
        "ceiling": {kind: drawn_values(rows, kind, name)[0] for kind in ceilings},
    }


def by_kind(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The values of everything that stands beside the answer: ceilings, cheats, without coupling."""
    return {kind: values_of_kind(rows, kind) for kind in rows[0]["counts"] if kind != ANSWER}


def values_of_kind(rows: Sequence[Row], kind: str) -> dict[str, float | None]:
    return {name: drawn_values(rows, kind, name)[0] for name in (LAG, *COLUMNS)}


def by_group(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The columns of each subset of the clips."""
    names = sorted({name for row in rows for name in row["groups"]})
    groups = ((name, in_group(rows, name)) for name in names)
    return {name: {"clips": len(some), **tabulate(some)} for name, some in groups}


def against(rows: Sequence[Row]) -> dict[str, Row]:
    """Whether the answers are beyond each cheat: in every column that refuses it, by more than the interval.

    Without coupling, the lag decides.
    """
    kinds = REFUSED_BY | {UNCOUPLED: ("lag_right",)}
    return {kind: beyond(rows, kind, names) for kind, names in kinds.items() if kind in rows[0]["counts"]}


def beyond(rows: Sequence[Row], kind: str, names: Sequence[str]) -> Row:
    compared = {name: better_by(rows, kind, name) for name in names}
    asked = [found["verdict"] for found in compared.values() if found["verdict"] != "not asked"]
    return {"beyond": all(word == "better" for word in asked), "columns": compared}


def better_by(rows: Sequence[Row], kind: str, name: str) -> Row:
    """By how much the answers are better in a column, over the same clips drawn again."""
    (here, mine), (there, theirs) = (drawn_values(rows, which, name) for which in (ANSWER, kind))
    found = interval(mine - theirs)
    return {"here": here, "there": there, "better_by": found, "verdict": verdict(name, (here, there), found)}


def goals(task: str, total: Mapping[str, Row]) -> dict[str, Row]:
    """Every goal of a task with the value that was reached, and whether it is enough."""
    reached = {
        name: {"value": total[name]["value"], "goal": by_task[task]}
        for name, by_task in GOALS.items()
        if task in by_task and total[name]["value"] is not None
    }
    plain = {name: {**row, "met": row["value"] >= row["goal"]} for name, row in reached.items()}
    return plain | {f"{name}_of_ceiling": share(total, name, *ends) for name, ends in SHARES.items()}


def share(total: Mapping[str, Row], name: str, least: float, most: float) -> Row:
    """A column over its ceiling, the round trip through the VAEs."""
    value, ceiling = total[name]["value"], total[name]["ceiling"][CODED]
    part = round(value / ceiling, 4) if value is not None and ceiling else None
    goal = [least, most] if np.isfinite(most) else least
    return {"value": part, "goal": goal, "met": part is not None and least <= part <= most}
