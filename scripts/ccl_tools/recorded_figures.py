"""What a recorded run costs: calls of the model, seconds a step, FLOPs, and the tensors alive in a call.

Import it after `load_pack`.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ccl_tools.recorded_models import Tensors
from ccl_tools.recorded_pack import JointModel
from ccl_tools.recorded_runs import Run


@contextmanager
def each_call(meter: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Inside, every forward of a joint model runs inside a context of its own."""

    entered: list[AbstractContextManager[Any]] = []

    def begin(module: Any, _: Any) -> None:
        if isinstance(module, JointModel):
            entered.append(meter())
            entered[-1].__enter__()

    def end(module: Any, *_: Any) -> None:
        if isinstance(module, JointModel):
            entered.pop().__exit__(None, None, None)

    handles = register_module_forward_pre_hook(begin), register_module_forward_hook(end, always_call=True)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def plain(run: Run) -> tuple[Tensors, int, float]:
    """Outputs, calls of the model, and the median of the seconds between two steps (0 where there is one)."""
    ended: list[float] = []
    calls: list[int] = []

    @contextmanager
    def count() -> Iterator[None]:
        calls.append(1)
        yield

    with each_call(count):
        outputs = run(lambda *_, **__: ended.append(time.perf_counter()))
    seconds = [after - before for before, after in pairwise(ended)]
    return outputs, len(calls), statistics.median(seconds) if seconds else 0.0


def counted_flops(run: Run) -> int:
    """Of the whole run, with attention on a CPU in both directions."""

    # torch's counter knows the attention kernels of GPUs only.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    formulas = {
        attention: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        backward: lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient, q, k, v),
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        run(ignore)
    return counter.get_total_flops()


class Storages(TorchDispatchMode):
    """Counts the bytes of what operations return and were not given: never weights or inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = storages((args, kwargs))
        made = storages(out)
        for key in made.keys() - given.keys() - self.held.keys():
            self.held[key] = made[key].nbytes()
            self.now += self.held[key]
            # A storage is freed with its last tensor, which no operation reports.
            weakref.finalize(made[key], self._free, key)
        self.peak = max(self.peak, self.now)
        return out

    def _free(self, key: int) -> None:
        self.now -= self.held.pop(key)


def storages(tree: Any) -> dict[int, Any]:
    """Those of all tensors in it, by their address."""
    found = (leaf.untyped_storage() for leaf in tree_leaves(tree) if torch.is_tensor(leaf))
    return {storage._cdata: storage for storage in found}


def live_bytes(run: Run) -> int:
    """The most that one call of the model holds at once in storages made in it."""
    meters: list[Storages] = []

    def meter() -> Storages:
        meters.append(Storages())
        return meters[-1]

    with each_call(meter):
        run(ignore)
    return max((meter.peak for meter in meters), default=0)


def ignore(*_: Any, **__: Any) -> None:
    """A step that nobody times."""
