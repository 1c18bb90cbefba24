"""Files of random weights at real sizes, and steps with them in own processes, on a card or a part of it."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccl_bench.gpu_cases import CASES, DTYPES, PROMISES, Case, Row, configuration, shapes
from ccl_bench.plan import GB, planned
from ccl_tools.console import ScriptError, Ticker, say
from ccl_tools.quantise import FORMATS, Format
from ccl_tools.tensor_file import Entry, Writer

if TYPE_CHECKING:
    from torch import Tensor

    from ccl_pack.ccl_core.config import CCLConfig

COMMAND = Path(__file__).resolve().parents[1] / "gpu.py"
TEXT_TOKENS = 512
# Numbers that every tensor is cut from, each at another place: a prime, so that no width repeats with it.
PATTERN = 1_000_003
# Short beside a step, long beside the question how much memory is free.
WATCH_SECONDS = 0.02


def write_checkpoint(path: Path, config: CCLConfig, weights: str) -> None:
    """Norms are 1, the rest is random with a deviation of .02, all in the one type."""
    import torch

    from ccl_pack.ccl_core.metadata import write_config

    wanted = shapes(config)
    other = "bf16" if weights == "int8" else weights
    dtype = getattr(torch, DTYPES[other])
    pattern = (0.02 * torch.randn(PATTERN, generator=torch.Generator().manual_seed(0))).to(dtype)
    ticker = Ticker(f"writing {path.name}")
    entries: dict[str, Entry] = {}
    for name, shape in wanted.items():
        entries |= written(weights, name, shape).entries(name, shape)
    with Writer(path, entries, {"ccl_config": write_config(config)}) as writer:
        for i, (name, shape) in enumerate(wanted.items()):
            made = written(weights, name, shape).tensors(name, weight(name, shape, pattern, i))
            for key, tensor in made.items():
                writer.write(key, tensor)
            ticker.tick(f"{i + 1}/{len(wanted)}")
    ticker.done()


def written(weights: str, name: str, shape: Sequence[int]) -> Format:
    """The form of a tensor in the file: the matrices of int8 have a scale for each row, the rest is bf16."""
    layers = name.startswith(("blocks.", "audio.blocks.", "interaction."))
    if weights == "int8" and layers and name.endswith(".weight") and len(shape) == 2:
        return FORMATS["int8"]
    return replace(FORMATS["bf16"], storage=DTYPES["bf16" if weights == "int8" else weights])


def weight(name: str, shape: Sequence[int], pattern: Tensor, place: int) -> Tensor:
    import torch

    if "norm" in name and name.endswith("weight"):
        return torch.ones(shape).to(pattern.dtype)
    count = torch.Size(shape).numel()
    # Another prime, so that tensors of one shape begin at places of their own.
    start = place * 7919 % len(pattern)
    return pattern.repeat((start + count) // len(pattern) + 1)[start : start + count].reshape(shape)


class Watcher(threading.Thread):
    """The most that was taken: VRAM of the card below what was free at the start, and RAM of this process."""

    def __init__(self, free_at_start: int) -> None:
        super().__init__(daemon=True)
        self.free_at_start = free_at_start
        self.vram = 0
        self.ram = 0
        self.file = 0
        self.ended = threading.Event()

    def ram_now(self) -> int:
        """RAM of this process; pages of the mapped file are counted apart, for the system may drop them."""
        import psutil

        memory = psutil.Process().memory_info()
        shared = getattr(memory, "shared", 0)
        self.file = max(self.file, shared)
        return memory.rss - shared

    def run(self) -> None:
        import torch

        while not self.ended.wait(WATCH_SECONDS):
            if torch.cuda.is_available():
                self.vram = max(self.vram, self.free_at_start - torch.cuda.mem_get_info()[0])
            self.ram = max(self.ram, self.ram_now())

    def stop(self) -> None:
        self.ended.set()
        self.join()


def latent_of(model: Any, case: Case) -> dict[str, Any]:
    """The empty latent of the case; a given video has numbers, and a mask that keeps it."""
    import torch
    from comfy.nested_tensor import NestedTensor

    from ccl_pack.nodes.latents import CCLEmptyAVLatent

    length = {"length": "frames", "frames": case.frames}
    size = {"size": "custom", "width": case.width, "height": case.height}
    latent = CCLEmptyAVLatent.execute(model=model, size=size, length=length, batch_size=1).result[0]
    if not case.given:
        return latent
    video, audio = latent["samples"].unbind()
    masks = [torch.zeros_like(video[:, :1]), torch.ones_like(audio[:, :1])]
    return {
        **latent,
        "samples": NestedTensor([torch.ones_like(video), audio]),
        "noise_mask": NestedTensor(masks),
    }


def sample(model: Any, latent: dict[str, Any], case: Case, steps: int) -> list[float]:
    """The moment of the start and of the end of each step."""
    import comfy.utils
    import torch

    from ccl_pack.nodes.guidance import CCLJointSampler

    texts = torch.randn(2, 1, TEXT_TOKENS, model.model.ccl_config.video.text_dim)
    moments = [time.perf_counter()]

    def note(value: int, total: int, *_: Any, **__: Any) -> None:
        """The end of a step; the model load has a progress bar too."""
        if total == steps and value > len(moments) - 1:
            if torch.cuda.is_available():
                # Kernels run on after the call: without waiting, a step would seem to cost nothing.
                torch.cuda.synchronize()
            moments.append(time.perf_counter())

    comfy.utils.set_progress_bar_global_hook(note)
    CCLJointSampler.execute(
        model=model,
        positive=[[texts[0], {}]],
        negative=[[texts[1], {}]],
        latent_image=latent,
        seed=3,
        steps=steps,
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
        mode={"mode": "cfg", "video_cfg": case.video_scale, "audio_cfg": case.audio_scale},
        skip_layers=case.skip_layers,
    )
    return moments


def measure(
    path: Path, case: Case, steps: int, free_at_start: int, prepare: Callable[[Any], Any] | None = None
) -> dict[str, float]:
    """The figures of one row, of this process, beside the plan's. prepare: changes the loaded MODEL."""
    import torch

    from ccl_pack.ccl_core.host.files.build import load_model

    watcher = Watcher(free_at_start)
    before = watcher.ram_now()
    watcher.start()
    # As the host's executor runs every node.
    with torch.inference_mode():
        model = load_model(str(path))
        model = model if prepare is None else prepare(model)
        latent = latent_of(model, case)
        plan = planned(model, latent)
        moments = sample(model, latent, case, steps)
    watcher.stop()
    durations = [after - before for before, after in pairwise(moments)]
    return {
        "seconds_per_step": round(statistics.median(durations[1:]), 3),
        "first_step_seconds": round(durations[0], 3),
        "vram_gb": round(watcher.vram / GB, 2),
        "ram_gb": round(watcher.ram / GB, 2),
        "ram_start_gb": round(before / GB, 2),
        "file_gb": round(watcher.file / GB, 2),
        **plan,
    }


def hold(limit_gb: float) -> None:
    """Take all of the card but the limit until the standard input closes; says what is free then."""
    import torch

    free = torch.cuda.mem_get_info()[0]
    # Held by another process, whose memory no allocator of the measured one can take.
    ballast = torch.empty(max(0, free - int(limit_gb * GB)), dtype=torch.uint8, device="cuda")
    say(json.dumps({"free": torch.cuda.mem_get_info()[0], "held": ballast.numel()}))
    # The parent closes the pipe when it has measured, also when it dies.
    sys.stdin.read()


@contextmanager
def limited(limit_gb: float) -> Iterator[int]:
    """Bytes that are free on the card while the context lasts."""
    command = [sys.executable, str(COMMAND), "--hold", str(limit_gb)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            told = holder.stdout.readline()
            if not told:
                raise ScriptError(
                    f"all beyond {limit_gb:g} GB of the card cannot be taken", "end what else uses it"
                )
            yield json.loads(told)["free"]
        finally:
            holder.stdin.close()


def measure_apart(path: Path, case: str, weights: str, limit_gb: float, steps: int) -> Row:
    """One row from a process of its own."""
    import torch

    card = torch.cuda.get_device_properties(0)
    row = {"case": case, "weights": weights, "limit_gb": limit_gb, "gpu": card.name}
    if limit_gb * GB > card.total_memory:
        return Row(**row, error=f"the card has {card.total_memory / GB:.0f} GB")
    with limited(limit_gb) as free, tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "row.json"
        options = ["--measure", str(path), "--cases", case, "--steps", str(steps), "--free", str(free)]
        command = [sys.executable, str(COMMAND), *options, "--report", str(output)]
        ran = subprocess.run(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=False
        )
        if ran.returncode or not output.is_file():
            return Row(**row, error=(ran.stderr.strip().splitlines() or [f"ended with {ran.returncode}"])[-1])
        return Row(**row, **json.loads(output.read_text()))


def benchmark(options: argparse.Namespace) -> list[Row]:
    """All cases, each file written once for its limits and deleted behind them."""
    rows: list[Row] = []
    for (case, weights), limits in wanted(options).items():
        path = options.folder / f"benchmark_{case}_{weights}.safetensors"
        write_checkpoint(path, configuration(case), weights)
        try:
            for limit in limits:
                ticker = Ticker(f"{CASES[case].title}, {weights}, {limit:g} GB")
                rows.append(measure_apart(path, case, weights, limit, options.steps))
                ticker.done()
        finally:
            path.unlink()
    return rows


def wanted(options: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    """The limits of each file: those that were asked for, or what shall fit on the cards that people have."""
    if not options.cases:
        return {(case, weights): [limit] for case, weights, limit in PROMISES}
    return {(case, weights): options.limits for case in options.cases for weights in options.weights}
