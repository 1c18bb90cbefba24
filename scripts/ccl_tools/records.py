"""Records of runs: written from runs that are made anew, read, and compared bit by bit."""

from __future__ import annotations

import gc
import json
import operator
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ccl_tools.console import ScriptError, say
from ccl_tools.environment import load_pack

if TYPE_CHECKING:
    from torch import Tensor

    from ccl_tools.recorded_models import Tensors
    from ccl_tools.recorded_runs import Run

THREADS = 1
SETTING = ("torch", "comfyui", "threads", "processor")


@dataclass(frozen=True)
class Figures:
    """What is known of a run besides its outputs."""

    flops: int
    calls: int
    seconds: float  # a step, median
    memory: int | None  # bytes
    torch: str
    comfyui: str
    threads: int
    processor: str


@dataclass
class Record:
    """A file: outputs and figures by run."""

    outputs: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    figures: dict[str, Figures] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        for run, outputs in self.outputs.items():
            tensors |= {f"{run}/{name}": value.contiguous().clone() for name, value in outputs.items()}
        metadata = {run: json.dumps(asdict(figures)) for run, figures in self.figures.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata=metadata)

    @classmethod
    def read(cls, path: Path) -> Record:
        from safetensors import SafetensorError, safe_open

        record = cls()
        try:
            with safe_open(path, framework="pt") as file:
                for run, text in (file.metadata() or {}).items():
                    record.figures[run] = Figures(**json.loads(text))
                    record.outputs[run] = {}
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    run, name = key.split("/", 1)
                    record.outputs[run][name] = file.get_tensor(key)
        except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
            raise ScriptError(
                f"{path} is no record of runs: {type(error).__name__}: {error}; wanted tensors <run>/<name> "
                "and a metadata entry for each run",
                "write it with: python scripts/record_runs.py record FILE",
            ) from error
        return record


# ---- record


def recorded(run: Run, memory: bool) -> tuple[Tensors, Figures]:
    """Outputs and figures of a run, which is made once for each that disturbs the others."""
    import torch
    from comfyui_version import __version__ as comfyui

    from ccl_tools.recorded_figures import counted_flops, live_bytes, plain

    with torch.inference_mode():
        outputs, calls, seconds = plain(run)
        flops = counted_flops(run)
        gc.collect()
        held = live_bytes(run) if memory else None
    processor = torch.backends.cpu.get_cpu_capability()
    return outputs, Figures(flops, calls, seconds, held, torch.__version__, comfyui, THREADS, processor)


def record(path: Path, only: list[str], memory: bool) -> int:
    """Make the runs and write the file."""
    load_pack(pytorch_attention=True)
    import torch

    torch.set_num_threads(THREADS)
    from ccl_tools.recorded_runs import RUNS

    made = Record()
    started = time.monotonic()
    for name in chosen(RUNS, only):
        made.outputs[name], made.figures[name] = recorded(RUNS[name], memory)
        say(f"  {name:<28} {shown(made.figures[name])}  {', '.join(made.outputs[name])}")
    made.write(path)
    say(f"{path}: {len(made.figures)} runs in {time.monotonic() - started:.0f} s")
    return 0


def shown(figures: Figures) -> str:
    memory = "" if figures.memory is None else f" {figures.memory / 2**10:>7.0f} KiB"
    step = f"{1000 * figures.seconds:>6.1f} ms a step"
    return f"{figures.flops:>14,} FLOPs {figures.calls:>3} calls {step}{memory}"


def chosen(runs: Iterable[str], only: list[str]) -> list[str]:
    """The runs of these names, all where none is given."""
    known = list(runs)
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ScriptError(
            f"--only {', '.join(unknown)}: no run has this name", f"take one of {', '.join(known)}"
        )
    return only or known


# ---- compare


def difference(old: Tensor, new: Tensor) -> tuple[str, float]:
    """What to say of an output, and its largest absolute difference: 0 only where all bits are the same."""
    import torch

    if old.shape != new.shape or old.dtype != new.dtype:
        return f"was {old.dtype} {tuple(old.shape)}, is {new.dtype} {tuple(new.shape)}", float("inf")
    # By bytes: NaN equals itself, and 0 differs from -0.
    if torch.equal(old.reshape(-1).view(torch.uint8), new.reshape(-1).view(torch.uint8)):
        return "equal", 0.0
    largest = float((old.double() - new.double()).abs().max())
    if not largest >= 0:
        return "NaN in one of them", float("inf")
    relative = largest / max(float(old.double().abs().max()), 1e-30)
    # The smallest float32 above 0, since a difference of 0 would be called equal.
    return f"max {largest:.1e}, {relative:.1e} of the largest value", max(largest, 1e-45)


def compared_outputs(old: dict[str, Tensor], new: dict[str, Tensor]) -> tuple[list[str], float]:
    """A line for each output that is not equal, and the largest difference of all."""
    lines = []
    worst = 0.0
    for name in old.keys() | new.keys():
        if name not in old or name not in new:
            said = f"only in the {'old' if name in old else 'new'} record"
            found = float("inf")
        else:
            said, found = difference(old[name], new[name])
        if found:
            lines.append(f"{name}: {said}")
        worst = max(worst, found)
    return sorted(lines), worst


def compared_figures(old: Figures, new: Figures) -> str:
    """FLOPs, seconds and memory, new beside old."""
    parts = [f"FLOPs {old.flops:,}" + ("" if old.flops == new.flops else f" -> {new.flops:,}")]
    parts += [] if old.calls == new.calls else [f"calls {old.calls} -> {new.calls}"]
    parts += [f"seconds x{new.seconds / old.seconds:.2f}"] if old.seconds else []
    if old.memory is not None and new.memory is not None:
        parts.append(f"bytes {old.memory:,}" + ("" if old.memory == new.memory else f" -> {new.memory:,}"))
    return ", ".join(parts)


def compare(old_path: Path, new_path: Path, only: list[str], tolerance: float) -> int:
    """Print every run beside its older self; 1 where one differs or is missing."""
    old, new = Record.read(old_path), Record.read(new_path)
    names = chosen(sorted({**old.figures, **new.figures}), only)
    both = [name for name in names if name in old.figures and name in new.figures]
    warn_of_settings(old, new, both)
    good = sum([compare_run(name, old, new, tolerance) for name in both])
    missing = [name for name in names if name not in new.figures]
    added = [name for name in names if name not in old.figures]
    say(f"only in {old_path}: {', '.join(missing) or 'none'}")
    say(f"only in {new_path}: {', '.join(added) or 'none'}")
    bound = f"{tolerance:g}" if tolerance else "no bit"
    say(f"{good} of {len(both)} runs differ by at most {bound}; {totals(old, new, both)}")
    return 0 if good == len(both) and not missing else 1


def compare_run(name: str, old: Record, new: Record, tolerance: float) -> bool:
    """Print one run; whether its outputs are within the tolerance."""
    lines, worst = compared_outputs(old.outputs[name], new.outputs[name])
    verdict = "equal" if not lines else "within" if worst <= tolerance else "DIFFERS"
    say(f"  {name:<28} {verdict:<8} {compared_figures(old.figures[name], new.figures[name])}")
    for line in lines:
        say(f"      {line}")
    return worst <= tolerance


def warn_of_settings(old: Record, new: Record, names: list[str]) -> None:
    """Bits are comparable where these are the same."""
    every = [file.figures[name] for file in (old, new) for name in names]
    setting = operator.attrgetter(*SETTING)
    found = sorted({str(list(setting(figures))) for figures in every})
    if len(found) > 1:
        say(f"note: recorded under other {', '.join(SETTING)}, so bits may differ: {' and '.join(found)}")


def totals(old: Record, new: Record, names: list[str]) -> str:
    flops = sum(old.figures[name].flops != new.figures[name].flops for name in names)
    held = [(old.figures[name].memory, new.figures[name].memory) for name in names]
    memory = sum(None not in pair and pair[0] != pair[1] for pair in held)
    timed = [(old.figures[name].seconds, new.figures[name].seconds) for name in names]
    ratios = [after / before for before, after in timed if before]
    return (
        f"{flops} with other FLOPs, {memory} with other bytes, "
        f"median ratio of seconds {statistics.median(ratios) if ratios else float('nan'):.2f}"
    )
