"""How far a training has come that may be stopped at any time: state in one file, time over all runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..flow import save_atomically

log = logging.getLogger(__name__)
LOG_STEPS = 100


@dataclass
class Progress:
    """How far a training of so many steps, or minutes if they are over first, has come.

    parts: what has `state_dict` and `load_state_dict`, by name. The state lies beside the file `out`.
    """

    out: Path
    parts: Mapping[str, Any]
    rng: np.random.Generator
    steps: int
    minutes: float
    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    saved: float = 0.0
    looked: float = 0.0

    @property
    def path(self) -> Path:
        return self.out.with_suffix(".state.pt")

    @property
    def share(self) -> float:
        """0 at the start, 1 at the end; what decays follows it."""
        return max(self.step / self.steps, self.seconds / (60 * self.minutes))

    def resume(self) -> bool:
        """Take up the state of an earlier run, if there is one."""
        if not self.path.exists():
            return False
        state = torch.load(self.path, weights_only=True)
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state["parts"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            fault = str(error).splitlines()[0]
            raise ValueError(
                f"{self.path} is the state of another training ({fault}), wanted that of {self.out.name} as"
                " it is made now: move it away, or train in another folder"
            ) from error
        torch.set_rng_state(state["torch"])
        self.rng.bit_generator.state = state["numpy"]
        self.step = state["step"]
        self.seconds = self.saved = state["seconds"]
        self.loss = state["loss"]
        log.info("%s goes on from step %d, %.0f s", self.path.name, self.step, self.seconds)
        return True

    def begin(self) -> None:
        """What was done before the first step is no part of the time."""
        self.looked = time.monotonic()

    def advance(self, loss: float) -> None:
        """Count a step."""
        now = time.monotonic()
        self.seconds += now - self.looked
        self.looked = now
        self.step += 1
        # The mean of the first 50 losses, then a running one over about 50.
        self.loss += (loss - self.loss) * max(0.02, 1 / self.step)
        if self.step % LOG_STEPS == 0:
            log.info(
                "step %d, %.0f s, %.2f s a step, loss %.4f",
                self.step,
                self.seconds,
                self.seconds / self.step,
                self.loss,
            )

    def due(self, seconds: float) -> bool:
        """Whether the last save is so long ago."""
        return self.seconds - self.saved > seconds

    def save(self) -> None:
        self.saved = self.seconds
        state = {
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "torch": torch.get_rng_state(),
            "numpy": self.rng.bit_generator.state,
            "step": self.step,
            "seconds": self.seconds,
            "loss": self.loss,
        }
        self.out.parent.mkdir(parents=True, exist_ok=True)
        save_atomically(state, self.path)
