"""Train ccl-tiny: the embedded model, from nothing but the procedural world.

docs/ccl-tiny.md has the log of the shipped one.

    python scripts/train_tiny.py clips --work ccl-tiny-training/one --clips 8000 --objects 1  # films
    python scripts/train.py --config scripts/configs/ccl-tiny-one-object.json
    python scripts/train_tiny.py export --weights SAVE --out FILE  # the file to ship

Stages, in this order: video_vae, text_encoder, vocoder, clips, export. Every stage reads what earlier ones
left in --work; `clips` may run several times with other seeds and lengths; `faces` writes clips of people who
talk, `voices` their sound alone. The joint model is trained between the last two, by scripts/train.py.
`video_vae_decoder` trains the decoder of --start alone: the latent, and models that were trained on it, stay
as they are. `measure` prints what the video VAE and the vocoder keep of held-out clips.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ccl_tools.console import exit_on_script_error
from ccl_tools.environment import ROOT, load_pack, reexec
from ccl_tools.tiny_stages import STAGES


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="+", help=f"which of {', '.join(STAGES)}")
    parser.add_argument(
        "--work", type=Path, default=Path("ccl-tiny-training"), help="folder of checkpoints and data"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"
    )
    parser.add_argument(
        "--clips", type=int, default=3000, help="world clips that the clips stage writes for its seed"
    )
    parser.add_argument("--world", choices=("easy", "hard"), default="easy", help="of those clips")
    parser.add_argument("--frames", type=int, default=33, help="pixel frames of those clips")
    parser.add_argument(
        "--objects", type=int, choices=(1, 2), help="in each of those clips (default: one or two)"
    )
    parser.add_argument("--minutes", type=float, help="length of the video_vae and vocoder stages")
    parser.add_argument("--steps", type=int, help="length of the video_vae and vocoder stages")
    parser.add_argument(
        "--start",
        type=Path,
        help="checkpoint whose encoders --work gets if it has none, and that video_vae begins from",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="for the export stage: model.safetensors of a save of scripts/train.py, made with export_whole",
    )
    parser.add_argument(
        "--model-only", action="store_true", help="for the export stage: leave out the encoders of --weights"
    )
    parser.add_argument("--threads", type=int, default=2, help="of a training stage")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    unknown = set(args.stages) - set(STAGES)
    if unknown:
        parser.error(f"unknown stages {sorted(unknown)}, known are {', '.join(STAGES)}")
    if "export" in args.stages and args.weights is None:
        parser.error("export needs --weights, the model.safetensors of a save of scripts/train.py")
    return args


def main() -> None:
    args = parse()
    reexec()
    load_pack(pytorch_attention=True)
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
