"""Clips of ccl-tiny through the real nodes: loaded, sampled, decoded, measured beside ceilings and chance."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccl_bench.tiny_options import GUIDANCE, SAMPLER, unseen_by_all
from ccl_tools.console import Ticker

if TYPE_CHECKING:
    from ccl_pack.ccl_core.training.world.clip import Clip
    from ccl_pack.ccl_core.training.world.evaluate import Result
    from ccl_pack.ccl_core.training.world.score import Found

TASKS = {"t2av": (False, False), "v2a": (True, False), "a2v": (False, True)}  # video given, audio given
SIZE = 64


@dataclass(frozen=True)
class Loaded:
    """What CCLCheckpointLoader gives, and the model's frame rate."""

    model: Any
    clip: Any
    video_vae: Any
    audio_vae: Any
    fps: float


@dataclass(frozen=True)
class Sampling:
    """How clips are generated; None leaves a value to the model."""

    task: str
    guidance: str = GUIDANCE
    strength: float = 1.0  # of the mode's default scales: 0 = none
    audio_shift: float | None = None
    frames: int = 33
    steps: int | None = None
    sampler: str = SAMPLER
    batch: int = 8  # clips per run of the sampler
    substeps: int = 1  # of the audio, in a step of the video


def load(path: Path) -> Loaded:
    """The checkpoint through its node."""
    import folder_paths

    from ccl_pack.ccl_core.training.tiny.video_vae import use_channels_last
    from ccl_pack.nodes.loaders import CCLCheckpointLoader

    folder_paths.add_model_folder_path("checkpoints", str(path.parent), is_default=True)
    model, clip, video_vae, audio_vae = CCLCheckpointLoader.execute(ckpt_name=path.name).result
    # A third less time on the CPU.
    use_channels_last(video_vae.first_stage_model)
    return Loaded(model, clip, video_vae, audio_vae, float(model.model.ccl_config.fps))


def defaults(node: Any, choice: str, option: str | None = None) -> dict[str, Any]:
    """The default of every widget of a node, with the named dynamic choice set to an option, or its first."""
    inputs = node.define_schema().inputs
    values = {entry.id: entry.default for entry in inputs if getattr(entry, "default", None) is not None}
    dynamic = next(entry for entry in inputs if entry.id == choice)
    options = {entry.key: entry.inputs for entry in dynamic.options}
    chosen = option or next(iter(options))
    return {**values, choice: {choice: chosen, **{entry.id: entry.default for entry in options[chosen]}}}


def strengthened(scale: float, strength: float) -> float:
    """1 is no guidance, and so is strength 0."""
    return round(1 + strength * (scale - 1), 4)


def scaled(mode: dict[str, Any], strength: float) -> dict[str, Any]:
    """The widgets of a mode with each scale strengthened; its ranges stay."""
    scales = [name for name in mode if name.startswith(("video_", "audio_"))]
    return mode | {name: strengthened(mode[name], strength) for name in scales}


def shifted(loaded: Loaded, audio_shift: float | None) -> Any:
    """The model, with a sigma shift of the audio's own if one is asked for."""
    if audio_shift is None:
        return loaded.model
    from ccl_pack.nodes.shift import CCLStreamShift

    video_shift = loaded.model.model.ccl_config.shift
    return CCLStreamShift.execute(
        model=loaded.model, video_shift=video_shift, audio_shift=audio_shift
    ).result[0]


def empty_latent(loaded: Loaded, frames: int, batch: int) -> dict[str, Any]:
    from ccl_pack.nodes.latents import CCLEmptyAVLatent

    settings = defaults(CCLEmptyAVLatent, "length", "frames")
    settings |= {"size": {"size": "custom", "width": SIZE, "height": SIZE}, "batch_size": batch}
    settings |= {"length": {"length": "frames", "frames": frames}}
    return CCLEmptyAVLatent.execute(model=loaded.model, **settings).result[0]


def encode(loaded: Loaded, clip: Clip, video: bool, audio: bool) -> dict[str, Any]:
    """A latent of one clip that holds its frames, its sound, or both, as given material."""
    import torch

    from ccl_pack.ccl_core.training.world.scene import SAMPLE_RATE
    from ccl_pack.nodes.encoding import CCLEncodeAV

    given: dict[str, Any] = {}
    if video:
        given["images"] = torch.from_numpy(clip.frames).float() / 255  # (f, h, w, 3)
    if audio:
        given["audio"] = {"waveform": torch.from_numpy(clip.waveform)[None, None], "sample_rate": SAMPLE_RATE}
    return CCLEncodeAV.execute(
        latent=empty_latent(loaded, len(clip.frames), 1),
        image_fit="crop",
        length_fit="pad",
        fps=0.0,
        video_vae=loaded.video_vae,
        audio_vae=loaded.audio_vae,
        **given,
    ).result[0]


def stack(latents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Latents of one clip each as one batch."""
    import torch

    from ccl_pack.ccl_core.host.media.latents import join, split

    parts = [split(latent) for latent in latents]
    tensors = ("video", "audio", "video_mask", "audio_mask")
    batches: dict[str, list[Any]] = {}
    for name in tensors:
        batches[name] = [getattr(part, name) for part in parts]
    return join(replace(parts[0], **{k: None if v[0] is None else torch.cat(v) for k, v in batches.items()}))


def conditioning(loaded: Loaded, texts: Sequence[str]) -> list[list[Any]]:
    """One text per clip of the batch, padded to the longest."""
    import torch

    from nodes import CLIPTextEncode

    tokens = [CLIPTextEncode().encode(loaded.clip, text)[0][0][0] for text in texts]  # (1, t, d) each
    longest = max(x.shape[1] for x in tokens)
    padded = [torch.nn.functional.pad(x, (0, 0, 0, longest - x.shape[1])) for x in tokens]
    return [[torch.cat(padded), {"pooled_output": None}]]


def sample(loaded: Loaded, clips: Sequence[Clip], sampling: Sampling, seed: int) -> dict[str, Any]:
    """One run of CCLJointSampler for a batch of clips."""
    from ccl_pack.nodes.guidance import CCLJointSampler

    video, audio = TASKS[sampling.task]
    if video or audio:
        latent = stack([encode(loaded, clip, video, audio) for clip in clips])
    else:
        latent = empty_latent(loaded, sampling.frames, len(clips))
    settings = defaults(CCLJointSampler, "mode", sampling.guidance)
    settings |= {"seed": seed, "mode": scaled(settings["mode"], sampling.strength)}
    settings |= {"sampler_name": sampling.sampler} | ({"steps": sampling.steps} if sampling.steps else {})
    if sampling.substeps > 1:
        settings |= {"sampler": substep_sampler(sampling)}
    positive, negative = conditioning(loaded, [clip.caption for clip in clips]), conditioning(loaded, [""])
    return CCLJointSampler.execute(
        model=shifted(loaded, sampling.audio_shift),
        positive=positive,
        negative=negative,
        latent_image=latent,
        **settings,
    ).result[0]


def substep_sampler(sampling: Sampling) -> Any:
    """The SAMPLER of a run in which the audio takes sub-steps."""
    from ccl_pack.nodes.substeps import CCLSubstepSampler

    settings = defaults(CCLSubstepSampler, "audio_guidance")
    settings |= {"sampler_name": sampling.sampler, "audio_substeps": sampling.substeps}
    return CCLSubstepSampler.execute(**settings).result[0]


def decode(loaded: Loaded, latent: dict[str, Any], count: int) -> list[Result]:
    from ccl_pack.ccl_core.training.world.evaluate import Result
    from ccl_pack.nodes.decoding import CCLDecodeAV

    images, audio, _ = CCLDecodeAV.execute(
        latent=latent,
        video_vae=loaded.video_vae,
        audio_vae=loaded.audio_vae,
        tiling={"tiling": "off"},
        fps=0.0,
        # A ceiling is what the VAEs make of a clip; put back, the originals would be the clip itself.
        given="decoded",
    ).result
    frames = images.unflatten(0, (count, -1))  # (b, f, h, w, 3)
    return [
        Result(*pair, audio["sample_rate"]) for pair in zip(frames, audio["waveform"].mean(1), strict=True)
    ]


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def show_progress(ticker: Ticker, state: Callable[[], str]) -> None:
    """How far sampler and VAEs are, on the console in place of the host's own bar."""
    import comfy.utils

    comfy.utils.PROGRESS_BAR_ENABLED = False
    comfy.utils.set_progress_bar_global_hook(
        lambda value, whole, *_, **__: ticker.tick(f"{state()}, {value}/{whole}")
    )


def answer(
    loaded: Loaded, clips: Sequence[Clip], sampling: Sampling, seed: int
) -> tuple[list[Result], dict[str, float]]:
    """Sample and decode every clip; the second value has the mean seconds per clip of each part."""
    ticker = Ticker(f"{sampling.task}, {len(clips)} clips of seed {seed}")
    results: list[Result] = []
    spent = {"sample": 0.0, "decode": 0.0}
    show_progress(ticker, lambda: f"{len(results)} of {len(clips)} done")
    for batch in batches(clips, sampling.batch):
        start = time.perf_counter()
        latent = sample(loaded, batch, sampling, seed=seed * 1000 + len(results))
        sampled = time.perf_counter()
        results += decode(loaded, latent, len(batch))
        spent["sample"] += sampled - start
        spent["decode"] += time.perf_counter() - sampled
        ticker.tick(f"{len(results)} of {len(clips)} done")
    ticker.done()
    return results, {
        f"seconds_{name}_per_clip": round(value / len(clips), 3) for name, value in spent.items()
    }


def generate(
    loaded: Loaded, clips: Sequence[Clip], sampling: Sampling, seed: int
) -> tuple[list[dict], dict[str, float]]:
    """Every clip answered and measured, and the mean seconds per clip of each part."""
    from ccl_pack.ccl_core.training.world.evaluate import measure

    results, seconds = answer(loaded, clips, sampling, seed)
    return [measure(*pair, loaded.fps) for pair in zip(clips, results, strict=True)], seconds


def ceilings(loaded: Loaded, clips: Sequence[Clip]) -> dict[str, list[Found]]:
    """What is found in the world's own clips, as they are and after the VAEs."""
    import torch

    from ccl_pack.ccl_core.training.world.evaluate import Result, find
    from ccl_pack.ccl_core.training.world.scene import SAMPLE_RATE

    ticker = Ticker("ceilings")
    found: dict[str, list[Found]] = {"world": [], "vae": []}
    show_progress(ticker, lambda: f"{len(found['world'])} of {len(clips)} done")
    for clip in clips:
        truth = Result(
            torch.from_numpy(clip.frames).float() / 255, torch.from_numpy(clip.waveform), SAMPLE_RATE
        )
        (again,) = decode(loaded, encode(loaded, clip, video=True, audio=True), 1)
        found["world"].append(find(clip, truth, loaded.fps))
        found["vae"].append(find(clip, again, loaded.fps))
    ticker.done()
    return found


def evaluate(loaded: Loaded, options: argparse.Namespace) -> dict[str, Any]:
    """Every seed's clips generated and counted, beside ceilings, chance and goals."""
    from ccl_pack.ccl_core.training.world import report
    from ccl_pack.ccl_core.training.world.evaluate import find

    sampling = Sampling(**{field.name: getattr(options, field.name) for field in fields(Sampling)})
    found: list[Found] = []
    clips: list[Clip] = []
    seconds = {}
    for seed in options.seed:
        drawn = asked_clips(loaded, options, seed)
        results, seconds = answer(loaded, drawn, sampling, seed)
        found += [find(*pair, loaded.fps) for pair in zip(drawn, results, strict=True)]
        clips += drawn
    rows = report.make_rows(options.task, clips, found, **ceilings(loaded, clips))
    total = report.tabulate(rows)
    return {
        **seconds,
        "total": total,
        "goals": report.goals(options.task, total),
        "diversity": diversity(loaded, clips[0], sampling, options),
        "rows": report.by_group(rows),
        "per_clip": rows,
    }


def asked_clips(loaded: Loaded, options: argparse.Namespace, seed: int) -> list[Clip]:
    """Clips of what neither this checkpoint nor those of --unseen-by were taught."""
    from ccl_pack.ccl_core.training.world.evaluate import draw_clips

    shape = (options.clips, options.frames, loaded.fps, options.objects)
    return draw_clips(seed, *shape, unseen_by_all(options), options.world)


def diversity(
    loaded: Loaded, clip: Clip, sampling: Sampling, options: argparse.Namespace
) -> dict[str, Any] | None:
    """How unlike each other several answers to the first caption are; None unless all is generated."""
    from ccl_pack.ccl_core.training.world.diversity import spread, world_spread
    from ccl_pack.ccl_core.training.world.evaluate import find

    if any(TASKS[sampling.task]) or not options.repeats:
        return None
    results, _ = answer(loaded, [clip] * options.repeats, sampling, options.seed[0])
    contacts = [find(clip, result, loaded.fps).seen[0].contacts for result in results]
    return {
        "caption": clip.caption,
        "answers": len(results),
        "spread_s": spread(contacts),
        "world_s": world_spread(clip, loaded.fps),
    }
