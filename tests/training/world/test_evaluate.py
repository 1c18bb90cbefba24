"""What is asked is held out, and the counts of ccl-tiny's answers add up."""

from itertools import product

import numpy as np
import pytest
import torch

from ccl_pack.ccl_core.training.world import evaluate
from ccl_pack.ccl_core.training.world.captions import held_out
from ccl_pack.ccl_core.training.world.clip import KINDS, Attributes, Clip
from ccl_pack.ccl_core.training.world.evaluate import (
    Lesson,
    Result,
    draw_clips,
    lesson,
    measure,
    unseen_objects,
)
from ccl_pack.ccl_core.training.world.report import DIFFICULTIES, groups_of
from ccl_pack.ccl_core.training.world.sounds import SILENT, synthesise


def truth(clip: Clip) -> Result:
    return Result(torch.from_numpy(clip.frames).float() / 255, torch.from_numpy(clip.waveform), 16000)


def stated(thing: Attributes) -> tuple[str, ...]:
    return tuple(getattr(thing, kind) for kind in KINDS)


def test_one_in_five_is_unseen_and_four_pairs_of_motion_and_sound_are() -> None:
    unseen = [stated(thing) for thing in unseen_objects()]
    assert len(set(unseen)) == 96 and set(unseen) < set(product(*KINDS.values()))
    colours, shapes, motions, sounds = (set(words) for words in zip(*unseen, strict=True))
    assert (colours, shapes, motions) == (set(KINDS["colour"]), set(KINDS["shape"]), set(KINDS["motion"]))
    assert len(sounds) == 4 and len({thing[2:] for thing in unseen}) == 4


@pytest.mark.parametrize(("objects", "counts"), [("1", {1}), ("2", {2}), ("both", {1, 2})])
def test_asked_captions_are_held_out_and_follow_the_seed(objects: str, counts: set[int]) -> None:
    clips = draw_clips(3, 12, 33, 16, objects)
    assert {len(clip.objects) for clip in clips} == counts
    for clip in clips:
        assert any(map(held_out, clip.objects))
        assert len({thing.sound for thing in clip.objects}) == len(clip.objects)
    assert [clip.caption for clip in clips] == [clip.caption for clip in draw_clips(3, 12, 33, 16, objects)]
    assert [clip.caption for clip in clips] != [clip.caption for clip in draw_clips(4, 12, 33, 16, objects)]


def test_no_combination_comes_twice_before_all_have_come() -> None:
    asked = [stated(clip.objects[0]) for clip in draw_clips(3, 96, 17, 16)]
    assert len(set(asked)) == 96
    with pytest.raises(ValueError, match="objects must be one of 1, 2, both, got '3'"):
        draw_clips(3, 1, 17, 16, "3")


def test_the_world_itself_scores_all_and_chance_does_not() -> None:
    clips = draw_clips(5, 8, 45, 16, "both")
    rows = [measure(clip, truth(clip), 16) for clip in clips]
    total = evaluate.total(rows)
    contacts = sum(len(clip.contacts) for clip in clips)
    assert total["contacts"] == total["onsets"] == total["matched_62ms"] == total["matched_125ms"] == contacts
    assert (total["clips"], total["objects"], total["spurious_onsets"]) == (8, 12, 0)
    given = [evaluate.against_given(task, rows) for task in ("v2a", "a2v")]
    assert {value for found in given for value in found.values()} == {1.0}
    assert total["spurious_share"] == 0 and total["sync_error_ms_median"] < 20
    floor = evaluate.chance(rows)
    assert floor["matched_62ms_share"] < 0.7 and floor["f1_62ms"] < 0.7
    groups = evaluate.by_objects(rows)
    assert groups["objects_1"]["objects"] == 4 and groups["objects_2"]["objects"] == 8
    assert sum(group["contacts"] for group in groups.values()) == contacts
    assert groups["objects_2"]["chance"] == evaluate.chance(rows[1::2])
    assert evaluate.by_objects(rows[::2]) == {}


def test_a_lost_object_counts_against_the_true_events_of_a_given_sound() -> None:
    (clip,) = draw_clips(8, 1, 33, 16, "2")
    row = measure(clip, truth(clip), 16)
    kept, lost = row["objects"]
    alone = row | {"contacts": len(kept["contacts_s"]), "contacts_true": len(kept["contacts_s"])}
    share = len(kept["true_contacts_s"]) / (len(kept["true_contacts_s"]) + len(lost["true_contacts_s"]))
    found = evaluate.against_given("a2v", [alone])
    assert found["contacts_recall"] == pytest.approx(share, abs=1e-4) and found["contacts_precision"] == 1
    assert found["contacts_f1"] == pytest.approx(2 * share / (1 + share), abs=1e-4)
    assert evaluate.against_given("v2a", [row]) == {"onsets_recall": 1, "onsets_precision": 1, "onsets_f1": 1}
    assert evaluate.against_given("t2av", [row]) == {}


def test_one_clip_has_no_chance_to_be_compared_with() -> None:
    (clip,) = draw_clips(8, 1, 33, 16)
    floor = evaluate.chance([measure(clip, truth(clip), 16)])
    assert floor["matched_62ms_share"] is floor["f1_62ms"] is floor["sync_error_ms_median"] is None


def test_silence_and_stillness_score_nothing() -> None:
    for clip in draw_clips(5, 2, 33, 16, "both"):
        nothing = Result(torch.zeros(33, 64, 64, 3), torch.zeros(33000), 16000)
        total = evaluate.total([measure(clip, nothing, 16)])
        assert (total["contacts"], total["onsets"], total["matched_125ms"], total["spurious_onsets"]) == (
            0,
            0,
            0,
            0,
        )
        assert (
            total["matched_125ms_share"] is total["f1_62ms"] is None and total["sync_error_ms_median"] is None
        )
        assert total["colour_right"] == total["motion_right"] == total["sound_right"] == 0


def is_another(first: Attributes, second: Attributes) -> bool:
    return all(getattr(first, kind) != getattr(second, kind) for kind in ("colour", "motion", "sound"))


def test_another_sound_and_colour_are_wrong() -> None:
    asked = draw_clips(6, 1, 33, 16)[0]
    (thing,) = asked.objects
    other = next(clip for clip in draw_clips(7, 32, 33, 16) if is_another(clip.objects[0], thing))
    row = measure(asked, truth(other), 16)
    assert (row["colour_right"], row["motion_right"], row["sound_right"]) == (0, 0, 0)
    (seen,) = row["objects"]
    colour, _, motion, sound = stated(other.objects[0])
    assert (seen["colour"], seen["motion"], seen["sound"]) == (colour, motion, sound)


def test_exchanged_sounds_are_in_sync_but_wrong() -> None:
    (clip,) = draw_clips(8, 1, 33, 16, "2")
    exchanged = [
        (other.sound, thing.contacts) for thing, other in zip(clip.objects, clip.objects[::-1], strict=True)
    ]
    waveform = torch.from_numpy(synthesise(np.random.default_rng(0), exchanged, len(clip.waveform)))
    row = measure(clip, Result(truth(clip).frames, waveform, 16000), 16)
    assert row["matched_62ms"] == len(clip.contacts) and row["spurious_onsets"] == 0
    assert (row["colour_right"], row["motion_right"], row["sound_right"]) == (2, 2, 0)


def test_a_lesson_keeps_the_combinations_that_were_held_out() -> None:
    taught = lesson()
    assert Lesson.from_json(taught.to_json()) == taught
    assert taught.objects == 2 and len(taught.held_out) == len(unseen_objects())


def test_clips_are_drawn_from_what_a_checkpoint_never_saw() -> None:
    unseen = unseen_objects()[:2]
    asked = {clip.objects[0].colour + clip.objects[0].sound for clip in draw_clips(3, 6, 17, 16, "1", unseen)}
    assert asked == {thing.colour + thing.sound for thing in unseen}


def test_hard_clips_have_every_difficulty_and_easy_ones_none() -> None:
    hard = draw_clips(4, 60, 33, 16, "2", world="hard")
    assert all(any(map(held_out, clip.objects)) for clip in hard)
    groups = [name for clip in hard for name in groups_of(clip)]
    assert set(groups) == {"hard", "easy", "objects_2", *DIFFICULTIES}
    assert 0.35 < groups.count("same_motion") / 60 < 0.65 and groups.count("coincident") > 20
    # The silent one is spoken of first or last.
    places = {k for clip in hard for k, thing in enumerate(clip.objects) if thing.sound == SILENT}
    assert places == {0, 1}
    easy = draw_clips(4, 30, 33, 16, "2")
    assert {name for clip in easy for name in groups_of(clip)} <= {"easy", "hard", "objects_2", "same_motion"}
    with pytest.raises(ValueError, match="world must be one of easy, hard, got 'odd'"):
        draw_clips(3, 1, 17, 16, world="odd")


def test_a_pair_that_cannot_be_drawn_is_refused() -> None:
    alike = [thing for thing in unseen_objects() if thing.motion == "slides"]
    with pytest.raises(ValueError, match=r"no unseen combination differs from .* ask for one object"):
        draw_clips(3, 12, 17, 16, "2", alike)
