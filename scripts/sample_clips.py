"""Make a small folder of videos with sound and captions, to try scripts/train.py on.

Each clip is an encoded mp4 file with a caption beside it: a disc that flashes with beeps, or one that opens
with the loudness of a voice (where espeak-ng is installed; else every clip has beeps).

    python scripts/sample_clips.py clips --count 12
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from ccl_tools.console import say
from ccl_tools.environment import load_pack, reexec
from ccl_tools.sample_clips import make


def main(options: argparse.Namespace) -> None:
    load_pack()
    written = make(options.folder, options.count, options.seconds, seed=options.seed)
    speaks = "speech and beeps" if shutil.which("espeak-ng") else "beeps (espeak-ng is not installed)"
    say(f"{len(written)} clips with {speaks} in {options.folder}")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the clips go")
    parser.add_argument("--count", type=int, default=12, help="clips (default: 12)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="other clips for another number")
    return parser.parse_args(argv)


if __name__ == "__main__":
    chosen = arguments()
    reexec()
    main(chosen)
