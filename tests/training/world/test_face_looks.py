"""Who a face is is read from the picture: each attribute that a VAE leaves, and another person is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ccl_pack.ccl_core.training.world.face import sample_looks
from ccl_pack.ccl_core.training.world.face_find import Sighting, find_face
from ccl_pack.ccl_core.training.world.face_looks import (
    ATTRIBUTES,
    READABLE,
    is_same,
    looks_right,
    read_looks,
)
from support import faces


def seen(number: int, coded: bool) -> Sighting:
    clip = faces.drawn()[number]
    frames = faces.coded(number) if coded else faces.pictures(clip)
    return find_face(frames, clip.identity.looks)


@pytest.mark.parametrize("number", range(faces.CLIPS))
def test_every_attribute_of_a_true_face_is_read(number: int) -> None:
    looks = faces.drawn()[number].identity.looks
    assert all(looks_right(looks, read_looks(seen(number, False), looks)).values())


@pytest.mark.parametrize("number", range(faces.CLIPS))
def test_all_but_the_eyes_are_read_after_the_vae(number: int) -> None:
    looks = faces.drawn()[number].identity.looks
    assert is_same(looks, read_looks(seen(number, True), looks))


@pytest.mark.parametrize("name", READABLE)
@pytest.mark.parametrize("coded", [False, True])
def test_one_attribute_that_is_wrong_is_told(name: str, coded: bool) -> None:
    """The reading begins at what was asked, and must not stay there."""
    for number, clip in enumerate(faces.drawn()):
        true = clip.identity.looks
        found = seen(number, coded)
        for value in set(ATTRIBUTES[name]) - {getattr(true, name)}:
            asked = replace(true, **{name: value})
            read = read_looks(found, asked)
            assert getattr(read, name) == getattr(true, name) and not is_same(asked, read)


def test_another_person_is_refused() -> None:
    rng = np.random.default_rng(1)
    for number in range(faces.CLIPS):
        asked = sample_looks(rng)
        assert not is_same(asked, read_looks(find_face(faces.coded(number), asked), asked))


def test_the_eyes_do_not_decide_who_it_is() -> None:
    looks = faces.drawn()[0].identity.looks
    other = replace(looks, eyes=next(word for word in ATTRIBUTES["eyes"] if word != looks.eyes))
    assert is_same(looks, other) and not looks_right(looks, other)["eyes"]
    assert not is_same(looks, replace(looks, long_hair=not looks.long_hair))
