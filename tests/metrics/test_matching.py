"""The match of contacts and onsets: one to one, and counts that are known."""

import pytest
import torch

from ccl_pack.ccl_core.metrics.matching import match_events, summarise_sync


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
