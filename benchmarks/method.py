"""The parts of CCL on trial: CCL, CCL without each of its parts, and two rival couplings, trained and measured alike.

    python benchmarks/method.py --work method-work --steps 600 --seeds 3     # trains, measures, writes docs/method/
    python benchmarks/method.py --summarise                                  # draws anew from docs/method/method.json
    python benchmarks/method.py --attention                                  # the attention maps of ccl-tiny

For one seed all variants start the same streams, see the same clips, tasks, times and noise in the same order, and have
as many parameters within 3 %. They are smaller than the shipped model (--layers, --widths), so that many runs are
affordable. Training clips are made once into --work with the autoencoders and the text encoder of --checkpoint, unless
data-*.safetensors lie there already. Killed and started again, the script goes on where it was; several processes may
share --work if their --variants differ. Runs that method.json already records with the same settings are not repeated.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent / "scripts"), str(HERE)]
from console import ScriptError, Ticker, exit_on_script_error, say
from environment import ROOT, load_pack, reexec

if TYPE_CHECKING:
    from ccl_pack.ccl_core.config import CCLConfig
    from ccl_pack.ccl_core.training.data import Mixture
    from ccl_pack.ccl_core.training.joint import Recipe

TASKS = ("t2av", "v2a")
SAVE_SECONDS = 60.0
DATA_SEED, EVALUATION_SEED = 7000, 500  # apart from the seeds of the shipped model's data


def sibling(name: str) -> ModuleType:
    """Another benchmark as a module of a name that no test helper has."""
    full = f"benchmark_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, HERE / f"{name}.py")
        module = sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[full]


@dataclass(frozen=True)
class Job:
    """One variant trained from one seed, and its files."""

    variant: str
    seed: int
    work: Path

    def file(self, suffix: str) -> Path:
        return self.work / f"{self.variant}-{self.seed}{suffix}"

    @property
    def state(self) -> Path:
        """What an unfinished run goes on from."""
        return self.file(".pt")

    @property
    def weights(self) -> Path:
        """What a finished run leaves."""
        return self.file(".safetensors")

    @property
    def log(self) -> Path:
        """One line per step: step, task and losses."""
        return self.file(".jsonl")

    @property
    def result(self) -> Path:
        return self.file(".json")


def base_config(checkpoint: Path) -> CCLConfig:
    """The configuration of the shipped model."""
    from ccl_pack.ccl_core.config import CCLConfig
    from ccl_pack.ccl_core.training.export import metadata

    return CCLConfig.from_json(metadata(checkpoint)["ccl_config"])


def sized(config: CCLConfig, layers: int, widths: Sequence[int]) -> CCLConfig:
    """As many layers, all coupled, of these widths of video and audio; one noise level for both streams."""
    streams = {
        name: replace(getattr(config, name), dim=width, ffn_dim=3 * width, num_layers=layers)
        for name, width in zip(("video", "audio"), widths, strict=True)
    }
    interaction = replace(config.interaction, layers=tuple(range(layers)))
    return replace(config, **streams, interaction=interaction, audio_shift=None)


def train(config: CCLConfig, data: Mixture, recipe: Recipe, job: Job, tick: Callable[[int], None]) -> None:
    """Train to the recipe's last step, from where a killed run saved its state; the log keeps what that state knows."""
    import comfy.model_management
    import torch
    from safetensors.torch import save_file

    from ccl_pack.ccl_core.training.joint import Trainer

    comfy.model_management.in_training = True
    torch.set_num_threads(recipe.threads)
    trainer = Trainer(config, recipe)
    if job.state.exists():
        trainer.resume(job.state)
    kept = job.log.read_text().splitlines(keepends=True)[: trainer.step] if trainer.step else []
    job.log.write_text("".join(kept))
    saved = time.monotonic()
    with job.log.open("a") as log:
        while trainer.step < recipe.steps:
            started = time.monotonic()
            losses = trainer.update(data.draw(trainer.generator, recipe.batch, recipe.text_drop))
            trainer.seconds += time.monotonic() - started
            log.write(json.dumps(line(trainer.step, losses)) + "\n")
            tick(trainer.step)
            if time.monotonic() - saved > SAVE_SECONDS:
                log.flush()
                trainer.save(job.state)
                saved = time.monotonic()
    tensors = {name: value.detach().contiguous() for name, value in trainer.model.state_dict().items()}
    save_file(tensors, job.file(".part"), metadata={"seconds": str(trainer.seconds)})
    job.file(".part").replace(job.weights)
    job.state.unlink(missing_ok=True)


def line(step: int, losses: dict[str, float]) -> dict[str, Any]:
    (task,) = {name.rsplit("/", 1)[0] for name in losses}
    return {"step": step, "task": task, **{name.rsplit("/", 1)[1]: round(value, 5) for name, value in losses.items()}}


def evaluate(config: CCLConfig, job: Job, options: argparse.Namespace, base: Any) -> None:
    """Held-out captions through the real nodes, by task and guidance; each finished part is kept."""
    import comfy.model_management
    import torch
    from safetensors.torch import load_file

    from ccl_pack.ccl_core.host.checkpoint import build_model
    from ccl_pack.ccl_core.training.evaluation import chance, draw_clips, total
    from ccl_pack.ccl_core.training.export import metadata

    comfy.model_management.in_training = False
    tiny, weights = sibling("tiny"), load_file(job.weights)
    found = json.loads(job.result.read_text()) if job.result.exists() else {}
    found |= {
        "variant": job.variant,
        "seed": job.seed,
        "parameters": sum(value.numel() for value in weights.values()),
        "seconds_per_step": round(float(metadata(job.weights)["seconds"]) / options.steps, 3),
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
            sampling = tiny.Sampling(task, guidance, frames=options.frames, steps=options.sampling_steps)
            rows, _ = tiny.generate(loaded, clips, sampling, job.seed)
            found[key] = total(rows) | {"chance_62ms_share": chance(rows)["matched_62ms_share"]}
            job.file(".part").write_text(json.dumps(found, indent=1))
            job.file(".part").replace(job.result)
    comfy.model_management.unload_all_models()


def parts(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    return ((task, guidance) for task in TASKS for guidance in options.guidance)


def finished(job: Job, options: argparse.Namespace) -> bool:
    if not (job.weights.exists() and job.result.exists()):
        return False
    found = json.loads(job.result.read_text())
    return all(f"{task}/{guidance}" in found for task, guidance in parts(options))


def make_data(options: argparse.Namespace, base: Any) -> None:
    """Training clips, encoded once."""
    from ccl_pack.ccl_core.training.data import Encoders, make

    if any(options.work.glob("data-*.safetensors")):
        return
    say(f"Encoding {options.clips} clips")
    encoders = Encoders(video=base.video_vae, audio=base.audio_vae, text=base.clip)
    path = options.work / f"data-{options.frames}-{DATA_SEED}.safetensors"
    make(encoders, path, options.clips, DATA_SEED, options.frames)


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What runs must share to be compared."""
    names = ("layers", "widths", "steps", "batch", "frames", "evaluation_clips", "sampling_steps")
    return {name: getattr(options, name) for name in names}


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


def run(options: argparse.Namespace) -> None:
    """All jobs that are not finished, one after the other."""
    from ccl_pack.ccl_core.training.ablations import configuration, register
    from ccl_pack.ccl_core.training.data import Mixture
    from ccl_pack.ccl_core.training.joint import Recipe

    register()
    options.work.mkdir(parents=True, exist_ok=True)
    check_settings(options)
    config = sized(base_config(options.checkpoint), options.layers, options.widths)
    configs = {name: configuration(name, config) for name in options.variants}
    known = {(run["variant"], run["seed"]) for run in sibling("method_report").recorded(options)}
    wanted = [(name, seed) for seed in range(options.seeds) for name in options.variants]
    jobs = [Job(*key, options.work) for key in wanted if key not in known]
    base = sibling("tiny").load(options.checkpoint.resolve())
    make_data(options, base)
    data = Mixture(options.work)
    bar = Bar(len(jobs) * options.steps)
    for number, job in enumerate(jobs):
        if not job.weights.exists():
            recipe = Recipe(
                steps=options.steps,
                seed=job.seed,
                batch=options.batch,
                warmup=max(1, min(100, options.steps // 6)),
                threads=options.threads,
                audio_lag=(1.0, 1.0),  # as the paper has it
            )
            title = f"{job.variant}, seed {job.seed}"
            done = number * options.steps
            train(configs[job.variant], data, recipe, job, lambda step: bar.tick(title, done, step, options.steps))  # noqa: B023
        if not finished(job, options):
            evaluate(configs[job.variant], job, options, base)
        say(f"  {number + 1} of {len(jobs)} runs are done: {job.variant}, seed {job.seed}")


class Bar:
    """How far all runs are, and how long the rest of their training will take at this process's pace."""

    def __init__(self, steps: int) -> None:
        self.steps, self.ticker = steps, Ticker("training")
        self.own, self.started = 0, time.monotonic()

    def tick(self, title: str, before: int, step: int, steps: int) -> None:
        """`before`: steps of the runs before this one."""
        self.own += 1
        done = before + step
        pace = (time.monotonic() - self.started) / self.own
        filled = 20 * done // self.steps
        shown = f"[{'#' * filled}{'.' * (20 - filled)}] {title}, step {step} of {steps}"
        self.ticker.tick(f"{shown}, {pace:.2f} s a step, {pace * (self.steps - done) / 3600:.1f} h left")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    tiny = sibling("tiny")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("method-work"), help="folder of data, runs and their states")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "method", help="folder of JSON, plots and tables")
    parser.add_argument("--variants", nargs="+", help="names from ablations.VARIANTS (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--layers", type=int, default=4, help="of the compared models")
    parser.add_argument("--widths", type=int, nargs=2, default=[128, 80], help="of their video and audio stream")
    parser.add_argument("--steps", type=int, default=600, help="training steps of each run")
    parser.add_argument("--batch", type=int, default=16, help="clips per training step")
    parser.add_argument("--clips", type=int, default=1500, help="training clips to encode where there are none")
    parser.add_argument("--frames", type=int, default=33, help="4k + 1, of training and evaluation")
    parser.add_argument(
        "--evaluation-clips", type=int, default=32, help="held-out captions per run, or clips of --attention"
    )
    parser.add_argument("--guidance", nargs="+", choices=tiny.GUIDANCE, default=["cfg", "ucg_joint"])
    parser.add_argument("--sampling-steps", type=int, help="default: that of CCLJointSampler")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path, default=tiny.CHECKPOINT, help="gives encoders, VAEs and sizes")
    parser.add_argument("--summarise", action="store_true", help="only draw anew from method.json")
    parser.add_argument("--attention", action="store_true", help="only draw the attention maps of --checkpoint")
    parser.add_argument("--sigma", type=float, default=0.5, help="noise of the clip whose attention is drawn")
    options = parser.parse_args(arguments)
    low = [name for name in ("seeds", "steps", "batch", "clips", "evaluation_clips") if getattr(options, name) < 1]
    if low:
        parser.error(f"--{low[0].replace('_', '-')} must be at least 1")
    if options.frames < 17 or options.frames % 4 != 1:
        parser.error(f"--frames must be 4k + 1 and at least 17, so that a contact fits in; got {options.frames}")
    return options


def choose_variants(options: argparse.Namespace) -> None:
    from ccl_pack.ccl_core.training.ablations import VARIANTS

    options.variants = options.variants or list(VARIANTS)
    unknown = set(options.variants) - set(VARIANTS)
    if unknown:
        raise ScriptError(f"unknown variants {sorted(unknown)}", f"choose from {', '.join(VARIANTS)}")


def main(arguments: list[str] | None = None) -> None:
    """Train and measure, then collect, draw and write the tables."""
    options = parse(arguments)
    reexec()
    load_pack(pytorch_attention=True)
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
