"""The runs of benchmarks/method.py: clips to train on, streams, variants on top, and their evaluation."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccl_bench import generate
from ccl_bench.ablation_report import recorded, whole
from ccl_bench.ablation_settings import parts, settings_of
from ccl_bench.ablation_training import Bar, Job, sized, streams_job, train
from ccl_tools.console import ScriptError, say
from ccl_tools.lock import only_one

if TYPE_CHECKING:
    from torch import Tensor

    from ccl_bench.ablation_data import Mixture
    from ccl_bench.ablation_trainer import Recipe
    from ccl_pack.ccl_core.config import CCLConfig

# Far from the seeds of evaluation, so that no clip is trained on and asked for.
DATA_SEED = 7000
EVALUATION_SEED = 500
# So much encoding is lost where a run is killed.
CLIPS_OF_A_FILE = 1500


def base_config(checkpoint: Path) -> CCLConfig:
    """The configuration of the shipped model."""
    from ccl_pack.ccl_core.metadata import read_config
    from ccl_pack.ccl_core.training.tiny.export import metadata

    return read_config(metadata(checkpoint)["ccl_config"])


def evaluate(config: CCLConfig, job: Job, options: argparse.Namespace, base: Any) -> None:
    """Held-out captions through the real nodes, by task and guidance; each finished part is kept."""
    import comfy.model_management
    import torch
    from safetensors.torch import load_file

    from ccl_pack.ccl_core.host.files.build import build_model
    from ccl_pack.ccl_core.training.world.evaluate import against_given, chance, draw_clips, total

    # Training has set it; sampling wants the host's fused kernels back.
    comfy.model_management.in_training = False
    weights = load_file(job.weights)
    found = json.loads(job.result.read_text()) if job.result.exists() else {}
    found |= {
        "variant": job.variant,
        "seed": job.seed,
        "parameters": sum(value.numel() for value in weights.values()),
        "gates": [round(float(value.tanh()), 4) for name, value in weights.items() if name.endswith(".gate")],
    }
    with torch.inference_mode():
        patcher = build_model(weights, config, job.weights.name, None, {"dtype": torch.float32})
        loaded = replace(base, model=patcher)
        clips = draw_clips(EVALUATION_SEED + job.seed, options.evaluation_clips, options.frames, loaded.fps)
        for task, guidance in parts(options):
            key = f"{task}/{guidance}"
            if key in found:
                continue
            sampling = generate.Sampling(
                task, guidance, frames=options.frames, steps=options.sampling_steps, sampler="euler"
            )
            rows, _ = generate.generate(loaded, clips, sampling, job.seed)
            floor = {"chance_62ms_share": chance(rows)["matched_62ms_share"]}
            found[key] = total(rows) | against_given(task, rows) | floor
            job.file(".part").write_text(json.dumps(found, indent=1))
            job.file(".part").replace(job.result)
    comfy.model_management.unload_all_models()


def finished(job: Job, options: argparse.Namespace) -> bool:
    if not (job.weights.exists() and job.result.exists()):
        return False
    return whole(json.loads(job.result.read_text()), options)


def make_data(options: argparse.Namespace, base: Any) -> None:
    """Training clips of one object, encoded once, in files so that a killed run goes on."""
    from ccl_bench.ablation_data import WorldEncoders, make

    encoders = WorldEncoders(video=base.video_vae, audio=base.audio_vae, text=base.clip)
    for number, first in enumerate(range(0, options.clips, CLIPS_OF_A_FILE)):
        count = min(CLIPS_OF_A_FILE, options.clips - first)
        seed = DATA_SEED + number
        path = options.work / f"data-{options.frames}-{seed}.safetensors"
        if not path.exists():
            say(f"Encoding {count} clips into {path.name}")
            make(encoders, path, count, seed, options.frames, objects=1)


def check_settings(options: argparse.Namespace) -> None:
    """One folder holds runs of one kind: others do not compare, and a run cannot change its schedule."""
    import hashlib

    settings = settings_of(options) | {
        "checkpoint": hashlib.sha256(options.checkpoint.read_bytes()).hexdigest()
    }
    path = options.work / "settings.json"
    if path.exists() and json.loads(path.read_text()) != settings:
        raise ScriptError(
            f"{options.work} holds runs with other settings: {path.read_text()}",
            "choose another --work, or repeat the settings of these runs",
        )
    path.write_text(json.dumps(settings))


def recipe_of(options: argparse.Namespace, steps: int, **settings: Any) -> Recipe:
    from ccl_bench.ablation_trainer import Recipe

    return Recipe(
        steps=steps,
        batch=options.batch,
        warmup=max(1, min(100, steps // 6)),
        threads=options.threads,
        # One noise level for both streams, as the paper has it.
        audio_lag=(1.0, 1.0),
        **settings,
    )


def trained_streams(config: CCLConfig, data: Mixture, options: argparse.Namespace) -> dict[str, Tensor]:
    """Weights of a variant's streams without its coupling, trained where no other run has done it."""
    from safetensors.torch import load_file

    from ccl_pack.ccl_core.training.flow import SEPARATE

    alone, job = streams_job(config, options.work)
    with only_one(options.work, "training of streams", job.file(".lock").name):
        if not job.weights.exists():
            bar = Bar(options.stream_steps)
            recipe = recipe_of(options, options.stream_steps, tasks={SEPARATE: 1.0})
            train(alone, data, recipe, job, lambda step: bar.tick(job.variant, 0, step, recipe.steps))
    return load_file(job.weights)


def run(options: argparse.Namespace) -> None:
    """All jobs that are not finished, one after the other."""
    from ccl_bench.ablation_data import Mixture
    from ccl_pack.ccl_core.training.flow import PAPER_MIX
    from ccl_pack.ccl_core.training.tiny.ablations import configuration, register

    register()
    options.work.mkdir(parents=True, exist_ok=True)
    check_settings(options)
    config = sized(base_config(options.checkpoint), options.layers, options.widths)
    configs = {name: configuration(name, config) for name in options.variants}
    known = {(run["variant"], run["seed"]) for run in recorded(options)}
    wanted = [(name, seed) for seed in options.seeds for name in options.variants]
    jobs = [Job(*key, options.work) for key in wanted if key not in known]
    base = generate.load(options.checkpoint.resolve())
    with only_one(options.work, "encoding of clips"):
        make_data(options, base)
    data = Mixture(options.work)
    bar = Bar(len(jobs) * options.steps)
    for number, job in enumerate(jobs):
        if not job.weights.exists():
            start = trained_streams(configs[job.variant], data, options)
            recipe = recipe_of(options, options.steps, seed=job.seed, tasks=PAPER_MIX)
            title = f"{job.variant}, seed {job.seed}"
            done = number * options.steps
            tick = lambda step: bar.tick(title, done, step, options.steps)  # noqa: B023, E731
            train(configs[job.variant], data, recipe, job, tick, start)
        if not finished(job, options):
            evaluate(configs[job.variant], job, options, base)
        say(f"  {number + 1} of {len(jobs)} runs are done: {job.variant}, seed {job.seed}")


def choose_variants(options: argparse.Namespace) -> None:
    from ccl_pack.ccl_core.training.tiny.ablations import VARIANTS

    options.variants = options.variants or list(VARIANTS)
    unknown = set(options.variants) - set(VARIANTS)
    if unknown:
        raise ScriptError(f"unknown variants {sorted(unknown)}", f"choose from {', '.join(VARIANTS)}")
