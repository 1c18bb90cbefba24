"""One picture of a generated clip: frames, motion, waveform and spectrogram over one time axis.

Reads the video and the report.json beside it, as scripts/demo.py writes them, and marks where something
visibly hits, where something is heard, and how far apart the two are.

    python scripts/picture.py output/video.mp4 docs/demo.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ccl_tools.console import exit_on_script_error, say
from ccl_tools.environment import load_pack, reexec
from ccl_tools.picture import compare, draw, motion_curves, read_report
from ccl_tools.report import read_clip


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path, help="the clip, with its report.json in the same folder")
    parser.add_argument("picture", type=Path, help="the PNG file to write")
    parser.add_argument("--prompt", help="the title (default: the prompt in the report)")
    return parser.parse_args(argv)


def main(options: argparse.Namespace) -> None:
    load_pack()
    report = read_report(options.video)
    clip = read_clip(options.video)
    sync = compare(report)
    figure = draw(clip, sync, motion_curves(clip, report["prompt"]), options.prompt or report["prompt"])
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.picture, format="png", pil_kwargs={"optimize": True})
    say(f"{options.picture}: {sync.summary()}")


if __name__ == "__main__":
    chosen = arguments()
    reexec()
    exit_on_script_error(lambda: main(chosen))
