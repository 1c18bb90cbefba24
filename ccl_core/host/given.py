"""What a run keeps of a given stream: for which pass, in which memory, and for how long."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher

from ..memory import HOST_MARGIN
from ..model.kept import Kept
from .run import Run

MODEL = "diffusion_model."


def kept_for(run: Run, patcher: ModelPatcher, rows: int, options: dict[str, Any]) -> Kept | None:
    """What is kept for a pass with these transformer options; None where each pass computes both streams.

    It belongs to the texts of the pass, its context window, its expert, its device and the layers that it
    skips. rows: of the batch.
    """
    if not run.keeps or run.given is None or _may_change(patcher):
        return None
    # `uuids` are the host's, one for each cond of the batch, and stay the same in every step.
    window = options.get("context_window")
    frames = None if window is None else tuple(window.index_list)
    expert = None if run.experts is None else run.experts.name
    texts, skipped = tuple(options["uuids"]), tuple(options.get("skip_layers", ()))
    key = (expert, texts, frames, skipped, str(patcher.load_device))
    _forget(run, tuple(options["sigmas"].tolist()), expert)
    if key not in run.kept:
        run.kept[key] = Kept(run.given, _memory_of(run, patcher, rows))
    run.kept[key].used = run.moment
    return run.kept[key]


def _may_change(patcher: ModelPatcher) -> bool:
    """Whether weights or modules may be others in the next step."""
    # Hooks change the strength of a LoRA by the step, and a patch of a method may ask for the step.
    patches = [value for key, value in patcher.object_patches.items() if key.startswith(MODEL)]
    compiled = all(isinstance(value, torch._dynamo.OptimizedModule) for value in patches)
    return patcher.current_hooks is not None or not compiled


def _forget(run: Run, moment: Hashable, expert: str | None) -> None:
    """Drop what another expert read, and what the last step did not: some hooks make new texts in each."""
    if moment == run.moment:
        return
    for key, kept in list(run.kept.items()):
        if kept.used != run.moment or key[0] != expert:
            run.kept.pop(key).close()
    run.moment = moment


def _memory_of(run: Run, patcher: ModelPatcher, rows: int) -> Vram | None:
    blocks = "blocks." if run.given == "video" else "audio.blocks."
    return memory_of(run, patcher, rows, MODEL + blocks)


def memory_of(run: Run, patcher: ModelPatcher, rows: int, given: str) -> Vram | None:
    """Beside passes of so many rows; None where the model computes in RAM. given: weights that may go."""
    if patcher.load_device.type in ("cpu", "mps"):
        return None
    needed = patcher.model.memory_required([rows, 1, sum(math.prod(shape[1:]) for shape in run.shapes)])
    reserve = int(HOST_MARGIN * needed) + comfy.model_management.extra_reserved_memory()
    return Vram(patcher, reserve, given)


@dataclass(frozen=True)
class Vram:
    """The memory of the device of a MODEL. reserve: bytes that stay free. given: the weights to let go."""

    patcher: ModelPatcher
    reserve: int
    given: str

    def room(self) -> int:
        # With what the host's dynamic loading frees where it is wanted.
        return self.patcher.get_free_memory(self.patcher.load_device) - self.reserve

    def release(self, waiting: int) -> None:
        if comfy.model_management.get_free_memory(self.patcher.load_device) < self.reserve + waiting:
            release(self.patcher, self.given)


def release(patcher: ModelPatcher, prefix: str) -> None:
    """Let the host take the weights under this prefix out of VRAM. They come back as it needs them."""
    if patcher.is_dynamic():
        # It frees from one end, where others lie: all go, and each comes back when it is read. What was
        # loaded outside that range stays, or the next pass would find it in RAM.
        patcher.partially_unload(None, patcher.loaded_size() - patcher.model.model_loaded_weight_memory)
        return
    with _only(patcher, prefix):
        patcher.partially_unload(patcher.offload_device, 1e32)


@contextlib.contextmanager
def _only(patcher: ModelPatcher, prefix: str) -> Iterator[None]:
    """The host unloads by a list of its own order; it sees the modules under this prefix alone."""
    whole = patcher._load_list

    def under_prefix(*args: Any, **kwargs: Any) -> Sequence[Any]:
        return [entry for entry in whole(*args, **kwargs) if entry[-3].startswith(prefix)]

    patcher._load_list = under_prefix
    try:
        yield
    finally:
        del patcher._load_list
