"""UniAVGen's windows and blends against the printed formulas, written as plain loops."""

from __future__ import annotations

from fractions import Fraction as F
from typing import Any

import pytest

from ccl_pack.ccl_core.alignment.asymmetric import plan
from ccl_pack.ccl_core.alignment.timeline import Timeline
from ccl_pack.ccl_core.config import AsymmetricOptions


def timeline(latent_frames: int = 4, tokens: int = 26, clock: str = "causal", first: int = 0) -> Timeline:
    """Two audio tokens for each pixel frame: 13 of them in 4 latent frames."""
    return Timeline(latent_frames, tokens, fps=F(16), audio_rate=F(32), clock=clock, first=first)


def options(**fields: Any) -> AsymmetricOptions:
    return AsymmetricOptions(**{"window": 1, "window_unit": "latents"} | fields)


def read(ranges: Any) -> list[int]:
    return [token for span in ranges for token in range(*span)]


def tokens_of_cells(cells: list[list[int]], first: int, stop: int) -> list[int]:
    """The tokens of cells `first` to `stop`, the index held inside the clip."""
    return [token for i in range(first, stop) for token in cells[min(max(i, 0), len(cells) - 1)]]


def latent_cells(short_first: bool) -> list[list[int]]:
    if short_first:
        return [[0, 1], *[list(range(2 + 8 * i, 10 + 8 * i)) for i in range(3)]]
    return [list(range(8 * i, 8 * i + 8)) for i in range(4)]


@pytest.mark.parametrize("window", [0, 1, 2, 5])
@pytest.mark.parametrize("short_first", [True, False])
def test_windows_in_latent_frames(window: int, short_first: bool) -> None:
    made = plan(timeline(tokens=26 if short_first else 32), options(window=window, short_first=short_first))
    cells = latent_cells(short_first)
    for i, ranges in enumerate(made.windows):
        assert read(ranges) == tokens_of_cells(cells, i - window, i + window + 1)


@pytest.mark.parametrize("window", [0, 1, 3, 12, 20])
def test_windows_in_pixel_frames(window: int) -> None:
    made = plan(timeline(), options(window=window, window_unit="frames"))
    cells = [[2 * frame, 2 * frame + 1] for frame in range(13)]
    for (first, stop), ranges in zip(((0, 1), (1, 5), (5, 9), (9, 13)), made.windows, strict=True):
        assert read(ranges) == tokens_of_cells(cells, first - window, stop + window)


def test_the_first_window_is_a_quarter_of_the_others() -> None:
    """Supplement 6.2: the first latent frame holds one pixel frame."""
    sizes = [len(read(ranges)) for ranges in plan(timeline(), options(window=0)).windows]
    assert sizes == [2, 8, 8, 8]


def test_a_window_of_a_clip_has_no_short_frame() -> None:
    made = plan(timeline(tokens=32, first=5), options(window=0))
    assert [read(ranges) for ranges in made.windows] == latent_cells(False)


def test_between_latent_frames_as_printed() -> None:
    """i = floor(j / k), alpha = (j mod k) / k, and H_{T-1} alone in the last block: the worked example."""
    how = options(interpolation="latents", short_first=False)
    made = plan(timeline(tokens=16, clock="uniform"), how)
    k = 4
    for j, blend in enumerate(made.blends):
        i = j // k
        assert blend == ((i, F(j % k, k)) if i < 3 else (3, F(0)))
    assert made.blends[5] == (1, F(1, 4))
    # On the clock of the paper a token stands where it reads.
    assert set(made.lags[: 3 * k]) == {0}


def test_between_latent_frames_with_a_short_first_one() -> None:
    made = plan(timeline(), options(interpolation="latents"))
    assert made.blends[:4] == ((0, F(0)), (0, F(1, 2)), (1, F(0)), (1, F(1, 8)))
    assert made.blends[18:] == ((3, F(0)),) * 8


def test_between_pixel_frames() -> None:
    """Each pixel frame has the features of its latent frame, so that only its last tokens see the next."""
    made = plan(timeline(), options(interpolation="frames"))
    frames = [0, *[1] * 4, *[2] * 4, *[3] * 4]
    for j, (i, alpha) in enumerate(made.blends):
        p, beta = divmod(F(j, 2), 1)
        following = frames[min(p + 1, 12)]
        # (1 - beta) G_p + beta G_{p+1}, as weights of latent frames.
        wanted = {frames[p]: 1 - beta}
        wanted[following] = wanted.get(following, 0) + beta
        got = {i: 1 - alpha, i + 1: alpha}
        assert {k: w for k, w in got.items() if w} == {k: w for k, w in wanted.items() if w}


def test_between_centres_a_token_reads_its_own_moment() -> None:
    """The time of what is read, by the middles of the latent frames, is that of the token: no lag."""
    made = plan(timeline(), options(interpolation="centres"))
    middles = [F(0), F(5, 2), F(13, 2), F(21, 2)]  # in pixel frames
    for j, ((i, alpha), lag) in enumerate(zip(made.blends, made.lags, strict=True)):
        following = middles[min(i + 1, 3)]
        at, token = middles[i] + alpha * (following - middles[i]), F(2 * j + 1, 4)
        assert at == min(token, middles[-1])
        assert lag == max(0, (token - middles[-1]) / 4)


def test_as_printed_a_token_reads_ahead() -> None:
    """On the causal clock by half a latent frame at first, 125 ms at 16 frames a second, then by 5/16."""
    lags = plan(timeline(), options(interpolation="latents")).lags
    assert lags[2] == F(-1, 2) and set(lags[5:18]) == {F(-5, 16)}


@pytest.mark.parametrize("short_first", [True, False])
def test_time_aligned_both_directions_read_what_lies_in_the_same_time(short_first: bool) -> None:
    made = plan(
        timeline(tokens=26 if short_first else 32),
        options(window=0, interpolation="own", short_first=short_first),
    )
    for i, tokens in enumerate(latent_cells(short_first)):
        assert read(made.windows[i]) == tokens
        assert [j for j, blend in enumerate(made.blends) if blend == (i, F(0))] == tokens
    positions = timeline(tokens=26 if short_first else 32).audio_positions
    assert made.lags == tuple(at - i for at, (i, _) in zip(positions, made.blends, strict=True))


def test_global_every_frame_reads_each_token_once_and_no_token_has_a_place() -> None:
    made = plan(timeline(), options(window=None, interpolation="all"))
    assert [read(ranges) for ranges in made.windows] == [list(range(26))] * 4
    assert made.blends == made.lags == made.alphas == made.readers == ()
    assert made.audio_positions == timeline().audio_positions


@pytest.mark.parametrize("unit", ["latents", "frames"])
@pytest.mark.parametrize("interpolation", ["centres", "latents", "frames", "own"])
@pytest.mark.parametrize("latent_frames, tokens", [(1, 1), (1, 9), (2, 3), (5, 3), (7, 101)])
def test_every_length_has_windows_and_places(
    unit: str, interpolation: str, latent_frames: int, tokens: int
) -> None:
    how = options(window=0, window_unit=unit, interpolation=interpolation)
    made = plan(timeline(latent_frames, tokens), how)
    assert len(made.windows) == latent_frames and len(made.blends) == tokens == len(made.lags)
    assert all(read(ranges) for ranges in made.windows)
    for ranges in made.windows:
        assert all(0 <= token < tokens for token in read(ranges))
    assert all(0 <= i < latent_frames and 0 <= alpha < 1 for i, alpha in made.blends)
    assert all(alpha == 0 for i, alpha in made.blends if i == latent_frames - 1)
    assert sorted(i for i, _ in made.blends) == [i for i, _ in made.blends]
