"""Makes files that fit your card out of a published model: Prism's one file, MOVA's folders, shards.

The matrices of blocks and coupling become bf16, fp8 (a scale each) or int8 (a scale per row, rotated), as
ComfyUI does it; the rest is bf16. It reads and writes tensor by tensor and needs the memory of a few of the
largest one. Stopped in the middle, the same command goes on. Without arguments it says what to download.

    python scripts/convert_model.py diffusion_pytorch_model.safetensors prism.safetensors --format int8
    python scripts/convert_model.py MOVA-720p mova.safetensors --format fp8 --experts each

The files go into ComfyUI/models/diffusion_models. CCLModelLoader loads one with "both" experts or the "high"
one; CCLModelAssembler takes the high one as video_model and the low one as low_noise_model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ccl_tools.console import ScriptError, exit_on_script_error, say
from ccl_tools.convert_model import EXPERTS, convert, downloads
from ccl_tools.environment import load_pack, reexec
from ccl_tools.quantise import FORMATS


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", metavar="MODEL", help="a file, a shard or a folder")
    parser.add_argument(
        "output", type=Path, nargs="?", metavar="OUTPUT.safetensors", help="the file to write"
    )
    parser.add_argument("--format", choices=FORMATS, default="bf16", help="of the matrices (default: bf16)")
    parser.add_argument(
        "--experts",
        choices=EXPERTS,
        default="both",
        help="both in one file (default); high with all that both share; low alone; each in its file, "
        "OUTPUT_high and OUTPUT_low",
    )
    parser.add_argument("--list", action="store_true", help="say what would be written, and how large")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    load_pack()
    if options.model is None or not options.model.exists():
        for line in downloads():
            say(line)
        if options.model is not None:
            raise ScriptError(f"{options.model} is not there", "download one of these, and name where it is")
        return
    output = options.output or Path(f"{options.model.stem}_{options.format}.safetensors")
    convert(options.model, output, form=options.format, experts=options.experts, only_list=options.list)


if __name__ == "__main__":
    chosen = arguments()
    reexec()
    exit_on_script_error(lambda: main(chosen))
