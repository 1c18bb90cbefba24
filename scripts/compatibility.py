"""Writes docs/compatibility.md: what nodes of the host and of popular packs do to plain Wan and to a pair.

The rows of a pack are measured where the environment names a checkout of it, and are kept else:

    CCL_KJNODES=/path/of/ComfyUI-KJNodes python scripts/compatibility.py
"""

from __future__ import annotations

import argparse
import re

from ccl_tools.console import exit_on_script_error, say
from ccl_tools.environment import ROOT, load_pack, reexec, with_tests_on_path

PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- scripts/compatibility.py writes from here -->", "<!-- to here -->"


def main() -> None:
    load_pack()
    with_tests_on_path()
    from support.compatibility import COLUMNS, measured, rows

    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    table, _, after = rest.partition(END)
    lines = dict(re.findall(r"^\| (\w+) (\| .+ \|)$", table, re.MULTILINE))
    lines.pop("node", None)
    for row in rows():
        found = [measured(row, column) for column in COLUMNS]
        cells = [found[0].moved, *(one.apart for one in found)]
        lines[row.node] = "| " + " | ".join(f"{cell:.1e}" if cell else "0" for cell in cells) + " |"
        say(f"{row.node} {lines[row.node]}")
    head = f"| node | moves Wan by | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 2)}\n"
    body = "".join(f"| {node} {cells}\n" for node, cells in lines.items())
    PAGE.write_text(f"{before}{BEGIN}\n\n{head}{body}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    reexec()
    exit_on_script_error(main)
