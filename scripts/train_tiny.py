"""Train ccl-tiny: the embedded model, from nothing but the procedural world.

docs/ccl-tiny.md has the log of the shipped one.

Stages, in this order: video_vae, text_encoder, vocoder, data, joint, export. Every stage reads what earlier
ones left in --work; `data` may run several times with other seeds and lengths, `joint` trains on all it finds
and continues a run that was stopped.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ccl_tools.console import ScriptError, exit_on_script_error
from ccl_tools.environment import ROOT, load_pack, reexec
from ccl_tools.tiny_stages import STAGES


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "stages", nargs="*", default=list(STAGES), help=f"which of {', '.join(STAGES)}; all by default"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("ccl-tiny-training"), help="folder of checkpoints and data"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"
    )
    parser.add_argument(
        "--clips", type=int, default=3000, help="world clips the data stage encodes into a file of their own"
    )
    parser.add_argument("--frames", type=int, default=33, help="pixel frames of those clips")
    parser.add_argument(
        "--objects", type=int, choices=(1, 2), help="in each of those clips (default: one or two)"
    )
    parser.add_argument("--minutes", type=float, help="length of the video_vae and vocoder stages")
    parser.add_argument("--steps", type=int, help="length of the joint, video_vae and vocoder stages")
    parser.add_argument(
        "--start",
        type=Path,
        help="checkpoint whose encoders --work gets if it has none, and that video_vae and joint begin from",
    )
    parser.add_argument(
        "--rate", type=float, default=1.0, help="of the joint stage, over that of a fresh model"
    )
    parser.add_argument("--batch", type=int, help="clips per step of the joint stage")
    parser.add_argument("--threads", type=int, default=2, help="of a training stage")
    parser.add_argument("--gpu", action="store_true", help="run the joint stage, and it alone, on a GPU")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    unknown = set(args.stages) - set(STAGES)
    if unknown:
        parser.error(f"unknown stages {sorted(unknown)}, known are {', '.join(STAGES)}")
    if args.gpu and args.stages != ["joint"]:
        parser.error("--gpu is for the joint stage alone: train_tiny.py joint --gpu")
    return args


def main() -> None:
    args = parse()
    reexec()
    import torch

    if args.gpu and not torch.cuda.is_available():
        raise ScriptError(
            "--gpu was given, and torch finds no CUDA device", "leave --gpu out to train on the CPU"
        )
    load_pack(cpu=not args.gpu, pytorch_attention=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.start:
        from ccl_pack.ccl_core.training.tiny.export import unpack

        unpack(args.start, args.work)
    for stage in args.stages:
        logging.info("stage %s", stage)
        STAGES[stage](args)


if __name__ == "__main__":
    exit_on_script_error(main)
