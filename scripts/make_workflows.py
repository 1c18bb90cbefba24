"""Write workflows/*.json and subgraphs/*.json from the table of jobs and models.

    python scripts/make_workflows.py             write them, and remove what the table has no more
    python scripts/make_workflows.py --check     say which files differ, and end with 1 if any does

The table is scripts/ccl_tools/template_table.py, models and files are in releases.py, what is inside a job in
template_jobs.py, notes in template_texts.py.
"""

from __future__ import annotations

import argparse
import sys

from ccl_tools.console import say
from ccl_tools.environment import ROOT, reexec

FOLDERS = ("workflows", "subgraphs")


def main(check: bool) -> int:
    from ccl_tools.node_infos import node_infos
    from ccl_tools.templates import files

    made = {ROOT / path: text for path, text in files(node_infos()).items()}
    there = {path for folder in FOLDERS for path in (ROOT / folder).glob("*.json")}
    stale = [
        path for path, text in made.items() if path not in there or path.read_text(encoding="utf-8") != text
    ]
    for path in sorted([*stale, *(there - made.keys())]):
        say(str(path.relative_to(ROOT)))
    if check:
        return bool(stale or there - made.keys())
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(made[path], encoding="utf-8")
    for path in there - made.keys():
        path.unlink()
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    chosen = parser.parse_args()
    reexec()
    sys.exit(main(chosen.check))
