"""Compares our modules with the numbers of a public reference implementation, stored in a golden fixture.

Loads the weights of the fixture through the pack's own loading path, computes every output and prints the
largest difference beside the bound that the fixture states. Exit code 0: every output is within its bound; 1:
one is not; 2: a file cannot be read.

    python scripts/parity.py tests/fixtures/ovi_dev.safetensors
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ccl_tools.console import exit_on_script_error, say
from ccl_tools.environment import load_pack, reexec
from ccl_tools.golden_fixture import Unreadable, read
from ccl_tools.parity import compare

WITHIN, OUTSIDE, UNREADABLE = 0, 1, 2


def check(path: Path) -> int:
    """Print the comparison of one file; returns the exit code for it."""
    import torch

    try:
        fixture = read(path)
        say(f"{path} ({fixture.case})")
        with torch.no_grad():
            comparisons = compare(fixture)
    except Unreadable as error:
        say(f"  cannot be checked: {error}")
        return UNREADABLE
    except ValueError as error:
        say(f"  FAILED: the pack does not load these weights: {error}")
        return OUTSIDE
    for comparison in comparisons:
        say(str(comparison))
    outside = sum(not comparison.within for comparison in comparisons)
    say(f"  {len(comparisons) - outside} of {len(comparisons)} outputs within their bounds")
    return OUTSIDE if outside else WITHIN


def main(paths: list[Path]) -> int:
    """The worst exit code of all files."""
    load_pack()
    return max(check(path) for path in paths)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "fixtures", nargs="+", type=Path, metavar="FIXTURE.safetensors", help="golden fixtures"
    )
    return parser.parse_args()


if __name__ == "__main__":
    chosen = arguments()
    reexec()
    exit_on_script_error(lambda: sys.exit(main(chosen.fixtures)))
