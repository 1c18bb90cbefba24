"""What a person should know of a result: what was done, and what was made all the same, such as a cut sound.

A message goes into the log, and `nodes/notices.py` shows it on the node that runs.
"""

from __future__ import annotations

import logging

LOGGER = logging.getLogger("ccl")
LOGGER.setLevel(logging.INFO)


def notice(text: str) -> None:
    """Tell what was got, what became of it, and what to do to have it otherwise."""
    LOGGER.warning(text)


def told(text: str) -> None:
    """Tell what was done as it was asked for; the page shows no message of it beside the node."""
    LOGGER.info(text)
