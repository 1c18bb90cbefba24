"""Errors of memory that ran out, on a GPU or in RAM, told with what helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import comfy.model_management

# torch has no exception of its own for these: the allocators of the CPU and of Apple's GPU.
MARKS = ("can't allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or in RAM."""
    if isinstance(error, MemoryError) or comfy.model_management.is_oom(error):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in MARKS)


@contextmanager
def advising(what: str, advice: Callable[[], str]) -> Iterator[None]:
    """Add to an error of memory what was being done and what helps; other errors pass.

    what: behind "while". The new error is of the host's type where the old one is, so that the host unloads.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        on_device = comfy.model_management.is_oom(error)
        kind = comfy.model_management.OOM_EXCEPTION if on_device else MemoryError
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise kind(f"out of memory while {what} ({first}).\n{advice()}") from error


def require_ram(size: int, what: str, remedy: str) -> None:
    """ValueError where a result of so many bytes is larger than the RAM of this machine."""
    there = comfy.model_management.total_ram / 1024  # of MiB
    wanted = size / 1024**3
    if wanted > there:
        raise ValueError(f"{what} take {wanted:.0f} GiB, this machine has {there:.0f} GiB of RAM: {remedy}")
