"""A minute of ccl-tiny by the loop sampler: memory, drift, seams, prompts, a soundtrack, a killed run.

    python benchmarks/long.py
    python benchmarks/long.py --seconds 12 --steps 4

Each clip is made by a process of its own. Prints a JSON report, and writes it with --report FILE.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from ccl_bench.long import SHORT, make, report
from ccl_tools.console import exit_on_script_error, say
from ccl_tools.environment import load_pack, reexec


def main(options: argparse.Namespace) -> None:
    load_pack()
    if options.make:
        say(json.dumps(make(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = json.dumps(report(Path(folder), options), indent=1)
    say(found)
    if options.report:
        options.report.write_text(found + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help=f"of the long clip; the short one has {SHORT:g}"
    )
    parser.add_argument("--steps", type=int, default=6, help="denoising steps of a window")
    parser.add_argument("--overlap", type=float, default=0.8, help="seconds that a window keeps")
    parser.add_argument("--report", type=Path, help="a file for the report too")
    # What the processes are started with.
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--soundtrack", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    reexec()
    exit_on_script_error(lambda: main(given))
