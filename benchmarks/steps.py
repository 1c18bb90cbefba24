"""What a step of each task takes: FLOPs of whole 10-step runs, and the bytes a layer of Ovi moves.

    python benchmarks/steps.py --report steps.json

Counted on the meta device, without weights: the same on every machine. A run goes through the guider and the
host's euler; what fills the keys and values of a given stream is counted apart, and "step" is one behind the
first. Seconds are those of ccl-tiny on this machine, in turns. Exit code 1: a ratio is above its bar.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ccl_bench.steps_report import BARS, figures, missed, table, table_of_bars, teraflops
from ccl_tools.console import Ticker, exit_on_script_error, say
from ccl_tools.environment import load_pack, reexec


def main(options: argparse.Namespace) -> None:
    """Count every size, print tables, write the report."""
    load_pack()
    import torch

    from ccl_bench import steps
    from ccl_bench.ovi_traffic import ratios

    ticker = Ticker("steps")
    found, wan = {}, {}
    with torch.inference_mode():
        for name, size in steps.sizes().items():
            ticker.tick(name)
            found[name] = steps.tasks(size)
            wan[name] = steps.plain(size)
        ticker.tick("Ovi")
        traffic = ratios()
        ticker.tick("ccl-tiny, timed")
        seconds = {} if options.steps == 0 else steps.seconds(options.steps)
    ticker.done()
    ratios_found = figures(found, wan["14b"], traffic)
    above = missed(ratios_found)
    say(table(found, wan, seconds))
    say(table_of_bars(ratios_found))
    report = {**ratios_found, "ok": not above, "bars": BARS, "steps": steps.STEPS, "seconds_tiny": seconds}
    report["teraflops"] = {name: teraflops(found[name], wan[name]) for name in found}
    if options.report:
        options.report.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(1 if above else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--report", type=Path, help="JSON file to write")
    parser.add_argument(
        "--steps", type=int, default=6, help="steps of a timed run of ccl-tiny, 0 for none (default: 6)"
    )
    options = parser.parse_args()
    if options.steps < 0 or options.steps == 1:
        parser.error(
            f"--steps must be 0 or at least 2, got {options.steps}: the first step is not in the mean"
        )
    return options


if __name__ == "__main__":
    chosen = arguments()
    reexec()
    exit_on_script_error(lambda: main(chosen))
