"""What a person should know of a result that was made all the same, such as a sound that was cut.

A message goes into the log, and `nodes/notices.py` shows it on the node that runs.
"""

from __future__ import annotations

import logging

LOGGER = logging.getLogger("ccl")


def notice(text: str) -> None:
    """Tell what was got, what became of it, and what to do to have it otherwise."""
    LOGGER.warning(text)
