"""A face is found where it is and as large as it is, also in what a VAE left, and of two the right one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ccl_pack.ccl_core.training.world.face_find import find_face
from ccl_pack.ccl_core.training.world.face_picture import HAIRS, SKINS, Place
from support import faces

# Pixels of 64, and part of the size.
NEAR, ALIKE = 1.0, 0.05


def assert_at(found: Place, true: Place) -> None:
    assert abs(found.x - true.x) < NEAR and abs(found.y - true.y) < NEAR
    assert abs(found.size / true.size - 1) < ALIKE


def test_the_clips_have_one_face_and_two_of_many_sizes() -> None:
    clips = faces.drawn()
    assert {clip.beside is None for clip in clips} == {True, False}
    assert max(clip.place.size for clip in clips) - min(clip.place.size for clip in clips) > 0.2


@pytest.mark.parametrize("number", range(faces.CLIPS))
def test_a_face_is_found_where_it_was_drawn(number: int) -> None:
    clip = faces.drawn()[number]
    assert_at(find_face(faces.pictures(clip), clip.identity.looks).place, faces.mean_place(clip))


@pytest.mark.parametrize("number", range(faces.CLIPS))
def test_a_face_is_found_after_the_vae(number: int) -> None:
    clip = faces.drawn()[number]
    assert_at(find_face(faces.coded(number), clip.identity.looks).place, faces.mean_place(clip))


def test_of_two_faces_the_one_that_looks_so_is_found() -> None:
    for number, clip in enumerate(faces.drawn()):
        if clip.beside is None:
            continue
        other = find_face(faces.coded(number), clip.beside).place
        own = faces.mean_place(clip)
        assert abs(other.x - own.x) > 15 and (other.x < 32) is (own.x > 32)


@pytest.mark.parametrize(("name", "words"), [("skin", SKINS), ("hair", HAIRS)])
def test_a_face_of_another_colour_is_found_where_no_other_face_is(name: str, words: dict) -> None:
    clips = [clip for clip in faces.drawn() if clip.beside is None]
    near = 0
    for clip in clips:
        looks = clip.identity.looks
        asked = replace(looks, **{name: next(word for word in words if word != getattr(looks, name))})
        found, true = find_face(faces.pictures(clip), asked).place, faces.mean_place(clip)
        near += abs(found.x - true.x) < 2 and abs(found.y - true.y) < 2
    assert near == len(clips)


def test_a_true_face_is_much_more_like_itself_than_an_empty_wall() -> None:
    looks = faces.drawn()[0].identity.looks
    shown = faces.coded(0), torch.full((33, 64, 64, 3), 0.3)
    true, empty = (find_face(frames, looks).unlike for frames in shown)
    assert empty > 3 * true
