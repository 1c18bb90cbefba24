"""Keys and values of a given stream, computed once in a run: in VRAM where there is room, else in pinned RAM.

The direction into a given stream is closed, so what it hands out depends on neither the noise nor the step.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import comfy.model_management
import torch
from torch import Tensor

from .interactions import KV

# The transformer option under which a run hands a pass what it keeps.
KEPT = "ccl_kept"
# Transformer options under which patches act inside a block, and may act another way in the next step.
PATCHES = ("patches", "patches_replace")


class Memory(Protocol):
    """The memory of the device that computes, where it is not RAM itself."""

    def room(self) -> int:
        """Bytes that are free beside what a pass needs."""
        ...

    def release(self, waiting: int) -> None:
        """Let the weights of the given stream go, which no pass reads any more. waiting: bytes in RAM."""
        ...


class Kept:
    """What one given stream hands out in each layer, for one set of texts. The first pass fills it.

    stream: "video" or "audio". sources: by layer, None until a pass begins to fill them. used: when it was
    read last, which the run marks.
    """

    def __init__(self, stream: str, memory: Memory | None = None) -> None:
        self.stream = stream
        self.memory = memory
        self.sources: list[KV | None] | None = None
        self.used: Hashable = None
        self._basis: list[Tensor] | None = None
        self._in_ram: set[int] = set()
        self._pinned: list[Tensor] = []
        self._spare: list[Tensor] = []  # pinned, of an earlier pass
        self._ahead: dict[int, tuple[Any, KV]] = {}

    @torch.compiler.disable
    def is_of(self, basis: Sequence[Tensor]) -> bool:
        """Whether it is whole, and of a stream with these inputs, bit for bit."""
        known = self._basis
        return known is not None and len(known) == len(basis) and all(map(torch.equal, known, basis))

    @torch.compiler.disable
    def begin(self) -> None:
        """Forget what was kept: a pass of the given stream comes, which puts in layer by layer."""
        # Pinning takes longer than a copy, and the next pass is as large.
        self._spare += self._pinned
        self._pinned.clear()
        self.sources = []
        self._basis = None
        self._in_ram.clear()
        self._ahead.clear()

    @torch.compiler.disable
    def put(self, source: KV | None) -> None:
        """Keep what the next layer hands out."""
        if source is not None and self.memory is not None and size_of(source) > self.memory.room():
            self._in_ram.add(len(self.sources))
            source = KV(*map(self._to_ram, source))
        self.sources.append(source)

    @torch.compiler.disable
    def settle(self, basis: Sequence[Tensor]) -> None:
        """After the pass: the given stream's weights may go, and layers in RAM come into their room."""
        # Copies, since a sampler may write into its latent.
        self._basis = [tensor.clone() for tensor in basis]
        if self.memory is None:
            return
        self.memory.release(sum(size_of(self.sources[i]) for i in self._in_ram))
        device = basis[0].device
        for i in sorted(self._in_ram):
            if size_of(self.sources[i]) > self.memory.room():
                break
            self.sources[i] = KV(*(tensor.to(device) for tensor in self.sources[i]))
            self._in_ram.remove(i)

    @torch.compiler.disable
    def take(self, i: int, device: torch.device) -> KV | None:
        """Keys and values of layer i on the device; those of the next layer in RAM are on their way then."""
        stream, source = self._ahead.pop(i, (None, self._at(i)))
        comfy.model_management.sync_stream(device, stream)
        if stream is None and i in self._in_ram:
            source = KV(*(tensor.to(device) for tensor in source))
        if i + 1 in self._in_ram:
            self._send(i + 1, device)
        return source

    def close(self) -> None:
        """Unpin what lies in RAM: it must not be freed before."""
        pinned = [*self._pinned, *self._spare]
        if pinned:
            # A copy may still read it.
            comfy.model_management.synchronize()
        for tensor in pinned:
            comfy.model_management.unpin_memory(tensor)
        self._pinned.clear()
        self._spare.clear()

    def _at(self, i: int) -> KV | None:
        # The stream that is kept may be the less deep one.
        return self.sources[i] if i < len(self.sources) else None

    def _to_ram(self, tensor: Tensor) -> Tensor:
        for i, spare in enumerate(self._spare):
            if (spare.shape, spare.dtype) == (tensor.shape, tensor.dtype):
                self._pinned.append(self._spare.pop(i))
                return self._pinned[-1].copy_(tensor)
        made = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        if comfy.model_management.pin_memory(made):
            self._pinned.append(made)
        return made.copy_(tensor)

    def _send(self, i: int, device: torch.device) -> None:
        """Start the copy of a layer beside the work of the one before it."""
        stream = comfy.model_management.get_offload_stream(device)
        if stream is None:
            return
        # On the stream that computes, which frees them too: the copy waits for what used that memory before.
        copies = KV(*(torch.empty_like(tensor, device=device) for tensor in self.sources[i]))
        stream.wait_stream(comfy.model_management.current_stream(device))
        with stream.as_context(stream):
            for copy, tensor in zip(copies, self.sources[i], strict=True):
                copy.copy_(tensor, non_blocking=True)
        self._ahead[i] = stream, copies


def size_of(source: KV) -> int:
    """Bytes of the keys and values of a layer."""
    return sum(tensor.nbytes for tensor in source)


def kept_of(options: dict[str, Any]) -> Kept | None:
    """What the run keeps for a pass with these transformer options; None under patches inside a block."""
    return None if any(options.get(name) for name in PATCHES) else options.get(KEPT)
