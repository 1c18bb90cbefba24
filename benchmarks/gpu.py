"""Seconds per step, peak VRAM and host RAM of the real sizes on a CUDA GPU, also under memory limits.

    python benchmarks/gpu.py --folder /a/disk/with/50/GB --report gpu.json --table docs/performance.md
    python benchmarks/gpu.py --cases ovi ccl --weights bf16 fp8 --limits 80 24 16 12 --folder ...

Random weights of the published shapes are written to a file, which goes through the pack's loader, the host's
patcher and CCLJointSampler: a step of random weights costs what a step of trained ones costs. Every
measurement is a process of its own. A limit is kept by another process that holds the rest of the card:
nothing gets around that, while torch.cuda.set_per_process_memory_fraction binds torch's allocator alone (the
host's dynamic VRAM has its own) and --reserve-vram is a wish.

Without --cases it measures what shall fit on the cards that people have. The plan's figures stand beside each
row; exit code 1: a figure is more than 15 % off them. Without CUDA those rows run at tiny size on the CPU,
every weight streamed, and the table says that nothing was measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ccl_bench.gpu import benchmark, hold, measure
from ccl_bench.gpu_cases import CASES, DTYPES, Row
from ccl_bench.gpu_report import insert, table
from ccl_tools.console import exit_on_script_error, say
from ccl_tools.environment import load_pack, reexec


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, help="models (default: what shall fit, at its own limit)"
    )
    parser.add_argument(
        "--weights", nargs="+", choices=DTYPES, default=["bf16", "fp8"], help="of --cases (default: bf16 fp8)"
    )
    parser.add_argument(
        "--limits", nargs="+", type=float, default=[80.0, 24.0, 16.0, 12.0], help="GB of VRAM, of --cases"
    )
    parser.add_argument(
        "--steps", type=int, default=5, help="steps of a run, the first is not in the mean (default: 5)"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="where the weights are written (default: here)"
    )
    parser.add_argument(
        "--report", type=Path, default=Path("gpu.json"), help="JSON to write (default: gpu.json)"
    )
    parser.add_argument(
        "--table", type=Path, help="markdown page to write the table into, docs/performance.md"
    )
    parser.add_argument("--hold", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--free", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.steps < 2:
        parser.error("--steps must be at least 2: the first step also loads the weights")
    return options


def main(options: argparse.Namespace) -> None:
    if options.hold is not None:
        hold(options.hold)
        return
    # Before a GPU is asked for: the host takes a machine without one for a mistake.
    load_pack(cpu=not importlib.import_module("torch").cuda.is_available())
    if options.measure is not None:
        import main as _host_start  # noqa: F401 - turns on dynamic VRAM, and wants to come before torch

        figures = measure(options.measure, CASES[options.cases[0]], options.steps, options.free)
        options.report.write_text(json.dumps(figures))
        return
    rows = rows_of(options)
    options.report.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    say(table(rows))
    if options.table is not None:
        page = options.table.read_text() if options.table.is_file() else "# Performance\n"
        options.table.write_text(insert(page, table(rows)))
    sys.exit(1 if any(row.faults for row in rows) else 0)


def rows_of(options: argparse.Namespace) -> list[Row]:
    if importlib.import_module("torch").cuda.is_available():
        return benchmark(options)
    from ccl_bench.gpu_tiny import rows

    say("no CUDA device: the rows run at tiny size on the CPU, and nothing is measured")
    return rows(options.steps)


if __name__ == "__main__":
    chosen = arguments()
    reexec()
    exit_on_script_error(lambda: main(chosen))
