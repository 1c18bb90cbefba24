"""Records the bytes of some sixty runs built from Python objects, and compares two such records.

    python scripts/record_runs.py record v020.safetensors --memory
    python scripts/record_runs.py compare v020.safetensors new.safetensors --tolerance 2e-6

A record holds every output as <run>/<name>, and in its metadata for each run the FLOPs, calls of the joint
model, the median of the seconds between two steps, with --memory the most bytes of tensors that lived at
once in one call (without weights, inputs and what a kernel takes inside itself), and where it was made.
Each run is made once for bytes and time, a second time for the FLOPs, a third for the memory. FLOPs are those
of matrix products, convolutions and attention in the whole run, decoding and merging of LoRA included; torch
has no formula for its attention on a CPU, so ccl_tools/recorded_figures.py gives it one.

Bytes are the same from run to run on one kind of processor, with one torch and one thread: record both sides
on one machine. `compare` ends with exit code 1 where an output differs by more than the tolerance (without
one: in any bit), an output is in one record only, or a run of the old record is missing. Other FLOPs, seconds
or bytes of memory are shown and are no fault. Where the pack moves something, ccl_tools/recorded_pack.py
alone changes.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ccl_tools.console import exit_on_script_error
from ccl_tools.environment import reexec
from ccl_tools.records import THREADS, compare, record


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("record", help="make the runs and write a record of them")
    writing.add_argument("file", type=Path, metavar="FILE.safetensors")
    writing.add_argument(
        "--memory", action="store_true", help="record the peak of live tensors in a call too"
    )
    comparing = commands.add_parser("compare", help="compare two records")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    comparing.add_argument(
        "--tolerance", type=float, default=0.0, help="largest absolute difference (default: no bit)"
    )
    for command in (writing, comparing):
        command.add_argument(
            "--only", action="append", default=[], metavar="NAME", help="this run; may be repeated"
        )
    return parser.parse_args()


def main(options: argparse.Namespace) -> int:
    if options.command == "record":
        return record(options.file, options.only, options.memory)
    return compare(options.old, options.new, options.only, options.tolerance)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(THREADS)
    given = parse()
    reexec()
    exit_on_script_error(lambda: sys.exit(main(given)))
