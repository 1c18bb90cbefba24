"""Makes one file for CCLModelLoader out of the published folder of MOVA-360p or MOVA-720p.

Reads video_dit, video_dit_2, audio_dit and dual_tower_bridge (safetensors, with or without shards), copies
tensor by tensor, and needs the memory of the largest one. With --dtype fp8_e4m3fn the matrices of the blocks
are quantised with a scale each, as ComfyUI does it: about 33 GB instead of 65.

    python scripts/convert_mova.py MOVA-720p mova_720p.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ccl_tools.console import exit_on_script_error, say
from ccl_tools.convert_mova import convert
from ccl_tools.environment import load_pack, reexec


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="MOVA_FOLDER", help="the published folder")
    parser.add_argument(
        "output", type=Path, metavar="OUTPUT.safetensors", help="the file to write; must not exist"
    )
    parser.add_argument(
        "--only-high", action="store_true", help="leave out the low-noise expert, video_dit_2"
    )
    parser.add_argument(
        "--dtype",
        choices=("keep", "fp8_e4m3fn"),
        default="keep",
        help="of the matrices (default: keep, as published)",
    )
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    load_pack()
    convert(options.folder, options.output, only_high=options.only_high, quantise=options.dtype != "keep")
    say(f"Put {options.output} into ComfyUI/models/diffusion_models and load it with CCLModelLoader.")


if __name__ == "__main__":
    chosen = arguments()
    reexec()
    exit_on_script_error(lambda: main(chosen))
