"""Windows of a long clip: where each begins, what it keeps, and that all of them are the clip."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ccl_pack.ccl_core.alignment.windows import Span, spans


def test_windows_go_on_from_each_other_and_the_last_ends_with_the_clip() -> None:
    assert spans(20, 9, 3) == (Span(0, 0, 9), Span(6, 9, 15), Span(11, 15, 20))


def test_a_clip_of_one_window_is_one() -> None:
    assert spans(9, 9, 3) == (Span(0, 0, 9),)
    assert spans(4, 9, 3) == (Span(0, 0, 4),)


def test_a_window_ends_at_a_border_and_the_next_one_begins_there() -> None:
    found = spans(30, 9, 3, [12, 14])
    assert found == (
        *(Span(0, 0, 9), Span(3, 9, 12), Span(5, 12, 14), Span(11, 14, 20)),
        *(Span(17, 20, 26), Span(21, 26, 30)),
    )
    # A scene that is shorter than a window begins with less behind it.
    assert spans(12, 9, 3, [2]) == (Span(0, 0, 2), Span(0, 2, 9), Span(3, 9, 12))


@pytest.mark.parametrize("places", [1, 8, 9, 10, 57, 241])
@pytest.mark.parametrize("overlap", [1, 3, 8])
def test_all_windows_are_the_clip_and_none_is_longer(places: int, overlap: int) -> None:
    found = spans(places, 9, overlap, [0, 5, 40, 241])
    assert [span.new for span in found] == [0, *(span.stop for span in found[:-1])]
    assert found[-1].stop == places and all(span.stop - span.start <= 9 for span in found)
    # What a window keeps lies in the one before it, and is no less than asked for where there is as much.
    for before, span in pairwise(found):
        assert before.start <= span.start and span.kept >= min(overlap, span.new)


@pytest.mark.parametrize("overlap", [0, 9, 12])
def test_an_overlap_that_leaves_nothing_new_is_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match=f"windows of 9 places overlap in {overlap}"):
        spans(20, 9, overlap)
