"""The parts of CCL on trial: CCL, CCL without each of its parts, and two rival couplings, trained and measured alike.

    python benchmarks/method.py --work method-work                           # trains, measures, writes docs/method/
    python benchmarks/method.py --summarise                                  # draws anew from docs/method/method.json
    python benchmarks/method.py --attention                                  # the attention maps of ccl-tiny

As in the paper, the coupling comes to streams that are trained already: --stream-steps without any coupling, once for
all seeds and all variants whose streams are alike. For one seed all variants then see the same clips, tasks, times and
noise in the same order, for --steps, and have as many parameters within 3 %. They are smaller than the shipped model
(--layers, --widths), so that many runs are affordable. Training clips are made once into --work with the autoencoders
and the text encoder of --checkpoint. Killed and started again, the script goes on where it was; several processes may
share --work if their --variants or their --seeds differ. Runs that method.json already records with the same settings
are not repeated.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent / "scripts"), str(HERE)]
from method_training import Bar, Job, sized, streams_job, train

from ccl_tools.console import ScriptError, exit_on_script_error, say
from ccl_tools.environment import ROOT, load_pack, reexec
from ccl_tools.lock import only_one

if TYPE_CHECKING:
    from torch import Tensor

    from ccl_pack.ccl_core.config import CCLConfig
    from ccl_pack.ccl_core.training.tiny.data import Mixture
    from ccl_pack.ccl_core.training.tiny.trainer import Recipe

TASKS = ("t2av", "v2a")
DATA_SEED, EVALUATION_SEED = 7000, 500
CLIPS_OF_A_FILE = 1500


def sibling(name: str) -> ModuleType:
    """Another benchmark as a module of a name that no test helper has."""
    full = f"benchmark_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, HERE / f"{name}.py")
        module = sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[full]


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

    comfy.model_management.in_training = False
    tiny, weights = sibling("tiny"), load_file(job.weights)
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
            sampling = tiny.Sampling(
                task, guidance, frames=options.frames, steps=options.sampling_steps, sampler="euler"
            )
            rows, _ = tiny.generate(loaded, clips, sampling, job.seed)
            floor = {"chance_62ms_share": chance(rows)["matched_62ms_share"]}
            found[key] = total(rows) | against_given(task, rows) | floor
            job.file(".part").write_text(json.dumps(found, indent=1))
            job.file(".part").replace(job.result)
    comfy.model_management.unload_all_models()


def parts(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    return ((task, guidance) for task in TASKS for guidance in options.guidance)


def finished(job: Job, options: argparse.Namespace) -> bool:
    if not (job.weights.exists() and job.result.exists()):
        return False
    return sibling("method_report").whole(json.loads(job.result.read_text()), options)


def make_data(options: argparse.Namespace, base: Any) -> None:
    """Training clips of one object, encoded once, in files so that a killed run goes on."""
    from ccl_pack.ccl_core.training.tiny.data import WorldEncoders, make

    encoders = WorldEncoders(video=base.video_vae, audio=base.audio_vae, text=base.clip)
    for number, first in enumerate(range(0, options.clips, CLIPS_OF_A_FILE)):
        count, seed = min(CLIPS_OF_A_FILE, options.clips - first), DATA_SEED + number
        path = options.work / f"data-{options.frames}-{seed}.safetensors"
        if not path.exists():
            say(f"Encoding {count} clips into {path.name}")
            make(encoders, path, count, seed, options.frames, objects=1)


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What runs must share to be compared."""
    model, training = ("layers", "widths"), ("stream_steps", "steps", "batch", "clips", "frames")
    return {name: getattr(options, name) for name in (*model, *training, "evaluation_clips", "sampling_steps")}


def check_settings(options: argparse.Namespace) -> None:
    """One folder holds runs of one kind: others could not be compared, and a run cannot change its schedule."""
    import hashlib

    settings = settings_of(options) | {"checkpoint": hashlib.sha256(options.checkpoint.read_bytes()).hexdigest()}
    path = options.work / "settings.json"
    if path.exists() and json.loads(path.read_text()) != settings:
        raise ScriptError(
            f"{options.work} holds runs with other settings: {path.read_text()}",
            "choose another --work, or repeat the settings of these runs",
        )
    path.write_text(json.dumps(settings))


def recipe_of(options: argparse.Namespace, steps: int, **settings: Any) -> Recipe:
    from ccl_pack.ccl_core.training.tiny.trainer import Recipe

    return Recipe(
        steps=steps,
        batch=options.batch,
        warmup=max(1, min(100, steps // 6)),
        threads=options.threads,
        audio_lag=(1.0, 1.0),  # one noise level for both streams, as the paper has it
        **settings,
    )


def trained_streams(config: CCLConfig, data: Mixture, options: argparse.Namespace) -> dict[str, Tensor]:
    """Weights of a variant's streams without its coupling, trained where no other run has done it."""
    from safetensors.torch import load_file

    from ccl_pack.ccl_core.training.flow import SEPARATE

    alone, job = streams_job(config, options.work)
    with only_one(options.work, "training of streams", job.file(".lock").name):
        if not job.weights.exists():
            bar, recipe = Bar(options.stream_steps), recipe_of(options, options.stream_steps, tasks={SEPARATE: 1.0})
            train(alone, data, recipe, job, lambda step: bar.tick(job.variant, 0, step, recipe.steps))
    return load_file(job.weights)


def run(options: argparse.Namespace) -> None:
    """All jobs that are not finished, one after the other."""
    from ccl_pack.ccl_core.training.flow import PAPER_MIX
    from ccl_pack.ccl_core.training.tiny.ablations import configuration, register
    from ccl_pack.ccl_core.training.tiny.data import Mixture

    register()
    options.work.mkdir(parents=True, exist_ok=True)
    check_settings(options)
    config = sized(base_config(options.checkpoint), options.layers, options.widths)
    configs = {name: configuration(name, config) for name in options.variants}
    known = {(run["variant"], run["seed"]) for run in sibling("method_report").recorded(options)}
    wanted = [(name, seed) for seed in options.seeds for name in options.variants]
    jobs = [Job(*key, options.work) for key in wanted if key not in known]
    base = sibling("tiny").load(options.checkpoint.resolve())
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


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("method-work"), help="folder of data, runs and their states")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "method", help="folder of JSON, plots and tables")
    parser.add_argument("--variants", nargs="+", help="names from ablations.VARIANTS (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--layers", type=int, default=4, help="of the compared models")
    parser.add_argument("--widths", type=int, nargs=2, default=[128, 80], help="of their video and audio stream")
    parser.add_argument("--stream-steps", type=int, default=1000, help="training steps of the streams alone")
    parser.add_argument("--steps", type=int, default=600, help="training steps of each variant on these streams")
    parser.add_argument("--batch", type=int, default=16, help="clips per training step")
    parser.add_argument("--clips", type=int, default=3000, help="training clips to encode where there are none")
    parser.add_argument("--frames", type=int, default=33, help="4k + 1, of training and evaluation")
    parser.add_argument(
        "--evaluation-clips", type=int, default=24, help="held-out captions per run, or clips of --attention"
    )
    parser.add_argument("--guidance", nargs="+", default=["cfg", "ucg_joint"])
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--checkpoint", type=Path, default=sibling("tiny_options").CHECKPOINT, help="gives encoders, VAEs and sizes"
    )
    parser.add_argument("--summarise", action="store_true", help="only draw anew from method.json")
    parser.add_argument("--attention", action="store_true", help="only draw the attention maps of --checkpoint")
    parser.add_argument("--sigma", type=float, default=0.5, help="noise of the clip whose attention is drawn")
    options = parser.parse_args(arguments)
    counts = ("stream_steps", "steps", "batch", "clips", "evaluation_clips")
    low = [name for name in counts if getattr(options, name) < 1]
    if low:
        parser.error(f"--{low[0].replace('_', '-')} must be at least 1")
    return options


def choose_variants(options: argparse.Namespace) -> None:
    from ccl_pack.ccl_core.training.tiny.ablations import VARIANTS

    options.variants = options.variants or list(VARIANTS)
    unknown = set(options.variants) - set(VARIANTS)
    if unknown:
        raise ScriptError(f"unknown variants {sorted(unknown)}", f"choose from {', '.join(VARIANTS)}")


def main(arguments: list[str] | None = None) -> None:
    """Train and measure, then collect, draw and write the tables."""
    options = parse(arguments)
    reexec()
    load_pack(pytorch_attention=True)
    told = sibling("tiny_options")
    told.check_frames(options.frames)
    told.guidance_modes(options.guidance)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.attention:
        sibling("method_attention").draw(options)
        return
    report = sibling("method_report")
    if not options.summarise:
        choose_variants(options)
        run(options)
        report.collect(options)
    report.summarise(options.out)
    say(f"Written: {options.out}")


if __name__ == "__main__":
    exit_on_script_error(main)
