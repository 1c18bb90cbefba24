"""A sampler of the host as one that waits: it asks for a prediction, and goes on when it is answered.

A sampler is a function that calls the model until it is done. Two of them on one model take turns, so one
runs in a thread of its own, and never while the other one does.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Asked(NamedTuple):
    """One call of the model by a sampler."""

    x: Tensor
    sigma: Tensor
    options: dict[str, Any]
    seed: int | None

    @property
    def level(self) -> float:
        """The noise level; a sampler asks for one for all clips."""
        return float(self.sigma.max())


class Ended(BaseException):
    """Ends a sampler that waits. Not an Exception, which a sampler may catch."""


class Turns:
    """A sampler that takes turns with its owner. `close` it, whatever happens.

    sample: gets the function that it shall call as its model.
    """

    def __init__(self, sample: Callable[[Callable[..., Tensor]], Tensor]) -> None:
        self._sample = sample
        self._mine, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self._asked: Asked | None = None
        self._answer: Tensor | None = None
        self._result: Tensor | None = None
        self._fault: BaseException | None = None
        self._closing = False
        # Modes of torch belong to a thread.
        self._modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="ccl turns", daemon=True)
        self._thread.start()
        self._wait()

    @property
    def asked(self) -> Asked | None:
        """What the sampler waits for; None when it has ended."""
        return self._asked

    @property
    def result(self) -> Tensor:
        """What the sampler gave when it ended."""
        return self._result

    def answer(self, prediction: Tensor) -> None:
        """Let it go on to its next question, or to its end."""
        self._answer = prediction
        self._theirs.release()
        self._wait()

    def close(self) -> None:
        """End it where it stands."""
        self._closing = True
        self._theirs.release()
        self._thread.join()

    def _wait(self) -> None:
        self._mine.acquire()
        if self._fault is not None:
            raise self._fault

    def _ask(
        self, x: Tensor, sigma: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        self._asked = Asked(x, sigma, model_options or {}, seed)
        self._mine.release()
        self._theirs.acquire()
        if self._closing:
            raise Ended
        return self._answer

    def _run(self) -> None:
        inference, gradients = self._modes
        try:
            with (
                torch.inference_mode(inference),
                torch.set_grad_enabled(gradients),
                contextlib.suppress(Ended),
            ):
                self._result = self._sample(self._ask)
        except BaseException as fault:
            self._fault = fault
        finally:
            self._asked = None
            self._mine.release()
