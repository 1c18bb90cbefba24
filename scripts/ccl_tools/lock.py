"""Locks between programs: one alone, or many side by side. A lock ends with the program that holds it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ccl_tools.console import Ticker

# Windows locks each byte for one holder: a user takes any of these, who wants to be alone takes all.
PLACES = 512


@contextmanager
def only_one(root: Path, what: str = "set-up", name: str = ".lock") -> Iterator[int]:
    """Wait for a lock of a folder, such as the environment's, and hold it; gives its descriptor."""
    with (root / name).open("a+b") as lock:
        _wait(lock, shared=False, title=f"waiting for another {what} to finish")
        yield lock.fileno()


@contextmanager
def if_unused(path: Path) -> Iterator[int | None]:
    """Hold a lock alone, without waiting; gives None where somebody else holds it."""
    with path.open("a+b") as lock:
        yield lock.fileno() if try_lock(lock.fileno()) else None


def share(path: Path, title: str) -> BinaryIO:
    """Wait for a lock and hold it beside others until the file that is returned is closed."""
    lock = path.open("a+b")
    _wait(lock, shared=True, title=title)
    return lock


def for_children(*descriptors: int) -> tuple[int, ...]:
    """What subprocess's pass_fds must name so that a child holds the locks too, as it may outlive us."""
    # Windows cannot hand locks on.
    return () if sys.platform == "win32" else descriptors


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Whether the lock could be had at once."""
    try:
        if sys.platform == "win32":
            _lock_bytes(descriptor, shared)
        else:
            import fcntl

            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _wait(lock: BinaryIO, *, shared: bool, title: str) -> None:
    ticker = Ticker(title)
    while not try_lock(lock.fileno(), shared=shared):
        ticker.tick()
        # Polling, since a wait in the system could not show how long it takes.
        time.sleep(0.3)


def _lock_bytes(descriptor: int, shared: bool) -> None:
    import msvcrt

    for place in range(PLACES) if shared else [0]:
        os.lseek(descriptor, place, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1 if shared else PLACES)
        except OSError:
            continue
        return
    raise BlockingIOError("no byte of the lock is free")
