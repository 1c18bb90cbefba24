"""Paths are exact: at a contact the shape touches what it hits, and it stays in its lane."""

import numpy as np
import pytest

from ccl_pack.ccl_core.training.world.motions import (
    COLUMNS,
    FLOOR,
    GRAVITY,
    MOTIONS,
    PATHS,
    RHYTHMS,
    ROOM,
    UNEVEN,
    UPPER,
    Lane,
    sample_path,
)

FINE = np.arange(0, 2, 1 / 2000)  # seconds
LANES = (ROOM, *COLUMNS, UPPER)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(9)


@pytest.mark.parametrize("lane", LANES, ids=["room", "left", "right", "upper"])
@pytest.mark.parametrize("motion", ["bounces", "falls", "slides"])
@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_a_contact_is_where_the_shape_touches(
    rng: np.random.Generator, rhythm: str, motion: str, lane: Lane
) -> None:
    radius = 7.0
    for _ in range(10):
        path = PATHS[motion](rng, radius, lane, FINE, rhythm)
        inside = [t for t in path.contacts if 0.01 < t < 1.99]
        assert inside
        for contact in inside:
            x, y = (np.interp(contact, FINE, axis) for axis in (path.x, path.y))
            wall = min(abs(x - radius - lane.left), abs(x + radius - lane.right))
            assert (wall if motion == "slides" else abs(y + radius - lane.floor)) < 0.15


@pytest.mark.parametrize("lane", LANES, ids=["room", "left", "right", "upper"])
@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_the_shape_keeps_to_its_lane(rng: np.random.Generator, rhythm: str, motion: str, lane: Lane) -> None:
    radius = 8.25
    for _ in range(20):
        path = PATHS[motion](rng, radius, lane, FINE, rhythm)
        assert path.x.min() >= lane.left + radius - 1e-6 and path.x.max() <= lane.right - radius + 1e-6
        assert path.y.min() >= radius and path.y.max() <= lane.floor - radius + 1e-6


def test_flight_is_under_gravity(rng: np.random.Generator) -> None:
    for motion in ("bounces", "falls"):
        path = PATHS[motion](rng, 8.0, ROOM, FINE)
        speed = np.gradient(path.y, FINE)
        flying = (path.y > 10.5) & (path.y < FLOOR - 8.5)
        flying[1:-1] &= flying[2:] & flying[:-2]
        acceleration = np.gradient(speed, FINE)[2:-2][flying[2:-2]]
        assert np.median(acceleration) == pytest.approx(GRAVITY, rel=0.01)


@pytest.mark.parametrize("rhythm", RHYTHMS)
def test_light_comes_on_at_the_contact(rng: np.random.Generator, rhythm: str) -> None:
    path = PATHS["blinks"](rng, 8.0, ROOM, FINE, rhythm)
    for contact in (t for t in path.contacts if 0.01 < t < 1.95):
        assert np.interp(contact - 0.002, FINE, path.brightness) == 0
        assert np.interp(contact + 0.002, FINE, path.brightness) == 1


@pytest.mark.parametrize("lane", LANES, ids=["room", "left", "right", "upper"])
@pytest.mark.parametrize("motion", MOTIONS)
def test_a_shift_by_one_period_of_an_irregular_rhythm_matches_nowhere_else(
    rng: np.random.Generator, motion: str, lane: Lane
) -> None:
    for _ in range(20):
        even = np.diff(PATHS[motion](rng, 8.0, lane, FINE).contacts)
        assert np.allclose(even, even[0])
        periods = np.diff(PATHS[motion](rng, 8.0, lane, FINE, "irregular").contacts)
        assert (np.abs(np.diff(periods)) > UNEVEN - 1e-9).all() and periods.min() >= 0.5
        assert UNEVEN > 0.0625  # seconds, one frame: what a match forgives


@pytest.mark.parametrize("motion", MOTIONS)
def test_sampled_contacts_are_whole_samples_between_frames(rng: np.random.Generator, motion: str) -> None:
    for _ in range(20):
        path = sample_path(rng, motion, 9.0, ROOM, 33, 16, 16000)
        assert path.x.shape == path.y.shape == path.brightness.shape == (33,)
        samples = np.array(path.contacts) * 16000
        assert np.allclose(samples, samples.round()) and path.contacts[0] > 0.09 and path.contacts[-1] < 1.91
