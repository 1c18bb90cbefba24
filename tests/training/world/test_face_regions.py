"""Regions of a talking clip lie where they are drawn, and masks are counted against them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ccl_pack.ccl_core.training.world.face import FaceClip
from ccl_pack.ccl_core.training.world.face_picture import draw_faces
from ccl_pack.ccl_core.training.world.face_regions import (
    FACE,
    REGIONS,
    best_constant,
    overlap,
    regions_of,
    shares,
)
from support import faces


def clip_of(people: int) -> FaceClip:
    return next(clip for clip in faces.drawn() if len(clip.people) == people)


def test_a_clip_is_drawn_again_from_what_is_known_of_it() -> None:
    for people in (1, 2):
        clip = clip_of(people)
        assert np.array_equal(draw_faces(clip.people, clip.passer, 64), clip.frames)


@pytest.mark.parametrize("people", [1, 2])
def test_each_region_lies_where_it_is_drawn(people: int) -> None:
    clip = clip_of(people)
    found = regions_of(clip)
    assert found.keys() == set(REGIONS)
    mouth, face, silent, thing = (found[name] for name in REGIONS)
    assert {cover.shape for cover in found.values()} == {clip.frames.shape[:3]}
    # Half of the box around the mouth may be chin and cheek; the rest of the face is larger.
    assert (mouth * face).sum() > 0.8 * mouth.sum() and mouth.sum() < 0.5 * face.sum()
    assert bool(silent.any()) is (people == 2) and not (silent * face).any()
    # It passes behind the faces; hair and shoulders hide it too.
    assert (thing * (face > 0.99)).sum() == 0
    moved = replace(clip.passer, x=np.full_like(clip.passer.x, -99.0))
    gone = draw_faces(clip.people, moved, 64)
    changed = (gone != clip.frames).any(-1)
    assert thing.sum() > 500 and (changed != thing).sum() < 0.05 * thing.sum()


def test_a_mask_that_is_the_face_overlaps_it_wholly_and_its_double_by_half() -> None:
    face = torch.zeros(2, 4, 4)
    face[:, 1:3, 1] = 0.5
    wide = face.clone()
    wide[:, 1:3, 2] = 1
    assert overlap(face, face) == (4, 4)
    assert overlap(wide, face) == (4, 8)
    assert overlap(0.98 * face, face) == (0, 4)


def test_the_best_constant_mask_is_that_of_all_masks() -> None:
    """By trying all 16 masks of 2 x 2 tokens."""
    generator = torch.Generator().manual_seed(3)
    some = [torch.rand(5, 2, 2, generator=generator) * torch.tensor([[1.4, 0.9], [0.6, 0.2]]) for _ in "abc"]
    seen = torch.cat(some) >= 0.5
    tried = []
    for number in range(1, 16):
        mask = torch.tensor([number >> bit & 1 for bit in range(4)]).view(2, 2).bool()
        tried.append(float((seen & mask).sum() / (seen | mask).sum()))
    assert best_constant(some) == pytest.approx(max(tried))


def test_a_face_that_stands_still_is_a_constant_mask() -> None:
    face = torch.zeros(3, 4, 4)
    face[:, 1:, 2] = 1
    assert best_constant([face, face]) == 1


def test_shares_of_a_mask_are_parts_of_it_and_of_the_regions() -> None:
    half = np.zeros((1, 2, 2), np.float32)
    half[0, 0] = 1
    mask = torch.tensor([[[1.0, 0.5], [0.5, 0.0]]])
    assert shares(mask, {FACE: half, "object": 1 - half}) == {
        FACE: (1.5, 2.0, 2.0),
        "object": (0.5, 2.0, 2.0),
    }
