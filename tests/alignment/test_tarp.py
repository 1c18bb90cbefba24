"""TARP: known windows, coverage, and one clock for both streams."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ccl_pack.ccl_core.alignment.tarp import align

SIZES = [(1, 1), (1, 9), (2, 3), (9, 66), (12, 90), (16, 126), (21, 168), (31, 157), (61, 314), (49, 403), (20, 7)]


def test_uniform_clock_is_the_papers_where_c_is_whole():
    tarp = align("uniform", 21, 168)  # c = 8, s = 24
    centres = [4 + 8 * i for i in range(21)]
    assert tarp.a2v == tuple((max(0, m - 12), min(168, m + 12)) for m in centres)
    assert tarp.v2a == tuple((8 * i, 8 * i + 8) for i in range(21))
    assert tarp.audio_positions == tuple(j / 8 for j in range(168))


def test_uniform_clock_with_odd_c():
    tarp = align("uniform", 4, 20)  # c = 5, s = 15: [m - 7, m + 8)
    assert tarp.a2v == ((0, 10), (0, 15), (5, 20), (10, 20))


@pytest.mark.parametrize("clock", ["uniform", "causal"])
@pytest.mark.parametrize("size", SIZES)
def test_windows_cover_every_token(clock, size):
    frames, tokens = size
    tarp = align(clock, frames, tokens)
    assert len(tarp.a2v) == len(tarp.v2a) == frames
    assert {j for start, stop in tarp.a2v for j in range(start, stop)} == set(range(tokens))
    assert [j for start, stop in tarp.v2a for j in range(start, stop)] == list(range(tokens))
    assert all(0 <= start < stop <= tokens for start, stop in tarp.a2v)
    assert list(tarp.audio_positions) == sorted(tarp.audio_positions) and len(tarp.audio_positions) == tokens


def test_causal_clock_meets_the_frames_at_their_own_times():
    """Same second, same position: a token whose middle lies at a frame's time sits on that frame's index."""
    fps, rate, frames = Fraction(16), Fraction(32), 9
    tokens = int((4 * frames - 3) / fps * rate)
    tarp = align("causal", frames, tokens)
    for j, position in enumerate(tarp.audio_positions):
        seconds = (j + Fraction(1, 2)) / rate
        expected = (
            (seconds * fps + Fraction(3, 2)) / 4 if seconds > Fraction(5, 2) / fps else seconds * fps / Fraction(5, 2)
        )
        assert position == pytest.approx(float(expected))
    for i, (start, stop) in enumerate(tarp.v2a):
        for j in range(start, stop):
            distances = [abs(tarp.audio_positions[j] - frame) for frame in range(frames)]
            assert distances[i] == min(distances)


def test_causal_clock_gives_the_first_frame_its_short_share():
    tarp = align("causal", 9, 66)  # two tokens per pixel frame
    assert tarp.v2a[0] == (0, 2) or tarp.v2a[0] == (0, 3)
    assert all(stop - start == 8 for start, stop in tarp.v2a[2:-1])
    assert all(stop - start == 24 for start, stop in tarp.a2v[2:-2])


def test_window_that_starts_later_has_no_short_frame():
    whole, part = align("causal", 12, 90), align("causal", 6, 48, first=6)
    assert all(stop - start == 8 for start, stop in part.v2a)
    offset = whole.v2a[6][0]
    for j, position in enumerate(part.audio_positions):
        assert position + 6 == pytest.approx(whole.audio_positions[offset + j], abs=0.2)


@pytest.mark.parametrize(("frames", "tokens"), [(0, 5), (5, 0)])
def test_empty_stream_is_refused(frames, tokens):
    with pytest.raises(ValueError, match=f"got {frames} latent frames and {tokens} audio tokens"):
        align("causal", frames, tokens)


def test_unknown_clock_is_refused():
    with pytest.raises(ValueError, match="unknown clock 'sidereal'"):
        align("sidereal", 3, 4)


def test_linear_clock_scales_the_index_and_keeps_the_ranges_of_the_causal_clock():
    linear, causal = align("linear", 31, 157, scale=0.19676), align("causal", 31, 157)
    assert linear.audio_positions[0] == 0.0
    assert linear.audio_positions[156] == pytest.approx(156 * 0.19676)
    assert (linear.a2v, linear.v2a) == (causal.a2v, causal.v2a)
