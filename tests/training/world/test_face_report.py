"""The report of talking clips: columns, ceilings and goals, and cheats that only some columns refuse."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ccl_pack.ccl_core.training.world import face_report as report
from ccl_pack.ccl_core.training.world.face import FaceClip
from ccl_pack.ccl_core.training.world.face_cheats import CHEATS
from ccl_pack.ccl_core.training.world.face_judge import FaceJudgement, vowels_of
from ccl_pack.ccl_core.training.world.face_score import TASKS, FoundFace
from ccl_pack.ccl_core.training.world.report import Row
from support import faces

ASKED = (
    "lag_ms_p90",
    "lag_right",
    "envelope_correlation",
    "envelope_ceiling",
    "visemes_right",
    "viseme_ceiling",
    "words_right",
    "identity_right",
    "pitch_right",
    "prefix_exact",
)


def clips() -> list[FaceClip]:
    return list(faces.drawn()) * 3


def right(clip: FaceClip) -> FoundFace:
    vowels = vowels_of(clip.transcript)
    judged = FaceJudgement(vowels, vowels, vowels, -4.0, 0.8, clip.identity.voice.pitch)
    return FoundFace(clip.place, clip.identity.looks, judged, judged)


def with_made(found: FoundFace, **changed: object) -> FoundFace:
    judged = replace(found.made, **changed)
    return replace(found, whole=judged, made=judged)


def shut(found: FoundFace) -> FoundFace:
    return with_made(found, shown=("",) * len(found.made.shown), lag=None, correlation=0.0)


def in_one_shape(found: FoundFace) -> FoundFace:
    return with_made(found, shown=("x",) * len(found.made.shown))


def deaf_to_words(found: FoundFace) -> FoundFace:
    return with_made(found, heard=("x",) * len(found.made.heard))


def rows_of(task: str = "reference", **others: list[FoundFace]) -> list[Row]:
    true = [right(clip) for clip in clips()]
    found = {"answer": true, "world": true, "vae": true, **others}
    return report.make_rows(TASKS[task], clips(), found, {})


def test_every_column_that_was_asked_for_is_there_by_clip_and_in_total() -> None:
    rows = rows_of()
    total = report.tabulate(rows)
    assert set(ASKED) <= set(total) and all(set(ASKED) <= set(row) for row in rows)
    for name, row in total.items():
        low, high = row["interval"] or (0, 0)
        assert low <= (row["value"] or 0) <= high, name
    assert set(total["lag_right"]["ceiling"]) == {"world", "vae"} and not total["viseme_ceiling"]["ceiling"]
    assert total["lag_ms_p90"]["value"] == 0 and total["words_right"]["value"] == 1
    assert total["prefix_exact"]["value"] is None and rows[0]["prefix_exact"] is None
    json.dumps(report.by_group(rows) | total)


def test_nine_of_ten_lags_are_within_the_value_told() -> None:
    late = [with_made(right(clip), lag=-4.0 + 10 * i) for i, clip in enumerate(clips())]
    total = report.tabulate(rows_of(answer=late))
    assert total["lag_ms_p90"]["value"] == pytest.approx(0.9 * 230, abs=0.1)
    low, high = total["lag_ms_p90"]["interval"]
    assert 150 < low < 207 < high <= 230
    # Of 0, 10, 20, 30 and 40 ms.
    assert total["lag_right"]["value"] == pytest.approx(5 / 24, abs=1e-4)


def test_a_prefix_counts_where_it_was_kept() -> None:
    true = [right(clip) for clip in clips()]
    found = {"answer": true, "world": true, "vae": true}
    exact = {"answer": [i > 0 for i in range(len(true))]}
    total = report.tabulate(report.make_rows(TASKS["continuation"], clips(), found, exact))
    assert total["prefix_exact"]["value"] == pytest.approx(23 / 24, abs=1e-4)
    assert not report.goals("continuation", total)["prefix_exact"]["met"]


def test_a_ceiling_is_what_the_vaes_leave() -> None:
    coded = [with_made(right(clip), correlation=0.5) for clip in clips()]
    total = report.tabulate(rows_of(vae=coded))
    assert total["envelope_ceiling"]["value"] == total["envelope_correlation"]["ceiling"]["vae"] == 0.5
    assert total["envelope_correlation"]["ceiling"]["world"] == 0.8
    # More than the ceiling is too much: a mouth that follows the loudness alone has that.
    found = report.goals("joint", total)["envelope_correlation_of_ceiling"]
    assert (found["value"], found["met"]) == (1.6, False)


def test_a_cheat_is_left_behind_in_the_columns_that_refuse_it() -> None:
    true = [right(clip) for clip in clips()]
    kinds = {"constant": shut, "one shape": in_one_shape, "other words": deaf_to_words}
    cheats = {kind: list(map(cheat, true)) for kind, cheat in kinds.items()}
    found = report.against(rows_of(**cheats))
    assert set(found) == set(kinds) and all(row["beyond"] for row in found.values())
    assert set(found["constant"]["columns"]) == {"lag_right", "envelope_correlation", "visemes_right"}
    for kind, some in cheats.items():
        again = report.against(rows_of(answer=some, **cheats))
        assert not again[kind]["beyond"], kind


def test_without_coupling_the_lag_has_to_be_worse() -> None:
    true = [right(clip) for clip in clips()]
    drifting = [with_made(one, lag=100.0) for one in true]
    for some, beyond in ((drifting, True), (true, False)):
        found = report.against(rows_of(uncoupled=some))["uncoupled"]
        assert found["beyond"] is beyond and set(found["columns"]) == {"lag_right"}


def test_every_cheat_is_refused_by_some_column() -> None:
    assert set(report.REFUSED_BY) == set(CHEATS)
    assert all(set(names) <= set(report.COLUMNS) for names in report.REFUSED_BY.values())


@pytest.mark.parametrize("task", TASKS)
def test_a_task_that_is_perfect_meets_its_goals(task: str) -> None:
    true = [replace(right(clip), smooth=True if TASKS[task].kept else None) for clip in clips()]
    exact = {"answer": [True] * len(true)} if TASKS[task].kept else {}
    found = {"answer": true, "world": true, "vae": true}
    goals = report.goals(task, report.tabulate(report.make_rows(TASKS[task], clips(), found, exact)))
    assert all(row["met"] for row in goals.values()) and len(goals) >= 4


def test_groups_tell_clips_of_one_face_and_two_apart() -> None:
    groups = report.by_group(rows_of())
    assert groups["faces_1"]["clips"] + groups["faces_2"]["clips"] == len(clips())
