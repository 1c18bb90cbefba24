"""The asymmetric alignment: a video frame reads a window of sound, an audio token between two frames.

UniAVGen, arXiv 2511.03334. The text leaves open in what the window is counted, how long the sound of the
first latent frame is, and between what the video is interpolated. Each is a field of `AsymmetricOptions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import groupby, pairwise
from math import ceil
from typing import NamedTuple

from ..config import AsymmetricOptions
from .plan import Plan, Ranges, whole_clip
from .timeline import HALF, Timeline, frames_before, full_frames_before

# A latent frame, and the share of the one behind it.
Blend = tuple[int, Fraction]


class Readers(NamedTuple):
    """The audio tokens, `first` to `stop`, that read between a latent frame and the next."""

    frame: int
    first: int
    stop: int


@dataclass(frozen=True)
class AsymmetricPlan(Plan):
    """windows: per latent frame the audio tokens that its queries read, as half-open ranges in order.

    A range is there more than once where the edge of the clip is replicated. blends: per audio token (i,
    alpha), it reads (1 - alpha) of latent frame i and alpha of the next; empty where each reads all of the
    video. lags: how far behind that place it stands on the clock, in latent frames. alphas: of `blends`, as
    torch traces them. readers: the tokens by their latent frame.
    """

    windows: tuple[Ranges, ...] = ()
    blends: tuple[Blend, ...] = ()
    lags: tuple[Fraction, ...] = ()
    alphas: tuple[float, ...] = ()
    readers: tuple[Readers, ...] = ()


@lru_cache(maxsize=64)
def plan(timeline: Timeline, options: AsymmetricOptions) -> AsymmetricPlan:
    """Who sees whom, for a clip or a window of it."""
    whole = whole_clip(timeline)
    starts = _starts(timeline, options.short_first)
    blends = tuple(BLENDS[options.interpolation](timeline, starts))
    lags = tuple(whole.audio_positions[token] - frame - alpha for token, (frame, alpha) in enumerate(blends))
    windows = _windows(timeline, starts, options)
    places = whole.frame_positions, whole.audio_positions
    alphas = tuple(float(alpha) for _, alpha in blends)
    readers = _readers(blends)
    return AsymmetricPlan(*places, windows=windows, blends=blends, lags=lags, alphas=alphas, readers=readers)


def _readers(blends: tuple[Blend, ...]) -> tuple[Readers, ...]:
    found = []
    first = 0
    for frame, group in groupby(frame for frame, _ in blends):
        stop = first + len(list(group))
        found.append(Readers(frame, first, stop))
        first = stop
    return tuple(found)


def _starts(timeline: Timeline, short_first: bool) -> list[int]:
    """The pixel frame at which each latent frame begins, and that behind the last one."""
    count = timeline.latent_frames + 1
    if short_first and timeline.first == 0:
        return [frames_before(i) for i in range(count)]
    return [full_frames_before(i) for i in range(count)]


def _windows(timeline: Timeline, starts: list[int], options: AsymmetricOptions) -> tuple[Ranges, ...]:
    """The tokens of a latent frame and of `window` cells to each side of it, or all."""
    if options.window is None:
        return (((0, timeline.audio_tokens),),) * timeline.latent_frames
    if options.window_unit == "latents":
        cells = _cells(timeline, starts, starts[-1])
        spans = pairwise(range(len(starts)))
    else:
        cells = _cells(timeline, range(starts[-1] + 1), starts[-1])
        spans = pairwise(starts)
    return tuple(_window(cells, first - options.window, stop + options.window) for first, stop in spans)


def _cells(timeline: Timeline, frames: Iterable[int], length: int) -> Ranges:
    """The audio tokens that begin between one of these pixel frames and the next; `length`: of the clip."""
    # By the lengths of both streams: in the paper the tokens over the number of real frames.
    bounds = [ceil(Fraction(frame * timeline.audio_tokens, length)) for frame in frames]
    return tuple(pairwise(bounds))


def _window(cells: Ranges, first: int, stop: int) -> Ranges:
    """The tokens of cells `first` to `stop`, where the first and the last one stand for those beyond them."""
    start, end = cells[max(0, first)][0], cells[min(stop, len(cells)) - 1][1]
    # A cell is empty where there are fewer tokens than cells; a window never is.
    start = min(start, cells[-1][1] - 1)
    within = (start, max(end, start + 1))
    return (*[cells[0]] * -first, within, *[cells[-1]] * (stop - len(cells)))


def _between_latents(timeline: Timeline, starts: list[int]) -> Iterator[Blend]:
    """As printed: token j of a block of k reads j / k of the next latent frame, the last block none of it."""
    last = timeline.latent_frames - 1
    for i, (first, stop) in enumerate(_cells(timeline, starts, starts[-1])):
        begin, end = (Fraction(starts[k] * timeline.audio_tokens, starts[-1]) for k in (i, i + 1))
        for token in range(first, stop):
            yield i, Fraction(0) if i == last else (token - begin) / (end - begin)


def _between_frames(timeline: Timeline, starts: list[int]) -> Iterator[Blend]:
    """As in the supplement: between pixel frames, each with the features of its latent frame."""
    latent = [i for i, (first, stop) in enumerate(pairwise(starts)) for _ in range(first, stop)]
    for token in range(timeline.audio_tokens):
        place = Fraction(token * starts[-1], timeline.audio_tokens)
        frame = int(place)
        ends = frame + 1 < len(latent) and latent[frame + 1] != latent[frame]
        yield latent[frame], place - frame if ends else Fraction(0)


def _between_centres(timeline: Timeline, starts: list[int]) -> Iterator[Blend]:  # noqa: ARG001 - of the others
    """Between the middles that latent frames have on the clock; beyond them the first or the last one."""
    middles = timeline.frame_middles
    for token in range(timeline.audio_tokens):
        at = token + HALF
        i = sum(middle <= at for middle in middles) - 1
        if i < 0 or i + 1 == len(middles):
            yield max(i, 0), Fraction(0)
        else:
            yield i, (at - middles[i]) / (middles[i + 1] - middles[i])


def _own_frame(timeline: Timeline, starts: list[int]) -> Iterator[Blend]:
    """The latent frame in whose sound the token lies, and none of the next."""
    for i, (first, stop) in enumerate(_cells(timeline, starts, starts[-1])):
        for _ in range(first, stop):
            yield i, Fraction(0)


def _no_place(timeline: Timeline, starts: list[int]) -> Iterator[Blend]:  # noqa: ARG001 - of the others
    """None: every token reads all of the video."""
    return iter(())


# By the option `interpolation`.
BLENDS: dict[str, Callable[[Timeline, list[int]], Iterator[Blend]]] = {
    "latents": _between_latents,
    "frames": _between_frames,
    "centres": _between_centres,
    "own": _own_frame,
    "all": _no_place,
}
