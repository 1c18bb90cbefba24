"""What a person should know of a result: what was done, and what was made all the same, such as a cut sound.

A message goes into the log, and `nodes/notices.py` shows it on the node that runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

LOGGER = logging.getLogger("ccl")
LOGGER.setLevel(logging.INFO)
# What takes the notices of an earlier run off the node that runs.
CLEARS: list[Callable[[], None]] = []


def notice(text: str) -> None:
    """Tell what was got, what became of it, and what to do to have it otherwise."""
    LOGGER.warning(text)


def told(text: str) -> None:
    """Tell what was done as it was asked for; the page shows no message of it beside the node."""
    LOGGER.info(text)


def clear() -> None:
    """Before notices of a node of the host, which begins its runs with those of the last one."""
    for take_off in CLEARS:
        take_off()
