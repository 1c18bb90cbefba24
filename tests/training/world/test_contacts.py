"""Contacts of drawn shapes whose times are known by construction."""

import pytest
import torch

from ccl_pack.ccl_core.training.world.contacts import contacts_of, track_colours, track_foreground

FPS = 16.0


def contacts_in(frames: torch.Tensor) -> list[float]:
    return contacts_of(track_foreground(frames), FPS)


def draw(x: list[float], y: list[float], light: list[float] | None = None) -> torch.Tensor:
    """A soft orange disc of radius 6 on dark grey, drawn without the training world."""
    grid = torch.arange(48) + 0.5
    frames = torch.full((len(x), 48, 48, 3), 0.1)
    for i, (cx, cy) in enumerate(zip(x, y, strict=True)):
        cover = (6.5 - torch.hypot(grid[None, :] - cx, grid[:, None] - cy)).clamp(0, 1)[..., None]
        frames[i] += (light[i] if light else 1.0) * cover * (torch.tensor([0.9, 0.5, 0.1]) - 0.1)
    return frames  # (f, 48, 48, 3)


def height_of_bounce(time: float, hits: list[float]) -> float:
    """In pixels; the ball flies for 0.7 s between two hits."""
    apart = [abs(time - hit) for hit in hits]
    return 110 * min(gap * (0.7 - gap) if gap < 0.7 else 99 for gap in apart)


def test_bounce_is_found_between_frames() -> None:
    hits = [0.40, 1.10, 1.80]
    found = contacts_in(draw([24.0] * 33, [40 - height_of_bounce(i / FPS, hits) for i in range(33)]))
    assert found == pytest.approx(hits, abs=0.015)


def test_landing_counts_once_and_the_cut_back_to_the_top_does_not() -> None:
    times = [i / FPS for i in range(20)]
    y = [8.0 if t < 0.2 else min(40.0, 8 + 200 * (t - 0.2) ** 2) for t in times]
    found = contacts_in(draw([24.0] * 40, y + y))
    assert found == pytest.approx([0.6, 0.6 + 20 / FPS], abs=0.02)


def test_walls_turn_a_slide() -> None:
    x = [10 + 28 * abs(((i / FPS - 0.33) / 0.6) % 2 - 1) for i in range(33)]
    assert contacts_in(draw(x, [38.0] * 33)) == pytest.approx([0.33, 0.93, 1.53], abs=0.01)


def test_switching_on_is_a_contact_and_switching_off_is_not() -> None:
    light = [0.0] * 5 + [0.4] + [1.0] * 6 + [0.0] * 7 + [1.0] * 6
    found = contacts_in(draw([20.0] * 25, [20.0] * 25, light))
    assert found == pytest.approx([4.6 / FPS, 18 / FPS], abs=0.012)


@pytest.mark.parametrize(
    "frames",
    [torch.zeros(2, 8, 8, 3), torch.zeros(33, 8, 8, 3), torch.full((9, 8, 8, 3), 0.5)],
    ids=["two frames", "black", "grey"],
)
def test_no_contacts_where_nothing_moves(frames: torch.Tensor) -> None:
    assert contacts_in(frames) == []


def test_track_measures_place_and_colour() -> None:
    track = track_foreground(draw([12.0, 36.0] * 4, [24.0] * 8))
    assert track.x.tolist() == pytest.approx([0.25, 0.75] * 4, abs=0.003)
    assert track.y.tolist() == pytest.approx([0.5] * 8, abs=0.003)
    assert track.colour.tolist() == pytest.approx([0.9, 0.5, 0.1], abs=0.02)


GREEN, VIOLET = torch.tensor([0.1, 0.9, 0.2]), torch.tensor([0.6, 0.2, 0.9])


def draw_discs(*discs: tuple[list[float], list[float], torch.Tensor]) -> torch.Tensor:
    """Several soft discs, each with its columns, rows and colour; a row of None is a frame without it."""
    grid = torch.arange(48) + 0.5
    frames = torch.full((len(discs[0][0]), 48, 48, 3), 0.1)
    for x, y, colour in discs:
        for i, (cx, cy) in enumerate(zip(x, y, strict=True)):
            if cy is not None:
                cover = (5.5 - torch.hypot(grid[None, :] - cx, grid[:, None] - cy)).clamp(0, 1)[..., None]
                frames[i] += cover * (colour - frames[i])
    return frames


def test_colours_are_followed_each_on_its_own() -> None:
    still, moving = [12.0] * 8, [30.0, 32.0, 34.0, 36.0, 38.0, 36.0, 34.0, 32.0]
    frames = draw_discs((still, [24.0] * 8, GREEN), (moving, [10.0] * 8, VIOLET))
    green, violet = track_colours(frames, torch.stack([GREEN, VIOLET]))
    assert green.x.tolist() == pytest.approx([0.25] * 8, abs=0.003)
    assert violet.x.tolist() == pytest.approx([x / 48 for x in moving], abs=0.003)
    assert green.y.tolist() == pytest.approx([0.5] * 8, abs=0.003)
    assert green.colour.tolist() == pytest.approx(GREEN.tolist(), abs=0.02)
    assert violet.colour.tolist() == pytest.approx(VIOLET.tolist(), abs=0.02)


def test_a_colour_comes_and_goes_whatever_the_others_do() -> None:
    lit = [None] * 3 + [24.0] * 6 + [None] * 4 + [24.0] * 6
    frames = draw_discs(([12.0] * 19, lit, GREEN), ([36.0] * 19, [24.0] * 19, VIOLET))
    green, violet, red = track_colours(frames, torch.stack([GREEN, VIOLET, torch.tensor([0.9, 0.1, 0.1])]))
    assert (green.presence > 0.5).tolist() == [y is not None for y in lit]
    assert contacts_of(green, FPS) == pytest.approx([3 / FPS, 13 / FPS], abs=0.07)
    assert contacts_of(violet, FPS) == [] and not red.presence.any()


def test_a_splash_of_a_colour_is_not_followed() -> None:
    frames = draw_discs(([12.0] * 8, [24.0] * 8, GREEN), ([36.0] * 8, [24.0] * 8, VIOLET))
    frames[::2, 2:4, 40:43] = GREEN
    (green,) = track_colours(frames, GREEN[None])
    assert green.x.tolist() == pytest.approx([0.25] * 8, abs=0.003)
