"""CCA's partitioned attention against the same attention under one dense mask, for 5 seconds in 480p.

    python benchmarks/attention.py --report attention.json

Both read the same queries, keys, values, context tokens and windows, and both end in torch's
scaled_dot_product_attention. Building the dense mask is not timed. Repeats alternate between the two, so that
a change of clock speed hits both.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ccl_bench.attention import (
    AUDIO_TOKENS,
    CONTEXT_TOKENS,
    HEAD_DIM,
    HEADS,
    LATENT_FRAMES,
    SPATIAL_TOKENS,
    WANTED,
    compare,
)
from ccl_tools.console import Ticker, say
from ccl_tools.environment import load_pack, reexec


def main() -> None:
    """Run every direction and head count, print a table, write the report; exit code 1: a figure missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--report", type=Path, help="JSON file to write")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {arguments.repeats}")
    reexec()
    load_pack()
    import comfy.cli_args
    import torch

    # On a CPU the host would take its sub-quadratic attention, and the comparison would be of two attentions.
    comfy.cli_args.args.use_pytorch_cross_attention = True
    ticker = Ticker("attention")
    with torch.inference_mode():
        rows = [
            compare(direction, heads, arguments.repeats, ticker) for heads in HEADS for direction in WANTED
        ]
    ticker.done()
    for row in rows:
        say(
            f"{row['direction']} {row['heads']:>2} heads: partitioned {row['seconds_partitioned']:.3f} s, "
            f"dense {row['seconds_dense']:.3f} s, {row['speedup']:.1f}x (wanted {row['wanted_speedup']}x), "
            f"largest difference {row['max_difference']:.1e}{'' if row['ok'] else '   MISSED'}"
        )
    report = {
        "latent_frames": LATENT_FRAMES,
        "spatial_tokens": SPATIAL_TOKENS,
        "audio_tokens": AUDIO_TOKENS,
        "context_tokens": CONTEXT_TOKENS,
        "head_dim": HEAD_DIM,
        "dtype": "float32",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "repeats": arguments.repeats,
        "results": rows,
    }
    if arguments.report:
        arguments.report.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(0 if all(row["ok"] for row in rows) else 1)


if __name__ == "__main__":
    main()
