"""Writes into docs/host-nodes.md what became of each node of the host on a pair of video and sound.

Runs all nodes that take a LATENT, MODEL, CONDITIONING or GUIDER on a small joint model, and on plain Wan with
the same video weights. Takes some minutes. What nodes save goes into a temporary folder.

    python scripts/sweep_nodes.py
"""

from __future__ import annotations

import argparse
import tempfile

from ccl_tools.console import exit_on_script_error, say
from ccl_tools.environment import ROOT, load_pack, reexec, with_tests_on_path

PAGE = ROOT / "docs" / "host-nodes.md"
BEGIN, END = "<!-- scripts/sweep_nodes.py writes from here -->", "<!-- to here -->"


def main() -> None:
    load_pack()
    with_tests_on_path()
    import folder_paths
    from comfyui_version import __version__ as version

    from support.sweep import page_lines, sweep

    with tempfile.TemporaryDirectory() as folder:
        folder_paths.set_output_directory(folder)
        rows = sweep()
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    lines = [f"ComfyUI {version}, {len(rows)} nodes.", "", *page_lines(rows)]
    PAGE.write_text(before + "\n".join([BEGIN, "", *lines, END]) + rest.partition(END)[2], encoding="utf-8")
    say(f"{len(rows)} nodes: {PAGE}")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    reexec()
    exit_on_script_error(main)
