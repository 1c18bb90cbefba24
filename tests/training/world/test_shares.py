"""The difficulties of the world are as frequent as asked, and each is what its caption says."""

from itertools import islice, pairwise

import numpy as np
import pytest

from ccl_pack.ccl_core.training.world.clip import Ambience, Attributes, Clip, Object, OffScreen
from ccl_pack.ccl_core.training.world.scene import APART, clips, mix, sample_clip
from ccl_pack.ccl_core.training.world.shares import EASY, HARD, World
from ccl_pack.ccl_core.training.world.sounds import BED, SAMPLE_RATE, SILENT, strike
from ccl_pack.ccl_core.training.world.wording import read_ambience, read_caption


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture(scope="module")
def drawn() -> list[Clip]:
    return list(islice(clips(11, frames=33, size=16, world=HARD), 700))


def shortest_gap(clip: Clip) -> float:
    times = sorted(time for thing in clip.objects for time in thing.contacts)
    return min(later - earlier for earlier, later in pairwise(times))


def share(chosen: list[bool]) -> float:
    return sum(chosen) / len(chosen)


def test_shares_are_those_asked_for(drawn: list[Clip]) -> None:
    pairs = [clip.objects for clip in drawn if len(clip.objects) == 2]
    single = [clip.objects[0] for clip in drawn if len(clip.objects) == 1]
    assert share([len(clip.objects) == 2 for clip in drawn]) == pytest.approx(HARD.pairs, abs=0.06)
    same = [one.motion == other.motion for one, other in pairs]
    assert share(same) == pytest.approx(HARD.same_motion, abs=0.1)
    silent = [SILENT in (one.sound, other.sound) for one, other in pairs]
    assert share(silent) == pytest.approx(HARD.silent, abs=0.08)
    assert share([thing.sound == SILENT for thing in single]) == pytest.approx(HARD.silent_alone, abs=0.05)
    assert share([bool(clip.offscreen) for clip in drawn]) == pytest.approx(HARD.offscreen, abs=0.06)
    assert share([clip.bed > 0 for clip in drawn]) == pytest.approx(HARD.bed, abs=0.06)
    assert {one.sound == SILENT for one, _ in pairs} == {True, False}
    assert not any(one.sound == other.sound for one, other in pairs)


def test_without_a_least_gap_most_pairs_hit_close_together(drawn: list[Clip]) -> None:
    close = [shortest_gap(clip) < APART for clip in drawn if len(clip.objects) == 2]
    # Of pairs whose times know nothing of each other, about four in five do.
    assert share(close) == pytest.approx(HARD.close * 0.8, abs=0.12)
    assert any(shortest_gap(clip) < 0.01 for clip in drawn if len(clip.objects) == 2)


def test_the_easy_world_has_none_of_it() -> None:
    for clip in islice(clips(2, frames=33, size=16), 80):
        assert not clip.offscreen and clip.bed == 0 and clip.ambience == Ambience()
        assert SILENT not in [thing.sound for thing in clip.objects]
        assert len(clip.objects) == 1 or shortest_gap(clip) >= APART
        assert all((np.abs(np.diff(thing.contacts, 2)) < 0.001).all() for thing in clip.objects)
    assert World() == EASY


def test_no_mixture_clips(drawn: list[Clip]) -> None:
    assert max(np.abs(clip.waveform).max() for clip in drawn) < 1
    rng = np.random.default_rng(0)
    bells = [Object("red", "ball", "falls", sound, (0.5,)) for sound in ("bell", "drum")]
    for far in ("click", "beep", "horn"):
        worst = mix(rng, bells, (OffScreen(far, (0.5,)),), BED[1], SAMPLE_RATE)
        assert 0.7 < np.abs(worst).max() < 1


def test_both_notes_of_a_coincident_hit_are_in_the_waveform(rng: np.random.Generator) -> None:
    things = [
        Object("red", "ball", "falls", "drum", (0.25,)),
        Object("blue", "ball", "falls", "horn", (0.25,)),
    ]
    heard = mix(rng, things, (), 0.0, 16000)[4000:8000]
    notes = np.stack([strike(rng, thing.sound) for thing in things], axis=1)
    levels, residual, *_ = np.linalg.lstsq(notes, heard, rcond=None)
    assert residual[0] < 1e-6 and (levels > 0.4).all() and (levels < 0.5).all()


def test_contacts_that_sound_begin_at_their_sample_and_silent_ones_do_not(rng: np.random.Generator) -> None:
    words = (Attributes(motion="bounces", sound="drum"), Attributes(motion="bounces", sound=SILENT))
    for _ in range(10):
        clip = sample_clip(rng, *words, frames=33)
        loud, silent = clip.objects
        assert clip.contacts == list(loud.contacts) and len(silent.contacts) > 0
        for time in loud.contacts:
            begin = round(time * SAMPLE_RATE)
            assert time * SAMPLE_RATE == pytest.approx(begin, abs=1e-6)
            assert not clip.waveform[begin - 800 : begin].any() and clip.waveform[begin] > 0.3
        sounding = sum(min(4000, 33000 - round(time * SAMPLE_RATE)) for time in loud.contacts)
        assert np.count_nonzero(clip.waveform) <= sounding


def test_a_lone_silent_object_moves_in_silence(rng: np.random.Generator) -> None:
    clip = sample_clip(rng, Attributes(motion="falls", sound=SILENT), frames=33)
    assert not clip.waveform.any() and clip.objects[0].contacts and clip.contacts == clip.onsets == []
    assert np.ptp(clip.frames.astype(int), axis=0).max() > 100


def test_an_off_screen_sound_has_onsets_of_its_own(rng: np.random.Generator) -> None:
    near = []
    for _ in range(150):
        clip = sample_clip(rng, Attributes(sound="drum"), frames=33, size=16, ambience=Ambience("bell"))
        (beyond,) = clip.offscreen
        assert beyond.sound == "bell" and beyond.onsets and clip.bed == 0
        assert clip.onsets == sorted([*clip.contacts, *beyond.onsets])
        for time in beyond.onsets:
            assert time * SAMPLE_RATE == pytest.approx(round(time * SAMPLE_RATE), abs=1e-6)
            assert 0.05 <= time <= 33 / 16 - 0.15
            near.append(min(abs(time - contact) for contact in clip.contacts) < 0.0625)
    # By chance: contacts come every .7 s, and each has .125 s around it.
    assert 0.08 < share(near) < 0.3


def test_an_off_screen_sound_is_of_another_kind(drawn: list[Clip], rng: np.random.Generator) -> None:
    for clip in drawn:
        assert not {beyond.sound for beyond in clip.offscreen} & {thing.sound for thing in clip.objects}
    with pytest.raises(ValueError, match="an object makes the off-screen sound bell"):
        sample_clip(rng, Attributes(sound="bell"), ambience=Ambience("bell"))


def test_the_bed_has_the_level_that_the_clip_says(rng: np.random.Generator) -> None:
    for _ in range(10):
        clip = sample_clip(rng, Attributes(sound=SILENT), frames=33, size=16, ambience=Ambience(bed=True))
        assert BED[0] <= clip.bed <= BED[1]
        assert np.sqrt(np.mean(clip.waveform**2)) == pytest.approx(clip.bed, rel=0.01)
        assert np.abs(clip.waveform).max() <= 3 * clip.bed * 1.001
        power = np.abs(np.fft.rfft(clip.waveform)) ** 2
        low = len(power) * 1000 // 8000
        assert power[:low].sum() > 0.85 * power.sum()


def test_captions_say_what_is_there_and_nothing_else(drawn: list[Clip]) -> None:
    for clip in drawn:
        assert read_ambience(clip.caption) == clip.ambience, clip.caption
        said = [(w.colour, w.shape, w.motion, w.sound) for w in read_caption(clip.caption)]
        assert said == [(t.colour, t.shape, t.motion, t.sound) for t in clip.objects], clip.caption


def test_a_caption_brings_its_ambience_and_one_that_says_nothing_brings_none(
    rng: np.random.Generator,
) -> None:
    asked = "a red ball bounces silently, and a bell rings off screen, over soft noise"
    clip = sample_clip(rng, frames=33, caption=asked, world=HARD)
    assert clip.ambience == Ambience("bell", True) and clip.objects[0].sound == SILENT
    for _ in range(10):
        plain = sample_clip(rng, frames=17, size=16, caption="a red ball bounces, drum", world=HARD)
        assert plain.ambience == Ambience()


def test_what_is_asked_is_not_drawn_otherwise(rng: np.random.Generator) -> None:
    everything = World(silent=1, silent_alone=1, same_motion=1, offscreen=1, bed=1)
    asked = (Attributes(motion="falls", sound="drum"), Attributes(motion="slides", sound="bell"))
    clip = sample_clip(rng, *asked, frames=33, ambience=Ambience(), world=everything)
    assert [(thing.motion, thing.sound) for thing in clip.objects] == [("falls", "drum"), ("slides", "bell")]
    assert clip.ambience == Ambience()
