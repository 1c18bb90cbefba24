"""Long clips of ccl-tiny: made in processes of their own, one of them killed and started again; measured."""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

from ccl_bench import generate
from ccl_tools.console import say
from ccl_tools.environment import ROOT

TINY = ROOT / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"
SHORT = 4.0  # seconds
# The halves of the storyboard, and the colours that are looked for.
FIRST, SECOND = "a red ball bounces, drum", "a cyan square slides, bell"
COLOURS = ("red", "cyan")
WINDOW, FPS = 33, 16  # frames


def make(options: argparse.Namespace) -> dict[str, Any]:
    """One clip by the nodes, and the peak of resident memory of this process."""
    import folder_paths
    import torch

    from ccl_pack.nodes.looping import CCLLoopSampler
    from ccl_pack.nodes.storyboard import CCLStoryboard

    folder_paths.set_output_directory(str(options.folder))
    folder_paths.set_temp_directory(str(options.folder))
    settings = generate.defaults(CCLLoopSampler, "mode", generate.GUIDANCE)
    settings |= {
        "seed": 1,
        "steps": options.steps,
        "sampler_name": generate.SAMPLER,
        "overlap": options.overlap,
    }
    start = time.perf_counter()
    with torch.inference_mode():
        loaded = generate.load(TINY)
        lines = f"0: {FIRST}\n{options.seconds / 2:g}: {SECOND}"
        positive, negative = CCLStoryboard.execute(loaded.model, loaded.clip, lines).result
        made = CCLLoopSampler.execute(
            model=loaded.model,
            positive=positive,
            negative=negative,
            latent_image=latent_of(loaded, options.seconds, options.soundtrack),
            video_vae=loaded.video_vae,
            audio_vae=loaded.audio_vae,
            **settings,
        ).result[0]
    Path(made.get_stream_source()).replace(options.make)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    spent = round((time.perf_counter() - start) / 60, 2)
    return {"peak_mib": round(peak, 1), "minutes": spent, **planned(loaded, options)}


def planned(loaded: generate.Loaded, options: argparse.Namespace) -> dict[str, Any]:
    """The frames with which new parts begin, and the most that their tokens are off the clock."""
    from ccl_pack.ccl_core.alignment.timeline import frames_of
    from ccl_pack.ccl_core.host.media.latents import split
    from ccl_pack.ccl_core.host.media.long_clip import long_clip

    av, fps = split(latent_of(loaded, options.seconds, None)), Fraction(loaded.fps)
    borders = [Fraction(options.seconds) / 2]
    clip = long_clip(av, fps, WINDOW / fps, Fraction(options.overlap), borders, (None, None))
    rate = loaded.model.model.ccl_config.audio_latent.rate
    places = [(frames_of(span.start + 1) - 1) / fps * rate for span in clip.windows]
    away = [abs(tokens.start - place) for tokens, place in zip(clip.tokens, places, strict=True)]
    seams = [frames_of(span.new) for span in clip.windows[1:]]
    return {"seams": seams, "drift_tokens": float(max(away))}


def latent_of(loaded: generate.Loaded, seconds: float, soundtrack: Path | None) -> dict[str, Any]:
    """The latent of a whole clip, with a soundtrack that is kept."""
    from comfy_api.latest import InputImpl

    from ccl_pack.nodes.encoding import CCLEncodeAV

    empty = generate.empty_latent(loaded, round(seconds * loaded.fps), 1)
    if soundtrack is None:
        return empty
    film = InputImpl.VideoFromFile(str(soundtrack))
    sound = {"video": film, "keep": "sound", "audio_vae": loaded.audio_vae}
    return CCLEncodeAV.execute(latent=empty, image_fit="crop", length_fit="pad", **sound).result[0]


def report(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All clips made and measured."""
    short = _clip(folder, options, "short", SHORT)
    whole = _clip(folder, options, "whole", options.seconds)
    _kill(folder, options, "killed", options.seconds)
    left = len(list((folder / "killed").glob("ccl_loop/*/*.safetensors")))
    again = _clip(folder, options, "killed", options.seconds)
    track = folder / "track.mp4"
    write_soundtrack(track, options.seconds)
    driven = _clip(folder, options, "driven", options.seconds, track)
    # The frame nearest to the second of the new prompt with which a latent frame begins.
    border = min(whole["seams"], key=lambda seam: abs(seam - options.seconds / 2 * FPS))
    bytes_of = {name: (folder / f"{name}.mp4").read_bytes() for name in ("whole", "killed")}
    return {
        "seconds": options.seconds,
        "steps": options.steps,
        "peak_mib": {"short": short["peak_mib"], "long": whole["peak_mib"]},
        "memory_over_short": round(whole["peak_mib"] / short["peak_mib"], 3),
        "minutes": whole["minutes"],
        "windows_before_the_kill": left,
        "minutes_after_the_kill": again["minutes"],
        "same_bytes_after_the_kill": bytes_of["whole"] == bytes_of["killed"],
        "soundtrack_packet_equal": packets(track) == packets(folder / "driven.mp4"),
        "peak_mib_with_soundtrack": driven["peak_mib"],
        "drift_tokens": whole["drift_tokens"],
        **measured(folder / "whole.mp4", whole["seams"], border),
    }


def _command(
    folder: Path, options: argparse.Namespace, name: str, seconds: float, track: Path | None
) -> list[str]:
    given = {"--make": folder / f"{name}.mp4", "--folder": folder / name, "--seconds": seconds}
    given |= {"--steps": options.steps, "--overlap": options.overlap}
    given |= {} if track is None else {"--soundtrack": track}
    words = itertools.chain.from_iterable(given.items())
    return [sys.executable, str(ROOT / "benchmarks" / "long.py"), *map(str, words)]


def _clip(
    folder: Path, options: argparse.Namespace, name: str, seconds: float, track: Path | None = None
) -> dict[str, Any]:
    command = _command(folder, options, name, seconds, track)
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    found = json.loads(ran.stdout.splitlines()[-1])
    say(f"{name}: {found}")
    return found


def _kill(folder: Path, options: argparse.Namespace, name: str, seconds: float) -> None:
    """Start a clip and kill its process when half of the windows are there."""
    command = _command(folder, options, name, seconds, None)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wanted = seconds / (WINDOW / FPS - options.overlap) / 2
    while len(list((folder / name).glob("ccl_loop/*/*.safetensors"))) < wanted and process.poll() is None:
        time.sleep(0.2)
    process.kill()
    process.wait()


def write_soundtrack(path: Path, seconds: float) -> None:
    """Sounds of the world, one clip behind the other, as AAC."""
    import av
    import torch

    from ccl_pack.ccl_core.host.media.remux import Sound
    from ccl_pack.ccl_core.training.world.evaluate import draw_clips
    from ccl_pack.ccl_core.training.world.scene import SAMPLE_RATE

    clips = draw_clips(5, int(seconds * FPS / WINDOW) + 1, WINDOW, FPS)
    waveform = torch.cat([torch.from_numpy(clip.waveform) for clip in clips])[: round(seconds * SAMPLE_RATE)]
    with av.open(str(path), "w") as output:
        sound = Sound(output, {"waveform": waveform[None, None], "sample_rate": SAMPLE_RATE})
        sound.write_until(float("inf"))


def packets(path: Path) -> list[bytes]:
    """Of the sound of a file."""
    import av

    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def measured(path: Path, seams: list[int], border: int) -> dict[str, Any]:
    """What is seen and heard of a film at its seams, and in its two scenes, of which border is between."""
    import av
    import numpy as np
    import torch

    from ccl_pack.ccl_core.host.media.sound_file import read_sound

    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    images = torch.from_numpy(frames).float() / 255
    sound = read_sound(str(path), Fraction(0), Fraction(len(frames), FPS))
    # The border of the scenes is a cut that was asked for.
    inside = [seam for seam in seams if seam != border]
    return {
        "frames": len(frames),
        "seams": len(inside),
        "step": at_seams(steps_of(images, border), inside, 1),
        "change": at_seams((images[1:] - images[:-1]).abs().mean((1, 2, 3)), inside, 1),
        "flux": at_seams(flux_of(sound), inside, 0),
        "asked_colour": asked_colour(images, border),
    }


def steps_of(images: Any, border: int) -> Any:
    """The way of the object from a frame to the next, in picture heights."""
    import torch

    from ccl_pack.ccl_core.training.world.contacts import track_foreground

    tracks = [track_foreground(part) for part in (images[:border], images[border:])]
    ways = [torch.stack([track.x.diff(), track.y.diff()]).abs().amax(0) for track in tracks]
    return torch.cat([ways[0], ways[0].new_zeros(1), ways[1]])


def flux_of(sound: Any) -> Any:
    """The largest spectral flux around each frame."""
    from ccl_pack.ccl_core.metrics.onsets import HOP, WINDOW, spectral_flux, to_mono

    flux = spectral_flux(to_mono(sound.waveform), WINDOW, HOP)
    frames = sound.waveform.shape[-1] * FPS // sound.sample_rate
    around = WINDOW // HOP
    places = [round(k / FPS * sound.sample_rate / HOP) for k in range(frames)]
    return flux.new_tensor([float(flux[max(0, p - around) : p + around + 1].max()) for p in places])


def at_seams(values: Any, seams: list[int], before: int) -> dict[str, list[float]]:
    """The largest and the median value at the seams and elsewhere. before: from a value to its frame."""
    import torch

    there = torch.zeros(len(values), dtype=torch.bool)
    there[[seam - before for seam in seams]] = True
    found = {"seams": values[there], "elsewhere": values[~there]}
    return {
        name: [round(float(part.max()), 4), round(float(part.median()), 4)] for name, part in found.items()
    }


def asked_colour(images: Any, border: int) -> list[float]:
    """Of each scene the share of frames in which more is seen of its colour than of that of the other."""
    import torch

    from ccl_pack.ccl_core.training.world.clip import PALETTE
    from ccl_pack.ccl_core.training.world.contacts import background_of

    colours = torch.tensor([PALETTE[name] for name in COLOURS]) / 255
    light = images - background_of(images)
    amount = light.abs().amax(-1).flatten(1)  # (f, pixels)
    near = torch.cdist(images.flatten(1, 2), colours[None].expand(len(images), -1, -1)).argmin(-1)
    seen = torch.stack([(amount * (near == k)).sum(1) for k in range(2)])  # (2, f)
    right = [seen[0, :border] > seen[1, :border], seen[1, border:] > seen[0, border:]]
    return [round(float(part.float().mean()), 3) for part in right]
