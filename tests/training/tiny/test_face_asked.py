"""What a talking face is asked was not in its training, and the same seed asks the same."""

from __future__ import annotations

import numpy as np

from ccl_pack.ccl_core.training.tiny.face_asked import LEFT, ask_faces, vowels_behind
from ccl_pack.ccl_core.training.tiny.face_clips import ANYBODY, held_out
from ccl_pack.ccl_core.training.world.face_score import KEPT

FPS = 16


def test_nobody_who_is_asked_was_trained_with_these_words() -> None:
    for one in ask_faces(3, 5, 33, FPS):
        assert held_out(one.clip.identity, one.clip.transcript)


def test_a_seed_asks_the_same_whatever_the_number() -> None:
    few, many = ask_faces(3, 1, 33, FPS), ask_faces(3, 2, 33, FPS)
    for one, same in zip(few, many, strict=False):
        assert np.array_equal(one.clip.frames, same.clip.frames) and np.array_equal(one.voice, same.voice)
    assert ask_faces(4, 1, 33, FPS)[0].clip.transcript != few[0].clip.transcript


def test_every_second_caption_tells_who_and_the_picture_shows_nobody_else() -> None:
    asked = ask_faces(3, 4, 33, FPS)
    assert [one.caption == ANYBODY for one in asked] == [False, True] * 2
    assert asked[0].caption == asked[0].clip.caption
    for one in asked:
        assert one.image.shape == (64, 64, 3) and one.voice.shape == (21000,)
        assert not any((one.image == frame).all() for frame in one.clip.frames)


def test_behind_a_prefix_something_is_left_to_say() -> None:
    for one in ask_faces(3, 5, 33, FPS, KEPT):
        left = vowels_behind(one.clip, KEPT / FPS)
        assert LEFT[0] <= left <= LEFT[1] and held_out(one.clip.identity, one.clip.transcript)
