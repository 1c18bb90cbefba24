"""README holds what a newcomer acts on: templates and nodes by name, words that ccl-tiny knows, times."""

from __future__ import annotations

import re

from ccl_bench.minutes import CARDS, minutes
from ccl_pack.ccl_core.training.world.clip import KINDS
from ccl_pack.nodes import NODES
from ccl_tools.environment import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PERFORMANCE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
NAME = re.compile(r"(?<!\*)\*([^*\n]+)\*(?!\*)")


def section(title: str) -> str:
    return re.split(r"^## ", README.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def cells(text: str) -> list[list[str]]:
    """The rows of the tables of a text, without heads and rules."""
    rows = [re.findall(r"(?<=\|) *(.*?) *(?=\|)", line) for line in text.splitlines() if line[:1] == "|"]
    rules = [i for i, row in enumerate(rows) if set("".join(row)) <= set("-:")]
    return [row for i, row in enumerate(rows) if i not in rules and i + 1 not in rules]


def templates() -> set[str]:
    return {path.stem for path in (ROOT / "workflows").glob("*.json")}


def test_every_template_is_named_for_its_job() -> None:
    column = [row[-1] for row in cells(section("What to do, and with which template"))]
    assert sorted(NAME.findall("\n".join(column))) == sorted(templates())


def test_a_template_named_anywhere_is_there() -> None:
    nodes = {node.GET_SCHEMA().display_name for node in NODES}
    named = {name for name in NAME.findall(README) if re.search(r"with Sound|\(CCL|for a ", name)}
    assert named <= templates() | nodes


def test_the_words_of_ccl_tiny_are_those_of_its_world() -> None:
    [row] = cells(section("Your first clip"))
    assert [cell.split(", ") for cell in row] == [list(words) for words in KINDS.values()]


def test_times_are_those_of_the_counted_operations() -> None:
    times = {row[0]: row[1:] for row in cells(PERFORMANCE) if row[0].endswith(" s") and "x" in row[0]}
    assert len(times) == 6
    for step, *columns in times.values():
        # The step is rounded to a hundredth too.
        low, high = float(step) - 0.005, float(step) + 0.005
        for minute, card in zip(columns, CARDS.values(), strict=True):
            assert minutes(low, card) - 0.5 <= int(minute) <= minutes(high, card) + 0.5
