"""One progress bar over several parts of a run, each of which has a bar of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import comfy.utils

STEPS = 1000


@contextmanager
def part_of_bar(begin: Fraction, end: Fraction) -> Iterator[None]:
    """Bars that begin within are shown as this part of a whole one. begin, end: from 0 to 1."""
    outer = comfy.utils.PROGRESS_BAR_HOOK
    if outer is None:
        yield
        return

    def show(value: float, total: float, preview: Any = None, **more: Any) -> None:
        share = min(1.0, value / total) if total else 0.0
        outer(round(STEPS * (float(begin) + float(end - begin) * share)), STEPS, preview, **more)

    comfy.utils.set_progress_bar_global_hook(show)
    try:
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(outer)
