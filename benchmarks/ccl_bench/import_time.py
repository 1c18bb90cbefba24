"""Starts of ComfyUI with and without the pack, in turns, and what they differ by."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ccl_tools.console import Ticker
from ccl_tools.environment import ROOT, locate

TARGET_SECONDS = 0.2
OWN_FIGURE = re.compile(r"([\d.]+) seconds.*: .*ccl-audio-video")


def start_once(base: Path) -> dict[str, float | None]:
    """Wall and processor seconds until the nodes are imported, and what the host's log says of the pack."""
    command = [sys.executable, "main.py", "--cpu", "--quick-test-for-ci", "--disable-api-nodes"]
    command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    before = os.times()
    start = time.perf_counter()
    ran = subprocess.run(command, cwd=locate().comfyui, capture_output=True, text=True, check=True)
    wall = time.perf_counter() - start
    after = os.times()
    log = ran.stdout + ran.stderr
    if "IMPORT FAILED" in log:
        raise RuntimeError(f"the pack did not import:\n{log}")
    own = OWN_FIGURE.search(log)
    processor = sum(after[2:4]) - sum(before[2:4])
    return {"wall": wall, "processor": processor, "own": float(own.group(1)) if own else None}


def measure(pairs: int) -> dict[str, object]:
    """By turns and in both orders, so that load weighs on both alike; the first pair only warms the disk."""
    ticker = Ticker("starting ComfyUI with and without the pack")
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as full:
        for base in (empty, full):
            (Path(base) / "custom_nodes").mkdir()
        (Path(full) / "custom_nodes" / "ccl-audio-video").symlink_to(ROOT, target_is_directory=True)
        runs: list[tuple[dict, dict]] = []
        for turn in range(pairs + 1):
            # In turns, since the second start of a pair finds more in the caches.
            order = (empty, full) if turn % 2 else (full, empty)
            results = {base: start_once(Path(base)) for base in order}
            runs.append((results[empty], results[full]))
            ticker.tick(f"pair {turn} of {pairs}")
    ticker.done()
    # The first pair reads the files from the disk, all others from the cache.
    return summarise(runs[1:])


def summarise(runs: list[tuple[dict, dict]]) -> dict[str, object]:
    """Medians over the pairs, and the median of the differences within each pair."""
    result: dict[str, object] = {"pairs": len(runs), "target_seconds": TARGET_SECONDS}
    for clock in ("wall", "processor"):
        without = [run[0][clock] for run in runs]
        with_pack = [run[1][clock] for run in runs]
        added = [b - a for a, b in zip(without, with_pack, strict=True)]
        result[clock] = {
            "without_s": round(statistics.median(without), 3),
            "with_s": round(statistics.median(with_pack), 3),
            "ratio": round(statistics.median(with_pack) / statistics.median(without), 3),
            "added_s_median": round(statistics.median(added), 3),
            "added_s_range": [round(min(added), 3), round(max(added), 3)],
        }
    result["pack_import_s_in_host_log"] = [run["own"] for _, run in runs]
    return result
