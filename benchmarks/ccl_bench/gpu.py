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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccl_bench.published_sizes import ovi
from ccl_tools.console import ScriptError, Ticker, say
from ccl_tools.tensor_file import Entry, Writer

if TYPE_CHECKING:
    from torch import Tensor

    from ccl_pack.ccl_core.config import CCLConfig

COMMAND = Path(__file__).resolve().parents[1] / "gpu.py"
GB = 10**9
TEXT_TOKENS = 512
DTYPES = {"bf16": "bfloat16", "fp8": "float8_e4m3fn"}
# Numbers that every tensor is cut from, each at another place: a prime, so that no width repeats with it.
PATTERN = 1_000_003
# Short beside a step, long beside the question how much memory is free.
WATCH_SECONDS = 0.02
BEGIN, END = "<!-- gpu.py begin -->", "<!-- gpu.py end -->"


@dataclass(frozen=True)
class Case:
    """A clip to make: its size, and the guidance of a step (two passes)."""

    title: str
    width: int
    height: int
    frames: int
    video_scale: float
    audio_scale: float
    skip_layers: str = ""


CASES = {
    "ovi": Case("Ovi, 960 x 960, 121 frames", 960, 960, 121, 4.0, 3.0, "11"),
    "ccl": Case("CCL on Wan 14B, 640 x 352, 81 frames", 640, 352, 81, 5.0, 5.0),
}


@dataclass(frozen=True)
class Row:
    """One measurement; `error` says why there is none."""

    case: str
    weights: str
    limit_gb: float
    gpu: str = ""
    seconds_per_step: float | None = None
    first_step_seconds: float | None = None
    vram_gb: float | None = None
    ram_gb: float | None = None
    file_gb: float | None = None
    error: str = ""


def configuration(case: str) -> CCLConfig:
    """Ovi as published; Wan 2.1 14B and an audio stream as large as Wan 1.3B, coupled by CCA in 30 layers."""
    from ccl_pack.ccl_core.config import (
        AudioLatentConfig,
        CCAOptions,
        CCLConfig,
        InteractionConfig,
        StreamConfig,
    )

    if case == "ovi":
        return ovi()
    return CCLConfig(
        fps=Fraction(16),
        video=StreamConfig(16, 16, 5120, 13824, 40, 40, 4096),
        audio=StreamConfig(80, 80, 1536, 8960, 12, 30, 4096, patch_size=(1, 1, 1)),
        interaction=InteractionConfig("cca", tuple(range(30)), CCAOptions()),
        audio_latent=AudioLatentConfig("vocos", 80, Fraction(32), 16000),
    )


def shapes(config: CCLConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model, without memory for any of them."""
    import comfy.ops

    from ccl_pack.ccl_core.model.joint import JointModel

    model = JointModel(config, device="meta", operations=comfy.ops.disable_weight_init)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def write_checkpoint(path: Path, config: CCLConfig, weights: str) -> None:
    """Norms are 1, the rest is random with a deviation of .02, all in the one type."""
    import torch

    from ccl_pack.ccl_core.metadata import write_config

    dtype = getattr(torch, DTYPES[weights])
    pattern = (0.02 * torch.randn(PATTERN, generator=torch.Generator().manual_seed(0))).to(dtype)
    ticker = Ticker(f"writing {path.name}")
    entries = {name: Entry(DTYPES[weights], shape) for name, shape in shapes(config).items()}
    with Writer(path, entries, {"ccl_config": write_config(config)}) as writer:
        for i, (name, entry) in enumerate(entries.items()):
            writer.write(name, weight(name, entry.shape, pattern, i))
            ticker.tick(f"{i + 1}/{len(entries)}")
    ticker.done()


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

    def run(self) -> None:
        import psutil
        import torch

        process = psutil.Process()
        while not self.ended.wait(WATCH_SECONDS):
            if torch.cuda.is_available():
                self.vram = max(self.vram, self.free_at_start - torch.cuda.mem_get_info()[0])
            memory = process.memory_info()
            # Pages of the mapped file are counted apart: the system may drop them.
            shared = getattr(memory, "shared", 0)
            self.ram = max(self.ram, memory.rss - shared)
            self.file = max(self.file, shared)

    def stop(self) -> None:
        self.ended.set()
        self.join()


def sample(path: Path, case: Case, steps: int) -> list[float]:
    """Load the file and sample; the moment of the start and of the end of each step."""
    import comfy.utils
    import torch

    from ccl_pack.ccl_core.host.files.build import load_model
    from ccl_pack.nodes.guidance import CCLJointSampler
    from ccl_pack.nodes.latents import CCLEmptyAVLatent

    model = load_model(str(path))
    length = {"length": "frames", "frames": case.frames}
    size = {"size": "custom", "width": case.width, "height": case.height}
    latent = CCLEmptyAVLatent.execute(model=model, size=size, length=length, batch_size=1).result[0]
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


def measure(path: Path, case: Case, steps: int, free_at_start: int) -> dict[str, float]:
    """The figures of one row, of this process."""
    import torch

    watcher = Watcher(free_at_start)
    watcher.start()
    # As the host's executor runs every node.
    with torch.inference_mode():
        moments = sample(path, case, steps)
    watcher.stop()
    durations = [after - before for before, after in pairwise(moments)]
    return {
        "seconds_per_step": round(statistics.median(durations[1:]), 3),
        "first_step_seconds": round(durations[0], 3),
        "vram_gb": round(watcher.vram / GB, 2),
        "ram_gb": round(watcher.ram / GB, 2),
        "file_gb": round(watcher.file / GB, 2),
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


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line for each measurement."""
    names = ("s/step", "first step s", "VRAM GB", "RAM GB", "mapped file GB")
    lines = [f"| model | weights | limit GB | {' | '.join(names)} |", "|" + "---|" * (3 + len(names))]
    for row in rows:
        values = (row.seconds_per_step, row.first_step_seconds, row.vram_gb, row.ram_gb, row.file_gb)
        cells = (
            [row.error.replace("|", "/")[:80], "", "", "", ""]
            if row.error
            else [f"{value:g}" for value in values]
        )
        lines.append(f"| {CASES[row.case].title} | {row.weights} | {row.limit_gb:g} | {' | '.join(cells)} |")
    gpus = sorted({row.gpu for row in rows if row.gpu})
    return "\n".join([*lines, "", f"{', '.join(gpus)}; two passes a step; euler; random weights."])


def insert(text: str, block: str) -> str:
    """The page with this block in the place of the one the script wrote before, or at the end."""
    block = f"{BEGIN}\n{block}\n{END}\n"
    if BEGIN not in text:
        return f"{text.rstrip()}\n\n{block}".lstrip()
    before, rest = text.split(BEGIN, 1)
    return before + block + rest.split(END, 1)[1].lstrip("\n")


def benchmark(options: argparse.Namespace) -> list[Row]:
    """All cases, each file written once for its limits and deleted behind them."""
    rows: list[Row] = []
    for case in options.cases:
        for weights in options.weights:
            path = options.folder / f"benchmark_{case}_{weights}.safetensors"
            write_checkpoint(path, configuration(case), weights)
            try:
                for limit in options.limits:
                    ticker = Ticker(f"{CASES[case].title}, {weights}, {limit:g} GB")
                    rows.append(measure_apart(path, case, weights, limit, options.steps))
                    ticker.done()
            finally:
                path.unlink()
    return rows
