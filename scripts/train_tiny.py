"""Train ccl-tiny: the embedded model, from nothing but the procedural world.

docs/ccl-tiny.md has the log of the shipped one.

Stages, in this order: video_vae, text_encoder, vocoder, data, joint, export. Every stage reads what earlier ones left
in --work; `data` may run several times with other seeds and lengths, `joint` trains on all it finds and continues a run
that was stopped.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ccl_tools.console import ScriptError, exit_on_script_error
from ccl_tools.environment import load_pack, reexec

if TYPE_CHECKING:
    from ccl_pack.ccl_core.training.tiny.data import WorldEncoders

ROOT = Path(__file__).resolve().parents[1]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", default=list(STAGES), help=f"which of {', '.join(STAGES)}; all by default")
    parser.add_argument("--work", type=Path, default=Path("ccl-tiny-training"), help="folder of checkpoints and data")
    parser.add_argument("--out", type=Path, default=ROOT / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors")
    parser.add_argument(
        "--clips", type=int, default=3000, help="world clips the data stage encodes into a file of their own"
    )
    parser.add_argument("--frames", type=int, default=33, help="pixel frames of those clips")
    parser.add_argument("--objects", type=int, choices=(1, 2), help="in each of those clips (default: one or two)")
    parser.add_argument("--minutes", type=float, help="length of the video_vae stage")
    parser.add_argument("--steps", type=int, help="length of the joint and vocoder stages")
    parser.add_argument(
        "--start",
        type=Path,
        help="checkpoint whose encoders --work gets if it has none, and whose weights joint begins from",
    )
    parser.add_argument("--rate", type=float, default=1.0, help="of the joint stage, over that of a fresh model")
    parser.add_argument("--batch", type=int, help="clips per step of the joint stage")
    parser.add_argument("--threads", type=int, default=2, help="of the joint stage")
    parser.add_argument("--gpu", action="store_true", help="run the joint stage, and it alone, on a GPU")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    unknown = set(args.stages) - set(STAGES)
    if unknown:
        parser.error(f"unknown stages {sorted(unknown)}, known are {', '.join(STAGES)}")
    if args.gpu and args.stages != ["joint"]:
        parser.error("--gpu is for the joint stage alone: train_tiny.py joint --gpu")
    return args


def encoders(work: Path) -> WorldEncoders:
    import json

    import comfy.sd
    from safetensors.torch import load_file

    from ccl_pack.ccl_core.host.vae.audio import load_audio_vae
    from ccl_pack.ccl_core.host.vae.text_encoder import load_text_encoder
    from ccl_pack.ccl_core.training.tiny.data import WorldEncoders
    from ccl_pack.ccl_core.training.tiny.export import metadata

    files = {part: work / f"{part}.safetensors" for part in ("video_vae", "audio_vae", "text_encoder")}
    text_config = json.loads(metadata(files["text_encoder"])["text_encoder"])
    return WorldEncoders(
        video=comfy.sd.VAE(sd=load_file(files["video_vae"])),
        audio=load_audio_vae(load_file(files["audio_vae"]), metadata(files["audio_vae"])),
        text=load_text_encoder(load_file(files["text_encoder"]), text_config),
    )


def overrides(args: argparse.Namespace, *names: str) -> dict:
    """The seed, and what else was said, for a recipe."""
    values = {name: getattr(args, name) for name in names}
    return {"seed": args.seed} | {name: value for name, value in values.items() if value is not None}


def video_vae(args: argparse.Namespace) -> None:
    from ccl_pack.ccl_core.training.tiny.video_vae import VideoVAERecipe, train_video_vae

    train_video_vae(args.work / "video_vae.safetensors", VideoVAERecipe(**overrides(args, "minutes")))


def text_encoder(args: argparse.Namespace) -> None:
    from ccl_pack.ccl_core.training.tiny.text_encoder import TextRecipe, write_text_encoder

    write_text_encoder(args.work / "text_encoder.safetensors", TextRecipe(seed=args.seed))


def vocoder(args: argparse.Namespace) -> None:
    from ccl_pack.ccl_core.training.tiny.vocoder import VocoderRecipe, train_vocoder

    train_vocoder(args.work / "audio_vae.safetensors", VocoderRecipe(**overrides(args, "steps")))


def data(args: argparse.Namespace) -> None:
    from ccl_pack.ccl_core.training.tiny.data import make

    make(
        encoders(args.work),
        args.work / f"data-{args.frames}-{args.seed}.safetensors",
        args.clips,
        1000 + args.seed,
        args.frames,
        args.objects,
    )


def joint(args: argparse.Namespace) -> None:
    from dataclasses import replace

    from ccl_pack.ccl_core.training.tiny.data import Mixture
    from ccl_pack.ccl_core.training.tiny.export import CCL_TINY, joint_weights
    from ccl_pack.ccl_core.training.tiny.trainer import Recipe, train_joint

    recipe = Recipe(**overrides(args, "steps", "batch"), threads=args.threads)
    rates = {name: args.rate * getattr(recipe, name) for name in ("muon_rate", "adam_rate")}
    start = joint_weights(args.start) if args.start else None
    train_joint(CCL_TINY, Mixture(args.work), args.work / "joint.pt", replace(recipe, **rates), start)


def export(args: argparse.Namespace) -> None:
    import itertools
    import math

    import numpy as np
    import torch

    from ccl_pack.ccl_core.alignment.timeline import frame_time
    from ccl_pack.ccl_core.training.tiny.data import WorldEncoders
    from ccl_pack.ccl_core.training.tiny.export import CCL_TINY, preview_factors, write_checkpoint
    from ccl_pack.ccl_core.training.tiny.video_vae import encode_moments, pixels_of
    from ccl_pack.ccl_core.training.world import scene

    pixels = pixels_of(np.stack([clip.frames for clip in itertools.islice(scene.clips(args.seed, frames=17), 16)]))
    with torch.no_grad():
        latent, _ = encode_moments(encoders(args.work).video.first_stage_model, pixels)
    small = torch.nn.functional.adaptive_avg_pool3d((pixels + 1) / 2, (pixels.shape[2], *latent.shape[-2:]))
    middles = [math.floor(frame_time(i)) for i in range(latent.shape[2])]
    small = small[:, :, middles].movedim(1, -1)
    weights = torch.load(args.work / "joint.pt", map_location="cpu", weights_only=True)["model"]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    factors = preview_factors(WorldEncoders.normalise(latent), small)
    write_checkpoint(weights, CCL_TINY, args.work, factors, args.out)


STAGES = {
    "video_vae": video_vae,
    "text_encoder": text_encoder,
    "vocoder": vocoder,
    "data": data,
    "joint": joint,
    "export": export,
}


def main() -> None:
    args = parse()
    reexec()
    import torch

    if args.gpu and not torch.cuda.is_available():
        raise ScriptError("--gpu was given, and torch finds no CUDA device", "leave --gpu out to train on the CPU")
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
