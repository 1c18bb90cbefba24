"""Training runs of benchmarks/method.py: the streams that a comparison begins from, and each variant."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccl_tools.console import Ticker

if TYPE_CHECKING:
    import torch

    from ccl_bench.ablation_data import Mixture
    from ccl_bench.ablation_trainer import Recipe
    from ccl_pack.ccl_core.config import CCLConfig

# So much training is lost where a run is killed.
SAVE_SECONDS = 60.0


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


def sized(config: CCLConfig, layers: int, widths: Sequence[int]) -> CCLConfig:
    """As many layers, all coupled, of these widths of video and audio; one noise level for both streams."""
    streams = {
        name: replace(getattr(config, name), dim=width, ffn_dim=3 * width, num_layers=layers)
        for name, width in zip(("video", "audio"), widths, strict=True)
    }
    interaction = replace(config.interaction, layers=tuple(range(layers)))
    return replace(config, **streams, interaction=interaction, audio_shift=None)


def streams_job(config: CCLConfig, work: Path) -> tuple[CCLConfig, Job]:
    """The configuration of a variant's streams without its coupling, and the run that trains them.

    Variants whose streams are alike share it, and so do all seeds.
    """
    from ccl_pack.ccl_core.metadata import write_config
    from ccl_pack.ccl_core.training.tiny.ablations import streams_alone

    alone = streams_alone(config)
    return alone, Job(f"streams-{hashlib.sha256(write_config(alone).encode()).hexdigest()[:8]}", 0, work)


def train(
    config: CCLConfig,
    data: Mixture,
    recipe: Recipe,
    job: Job,
    tick: Callable[[int], None],
    start: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Train to the recipe's last step, from where a killed run saved its state; the log is cut back to that.

    start: weights a new run begins with.
    """
    import comfy.model_management
    import torch
    from safetensors.torch import save_file

    from ccl_bench.ablation_trainer import Trainer

    comfy.model_management.in_training = True
    torch.set_num_threads(recipe.threads)
    trainer = Trainer(config, recipe, start)
    if job.state.exists():
        trainer.resume(job.state)
    # The log may be ahead of the state, which is saved once a minute.
    kept = job.log.read_text().splitlines(keepends=True)[: trainer.step] if trainer.step else []
    job.log.write_text("".join(kept))
    saved = time.monotonic()
    with job.log.open("a") as log:
        while trainer.step < recipe.steps:
            losses = trainer.update(data.draw(trainer.generator, recipe.batch, recipe.text_drop))
            log.write(json.dumps(line(trainer.step, losses)) + "\n")
            tick(trainer.step)
            if time.monotonic() - saved > SAVE_SECONDS:
                log.flush()
                trainer.save(job.state)
                saved = time.monotonic()
    tensors = {name: value.detach().contiguous() for name, value in trainer.model.state_dict().items()}
    save_file(tensors, job.file(".part"))
    job.file(".part").replace(job.weights)
    job.state.unlink(missing_ok=True)


def line(step: int, losses: dict[str, float]) -> dict[str, Any]:
    (task,) = {name.rsplit("/", 1)[0] for name in losses}
    return {
        "step": step,
        "task": task,
        **{name.rsplit("/", 1)[1]: round(value, 5) for name, value in losses.items()},
    }


class Bar:
    """How far all runs are, and how long the rest of their training will take at this process's pace."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.ticker = Ticker("training")
        self.own = 0
        self.spent = 0.0
        self.last = (-1, 0.0)

    def tick(self, title: str, before: int, step: int, steps: int) -> None:
        """before: steps of the runs before this one. What happens between two runs is no part of the pace."""
        done = before + step
        previous, seen = self.last
        self.last = done, time.monotonic()
        # Only steps that follow each other: what lies between two runs is loading and sampling.
        if step > 1 and done == previous + 1:
            self.own += 1
            self.spent += self.last[1] - seen
        pace = self.spent / max(1, self.own)
        filled = 20 * done // self.steps
        shown = f"[{'#' * filled}{'.' * (20 - filled)}] {title}, step {step} of {steps}"
        self.ticker.tick(f"{shown}, {pace:.2f} s a step, {pace * (self.steps - done) / 3600:.1f} h left")
