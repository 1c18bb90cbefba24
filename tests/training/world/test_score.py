"""The world's own clips score all, what cheats scores little, and every column counts what it says."""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from ccl_pack.ccl_core.training.world import score
from ccl_pack.ccl_core.training.world.clip import Clip, Object, OffScreen
from ccl_pack.ccl_core.training.world.judge import Onset, Seen, hear
from ccl_pack.ccl_core.training.world.scene import clips
from ccl_pack.ccl_core.training.world.score import COLUMNS, Found, count, true_onsets
from ccl_pack.ccl_core.training.world.shares import HARD
from ccl_pack.ccl_core.training.world.sounds import SILENT, synthesise

CLIPS = 24
Parts = list[tuple[str, tuple[float, ...]]]


def seen_of(clip: Clip) -> tuple[Seen, ...]:
    return tuple(Seen(thing.colour, thing.motion, thing.contacts) for thing in clip.objects)


def found_in(clip: Clip, wave: np.ndarray) -> Found:
    """The true picture with another sound."""
    return Found(seen_of(clip), tuple(hear(torch.from_numpy(wave), 16000)), len(clip.frames) / 16)


def shares(pairs: list[tuple[Clip, Found]], task: str = "t2av") -> dict[str, float | None]:
    """Every column over some clips."""
    counts = [count(clip, found, task) for clip, found in pairs]
    return {name: share(counts, name) for name in COLUMNS}


def share(counts: list[score.Counts], name: str) -> float | None:
    whole = sum(row[name][1] for row in counts)
    return sum(row[name][0] for row in counts) / whole if whole else None


def parts_of(clip: Clip) -> Parts:
    return [(thing.sound, thing.contacts) for thing in clip.objects]


def metronome(_clip: Clip, _other: Clip) -> Parts:
    """A click every 125 ms: one of them is always within 62.5 ms."""
    return [("click", tuple(np.arange(0.0625, 1.95, 0.125)))]


def all_at_once(clip: Clip, _other: Clip) -> Parts:
    """Both sounds asked, each every 125 ms."""
    return [(thing.sound, tuple(np.arange(0.0625, 1.95, 0.125))) for thing in clip.objects]


def anothers(_clip: Clip, other: Clip) -> Parts:
    return parts_of(other)


def anothers_rhythm(clip: Clip, other: Clip) -> Parts:
    return [(a.sound, b.contacts) for a, b in zip(clip.objects, other.objects, strict=True)]


def late(clip: Clip, _other: Clip) -> Parts:
    return [(thing.sound, tuple(np.array(thing.contacts) + 0.08)) for thing in clip.objects]


def swapped(clip: Clip, _other: Clip) -> Parts:
    return [(a.sound, b.contacts) for a, b in zip(clip.objects, clip.objects[::-1], strict=True)]


def one_for_both(clip: Clip, _other: Clip) -> Parts:
    return [(clip.objects[0].sound, thing.contacts) for thing in clip.objects]


def nothing(_clip: Clip, _other: Clip) -> Parts:
    return []


@pytest.fixture(scope="module")
def pairs() -> list[Clip]:
    return list(islice(clips(41, frames=33, objects=2), CLIPS))


# The most that a cheat reaches in F1, and in binding. One sound for both objects is right for one of them.
CHEATS = {
    metronome: (0.15, 0.25),
    all_at_once: (0.3, 0.5),
    anothers: (0.12, 0.25),
    anothers_rhythm: (0.3, 0.4),
    late: (0.05, 0.1),
    swapped: (0.15, 0.05),
    one_for_both: (0.6, 0.55),
    nothing: (0.0, 0.0),
}


@pytest.mark.parametrize("task", ["t2av", "v2a"])
@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_falls_below_its_bound(
    cheat: Callable[[Clip, Clip], Parts], task: str, pairs: list[Clip]
) -> None:
    rng = np.random.default_rng(0)
    others = [*pairs[1:], pairs[0]]
    made = [synthesise(rng, cheat(*both), 33000) for both in zip(pairs, others, strict=True)]
    total = shares([(clip, found_in(clip, wave)) for clip, wave in zip(pairs, made, strict=True)], task)
    most, bound = CHEATS[cheat]
    assert total["f1_62ms"] <= most and total["bound_right"] <= bound


@pytest.mark.parametrize("drone", ["tone", "noise"])
def test_a_constant_sound_meets_nothing(drone: str, pairs: list[Clip]) -> None:
    seconds = np.arange(33000) / 16000
    noise = np.random.default_rng(0).standard_normal(33000)
    wave = np.float32(0.3 * (np.sin(2 * np.pi * 440 * seconds) if drone == "tone" else noise))
    total = shares([(clip, found_in(clip, wave)) for clip in pairs])
    assert total["f1_62ms"] <= 0.1 and total["bound_right"] <= 0.1 and total["objects_lost"] > 0.5


def test_objects_that_move_to_each_others_sounds_are_refused(pairs: list[Clip]) -> None:
    total = shares([(clip, Found(turned(clip), (), 2.0)) for clip in pairs], "a2v")
    assert total["f1_62ms"] <= 0.15 and total["bound_right"] <= 0.05 and total["spurious"] >= 0.85


def turned(clip: Clip) -> tuple[Seen, ...]:
    """Each object has the contacts of the other."""
    seen = seen_of(clip)
    return tuple(replace(a, contacts=b.contacts) for a, b in zip(seen, seen[::-1], strict=True))


@pytest.mark.parametrize("task", score.MAKES)
def test_the_hard_world_itself_scores_all(task: str) -> None:
    drawn = list(islice(clips(42, frames=33, world=HARD), 60))
    total = shares([(clip, found_in(clip, clip.waveform)) for clip in drawn], task)
    assert total["f1_62ms"] > 0.98 and total["bound_right"] > 0.97 and total["spurious"] < 0.02
    assert total["objects_lost"] == 0 and total["distractors_silent"] > 0.85
    assert total["offscreen_kept"] in (None, 1) and (task == "a2v") == (total["offscreen_kept"] is None)
    assert total["colour_right"] == total["motion_right"] == (None if task == "v2a" else 1)
    assert total["sound_right"] is None if task == "a2v" else total["sound_right"] > 0.97


def clip_with(objects: tuple[Object, ...], offscreen: tuple[OffScreen, ...] = ()) -> Clip:
    return Clip(np.zeros((32, 1, 1, 3), np.uint8), np.zeros(32000, np.float32), objects, "", offscreen)


RED = Object("red", "ball", "bounces", "drum", (0.3, 0.9, 1.5))
BLUE = Object("blue", "ball", "blinks", SILENT, (0.55, 1.15, 1.75))
HORN = OffScreen("horn", (0.1, 1.3))


def told(clip: Clip, *onsets: tuple[float, str], seen: tuple[Seen, ...] | None = None) -> Found:
    return Found(seen or seen_of(clip), tuple(Onset(*onset) for onset in onsets), 2.0)


def test_a_silent_object_sounds_if_more_lies_at_its_contacts_than_chance_brings() -> None:
    clip = clip_with((RED, BLUE))
    own = [(time, "drum") for time in RED.contacts]
    assert count(clip, told(clip, *own), "t2av")["distractors_silent"] == (1, 1)
    # One onset falls near one of three contacts in one case of five.
    assert count(clip, told(clip, *own, (0.56, "bell")), "t2av")["distractors_silent"] == (1, 1)
    both = [*own, (0.56, "bell"), (1.15, "bell")]
    counts = count(clip, told(clip, *both), "t2av")
    assert counts["distractors_silent"] == (0, 1) and counts["sound_right"] == (1, 2)
    assert counts["spurious"] == (2, 5) and counts["f1_62ms"] == (6, 8)
    # A metronome knows nothing of it.
    beats = [(float(time), "click") for time in np.arange(0.06, 2, 0.125)]
    assert count(clip, told(clip, *own, *beats), "t2av")["distractors_silent"] == (1, 1)


def test_an_off_screen_sound_meets_no_contact_and_is_not_spurious() -> None:
    clip = clip_with((RED,), (HORN,))
    own = [(time, "drum") for time in RED.contacts]
    counts = count(clip, told(clip, *own, (0.2, "horn"), (0.7, "horn")), "t2av")
    assert counts["f1_62ms"] == (6, 6) and counts["spurious"] == (0, 5) and counts["offscreen_kept"] == (1, 1)
    assert count(clip, told(clip, *own), "v2a")["offscreen_kept"] == (0, 1)
    # In place of the object's own sound it binds nothing.
    counts = count(clip, told(clip, *((time, "horn") for time in RED.contacts)), "t2av")
    assert (
        counts["f1_62ms"] == (0, 3) and counts["bound_right"] == (0, 1) and counts["objects_lost"] == (1, 1)
    )


def test_an_object_is_lost_when_it_is_not_seen_or_not_heard_in_what_was_made() -> None:
    clip = clip_with((RED,))
    own = [(time, "drum") for time in RED.contacts]
    none = (Seen("none", "still", ()),)
    assert count(clip, told(clip, *own), "t2av")["objects_lost"] == (0, 1)
    assert count(clip, told(clip, *own, seen=none), "t2av")["objects_lost"] == (1, 1)
    assert count(clip, told(clip, seen=none), "a2v")["objects_lost"] == (1, 1)
    assert count(clip, told(clip), "a2v")["objects_lost"] == (0, 1)
    assert count(clip, told(clip, *own, seen=none), "v2a")["objects_lost"] == (0, 1)
    assert count(clip, told(clip), "v2a")["objects_lost"] == (1, 1)


def test_a_given_stream_counts_by_its_true_events() -> None:
    clip = clip_with((RED,))
    one = (replace(seen_of(clip)[0], contacts=(0.3, 0.7)),)
    counts = count(clip, told(clip, seen=one), "a2v")
    assert counts["f1_62ms"] == (2, 5) and counts["spurious"] == (1, 2)
    counts = count(clip, told(clip, (0.35, "drum"), (0.7, "drum"), seen=one), "v2a")
    assert counts["f1_62ms"] == (2, 5) and counts["spurious"] == (1, 2)


def test_a_contact_within_a_frame_of_its_sound_is_met() -> None:
    clip = clip_with((replace(RED, contacts=(0.5,)),))
    for late_by, met in ((0.06, 2), (0.065, 0)):
        assert count(clip, told(clip, (0.5 + late_by, "drum")), "t2av")["f1_62ms"] == (met, 2)


def test_hits_at_once_are_bound_by_the_hits_that_are_not() -> None:
    first = replace(RED, contacts=(0.5, 1.0))
    second = Object("blue", "ball", "bounces", "bell", (0.5, 1.6))
    clip = clip_with((first, second))
    assert count(clip, Found(seen_of(clip), true_onsets(clip), 2.0), "t2av")["bound_right"] == (2, 2)
    exchanged = told(clip, (0.5, "drum"), (0.5, "bell"), (1.0, "bell"), (1.6, "drum"))
    counts = count(clip, exchanged, "t2av")
    assert counts["bound_right"] == (0, 2) and counts["f1_62ms"] == (4, 8) and counts["sound_right"] == (0, 2)
