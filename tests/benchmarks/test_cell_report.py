"""Numbers and tables of cells: known answers."""

from __future__ import annotations

from typing import Any

import pytest

from ccl_bench.cell_report import (
    Difference,
    by_seed,
    counted,
    curve,
    difference,
    halfway,
    paired,
    spread,
    steps_to,
    table,
)

FALLING = [(0, 1.0), (50, 0.8), (100, 0.4)]


def report(seed: int, *values: float | None) -> dict[str, Any]:
    return {"seed": seed, "probes": [{"step": 50 * i, "x": value} for i, value in enumerate(values)]}


def x(probe: Any) -> float | None:
    return probe["x"]


def test_a_curve_has_the_probes_that_were_measured() -> None:
    assert curve(report(0, 1.0, None, 0.5), x) == [(0, 1.0), (100, 0.5)]
    assert by_seed([report(0, 1.0, 0.5), report(1, None)], x) == {0: 0.5}


@pytest.mark.parametrize(
    ("threshold", "step"), [(1.0, 0), (2.0, 0), (0.9, 25), (0.8, 50), (0.5, 87.5), (0.4, 100), (0.3, None)]
)
def test_a_threshold_is_reached_on_the_line_between_two_probes(threshold: float, step: float | None) -> None:
    assert steps_to(FALLING, threshold) == (step if step is None else pytest.approx(step))
    rising = [(at, -value) for at, value in FALLING]
    assert steps_to(rising, -threshold, rising=True) == (step if step is None else pytest.approx(step))


def test_a_threshold_counts_from_the_first_time_it_is_reached() -> None:
    assert steps_to([(0, 1.0), (50, 0.0), (100, 1.0), (150, 0.0)], 0.5) == 25
    assert steps_to([], 0.5) is None


def test_halfway_is_from_the_mean_start_to_the_best_end() -> None:
    assert halfway([FALLING, [(0, 0.8), (100, 0.7)]]) == pytest.approx((0.9 + 0.4) / 2)
    assert halfway([[(0, 0.0), (100, 0.2)], [], [(0, 0.0), (100, 0.6)]], rising=True) == pytest.approx(0.3)
    assert halfway([[], []]) is None


def test_differences_are_paired_by_seed_with_students_interval() -> None:
    found = paired({0: 1.0, 1: 2.0, 2: 3.0, 7: 9.0}, {2: 1.0, 0: 0.5, 1: 1.0})
    # Differences .5, 1, 2: a deviation of .7638, over the root of 3, times 4.303.
    assert found == (pytest.approx(3.5 / 3), pytest.approx(1.8975, abs=1e-3))
    assert paired({0: 1.0}, {0: 0.25}) == (0.75, None)
    assert paired({0: 1.0}, {1: 0.25}) is None


def test_a_difference_is_bold_where_its_interval_does_not_hold_0() -> None:
    assert difference(Difference(0.5, 0.2)) == "**+0.500 (+0.300 to +0.700)**"
    assert difference(Difference(-0.1, 0.2)) == "-0.100 (-0.300 to +0.100)"
    assert difference(Difference(0.5, None)) == "+0.500" and difference(None) == ""


def test_numbers_in_words() -> None:
    assert spread([1.0, 2.0, 6.0], "{:.1f}") == "3.0 (1.0 to 6.0)" and spread([]) == ""
    assert counted([10.0, 20.0]) == "15 (10 to 20)"
    assert counted([10.0, None]) == "10 (10 to 10), never in 1 of 2"
    assert counted([None, None]) == "never in 2 of 2"


def test_a_table_is_markdown() -> None:
    assert table(["", "a"], [["b", "1"]]) == ["|  | a |", "|---|---|", "| b | 1 |"]
