"""What a model computes and moves, counted op by op as torch dispatches them; the same on every machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import comfy.ldm.wan.model
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# Ops that touch no number: they make room, or see the same numbers in another shape.
NOTHING = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "detach"}


@contextlib.contextmanager
def attention(kernel: Callable[..., Any]) -> Iterator[None]:
    """Let Wan call this attention, by the name that packs of other kernels replace too."""
    before = comfy.ldm.wan.model.optimized_attention
    comfy.ldm.wan.model.optimized_attention = kernel
    try:
        yield
    finally:
        comfy.ldm.wan.model.optimized_attention = before


class Flops(TorchDispatchMode):
    """FLOPs of matrix products, convolutions and attention, two for each multiplication and its sum."""

    # As torch's FlopCounterMode, less its account by module, which takes most of the time on the meta device.
    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.known: dict[Hashable, tuple[int, Any]] = {}

    def once(self, key: Hashable, run: Callable[[], Any]) -> Any:
        """The result of a run without data, whose cost is that of any other with this key: traced once."""
        if key in self.known:
            self.flops += self.known[key][0]
            return self.known[key][1]
        before = self.flops
        made = run()
        self.known[key] = self.flops - before, made
        return made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        count = flop_registry.get(func._overloadpacket)
        if count is None:
            # In inference mode an op such as `linear` comes as a whole.
            with self:
                made = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if made is NotImplemented else made
        made = func(*args, **kwargs)
        self.flops += count(*args, **kwargs, out_val=made)
        return made


class Traffic(TorchDispatchMode):
    """Bytes that every op reads and writes, as if each were a kernel of its own; views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:
            made = func.decompose(*args, **kwargs)
        if made is not NotImplemented:
            return made
        made = func(*args, **kwargs)
        if not func.is_view and func._schema.name.split("::")[1] not in NOTHING:
            self.bytes += sum(map(nbytes, tree_leaves((args, kwargs, made))))
        return made


def nbytes(value: Any) -> int:
    """Bytes of the numbers in a tensor; one that is expanded is read once."""
    if not torch.is_tensor(value):
        return 0
    count = 1
    for size, stride in zip(value.shape, value.stride(), strict=True):
        count *= size if stride else 1
    return count * value.element_size()
