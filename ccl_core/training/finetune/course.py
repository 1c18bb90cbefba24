"""Whether a run is still on its course: its loss beside the best it had, and beside where it began."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

# Of the step before, in the running mean: it is one over some fifty steps.
KEPT = 0.98
# So much the running mean may be over the best it had; a step of an ordinary run stays within half of it.
BOUND = 3.0
# A validation this much over that of step 0 is worse, and not noise of small sets.
WORSE = 1.1
REMEDY = "No save was written since. Train again with lower train.rates, into another train.out"


@dataclass(frozen=True)
class Course:
    """Running mean of the losses, and its least value since the warm-up (None before its end)."""

    mean: float | None = None
    best: float | None = None

    def after(self, loss: float, warm: bool) -> Course:
        mean = loss if self.mean is None else KEPT * self.mean + (1 - KEPT) * loss
        best = mean if self.best is None else min(self.best, mean)
        return replace(self, mean=mean, best=best if warm else None)

    def check(self, step: int) -> None:
        """ValueError where the running mean left its bound."""
        if self.best is not None and self.mean > BOUND * self.best:
            raise ValueError(
                f"step {step}: the loss has left its bounds, its running mean is {self.mean:.4g} and was "
                f"{self.best:.4g}. {REMEDY}"
            )


def check_validations(values: Sequence[float], step: int) -> None:
    """ValueError where the last two of a run's validations, from step 0 on, are both worse than the first."""
    if len(values) > 2 and min(values[-2:]) > WORSE * values[0]:
        raise ValueError(
            f"step {step}: the validation clips have the loss {values[-1]:.4g}, and had {values[0]:.4g} "
            f"before the training, at two validations in a row. {REMEDY}"
        )
