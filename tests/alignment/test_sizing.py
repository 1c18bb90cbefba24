"""Known answers, round trips and refusals of the sizes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from ccl_pack.ccl_core.alignment.sizing import (
    AVSize,
    Grid,
    audio_tokens_of,
    exact_fps,
    pinned_at,
    size_av,
)
from ccl_pack.ccl_core.alignment.timeline import frames_of, latent_frames_of
from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.families.base import Preset

TINY = Grid(fps=Fraction(16), spatial_stride=8, patch=2, audio_rate=Fraction(32), sample_rate=16000)


def of_family(name: str, **wanted: int) -> AVSize:
    """A size with the rates of a family and the lengths it was trained at."""
    fps, latent = FAMILIES[name].published["fps"], FAMILIES[name].published["audio_latent"]
    grid = Grid(fps, 8, 2, latent.rate, latent.sample_rate, pinned=pinned_at(fps, latent.rate))
    return size_av(grid, width=704, height=704, **wanted)


def gap_ms(size: AVSize) -> float:
    return float((size.audio_seconds - size.video_seconds) * 1000)


def test_tiny_two_seconds() -> None:
    size = size_av(TINY, width=64, height=64, seconds=2)
    assert (size.frames, size.latent_frames, size.audio_tokens, size.samples) == (33, 9, 66, 33000)
    assert (size.latent_width, size.latent_height) == (8, 8)
    assert size.video_seconds == size.audio_seconds == Fraction(33, 16)


@pytest.mark.parametrize(
    "name, frames, latent_frames, tokens",
    [("ovi", 121, 31, 157), ("ovi", 241, 61, 314), ("mova", 193, 49, 403)],
)
def test_trained_lengths_give_their_published_pairs(
    name: str, frames: int, latent_frames: int, tokens: int
) -> None:
    size = of_family(name, frames=frames)
    assert (size.frames, size.latent_frames, size.audio_tokens) == (frames, latent_frames, tokens)


TRAINED = [(name, preset) for name in ("ovi", "mova") for preset in FAMILIES[name].presets]


@pytest.mark.parametrize("name, preset", TRAINED)
def test_trained_lengths_differ_from_the_video_by_less_than_a_token(name: str, preset: Preset) -> None:
    size = of_family(name, frames=preset.frames)
    assert size.audio_tokens == preset.audio_tokens
    assert abs(gap_ms(size)) < 1000 / float(FAMILIES[name].published["audio_latent"].rate)


def test_ovi_five_seconds_ends_18_ms_before_its_video() -> None:
    size = of_family("ovi", seconds=5)
    assert size.frames == 121
    assert gap_ms(size) == pytest.approx(-17.667, abs=1e-3)


def test_a_pin_holds_only_at_the_frame_rate_it_was_trained_at() -> None:
    assert of_family("ovi", frames=121, fps=25).audio_tokens == 152


@pytest.mark.parametrize("frames", range(1, 60))
def test_frames_are_the_smallest_4k_plus_1_that_covers(frames: int) -> None:
    size = size_av(TINY, width=64, height=64, frames=frames)
    assert size.frames % 4 == 1
    assert frames <= size.frames < frames + 4
    assert latent_frames_of(frames_of(size.latent_frames)) == size.latent_frames


@pytest.mark.parametrize("fps", [12, 16, 23.976, 24, 25, 29.97, 60])
@pytest.mark.parametrize("seconds", [0.05, 1, 2.5, 5, 10.04, 61])
def test_seconds_are_covered_by_both_streams_and_by_less_than_a_step(fps: float, seconds: float) -> None:
    size = size_av(TINY, width=64, height=64, seconds=seconds, fps=fps)
    assert seconds <= size.video_seconds < seconds + 4 / fps + 1e-9
    assert 0 <= gap_ms(size) < 1000 / 32
    assert abs(Fraction(size.samples, 16000) - size.video_seconds) <= Fraction(1, 32000)


def test_exact_c_gives_c_tokens_to_each_latent_frame() -> None:
    size = size_av(replace(TINY, exact_c=True), width=64, height=64, frames=33)
    assert size.audio_tokens == 8 * 9


def test_exact_c_that_does_not_exist_falls_back_to_covering() -> None:
    grid = replace(TINY, exact_c=True, fps=Fraction(24))
    assert (
        size_av(grid, width=64, height=64, frames=33).audio_tokens
        == size_av(replace(grid, exact_c=False), width=64, height=64, frames=33).audio_tokens
    )


def test_sides_round_down_to_the_grid() -> None:
    size = size_av(TINY, width=79, height=95, frames=5)
    assert (size.width, size.height, size.latent_width, size.latent_height) == (64, 80, 8, 10)


def test_fps_of_film() -> None:
    assert exact_fps(23.976) == Fraction(2997, 125)


def test_a_pinned_count_comes_before_c() -> None:
    c_whole = {"fps": Fraction(16), "audio_rate": Fraction(32), "exact_c": True}
    assert audio_tokens_of(9, **c_whole) == 72
    assert audio_tokens_of(9, **c_whole, pinned=((9, 66), (21, 162))) == 66


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"seconds": 0}, "0 seconds"),
        ({"seconds": -1.5}, "-1.5 seconds"),
        ({"seconds": float("nan")}, "nan seconds"),
        ({"seconds": 601}, "at most 600"),
        ({"frames": 0}, "0 frames"),
        ({"frames": -5}, "-5 frames"),
        ({"frames": 10**9}, "at most 9600"),
        ({}, "exactly one"),
        ({"seconds": 1, "frames": 17}, "exactly one"),
        ({"seconds": 1, "fps": 0}, "fps is 0"),
        ({"seconds": 1, "fps": -16}, "fps is -16"),
        ({"seconds": 1, "fps": float("inf")}, "fps is inf"),
        ({"seconds": 1, "fps": 1000}, "from 1 to 240"),
        ({"seconds": 1, "width": 15}, "width is 15"),
        ({"seconds": 1, "height": 0}, "height is 0"),
        ({"seconds": 1, "height": -64}, "height is -64"),
        ({"seconds": 1, "width": 10**6}, "at most 16384"),
    ],
)
def test_refusals_say_what_was_got(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        size_av(TINY, **{"width": 64, "height": 64, **wrong})
