"""Wrappers of a pass or of a run that were written for a video: they get the video of a pair.

A node such as WanInfiniteTalkToVideo writes its first latent frames into what the model is given, and into
what the run gives. Of a pair the host gives both streams in one row (b, 1, n), which has no frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.patcher_extension
import comfy.utils
from torch import Tensor

APPLY_MODEL = comfy.patcher_extension.WrappersMP.APPLY_MODEL
Shapes = Sequence[Sequence[int]]


def for_video(options: dict[str, Any], shapes: Shapes, packed: frozenset[str]) -> dict[str, Any]:
    """These transformer options with each wrapper around the video alone. packed: keys of those that stay."""
    wrappers = options.get("wrappers", {}).get(APPLY_MODEL, {})
    if len(shapes) < 2 or wrappers.keys() <= packed:
        return options
    shapes = tuple(map(tuple, shapes))
    adapted = dict(wrappers)
    for key in wrappers.keys() - packed:
        adapted[key] = [AroundVideo(wrapper, shapes) for wrapper in wrappers[key]]
    return {**options, "wrappers": {**options["wrappers"], APPLY_MODEL: adapted}}


@dataclass(frozen=True)
class AroundVideo:
    """A wrapper that sees the video of a pair; the sound goes past it into the model and out again."""

    wrapper: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]

    def __call__(self, executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        video, *others = comfy.utils.unpack_latents(x, self.shapes)
        # What the model says of the sound; as it came in where the wrapper never calls the model.
        said = list(others)

        def on_video(video: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            made = executor(comfy.utils.pack_latents([video, *others])[0], *args, **kwargs)
            prediction, *said[:] = comfy.utils.unpack_latents(made, self.shapes)
            return prediction

        # An executor of the host, since a wrapper may ask it for the model.
        inner = comfy.patcher_extension.WrapperExecutor.new_class_executor(
            on_video, executor.class_obj, [self.wrapper]
        )
        return comfy.utils.pack_latents([inner.execute(video.clone(), *args, **kwargs), *said])[0]


def with_video_result(executor: Any, shapes: Shapes) -> Callable[..., Tensor]:
    """What an executor of the host's OUTER_SAMPLE calls next, in which wrappers get the video of a pair."""
    if len(shapes) < 2:
        return executor
    further = [AroundResult(wrapper, tuple(map(tuple, shapes))) for wrapper in executor.wrappers]
    return comfy.patcher_extension.WrapperExecutor.new_class_executor(
        executor.original, executor.class_obj, further, executor.idx
    )


@dataclass(frozen=True)
class AroundResult:
    """A wrapper of a run: its arguments are packed, the result is the video, past which the sound goes."""

    wrapper: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        others: list[Tensor] = []

        def run(*args: Any, **kwargs: Any) -> Tensor:
            video, *others[:] = comfy.utils.unpack_latents(executor(*args, **kwargs), self.shapes)
            return video

        inner = comfy.patcher_extension.WrapperExecutor.new_class_executor(
            run, executor.class_obj, [self.wrapper]
        )
        made = inner.execute(*args, **kwargs)
        # A wrapper that ran something else in the place of the run gives what that has made.
        return comfy.utils.pack_latents([made, *others])[0] if others else made
