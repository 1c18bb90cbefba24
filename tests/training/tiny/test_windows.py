"""Windows of both worlds: shapes, mouths and what changes count more than walls and hair."""

from itertools import islice

import numpy as np
import pytest

from ccl_pack.ccl_core.training.tiny import windows
from ccl_pack.ccl_core.training.world import face, scene
from ccl_pack.ccl_core.training.world.render import BACKGROUND


@pytest.fixture(scope="module")
def pool() -> windows.FilmPool:
    return windows.FilmPool(np.random.default_rng(0), seed=3, size=6, frames=17)


def test_the_surroundings_of_a_shape_count_most() -> None:
    clip = next(scene.clips(5, frames=17, objects=1))
    film = windows.of_shapes(clip)
    bright = clip.frames.max(-1) > 190
    assert film.weight[bright].min() >= 1 + windows.NEAR_SHAPE
    assert np.median(film.weight) == 1
    assert film.weight.max() == 1 + windows.NEAR_SHAPE + windows.CHANGING


def test_the_mouth_of_a_face_counts_most_and_its_skin_as_little_as_a_wall() -> None:
    for clip in islice(face.clips(5, frames=17), 4):
        film = windows.of_face(clip)
        top, left, bottom, right = clip.mouth_box[8]
        assert film.weight[8, top:bottom, left:right].min() >= 1 + windows.MOUTH
        outside = film.weight[8].copy()
        outside[top:bottom, left:right] = 1
        assert outside.max() <= 1 + windows.CHANGING
        assert np.median(film.weight) == 1


def test_what_changes_counts_more_in_both_of_its_frames() -> None:
    frames = np.zeros((4, 2, 2, 3), dtype=np.uint8)
    frames[2:, 0, 0] = 200
    weight = windows.weigh(frames, np.zeros((4, 2, 2)))
    assert weight[:, 0, 0].tolist() == [1, 3, 3, 1]
    assert weight[:, 1, 1].tolist() == [1, 1, 1, 1]


def test_a_batch_mixes_the_worlds(pool: windows.FilmPool) -> None:
    drawn, weight = pool.draw(4, 9, 32)
    assert drawn.shape == (4, 9, 32, 32, 3)
    assert weight.shape == (4, 9, 32, 32)
    mouths = (weight.max((1, 2, 3)) >= 1 + windows.MOUTH).tolist()
    # No face has the colour of the dark room.
    rooms = ((drawn == BACKGROUND).all(-1).mean((1, 2, 3)) > 0.1).tolist()
    assert rooms in ([True, False] * 2, [False, True] * 2)
    assert not any(mouth and room for mouth, room in zip(mouths, rooms, strict=True))


def test_a_batch_of_one_has_either_world(pool: windows.FilmPool) -> None:
    medians = [np.median(pool.draw(1, 17, 64)[0]) for _ in range(12)]
    assert min(medians) < 30 < max(medians)


def test_films_are_replaced_while_they_are_drawn(pool: windows.FilmPool) -> None:
    before = list(pool.films)
    for _ in range(12):
        pool.draw(1, 1, 16)
    kept = [one is other for one, other in zip(before, pool.films, strict=True)]
    assert not all(kept)
