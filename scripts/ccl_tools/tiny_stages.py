"""The stages of the training of ccl-tiny: each reads what earlier ones left in the folder of the work."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

from ccl_tools.console import ScriptError, Ticker


def overrides(args: argparse.Namespace, *names: str) -> dict:
    """The seed, and what else was said, for a recipe."""
    values = {name: getattr(args, name) for name in names}
    return {"seed": args.seed} | {name: value for name, value in values.items() if value is not None}


def video_vae(args: argparse.Namespace) -> None:
    _train_video_vae(args)


def video_vae_decoder(args: argparse.Namespace) -> None:
    from ccl_pack.ccl_core.training.tiny.video_vae import DECODER

    try:
        _train_video_vae(args, **DECODER)
    except ValueError as error:
        raise ScriptError(str(error), "give --start, and a --work of its own") from error


def _train_video_vae(args: argparse.Namespace, **recipe: object) -> None:
    from ccl_pack.ccl_core.training.tiny.video_vae import VideoVAERecipe, train_video_vae

    out = args.work / "video_vae.safetensors"
    # The encoders of `start` lie there already.
    start = out if args.start else None
    train_video_vae(out, VideoVAERecipe(**recipe, **overrides(args, "steps", "minutes", "threads")), start)


def text_encoder(args: argparse.Namespace) -> None:
    from ccl_pack.ccl_core.training.tiny.text_encoder import TextRecipe, write_text_encoder

    write_text_encoder(args.work / "text_encoder.safetensors", TextRecipe(seed=args.seed))


def vocoder(args: argparse.Namespace) -> None:
    from ccl_pack.ccl_core.training.tiny.vocoder import VocoderRecipe, train_vocoder

    recipe = VocoderRecipe(**overrides(args, "steps", "minutes", "threads"))
    train_vocoder(args.work / "audio_vae.safetensors", recipe)


def clips(args: argparse.Namespace) -> None:
    from ccl_pack.ccl_core.training.tiny.clips import write_clips
    from ccl_pack.ccl_core.training.world.shares import WORLDS

    ticker = Ticker("writing clips")
    wanted = args.work / "clips", args.clips, args.seed, args.frames, args.objects, WORLDS[args.world]
    try:
        for number, path in enumerate(write_clips(*wanted), 1):
            ticker.tick(f"{number} of {args.clips}, {path.name}")
    except ValueError as error:
        raise ScriptError(str(error), "give another --seed or --work") from error
    ticker.done(f"{args.clips} in {wanted[0]}")


def faces(args: argparse.Namespace) -> None:
    from ccl_pack.ccl_core.training.tiny.face_clips import write_faces

    _write_people(args, write_faces, "writing talking faces")


def voices(args: argparse.Namespace) -> None:
    from ccl_pack.ccl_core.training.tiny.face_clips import write_voices

    _write_people(args, write_voices, "writing voices")


def _write_people(args: argparse.Namespace, write: Callable[..., Iterator[Path]], what: str) -> None:
    ticker = Ticker(what)
    folder = args.work / "clips"
    for number, path in enumerate(write(folder, args.clips, args.seed, args.frames), 1):
        ticker.tick(f"{number} of {args.clips}, {path.name}")
    ticker.done(f"{args.clips} in {folder}")


def export(args: argparse.Namespace) -> None:
    import itertools
    import math

    import comfy.latent_formats
    import comfy.sd
    import numpy as np
    import torch

    from ccl_pack.ccl_core.alignment.timeline import frame_time
    from ccl_pack.ccl_core.host.files.read import read
    from ccl_pack.ccl_core.training.tiny.export import preview_factors, publish, publish_model
    from ccl_pack.ccl_core.training.tiny.video_vae import encode_moments, pixels_of
    from ccl_pack.ccl_core.training.world import scene

    pixels = pixels_of(
        np.stack([clip.frames for clip in itertools.islice(scene.clips(args.seed, frames=17), 16)])
    )
    with torch.no_grad():
        vae = comfy.sd.VAE(sd=read(str(args.weights)).bundle("vae.", "video VAE"))
        latent, _ = encode_moments(vae.first_stage_model, pixels)
    small = torch.nn.functional.adaptive_avg_pool3d((pixels + 1) / 2, (pixels.shape[2], *latent.shape[-2:]))
    # A latent frame stands for the picture in its middle.
    middles = [math.floor(frame_time(i)) for i in range(latent.shape[2])]
    small = small[:, :, middles].movedim(1, -1)
    factors = preview_factors(comfy.latent_formats.Wan21().process_in(latent), small)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write = publish_model if args.model_only else publish
    write(args.weights, factors, args.out)


def measure(args: argparse.Namespace) -> None:
    import json

    from ccl_pack.ccl_core.training.tiny.measure import measure_sound, measure_video

    # Clips that no stage has seen.
    seed = 7000 + args.seed
    report = {
        **measure_video(args.work / "video_vae.safetensors", seed),
        **measure_sound(args.work / "audio_vae.safetensors", seed),
    }
    print(json.dumps(report, indent=1))


# In the order of a training from nothing.
STAGES = {
    "video_vae": video_vae,
    "video_vae_decoder": video_vae_decoder,
    "text_encoder": text_encoder,
    "vocoder": vocoder,
    "clips": clips,
    "faces": faces,
    "voices": voices,
    "export": export,
    "measure": measure,
}
