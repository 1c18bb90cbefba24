"""The stages of the training of ccl-tiny: each reads what earlier ones left in the folder of the work."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ccl_pack.ccl_core.training.tiny.data import WorldEncoders


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

    recipe = VideoVAERecipe(**overrides(args, "steps", "minutes", "threads"))
    out = args.work / "video_vae.safetensors"
    # The encoders of `start` lie there already.
    train_video_vae(out, recipe, out if args.start else None)


def text_encoder(args: argparse.Namespace) -> None:
    from ccl_pack.ccl_core.training.tiny.text_encoder import TextRecipe, write_text_encoder

    write_text_encoder(args.work / "text_encoder.safetensors", TextRecipe(seed=args.seed))


def vocoder(args: argparse.Namespace) -> None:
    from ccl_pack.ccl_core.training.tiny.vocoder import VocoderRecipe, train_vocoder

    recipe = VocoderRecipe(**overrides(args, "steps", "minutes", "threads"))
    train_vocoder(args.work / "audio_vae.safetensors", recipe)


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

    pixels = pixels_of(
        np.stack([clip.frames for clip in itertools.islice(scene.clips(args.seed, frames=17), 16)])
    )
    with torch.no_grad():
        latent, _ = encode_moments(encoders(args.work).video.first_stage_model, pixels)
    small = torch.nn.functional.adaptive_avg_pool3d((pixels + 1) / 2, (pixels.shape[2], *latent.shape[-2:]))
    # A latent frame stands for the picture in its middle.
    middles = [math.floor(frame_time(i)) for i in range(latent.shape[2])]
    small = small[:, :, middles].movedim(1, -1)
    weights = torch.load(args.work / "joint.pt", map_location="cpu", weights_only=True)["model"]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    factors = preview_factors(WorldEncoders.normalise(latent), small)
    write_checkpoint(weights, CCL_TINY, args.work, factors, args.out)


# In the order of a training from nothing.
STAGES = {
    "video_vae": video_vae,
    "text_encoder": text_encoder,
    "vocoder": vocoder,
    "data": data,
    "joint": joint,
    "export": export,
}
