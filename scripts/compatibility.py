"""Writes docs/compatibility.md: what nodes of the host and of packs do to plain Wan, LTX-2 and a pair.

The rows of a pack are measured where the environment names a checkout of it, and are kept else. Those of
ComfyUI-GGUF want the package gguf, and two rows of LTX-2 a ComfyUI from 0.33 on:

    CCL_KJNODES=/path/of/ComfyUI-KJNodes CCL_LTXVIDEO=/path/of/ComfyUI-LTXVideo \\
        CCL_GGUF=/path/of/ComfyUI-GGUF python scripts/compatibility.py
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from ccl_tools.console import exit_on_script_error, say
from ccl_tools.environment import ROOT, load_pack, reexec, with_tests_on_path

PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- scripts/compatibility.py writes {} from here -->", "<!-- to here -->"


def main() -> None:
    load_pack()
    with_tests_on_path()
    from support.compatibility import host, ltx, packs, table

    of_wan = {}
    for row in host.ROWS + packs.at_hand():
        found = [table.measured(row, column) for column in table.COLUMNS]
        of_wan[row.node] = cells(found[0].moved, *(one.apart for one in found))
        say(f"{row.node} {of_wan[row.node]}")
    of_ltx = {}
    for row in ltx.at_hand():
        found = [ltx.measured(row, column) for column in ltx.COLUMNS]
        moved = found[0].moved, max(one.moved for one in found[1:])
        of_ltx[row.node] = cells(*moved, *(one.apart for one in found))
        say(f"{row.node} {of_ltx[row.node]}")
    page = PAGE.read_text(encoding="utf-8")
    page = with_table(page, "Wan", ("node", "moves Wan by", *table.COLUMNS), of_wan)
    heads = ("node of LTX-2", "moves LTX-2 by", "a pair by", *ltx.COLUMNS)
    PAGE.write_text(with_table(page, "LTX-2", heads, of_ltx), encoding="utf-8")


def cells(*numbers: float) -> str:
    return " | ".join(f"{number:.1e}" if number else "0" for number in numbers)


def with_table(page: str, name: str, heads: Sequence[str], lines: dict[str, str]) -> str:
    """The page with new lines in this table, behind the old ones of nodes that were not measured."""
    before, begin, rest = page.partition(BEGIN.format(name))
    table, end, after = rest.partition(END)
    known = dict(re.findall(r"^\| (\w+) \| (.+) \|$", table, re.MULTILINE))
    known.pop("node", None)
    body = "\n".join(row(node, cells) for node, cells in (known | lines).items())
    head = f"{row(*heads)}\n|{'---|' * len(heads)}"
    return f"{before}{begin}\n\n{head}\n{body}\n\n{end}{after}"


def row(*values: str) -> str:
    return f"| {' | '.join(values)} |"


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    reexec()
    exit_on_script_error(main)
