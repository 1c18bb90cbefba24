"""A talking clip is counted by what a task asks, behind a prefix by what was made; its seam is looked at."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from ccl_pack.ccl_core.training.world import face_score as score
from ccl_pack.ccl_core.training.world.evaluate import Result
from ccl_pack.ccl_core.training.world.face import FaceClip
from ccl_pack.ccl_core.training.world.face_cheats import CHEATS
from ccl_pack.ccl_core.training.world.face_looks import ATTRIBUTES
from ccl_pack.ccl_core.training.world.sounds import SAMPLE_RATE
from support import faces

NUMBERS = range(4)
ASKED = {
    "joint": {"words", "identity"},
    "reference": {"words", "identity", "pitch"},
    "continuation": {"words", "identity", "pitch"},
    "dubbing": {"words"},
    "driven": {"identity"},
}


def truth(clip: FaceClip) -> Result:
    return Result(faces.pictures(clip), torch.from_numpy(clip.waveform), SAMPLE_RATE)


@cache
def found(number: int, kept: int = 0) -> score.FoundFace:
    clip = faces.drawn()[number]
    return score.find(clip, truth(clip), faces.FPS, kept)


def counted(number: int, task: str) -> score.Counts:
    clip, asks = faces.drawn()[number], score.TASKS[task]
    some = found(number, asks.kept)
    return score.count(clip, some, asks, score.late_by([some]), True if asks.kept else None)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_true_clip_is_right_in_every_column(number: int) -> None:
    for name, (part, whole) in counted(number, "reference").items():
        if name not in ("prefix_exact", "seam_smooth"):
            assert whole > 0 and part > 0.7 * whole, name


@pytest.mark.parametrize("task", score.TASKS)
def test_a_task_is_asked_what_it_makes(task: str) -> None:
    assert set(ASKED) == set(score.TASKS)
    columns = counted(0, task)
    assert tuple(columns) == score.COLUMNS
    for name in ("words", "identity", "pitch"):
        assert (columns[f"{name}_right"][1] > 0) is (name in ASKED[task]), name
    assert all(columns[name][1] for name in ("lag_right", "envelope_correlation", "visemes_right"))
    behind = task == "continuation"
    assert (columns["prefix_exact"][1] > 0) is (columns["seam_smooth"][1] > 0) is behind
    attributes = {columns[f"{name}_right"][1] for name in ATTRIBUTES}
    assert attributes == {int("identity" in ASKED[task])}


def test_a_voice_that_is_heard_is_asked_for() -> None:
    dubbing = replace(score.TASKS["dubbing"], voice=True)
    assert dubbing.pitched and not score.TASKS["dubbing"].pitched and not score.TASKS["driven"].pitched


def test_the_face_of_another_person_is_wrong_and_so_are_other_words() -> None:
    one, other = faces.drawn()[:2]
    mixed = score.find(one, truth(other), faces.FPS)
    columns = score.count(one, mixed, score.TASKS["reference"], 0.0)
    assert columns["identity_right"] == (0, 1) and columns["words_right"] == (0, 1)


def test_a_lag_counts_beside_that_of_true_clips() -> None:
    clip = faces.drawn()[0]
    some = found(0)
    late = score.find(clip, truth(CHEATS["late"](np.random.default_rng(0), clip, faces.FPS)), faces.FPS)
    usual = score.late_by([some])
    assert score.lag_of(some, usual) == 0 and score.lag_of(late, usual) == pytest.approx(80, abs=16)
    task = score.TASKS["joint"]
    assert [score.count(clip, one, task, usual)["lag_right"] for one in (some, late)] == [(1, 1), (0, 1)]
    steady = replace(some, made=replace(some.made, lag=None))
    assert score.lag_of(steady, usual) == score.LAG_FAR and score.late_by([steady]) == 0


def said_behind(clip: FaceClip) -> tuple[str, ...]:
    seam = score.KEPT / faces.FPS
    return tuple(said.vowel for said in clip.syllables if score.middle(said) >= seam)


def test_behind_a_prefix_only_what_was_made_counts() -> None:
    number = next(
        i for i, clip in enumerate(faces.drawn()) if 1 <= len(said_behind(clip)) < len(clip.syllables)
    )
    clip = faces.drawn()[number]
    some = found(number, score.KEPT)
    assert some.made.asked == some.made.heard == some.made.shown == said_behind(clip)
    assert some.whole.asked == tuple(said.vowel for said in clip.syllables)
    begun = truth(clip)
    begun.frames[: score.KEPT] = 0
    assert score.find(clip, begun, faces.FPS, score.KEPT).made == some.made


def test_a_true_clip_has_no_seam_and_two_joined_ones_have() -> None:
    one, other = faces.drawn()[:2]
    assert found(0, score.KEPT).smooth and found(0).smooth is None
    jump = truth(one)
    jump.frames[score.KEPT :] = faces.pictures(other)[score.KEPT :]
    assert not score.is_smooth(jump, faces.FPS, score.KEPT)
    click = truth(one)
    seam = round(score.KEPT / faces.FPS * SAMPLE_RATE)
    click.waveform[seam : seam + 8] += 1
    assert not score.is_smooth(click, faces.FPS, score.KEPT)


def test_a_part_is_usual_when_it_is_no_greater_than_the_rest() -> None:
    values = torch.tensor([1.0, 5.0, 2.0, 3.0])
    assert score.is_usual(values, 2, 4) and not score.is_usual(values, 1, 2)
