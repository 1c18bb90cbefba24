"""Columns are parts of wholes, with intervals, ceilings and chance; two reports are compared clip by clip."""

from itertools import islice

import numpy as np
import pytest
import torch

from ccl_pack.ccl_core.training.world import report
from ccl_pack.ccl_core.training.world.clip import Clip
from ccl_pack.ccl_core.training.world.diversity import spread, world_spread
from ccl_pack.ccl_core.training.world.judge import Onset, Seen
from ccl_pack.ccl_core.training.world.scene import clips
from ccl_pack.ccl_core.training.world.score import COLUMNS, MAKES, Found, true_onsets
from ccl_pack.ccl_core.training.world.shares import HARD


def perfect(clip: Clip) -> Found:
    seen = tuple(Seen(thing.colour, thing.motion, thing.contacts) for thing in clip.objects)
    return Found(seen, true_onsets(clip), len(clip.frames) / 16)


def deaf(clip: Clip) -> Found:
    return Found(perfect(clip).seen, (), len(clip.frames) / 16)


@pytest.fixture(scope="module")
def drawn() -> list[Clip]:
    return list(islice(clips(7, frames=33, size=16, world=HARD), 40))


@pytest.fixture(scope="module")
def rows(drawn: list[Clip]) -> list[report.Row]:
    found = [perfect(clip) for clip in drawn]
    half = [deaf(clip) if i % 2 else right for i, (clip, right) in enumerate(zip(drawn, found, strict=True))]
    return report.make_rows("v2a", drawn, half, found, found)


def test_the_total_has_every_column_with_ceilings_and_chance(rows: list[report.Row]) -> None:
    total = report.tabulate(rows)
    assert tuple(total) == COLUMNS
    assert COLUMNS == (
        "f1_62ms",
        "spurious",
        "bound_right",
        "objects_lost",
        "distractors_silent",
        "offscreen_kept",
        "colour_right",
        "motion_right",
        "sound_right",
    )
    for name, column in total.items():
        low, high = column["interval"] or (0, 0)
        assert low <= (column["value"] or 0) <= high and set(column["ceiling"]) == {"world", "vae"}, name
    # The video is given.
    assert total["colour_right"]["value"] is total["motion_right"]["value"] is None
    sync = total["f1_62ms"]
    assert sync["ceiling"] == {"world": 1, "vae": 1} and 0.5 < sync["value"] < 0.8 and sync["chance"] < 0.4
    assert total["objects_lost"]["ceiling"]["world"] == 0 and total["objects_lost"]["value"] > 0.3
    assert total["distractors_silent"]["of"] == sum("distractor" in row["groups"] for row in rows)


@pytest.mark.parametrize("task", MAKES)
def test_chance_is_another_clips_rhythm_with_the_sounds_asked(task: str, drawn: list[Clip]) -> None:
    found = [perfect(clip) for clip in drawn]
    total = report.tabulate(report.make_rows(task, drawn, found, found, found))
    assert 0.05 < total["f1_62ms"]["chance"] < 0.4 and total["objects_lost"]["chance"] > 0.5
    assert total["f1_62ms"]["value"] == total["bound_right"]["value"] == 1
    given = {"t2av": set(), "v2a": {"colour_right", "motion_right"}, "a2v": {"sound_right", "offscreen_kept"}}
    assert {name for name, column in total.items() if column["of"] == 0} == given[task]
    one = report.tabulate(report.make_rows(task, drawn[:1], found[:1], found[:1], found[:1]))
    assert one["f1_62ms"]["chance"] is None


def test_sounds_are_renamed_in_the_order_of_the_objects(drawn: list[Clip]) -> None:
    heard = (Onset(0.5, "bell"), Onset(0.7, "drum"), Onset(0.8, "other"))
    old, new = ["bell", "drum", "click"], ["drum", "horn", "bell"]
    assert [onset.sound for onset in report.renamed(heard, old, new)] == ["drum", "horn", "other"]
    for clip in drawn:
        assert len(report.sounds_of(clip)) == 5 == len(set(report.sounds_of(clip)))


def test_the_interval_is_as_wide_as_the_binomial_one() -> None:
    parts = np.repeat([1.0, 0.0], [80, 20])
    low, high = report.interval(report.ratios(parts, np.ones(100)))
    # 1.96 standard errors of a share of .8 in 100.
    assert (low, high) == pytest.approx((0.8 - 0.0784, 0.8 + 0.0784), abs=0.015)
    assert report.interval(report.ratios(np.zeros(3), np.zeros(3))) is None


def test_rows_are_of_the_clips_they_name(rows: list[report.Row], drawn: list[Clip]) -> None:
    groups = report.by_group(rows)
    assert set(groups) == set(report.GROUPS)
    assert groups["easy"]["clips"] + groups["hard"]["clips"] == len(drawn)
    assert groups["objects_1"]["clips"] + groups["objects_2"]["clips"] == len(drawn)
    assert groups["offscreen"]["clips"] == sum(bool(clip.offscreen) for clip in drawn)
    assert groups["offscreen"]["offscreen_kept"]["ceiling"]["world"] == 1
    assert report.by_group([]) == {}


def test_a_goal_is_met_exactly_at_its_value() -> None:
    total = {name: {"value": goal["t2av"]} for name, goal in report.GOALS.items()}
    assert all(goal["met"] for goal in report.goals("t2av", total).values())
    worse = {name: {"value": 0.5} for name in total}
    assert not any(goal["met"] for goal in report.goals("t2av", worse).values())
    assert "offscreen_kept" not in report.goals("t2av", total | {"offscreen_kept": {"value": None}})


def test_a_report_is_better_where_the_paired_interval_is_above_nothing(drawn: list[Clip]) -> None:
    right = [perfect(clip) for clip in drawn]
    without = [deaf(clip) for clip in drawn]
    good, bad = (report.make_rows("v2a", drawn, found, right, right) for found in (right, without))
    found = report.compare(good, bad)
    verdicts = {name: row["verdict"] for name, row in found.items()}
    better = {"f1_62ms", "bound_right", "objects_lost", "offscreen_kept", "sound_right"}
    assert {name for name, verdict in verdicts.items() if verdict == "better"} == better
    # The silent clips have no onset, of which a share could be spurious.
    assert verdicts["spurious"] == "not asked" and verdicts["colour_right"] == "not asked"
    assert verdicts["distractors_silent"] == "perfect"
    turned = report.compare(bad, good)
    assert {name for name, row in turned.items() if row["verdict"] == "worse"} == better
    assert turned["f1_62ms"]["better_by"] == [-value for value in found["f1_62ms"]["better_by"][::-1]]


def test_reports_on_other_captions_are_not_compared(rows: list[report.Row]) -> None:
    with pytest.raises(ValueError, match=r"clip 0 asks .* measure both checkpoints with the same --clips"):
        report.compare(rows, rows[1:])
    with pytest.raises(ValueError, match="40 clips here and 39 there"):
        report.compare(rows, rows[:-1])


def test_answers_that_are_alike_have_no_spread_and_the_world_has_some(drawn: list[Clip]) -> None:
    assert spread([(0.2, 0.8), (0.2, 0.8), (0.2, 0.8)]) == 0
    # A tenth of a second later, with a period two tenths longer.
    assert spread([(0.2, 0.8), (0.3, 1.1)]) == pytest.approx(0.3)
    assert spread([(0.2, 0.8), (0.4,), ()]) is None
    assert 0.1 < world_spread(drawn[0], 16) < 0.8
    assert world_spread(drawn[0], 16) == world_spread(drawn[0], 16)


def test_hits_within_two_frames_of_each_other_are_coincident(drawn: list[Clip]) -> None:
    for clip in drawn:
        times = [torch.tensor(thing.contacts) for thing in clip.objects]
        close = len(times) == 2 and bool(((times[0][:, None] - times[1]).abs() <= 0.125).any())
        assert report.is_coincident(clip) == close
