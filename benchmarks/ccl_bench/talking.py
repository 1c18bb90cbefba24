"""Talking clips generated and judged, beside the world's own, their round trip, cheats, and no coupling."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ccl_bench import talking_mask
from ccl_bench import talking_nodes as nodes
from ccl_bench.generate import Loaded, batches, decode, show_progress
from ccl_tools.console import Ticker

if TYPE_CHECKING:
    from ccl_pack.ccl_core.training.tiny.face_asked import AskedFace
    from ccl_pack.ccl_core.training.world.evaluate import Result
    from ccl_pack.ccl_core.training.world.face import FaceClip
    from ccl_pack.ccl_core.training.world.face_score import FaceTask, FoundFace

FRAMES = 33


@dataclass(frozen=True)
class Answers:
    """What became of the clips asked: each as found, whether its prefix came back, seconds a clip."""

    found: list[FoundFace]
    exact: list[bool]
    seconds: float


def task_of(options: argparse.Namespace) -> FaceTask:
    from ccl_pack.ccl_core.training.world.face_score import TASKS

    task = TASKS[options.task]
    return replace(task, voice=task.voice or options.voice)


def answer(
    loaded: Loaded, asked: Sequence[AskedFace], task: FaceTask, sampling: nodes.Sampling, options: Any
) -> Answers:
    """Every clip sampled, decoded and judged."""
    ticker = Ticker(f"{options.task}{'' if sampling.coupled else ' without coupling'}, {len(asked)} clips")
    found: list[FoundFace] = []
    exact: list[bool] = []
    seconds = 0.0
    show_progress(ticker, lambda: f"{len(found)} of {len(asked)} done")
    for batch in batches(asked, options.batch):
        latent = nodes.latents(loaded, batch, task)
        conditioning = nodes.conditionings(loaded, batch, task, latent)
        start = time.perf_counter()
        made = nodes.sample(loaded, conditioning, latent, sampling, options.seed * 1000 + len(found))
        results = decode(loaded, made, len(batch))
        seconds += time.perf_counter() - start
        exact += nodes.is_kept(latent, made) if task.kept else []
        found += judged([one.clip for one in batch], results, loaded.fps, task)
    ticker.done()
    return Answers(found, exact, round(seconds / len(asked), 3))


def judged(
    clips: Sequence[FaceClip], results: Sequence[Result], fps: float, task: FaceTask
) -> list[FoundFace]:
    from ccl_pack.ccl_core.training.world.face_score import find

    return [find(*pair, fps, task.kept) for pair in zip(clips, results, strict=True)]


def as_is(clip: FaceClip) -> Result:
    import torch

    from ccl_pack.ccl_core.training.world.evaluate import Result
    from ccl_pack.ccl_core.training.world.sounds import SAMPLE_RATE

    return Result(nodes.pictures(clip), torch.from_numpy(clip.waveform), SAMPLE_RATE)


def coded(loaded: Loaded, clip: FaceClip) -> Result:
    """A clip after the round trip through video VAE and vocoder."""
    return decode(loaded, nodes.encode(loaded, len(clip.frames), nodes.whole(clip)), 1)[0]


def beside(
    loaded: Loaded, asked: Sequence[AskedFace], task: FaceTask, seed: int
) -> dict[str, list[FoundFace]]:
    """The world's own clips, as they are and after the round trip, and each cheat made of them."""
    import numpy as np

    from ccl_pack.ccl_core.training.world.face_cheats import CHEATS
    from ccl_pack.ccl_core.training.world.face_report import CODED, WORLD

    ticker = Ticker("ceilings and cheats")
    rng = np.random.default_rng([seed, 1])
    found: dict[str, list[FoundFace]] = {name: [] for name in (WORLD, CODED, *CHEATS)}
    show_progress(ticker, lambda: f"{len(found[WORLD])} of {len(asked)} done")
    for clip in [one.clip for one in asked]:
        results = {WORLD: as_is(clip), CODED: coded(loaded, clip)}
        results |= {name: as_is(cheat(rng, clip, loaded.fps)) for name, cheat in CHEATS.items()}
        for name, result in results.items():
            found[name] += judged([clip], [result], loaded.fps, task)
        ticker.tick(f"{len(found[WORLD])} of {len(asked)} done")
    ticker.done()
    return found


def evaluate(loaded: Loaded, options: argparse.Namespace) -> dict[str, Any]:
    """The clips of the seed generated, with and without coupling, and counted beside ceilings and cheats."""
    from ccl_pack.ccl_core.training.tiny.face_asked import ask_faces
    from ccl_pack.ccl_core.training.world import face_report as report

    task = task_of(options)
    asked = ask_faces(options.seed, options.clips, FRAMES, loaded.fps, task.kept)
    sampling = nodes.Sampling(options.guidance, options.steps, options.sampler)
    answers = {report.ANSWER: answer(loaded, asked, task, sampling, options)}
    if not options.coupled_only:
        answers[report.UNCOUPLED] = answer(loaded, asked, task, replace(sampling, coupled=False), options)
    found = {kind: some.found for kind, some in answers.items()}
    found |= beside(loaded, asked, task, options.seed)
    exact = {kind: some.exact for kind, some in answers.items() if some.exact}
    rows = report.make_rows(task, [one.clip for one in asked], found, exact)
    for row, one in zip(rows, asked, strict=True):
        row["caption"] = one.caption
    return summary(options.task, rows) | {
        "mask": talking_mask.measure(loaded, asked, options.batch),
        "seconds_per_clip": answers[report.ANSWER].seconds,
    }


def summary(task: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from ccl_pack.ccl_core.training.world import face_report as report

    total = report.tabulate(rows)
    return {
        "total": total,
        "beside": report.by_kind(rows),
        "against": report.against(rows),
        "goals": report.goals(task, total),
        "rows": report.by_group(rows),
        "per_clip": list(rows),
    }
