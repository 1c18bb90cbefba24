"""Contact and onset detection against events whose times are known by construction."""

import pytest
import torch

from ccl_pack.ccl_core.metrics import (
    contacts_of,
    detect_contacts,
    detect_onsets,
    match_events,
    summarise_sync,
    track_colours,
    track_foreground,
)

FPS = 16.0


def draw(x: list[float], y: list[float], light: list[float] | None = None) -> torch.Tensor:
    """A soft orange disc of radius 6 on dark grey, drawn without the training world."""
    grid = torch.arange(48) + 0.5
    frames = torch.full((len(x), 48, 48, 3), 0.1)
    for i, (cx, cy) in enumerate(zip(x, y, strict=True)):
        cover = (6.5 - torch.hypot(grid[None, :] - cx, grid[:, None] - cy)).clamp(0, 1)[..., None]
        frames[i] += (light[i] if light else 1.0) * cover * (torch.tensor([0.9, 0.5, 0.1]) - 0.1)
    return frames  # (f, 48, 48, 3)


def test_bounce_is_found_between_frames():
    hits = [0.40, 1.10, 1.80]
    times = [i / FPS for i in range(33)]
    height = [110 * min(abs((t - h) * (0.7 - abs(t - h))) if abs(t - h) < 0.7 else 99 for h in hits) for t in times]
    found = detect_contacts(draw([24.0] * 33, [40 - h for h in height]), FPS)
    assert found == pytest.approx(hits, abs=0.015)


def test_landing_counts_once_and_the_cut_back_to_the_top_does_not():
    y = [8.0 if t < 0.2 else min(40.0, 8 + 200 * (t - 0.2) ** 2) for t in (i / FPS for i in range(20))]
    found = detect_contacts(draw([24.0] * 40, y + y), FPS)
    assert found == pytest.approx([0.6, 0.6 + 20 / FPS], abs=0.02)


def test_walls_turn_a_slide():
    x = [10 + 28 * abs(((i / FPS - 0.33) / 0.6) % 2 - 1) for i in range(33)]
    assert detect_contacts(draw(x, [38.0] * 33), FPS) == pytest.approx([0.33, 0.93, 1.53], abs=0.01)


def test_switching_on_is_a_contact_and_switching_off_is_not():
    light = [0.0] * 5 + [0.4] + [1.0] * 6 + [0.0] * 7 + [1.0] * 6
    found = detect_contacts(draw([20.0] * 25, [20.0] * 25, light), FPS)
    assert found == pytest.approx([4.6 / FPS, 18 / FPS], abs=0.012)


@pytest.mark.parametrize(
    "frames",
    [torch.zeros(0, 8, 8, 3), torch.zeros(2, 8, 8, 3), torch.zeros(33, 8, 8, 3), torch.full((9, 8, 8, 3), 0.5)],
    ids=["no frames", "two frames", "black", "grey"],
)
def test_no_contacts_where_nothing_moves(frames):
    assert detect_contacts(frames, FPS) == []


def test_contacts_refuse_other_inputs():
    with pytest.raises(ValueError, match=r"\(f, h, w, 3\), got \(3, 8, 8\)"):
        detect_contacts(torch.zeros(3, 8, 8), FPS)
    with pytest.raises(ValueError, match="fps must be positive, got 0"):
        detect_contacts(torch.zeros(9, 8, 8, 3), 0)


def test_track_measures_place_and_colour():
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


def test_colours_are_followed_each_on_its_own():
    still, moving = [12.0] * 8, [30.0, 32.0, 34.0, 36.0, 38.0, 36.0, 34.0, 32.0]
    frames = draw_discs((still, [24.0] * 8, GREEN), (moving, [10.0] * 8, VIOLET))
    green, violet = track_colours(frames, torch.stack([GREEN, VIOLET]))
    assert green.x.tolist() == pytest.approx([0.25] * 8, abs=0.003)
    assert violet.x.tolist() == pytest.approx([x / 48 for x in moving], abs=0.003)
    assert green.y.tolist() == pytest.approx([0.5] * 8, abs=0.003)
    assert green.colour.tolist() == pytest.approx(GREEN.tolist(), abs=0.02)
    assert violet.colour.tolist() == pytest.approx(VIOLET.tolist(), abs=0.02)


def test_a_colour_comes_and_goes_whatever_the_others_do():
    lit = [None] * 3 + [24.0] * 6 + [None] * 4 + [24.0] * 6
    frames = draw_discs(([12.0] * 19, lit, GREEN), ([36.0] * 19, [24.0] * 19, VIOLET))
    green, violet, red = track_colours(frames, torch.stack([GREEN, VIOLET, torch.tensor([0.9, 0.1, 0.1])]))
    assert (green.presence > 0.5).tolist() == [y is not None for y in lit]
    assert contacts_of(green, FPS) == pytest.approx([3 / FPS, 13 / FPS], abs=0.07)
    assert contacts_of(violet, FPS) == [] and not red.presence.any()


def test_a_splash_of_a_colour_is_not_followed():
    frames = draw_discs(([12.0] * 8, [24.0] * 8, GREEN), ([36.0] * 8, [24.0] * 8, VIOLET))
    frames[::2, 2:4, 40:43] = GREEN
    (green,) = track_colours(frames, GREEN[None])
    assert green.x.tolist() == pytest.approx([0.25] * 8, abs=0.003)


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("kind", ["tone", "noise", "low"])
def test_onsets_are_found_to_a_few_milliseconds(rate, kind):
    starts = [0.3, 0.75, 1.31]
    seconds = torch.arange(2 * rate) / rate
    generator = torch.Generator().manual_seed(1)
    carrier = {
        "tone": torch.cos(2 * torch.pi * 900 * seconds),
        "noise": torch.randn(2 * rate, generator=generator),
        "low": torch.cos(2 * torch.pi * 90 * seconds),
    }[kind]
    level = sum((seconds >= s) * torch.exp(-(seconds - s).clamp_min(0) / 0.06) for s in starts)
    background = 1e-3 * torch.randn(2 * rate, generator=generator)
    assert detect_onsets(0.4 * level * carrier + background, rate) == pytest.approx(starts, abs=0.008)


def test_onsets_of_stereo_and_of_silence():
    click = torch.zeros(2, 16000)
    click[:, 8000:8200] = 0.5
    assert detect_onsets(click, 16000) == pytest.approx([0.5], abs=0.005)
    assert detect_onsets(torch.zeros(16000), 16000) == []
    assert detect_onsets(torch.zeros(0), 16000) == []
    with pytest.raises(ValueError, match="sample_rate must be positive, got 0"):
        detect_onsets(click, 0)


def test_matching_is_one_to_one_and_nearest_first():
    matches = match_events([1.0, 1.1], [1.08, 2.0], tolerance=0.125)
    assert matches.pairs == [(1.1, 1.08)]
    assert matches.missed == [1.0]
    assert matches.spurious == [2.0]
    assert match_events([], [0.5], 0.1).spurious == [0.5]
    assert match_events([0.5], [], 0.1).missed == [0.5]


def test_onsets_that_sound_right_come_first_and_others_after():
    contacts, onsets = [1.0, 1.1], [1.04, 1.06]
    assert match_events(contacts, onsets, 0.125).pairs == [(1.0, 1.04), (1.1, 1.06)]
    agree = torch.tensor([[False, True], [True, False]])
    assert match_events(contacts, onsets, 0.125, agree).pairs == [(1.0, 1.06), (1.1, 1.04)]
    assert match_events(contacts, onsets, 0.05, agree).pairs == [(1.0, 1.04), (1.1, 1.06)]
    assert match_events(contacts, onsets, 0.125, torch.zeros(2, 2).bool()).pairs == [(1.0, 1.04), (1.1, 1.06)]
    summary = summarise_sync(contacts, onsets, agree)
    assert summary.matched_62ms == 2 and summary.errors_ms == pytest.approx((60, 60))


def test_summary_counts():
    summary = summarise_sync([0.5, 1.0, 1.5], [0.51, 1.1, 1.9])
    assert (summary.contacts, summary.onsets) == (3, 3)
    assert (summary.matched_62ms, summary.matched_125ms, summary.spurious) == (1, 2, 1)
    assert summary.median_error_ms == pytest.approx(55)
    assert summary.errors_ms == pytest.approx((10, 100))
    assert summarise_sync([], []).median_error_ms is None
