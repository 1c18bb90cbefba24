"""TARP: known windows, and coverage."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ccl_pack.ccl_core.alignment.plan import Ranges
from ccl_pack.ccl_core.alignment.tarp import plan
from ccl_pack.ccl_core.alignment.timeline import Timeline

SIZES = [
    (1, 1),
    (1, 9),
    (2, 3),
    (9, 66),
    (12, 90),
    (16, 126),
    (21, 168),
    (31, 157),
    (61, 314),
    (49, 403),
    (20, 7),
]
CLOCKS = [("uniform", None), ("causal", None), ("linear", 0.19676)]


def timeline(
    latent_frames: int, audio_tokens: int, clock: str, scale: float | None = None, first: int = 0
) -> Timeline:
    return Timeline(latent_frames, audio_tokens, Fraction(16), Fraction(32), clock, scale, first)


def test_uniform_clock_is_the_papers_where_c_is_whole() -> None:
    made = plan(timeline(21, 168, "uniform"))  # c = 8, s = 24
    middles = [4 + 8 * i for i in range(21)]
    assert made.a2v == tuple((max(0, m - 12), min(168, m + 12)) for m in middles)
    assert made.v2a == tuple((8 * i, 8 * i + 8) for i in range(21))


def test_uniform_clock_with_odd_c() -> None:
    made = plan(timeline(4, 20, "uniform"))  # c = 5, s = 15: [m - 7, m + 8)
    assert made.a2v == ((0, 10), (0, 15), (5, 20), (10, 20))


def test_causal_clock_has_its_windows_around_the_times_of_the_frames() -> None:
    made = plan(
        timeline(5, 34, "causal")
    )  # two tokens a pixel frame: c = 8, s = 24, middles 0, 5, 13, 21, 29
    assert made.a2v == ((0, 12), (0, 17), (1, 25), (9, 33), (17, 34))
    assert made.v2a == ((0, 2), (2, 9), (9, 17), (17, 25), (25, 34))


@pytest.mark.parametrize(
    ("made", "a2v", "v2a"),
    [
        (timeline(2, 3, "causal"), ((0, 3), (0, 3)), ((0, 1), (1, 3))),
        (
            timeline(6, 4, "causal"),  # fewer audio tokens than latent frames
            ((0, 2), (0, 2), (0, 3), (1, 4), (1, 4), (2, 4)),
            ((0, 0), (0, 1), (1, 2), (2, 2), (2, 3), (3, 4)),
        ),
        (timeline(4, 7, "uniform"), ((0, 3), (0, 5), (1, 7), (3, 7)), ((0, 2), (2, 3), (3, 5), (5, 7))),
        (
            timeline(4, 30, "causal", first=3),
            ((0, 15), (0, 23), (6, 30), (14, 30)),
            ((0, 7), (7, 15), (15, 22), (22, 30)),
        ),
    ],
)
def test_windows_where_c_is_no_integer(made: Timeline, a2v: Ranges, v2a: Ranges) -> None:
    assert (plan(made).a2v, plan(made).v2a) == (a2v, v2a)


@pytest.mark.parametrize(("clock", "scale"), CLOCKS)
@pytest.mark.parametrize("size", SIZES)
def test_windows_cover_every_token(clock: str, scale: float | None, size: tuple[int, int]) -> None:
    frames, tokens = size
    made = plan(timeline(frames, tokens, clock, scale))
    assert len(made.a2v) == len(made.v2a) == len(made.frame_positions) == frames
    assert {j for start, stop in made.a2v for j in range(start, stop)} == set(range(tokens))
    assert [j for start, stop in made.v2a for j in range(start, stop)] == list(range(tokens))
    assert all(0 <= start < stop <= tokens for start, stop in made.a2v)
    assert list(made.audio_positions) == sorted(made.audio_positions) and len(made.audio_positions) == tokens


def test_the_windows_of_a_clip_are_full_but_at_its_ends() -> None:
    assert all(stop - start == 24 for start, stop in plan(timeline(9, 66, "causal")).a2v[2:-2])


def test_a_window_that_starts_later_has_full_windows_of_sound_from_its_second_frame() -> None:
    made = plan(timeline(6, 48, "causal", first=6))
    assert made.a2v == ((0, 16), (0, 24), (8, 32), (16, 40), (24, 48), (32, 48))


def test_linear_clock_keeps_the_windows_of_the_causal_clock() -> None:
    linear, causal = plan(timeline(31, 157, "linear", 0.19676)), plan(timeline(31, 157, "causal"))
    assert (linear.a2v, linear.v2a) == (causal.a2v, causal.v2a)


def test_a_plan_is_made_once() -> None:
    assert plan(timeline(9, 66, "causal")) is plan(timeline(9, 66, "causal"))
