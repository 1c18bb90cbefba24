"""Whether a run is still on its course: its loss beside the best it had, and beside where it began."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

# Of the step before, in the running mean: it is one over some fifty steps.
KEPT = 0.98
# So much the running mean may be over the best it had; a step of an ordinary run stays within half of it.
BOUND = 3.0
# So much it may be over its first value, which one step decides: within the warm-up nothing else is known.
FIRST_BOUND = 30.0
# A validation this much over that of step 0 is worse, and not noise of small sets.
WORSE = 1.1
AGAIN = "train again with lower train.rates, into another train.out"
REMEDY = f"Nothing was saved at this step: {AGAIN}"


@dataclass(frozen=True)
class Course:
    """Running mean of the losses, its least value since the warm-up (None before its end), and its first."""

    mean: float | None = None
    best: float | None = None
    first: float | None = None

    def after(self, loss: float, warm: bool) -> Course:
        mean = loss if self.mean is None else KEPT * self.mean + (1 - KEPT) * loss
        best = mean if self.best is None else min(self.best, mean)
        first = mean if self.first is None else self.first
        return replace(self, mean=mean, best=best if warm else None, first=first)

    def check(self, step: int) -> None:
        """ValueError where the running mean left its bound."""
        for bound, known in ((BOUND, self.best), (FIRST_BOUND, self.first)):
            if known is not None and self.mean > bound * known:
                raise ValueError(
                    f"step {step}: the loss has left its bounds, its running mean is {self.mean:.4g} and was "
                    f"{known:.4g}. {REMEDY}"
                )


def check_validations(values: Sequence[float], step: int) -> None:
    """ValueError where the last of a run's validations, from step 0 on, is not finite, or the last two are
    both worse than the first.
    """
    if not math.isfinite(values[-1]):
        raise ValueError(f"step {step}: the loss of the validation clips is {values[-1]}. {REMEDY}")
    if len(values) > 2 and min(values[-2:]) > WORSE * values[0]:
        raise ValueError(
            f"step {step}: the validation clips have the loss {values[-1]:.4g}, and had {values[0]:.4g} "
            f"before the training, at two validations in a row. {REMEDY}"
        )


def total_of(means: Mapping[str, float]) -> float:
    """One number for the losses of a step: the mean over what was measured."""
    return sum(means.values()) / len(means)
