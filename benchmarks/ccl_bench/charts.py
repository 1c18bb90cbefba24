"""Curves over training steps, bars by variant, and files that are the same for the same numbers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Weight of the past per point of a drawn curve: about ten points are averaged.
SMOOTHING = 0.9
# Of a curve whose points were measured at the same noise: none.
AS_MEASURED = 0.0


def smoothed(curve: Sequence[Sequence[float]], smoothing: float = SMOOTHING) -> list[float]:
    """Exponential average that starts as the plain mean of what is there."""
    out = []
    total = 0.0
    weight = 0.0
    for _, loss in curve:
        total = smoothing * total + loss
        weight = smoothing * weight + 1
        # Divided by the weights so far: the first points are plain means, not drawn to 0.
        out.append(total / weight)
    return out


def draw_curve(
    axes: Any, curves: Sequence[Sequence[Sequence[float]]], label: str, smoothing: float = SMOOTHING
) -> list[float]:
    """One variant's mean and range over the seeds; returns what is shown after a fifth of the steps."""
    if not curves:
        return []
    length = min(map(len, curves))
    cut = [curve[:length] for curve in curves]
    steps = []
    for points in zip(*cut, strict=True):
        steps.append(statistics.fmean(step for step, _ in points))
    values = list(zip(*(smoothed(curve, smoothing)[:length] for curve in curves), strict=True))
    (drawn,) = axes.plot(steps, list(map(statistics.fmean, values)), label=label, linewidth=1.4)
    axes.fill_between(
        steps, list(map(min, values)), list(map(max, values)), color=drawn.get_color(), alpha=0.15
    )
    return [max(points) for step, points in zip(steps, values, strict=True) if step >= steps[-1] / 5]


def bars(axes: Any, found: Sequence[Sequence[float]], place: tuple[int, int, str]) -> None:
    """One bar a variant, of the mean over its seeds. Place: the guidance's number, of how many, its name."""
    index, count, label = place
    height = 0.8 / count
    rows = [row - 0.4 + (index + 0.5) * height for row in range(len(found))]
    axes.barh(
        rows,
        [statistics.fmean(numbers) if numbers else 0 for numbers in found],
        height,
        label=label,
        alpha=0.7,
    )
    for row, numbers in zip(rows, found, strict=True):
        axes.plot(numbers, [row] * len(numbers), "k.", markersize=4)


def save(plot: Callable[[Any], None], path: Path) -> None:
    """PNG and SVG, the same bytes for the same numbers."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    # A fixed salt, and no date below: matplotlib would write other ids and times into each file.
    with matplotlib.rc_context({"svg.hashsalt": "ccl", "font.size": 9}):
        plot(plt)
        plt.tight_layout()
        plt.savefig(path.with_suffix(".png"), dpi=120)
        plt.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        plt.close()
