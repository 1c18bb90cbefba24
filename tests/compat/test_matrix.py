"""The tables of compatibility: each node on each coupling, against plain Wan and against LTX-2."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from ccl_pack.ccl_core.config import OPTIONS
from support.compatibility import gguf, host, ltx, packs
from support.compatibility.checkouts import GGUF, KJNODES
from support.compatibility.table import COLUMNS, EXPERTS, Row, bound_of, measured, pair_of

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", host.ROWS + packs.at_hand(), ids=lambda row: row.node)
def test_a_node_does_to_the_video_what_it_does_to_plain_wan(row: Row, column: str) -> None:
    found = measured(row, column)
    assert found.apart <= bound_of(row, column)
    assert (found.moved > 1e-4) is (row.moves and not (row.of_high and column == EXPERTS))


@pytest.mark.parametrize("column", ltx.COLUMNS)
@pytest.mark.parametrize("row", ltx.at_hand(), ids=lambda row: row.node)
def test_a_node_of_ltx_2_does_to_a_pair_what_it_does_to_ltx_2(row: ltx.Row, column: str) -> None:
    found = ltx.measured(row, column)
    assert found.apart <= row.bound
    assert (found.moved > 1e-4) is (column == ltx.LTX or row.moves_pairs)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.skipif(not os.environ.get(KJNODES), reason=f"{KJNODES} names no checkout of the pack")
def test_sage_attention_reaches_every_attention_of_both_towers(column: str) -> None:
    joint, wan = pair_of(column)
    asked, computed = packs.calls_of_sage(wan, sound=False)
    # Self-attention and text, three layers, two texts in one call, two steps.
    assert asked == computed == 2 * 3 * 2
    # A CCL video without sound reads its context tokens in the two coupled layers.
    context = 2 * 2 if column == "cca" else 0
    assert packs.calls_of_sage(joint, sound=False) == (asked + context, asked + context)
    # The audio has two layers, and in both of them each stream reads the other one, in CCL in windows.
    coupling = 6 if column == "cca" else 2
    both, both_by_sage = packs.calls_of_sage(joint, sound=True)
    assert both == both_by_sage == asked + 2 * 2 * 2 + coupling * 2 * 2


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.skipif(not os.environ.get(GGUF), reason=f"{GGUF} names no checkout of the pack")
def test_the_half_precision_of_gguf_costs_a_pair_no_more_than_wan(kind: str) -> None:
    video, audio, wan = gguf.rounding(kind)
    assert 0 < video <= gguf.ROUNDING and 0 < audio <= gguf.ROUNDING
    assert video == pytest.approx(wan, rel=1e-3)


def stated(heading: str) -> dict[str, list[float]]:
    """The numbers of each row of the table whose first column has this heading."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"| {heading} |")
    table = re.findall(r"^\| (\w+) \| (.+) \|$", rest.partition("\n\n")[0], re.MULTILINE)
    return {node: list(map(float, cells.split(" | "))) for node, cells in table}


def test_the_page_states_every_row_within_its_bound() -> None:
    page = stated("node")
    known = host.ROWS + [row for rows in packs.PACKS.values() for row in rows]
    assert page.keys() == {row.node for row in known}
    for row in known:
        moved, *apart = page[row.node]
        assert (moved > 1e-4) is row.moves
        for column, value in zip(COLUMNS, apart, strict=True):
            assert value <= bound_of(row, column), (row.node, column)


def test_the_page_states_every_row_of_ltx_2_within_its_bound() -> None:
    page = stated("node of LTX-2")
    known = ltx.ROWS + ltx.OF_NEWER_HOST + ltx.OF_LTXVIDEO
    assert page.keys() == {row.node for row in known}
    for row in known:
        of_ltx, of_pairs, *apart = page[row.node]
        assert of_ltx > 1e-4 and (of_pairs > 1e-4) is row.moves_pairs
        assert len(apart) == len(ltx.COLUMNS) and max(apart) <= row.bound, row.node
