"""The estimate of CCLMemoryPlan against the peak of a real step of the host's sampler, for random models.

    python benchmarks/memory.py --report memory.json

Without CUDA the peak is that of torch's own CPU allocator, as the profiler records it: it sees what kernels
take inside themselves too. With CUDA it is torch.cuda.max_memory_allocated. The host's usual attention on a
CPU keeps its scores in whatever memory is free; both runs therefore use its attention_pytorch, which keeps
none, as attention on a GPU.

Models of the published sizes do not fit a test machine. Two layers of them are traced on torch's meta device,
which has shapes but no numbers: the sum of all tensors that live at once, without what kernels take inside
themselves.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ccl_bench.memory import CASES, PUBLISHED, compare, table, trace, traced_table
from ccl_tools.console import Ticker, say
from ccl_tools.environment import load_pack, reexec


def main() -> None:
    """Measure every case in two precisions; exit code 1 where an estimate is off."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--report", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    reexec()
    import torch

    load_pack(cpu=not torch.cuda.is_available())
    ticker = Ticker("memory of a step")
    rows = []
    for case in CASES:
        for dtype in (torch.bfloat16, torch.float32):
            rows.append(compare(case, dtype))
            ticker.tick(f"{len(rows)} of {2 * len(CASES)}")
    ticker.done()
    traced = [trace(*published) for published in PUBLISHED]
    say(table(rows))
    say(traced_table(traced))
    if arguments.report:
        report = {"torch": torch.__version__, "measured": rows, "traced": traced}
        arguments.report.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(0 if all(row["ok"] for row in [*rows, *traced]) else 1)


if __name__ == "__main__":
    main()
