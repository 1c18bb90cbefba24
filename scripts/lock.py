"""One set-up, or other work on a folder, at a time, also between programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from console import Ticker


@contextmanager
def only_one(root: Path, what: str = "set-up", name: str = ".lock") -> Iterator[None]:
    """Hold a lock of a folder, such as the environment's; the system lets go of it if we die."""
    ticker = Ticker(f"waiting for another {what} to finish")
    with (root / name).open("a+") as lock:
        while not try_lock(lock.fileno()):
            ticker.tick()
            time.sleep(0.3)
        yield


def try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
