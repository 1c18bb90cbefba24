"""The match of contacts and onsets: one to one, and counts that are known."""

import pytest
import torch

from ccl_pack.ccl_core.metrics.matching import f1, match_events, summarise_sync


def test_matching_is_one_to_one_and_nearest_first() -> None:
    matches = match_events([1.0, 1.1], [1.08, 2.0], tolerance=0.125)
    assert matches.pairs == [(1.1, 1.08)]
    assert matches.missed == [1.0]
    assert matches.spurious == [2.0]
    assert match_events([], [0.5], 0.1).spurious == [0.5]
    assert match_events([0.5], [], 0.1).missed == [0.5]


def test_onsets_that_sound_right_come_first_and_others_after() -> None:
    contacts, onsets = [1.0, 1.1], [1.04, 1.06]
    assert match_events(contacts, onsets, 0.125).pairs == [(1.0, 1.04), (1.1, 1.06)]
    agree = torch.tensor([[False, True], [True, False]])
    assert match_events(contacts, onsets, 0.125, agree).pairs == [(1.0, 1.06), (1.1, 1.04)]
    assert match_events(contacts, onsets, 0.05, agree).pairs == [(1.0, 1.04), (1.1, 1.06)]
    assert match_events(contacts, onsets, 0.125, torch.zeros(2, 2).bool()).pairs == [(1.0, 1.04), (1.1, 1.06)]
    summary = summarise_sync(contacts, onsets, agree)
    assert summary.matched_62ms == 2 and summary.errors_ms == pytest.approx((60, 60))


def test_summary_counts() -> None:
    summary = summarise_sync([0.5, 1.0, 1.5], [0.51, 1.1, 1.9])
    assert (summary.contacts, summary.onsets) == (3, 3)
    assert (summary.matched_62ms, summary.matched_125ms, summary.spurious) == (1, 2, 1)
    assert summary.median_error_ms == pytest.approx(55)
    assert summary.errors_ms == pytest.approx((10, 100))
    assert summarise_sync([], []).median_error_ms is None


def test_a_click_every_125_ms_has_full_recall_and_a_low_f1() -> None:
    contacts = [0.31, 0.74, 1.4]
    found = summarise_sync(contacts, [n / 8 for n in range(17)])
    assert found.matched_62ms == found.contacts == 3 and found.spurious == 14
    assert f1(found.matched_62ms, found.contacts, found.onsets) == pytest.approx(2 * 3 / (3 + 17))


def test_f1_of_all_of_half_and_of_nothing() -> None:
    assert f1(4, 4, 4) == 1 and f1(0, 4, 0) == 0
    assert f1(2, 2, 6) == pytest.approx(0.5)  # recall 1, precision 1/3
    assert f1(0, 0, 0) is None
