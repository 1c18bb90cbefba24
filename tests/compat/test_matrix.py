"""The table of compatibility: each node on each coupling and on the second expert, against plain Wan."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.compatibility import COLUMNS, EXPERTS, OF_KJNODES, ROWS, Row, bound_of, measured, rows

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", rows(), ids=lambda row: row.node)
def test_a_node_does_to_the_video_what_it_does_to_plain_wan(row: Row, column: str) -> None:
    found = measured(row, column)
    assert found.apart <= bound_of(row, column)
    assert (found.moved > 1e-4) is (row.moves and not (row.of_high and column == EXPERTS))


def stated() -> dict[str, list[float]]:
    """The numbers of each row of the page."""
    table = re.findall(r"^\| (\w+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {node: list(map(float, cells.split(" | "))) for node, cells in table if node != "node"}


def test_the_page_states_every_row_within_its_bound() -> None:
    page = stated()
    known = ROWS + OF_KJNODES
    assert page.keys() == {row.node for row in known}
    for row in known:
        moved, *apart = page[row.node]
        assert (moved > 1e-4) is row.moves
        for column, value in zip(COLUMNS, apart, strict=True):
            assert value <= bound_of(row, column), (row.node, column)
