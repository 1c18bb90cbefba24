"""Block-sparse against dense self-attention of the video: FLOPs of a forward of Wan 14B, seconds on a CPU.

    python benchmarks/sparse.py --report sparse.json

FLOPs are counted by torch on the code itself, without data; seconds are the gather's, in turns with dense.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ccl_bench.sparse import KEEP, LATENT_FRAMES, SIZES, TIMED, petaflops, seconds
from ccl_tools.console import Ticker, say
from ccl_tools.environment import load_pack, reexec


def main() -> None:
    """Count every size, time one, print both, write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--report", type=Path, help="JSON file to write")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {arguments.repeats}")
    reexec()
    load_pack()
    import torch

    ticker = Ticker("sparse")
    with torch.inference_mode():
        rows = [petaflops(size, frames) for size in SIZES for frames in LATENT_FRAMES]
        taken = seconds(arguments.repeats, ticker)
    ticker.done()
    for row in rows:
        say(
            f"{row['size']:>5}, {row['frames']} frames, {row['tokens']:>6} tokens, {row['blocks']} blocks: "
            f"dense {row['dense']:.2f} PFLOP, {KEEP:.0%} {row['sparse']:.2f} PFLOP"
        )
    say(
        f"grid {TIMED}, {torch.get_num_threads()} threads: dense {taken['dense']:.2f} s, "
        f"{KEEP:.0%} {taken['sparse']:.2f} s, {taken['dense'] / taken['sparse']:.2f}x"
    )
    report = {"keep": KEEP, "torch": torch.__version__, "petaflops": rows, "grid": TIMED, "seconds": taken}
    if arguments.report:
        arguments.report.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
