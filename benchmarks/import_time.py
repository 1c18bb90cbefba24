"""How much the pack adds to the start of ComfyUI: starts with and without it, turn by turn, and compares.

python benchmarks/import_time.py --pairs 5 --report FILE
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ccl_bench.import_time import measure
from ccl_tools.console import say
from ccl_tools.environment import reexec


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pairs", type=int, default=5, help="starts with and without the pack (default: 5 each)"
    )
    parser.add_argument("--report", type=Path, help="write the figures here as JSON too")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    figures = measure(options.pairs)
    text = json.dumps(figures, indent=2)
    say(text)
    if options.report:
        options.report.write_text(text + "\n")


if __name__ == "__main__":
    chosen = arguments()
    reexec()
    main(chosen)
