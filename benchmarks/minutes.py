"""How long the published models take on a card: FLOPs of a step, counted, over what the card does a second.

    python benchmarks/minutes.py

Prints the table of docs/performance.md. Counted on the meta device, without weights: the same everywhere.
"""

from __future__ import annotations

import argparse

from ccl_bench.minutes import HEAD, petaflops, row, sizes
from ccl_tools.console import Ticker, exit_on_script_error, say
from ccl_tools.environment import load_pack, reexec


def main() -> None:
    load_pack()
    import torch

    ticker = Ticker("counting")
    with torch.inference_mode():
        steps = {name: petaflops(size) for name, size in sizes().items()}
    ticker.done()
    say(HEAD)
    for name, step in steps.items():
        say(row(name, step))


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    reexec()
    exit_on_script_error(main)
