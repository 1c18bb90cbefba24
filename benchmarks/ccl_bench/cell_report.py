"""Runs of cells as numbers: final values, steps to a threshold, differences by seed; tables in markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Report = Mapping[str, Any]
# A number of a probe, None where it was not measured.
Value = Callable[[Mapping[str, Any]], float | None]
Curve = list[tuple[int, float]]
# Quantiles .975 of Student's t by its degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Difference(NamedTuple):
    """Mean of the differences paired by seed, and how far the 95 % interval of the mean goes to each side.

    half is None of fewer than two seeds, or more than the table of Student's t has.
    """

    mean: float
    half: float | None


def curve(report: Report, value: Value) -> Curve:
    """A value at each probe of a run."""
    points = ((probe["step"], value(probe)) for probe in report["probes"])
    return [(step, number) for step, number in points if number is not None]


def final(report: Report, value: Value) -> float | None:
    points = curve(report, value)
    return points[-1][1] if points else None


def by_seed(reports: Sequence[Report], value: Value) -> dict[int, float]:
    """The last value of each seed that has one."""
    found = {report["seed"]: final(report, value) for report in reports}
    return {seed: number for seed, number in found.items() if number is not None}


def steps_to(points: Curve, threshold: float, rising: bool = False) -> float | None:
    """The step at which a curve first reaches a threshold, on straight lines between probes; None: never."""
    sign = -1 if rising else 1
    for number, (step, value) in enumerate(points):
        if sign * value <= sign * threshold:
            if number == 0:
                return float(step)
            before, was = points[number - 1]
            return before + (step - before) * (was - threshold) / (was - value)
    return None


def halfway(curves: Sequence[Curve], rising: bool = False) -> float | None:
    """Half of the way from the mean first value to the best last value of any curve."""
    if not any(curves):
        return None
    best = (max if rising else min)(points[-1][1] for points in curves if points)
    return (statistics.fmean(points[0][1] for points in curves if points) + best) / 2


def paired(own: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """own less other over the seeds that both have; None without any."""
    found = [own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())]
    if not found:
        return None
    degrees = len(found) - 1
    if not 1 <= degrees <= len(STUDENT):
        return Difference(statistics.fmean(found), None)
    half = STUDENT[degrees - 1] * statistics.stdev(found) / len(found) ** 0.5
    return Difference(statistics.fmean(found), half)


def spread(numbers: Sequence[float], form: str = "{:.3f}") -> str:
    """Mean (lowest to highest)."""
    if not numbers:
        return ""
    low, high = (form.format(edge(numbers)) for edge in (min, max))
    return f"{form.format(statistics.fmean(numbers))} ({low} to {high})"


def difference(found: Difference | None, form: str = "{:+.3f}") -> str:
    """With its interval; bold where that does not hold 0."""
    if found is None:
        return ""
    if found.half is None:
        return form.format(found.mean)
    low, high = (form.format(found.mean + side * found.half) for side in (-1, 1))
    text = f"{form.format(found.mean)} ({low} to {high})"
    return f"**{text}**" if abs(found.mean) > found.half else text


def counted(steps: Sequence[float | None]) -> str:
    """Steps to a threshold: the mean of the seeds that reached it, and how many did not."""
    reached = [step for step in steps if step is not None]
    never = len(steps) - len(reached)
    said = [spread(reached, "{:.0f}")] if reached else []
    return ", ".join([*said, *([f"never in {never} of {len(steps)}"] if never else [])])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a markdown table."""
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return [lines[0], f"|{'---|' * len(head)}", *lines[1:]]
