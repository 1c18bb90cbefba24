"""The talking face: the same seed gives the same clip, and the mouth shows what is said when it is said."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from ccl_pack.ccl_core.training.world import face
from ccl_pack.ccl_core.training.world.clip import PALETTE, SHAPES
from ccl_pack.ccl_core.training.world.face_picture import LIPS, MOUTHS, THROAT
from ccl_pack.ccl_core.training.world.sounds import SILENT
from ccl_pack.ccl_core.training.world.wording import read_caption


def drawn(seed: int, count: int = 6) -> list[face.FaceClip]:
    return list(islice(face.clips(seed), count))


def test_a_seed_gives_the_same_clips_and_another_seed_others() -> None:
    first = drawn(1, 2)
    again = drawn(1, 2)
    for clip, same in zip(first, again, strict=True):
        assert np.array_equal(clip.frames, same.frames)
        assert np.array_equal(clip.waveform, same.waveform)
        assert (clip.caption, clip.transcript) == (same.caption, same.transcript)
    assert not np.array_equal(first[0].frames, drawn(2, 1)[0].frames)


@pytest.mark.parametrize(("frames", "size"), [(17, 64), (33, 64), (33, 96)])
def test_a_clip_has_the_length_and_size_asked(frames: int, size: int) -> None:
    clip = face.sample_clip(np.random.default_rng(0), frames=frames, size=size)
    assert clip.frames.shape == (frames, size, size, 3) and clip.frames.dtype == np.uint8
    assert clip.waveform.shape == (frames * 1000,)
    assert clip.mouth.shape == (frames,) and clip.mouth_box.shape == (frames, 4)
    assert clip.syllables[-1].end < frames / 16


@pytest.mark.parametrize("frames", [16, 5])
def test_a_length_that_no_word_fits_in_is_refused(frames: int) -> None:
    with pytest.raises(ValueError, match="4k\\+1 frames and at least"):
        face.sample_clip(np.random.default_rng(0), frames=frames)


def test_the_mouth_has_the_shape_of_the_vowel_in_its_middle_and_is_shut_in_silence() -> None:
    for clip in drawn(3):
        for syllable in clip.syllables:
            middle = np.array([(syllable.opening + syllable.end) / 2])
            wanted = face.numbers(MOUTHS[syllable.vowel])
            assert face.mouth_track(clip.syllables, middle)[0] == pytest.approx(wanted)
        before = np.array([clip.syllables[0].start - face.GLIDE])
        assert face.mouth_track(clip.syllables, before)[0] == pytest.approx((1, 0, 0))


def test_the_box_holds_the_whole_mouth_and_little_else() -> None:
    person = face.sample_identity(np.random.default_rng(0))
    # Nothing else of such a face is red or dark.
    person = replace(person, looks=replace(person.looks, skin="pale", hair="blond", eyes="blue", wall="grey"))
    rng = np.random.default_rng(4)
    clips = [face.sample_clip(rng, person, "bamamoma") for _ in range(12)]
    for clip in [clip for clip in clips if clip.beside is None]:
        frame = int(clip.mouth.argmax())
        top, left, bottom, right = clip.mouth_box[frame]
        # Below the eyes, above the shirt.
        begin = round(clip.place.y - clip.place.size)
        end = round(clip.place.y + 15 * clip.place.size)
        picture = clip.frames[frame, begin:end].astype(int)
        for colour in (LIPS, THROAT):
            rows, columns = np.nonzero(np.abs(picture - colour).sum(-1) < 30)
            assert len(rows) and top <= rows.min() + begin and rows.max() + begin < bottom
            assert left <= columns.min() and columns.max() < right
        assert (bottom - top) * (right - left) < 64 * 64 / 10


def test_a_third_of_the_clips_has_a_second_face_that_is_silent_and_all_faces_are_whole() -> None:
    clips = drawn(9, 150)
    pairs = [clip for clip in clips if clip.beside is not None]
    assert 0.2 < len(pairs) / len(clips) < 0.47
    for clip in clips:
        place = clip.place
        assert 0.66 <= place.size <= 1
        assert face.HAIR * place.size <= place.x <= 64 - face.HAIR * place.size
        assert place.y - face.CROWN * place.size >= 0 and place.y + face.CHIN * place.size <= 60
    assert np.std([clip.place.x for clip in clips]) > 5


def test_a_silent_face_keeps_its_mouth_shut() -> None:
    still = face.mouth_track((), np.arange(33) / 16)
    assert still == pytest.approx(np.tile((1.0, 0.0, 0.0), (33, 1)))


def test_one_person_says_many_words_and_many_persons_one_word() -> None:
    rng = np.random.default_rng(5)
    person = face.sample_identity(rng)
    one, other = (face.sample_clip(rng, person, words) for words in ("bama tiko", "susu"))
    assert one.identity is other.identity is person
    assert (one.transcript, other.transcript) == ("bama tiko", "susu")
    stranger = face.sample_clip(rng, transcript="susu")
    assert stranger.identity != person and stranger.transcript == "susu"


def test_the_caption_says_what_moves_behind_in_words_that_the_text_encoder_knows() -> None:
    for clip in drawn(6):
        (stated,) = read_caption(clip.caption)
        assert (stated.motion, stated.sound) == ("slides", SILENT) and stated.shape in SHAPES
        assert stated.colour != clip.identity.looks.shirt
        unlike = np.abs(clip.frames.astype(int) - PALETTE[stated.colour]).sum(axis=-1)
        assert (unlike < 12).sum() > 100, "pixels of its colour"


def test_the_eyes_blink_and_the_head_sways_and_something_moves_behind() -> None:
    rng = np.random.default_rng(7)
    times = np.arange(160) / 16
    openness = face.blinks(rng, times)
    assert openness.min() < 0.5 and np.median(openness) == 1
    assert 0.8 < np.ptp(face.sway(rng, times, 2.2)) <= 4.4
    passer = face.sample_passer(rng, times, face.sample_identity(rng).looks)
    assert passer.x.min() < 12 and passer.x.max() > 52
