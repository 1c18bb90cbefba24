"""TARP: temporally aligned RoPE and partitioning (CCL, arXiv 2603.18600; windows as public trainers implement them).

Both streams are placed on one clock counted in latent frames. Three clocks exist. `uniform` is the paper's: every
latent frame lasts equally long. `causal` follows Wan's VAE, whose first latent frame covers one pixel frame and every
other four: latent frame i > 0 lies at pixel frame 4i - 1.5, frame 0 at 0, and audio token j at
(j + 0.5) * pixel frames / tokens. `linear` puts audio token j at j * scale for models trained with a constant of their
own (Ovi, arXiv 2510.01284: 0.19676); they have no partition, so its ranges are those of `causal`.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from math import ceil, floor

from .plan import Plan, whole_clip
from .timeline import Timeline

WINDOW_FRAMES = 3  # an A2V window spans s = 3c audio tokens


@lru_cache(maxsize=64)
def plan(timeline: Timeline) -> Plan:
    """Each latent frame sees a window of audio tokens, each audio token its nearest latent frame."""
    span = WINDOW_FRAMES * max(1, round(timeline.tokens_per_frame))
    windows = tuple(_window(middle, span, timeline.audio_tokens) for middle in timeline.frame_middles)
    return replace(whole_clip(timeline), a2v=windows, v2a=timeline.tokens_of_frames)


@dataclass(frozen=True)
class Tarp:
    """The alignment of `len(a2v)` latent frames with `len(audio_positions)` audio tokens.

    audio_positions: temporal RoPE position of each audio token, in latent frames.
    a2v: per latent frame the half-open range of audio tokens its video queries see.
    v2a: per latent frame the half-open range of audio tokens that see this frame (a partition of all tokens).
    """

    audio_positions: tuple[float, ...]
    a2v: tuple[tuple[int, int], ...]
    v2a: tuple[tuple[int, int], ...]


@lru_cache(maxsize=64)
def align(clock: str, latent_frames: int, audio_tokens: int, first: int = 0, scale: float | None = None) -> Tarp:
    """Place the tokens of a clip on the clock.

    `first` is the index, in the whole clip, of the first latent frame of a context window: only a window that starts
    at 0 holds the short first frame. `scale`: latent frames per audio token of the clock "linear". Raises ValueError
    for an empty stream or an unknown clock.
    """
    if latent_frames < 1 or audio_tokens < 1:
        raise ValueError(f"TARP needs both streams, got {latent_frames} latent frames and {audio_tokens} audio tokens")
    if clock == "linear":
        tarp = align("causal", latent_frames, audio_tokens, first)
        return replace(tarp, audio_positions=tuple(j * scale for j in range(audio_tokens)))
    if clock == "uniform" or (clock == "causal" and first > 0):
        centres = _uniform_centres(latent_frames, audio_tokens)
    elif clock == "causal":
        centres = _causal_centres(latent_frames, audio_tokens)
    else:
        raise ValueError(f"unknown clock {clock!r}, wanted 'uniform', 'causal' or 'linear'")
    span = WINDOW_FRAMES * _tokens_per_frame(clock, latent_frames, audio_tokens, first)
    return Tarp(
        audio_positions=_positions(clock, centres, audio_tokens, Fraction(audio_tokens, latent_frames)),
        a2v=tuple(_window(centre, span, audio_tokens) for centre in centres),
        v2a=_nearest(centres, audio_tokens),
    )


def _tokens_per_frame(clock: str, latent_frames: int, audio_tokens: int, first: int) -> int:
    if clock == "causal" and first == 0:
        return max(1, round(Fraction(4 * audio_tokens, 4 * latent_frames - 3)))
    return max(1, round(Fraction(audio_tokens, latent_frames)))


def _uniform_centres(latent_frames: int, audio_tokens: int) -> list[Fraction]:
    """Middle of each frame in audio tokens: the paper's floor(c/2) + c*i, but exact, because a floored c drifts."""
    ratio = Fraction(audio_tokens, latent_frames)
    return [ratio * i + ratio / 2 for i in range(latent_frames)]


def _causal_centres(latent_frames: int, audio_tokens: int) -> list[Fraction]:
    ratio = Fraction(audio_tokens, 4 * latent_frames - 3)  # audio tokens per pixel frame
    return [Fraction(0)] + [ratio * (4 * i - Fraction(3, 2)) for i in range(1, latent_frames)]


def _window(centre: Fraction, span: int, audio_tokens: int) -> tuple[int, int]:
    middle = floor(centre)
    start = min(max(0, middle - span // 2), audio_tokens - 1)
    return start, max(start + 1, min(audio_tokens, middle + (span + 1) // 2))


def _nearest(centres: list[Fraction], audio_tokens: int) -> tuple[tuple[int, int], ...]:
    """Cut the audio half-way between neighbouring frames; a token belongs to the frame its middle lies nearest to."""
    cuts = [min(audio_tokens, max(0, ceil((a + b) / 2 - Fraction(1, 2)))) for a, b in pairwise(centres)]
    return tuple(zip([0, *cuts], [*cuts, audio_tokens], strict=True))


def _positions(clock: str, centres: list[Fraction], audio_tokens: int, ratio: Fraction) -> tuple[float, ...]:
    """The paper puts token j at j / c; on the causal clock its middle is interpolated between the frames' times."""
    if clock == "uniform" or len(centres) == 1:
        return tuple(float(j / ratio) for j in range(audio_tokens))
    return tuple(float(_interpolate(centres, j + Fraction(1, 2))) for j in range(audio_tokens))


def _interpolate(centres: list[Fraction], time: Fraction) -> Fraction:
    i = min(max(bisect_right(centres, time) - 1, 0), len(centres) - 2)
    return i + (time - centres[i]) / (centres[i + 1] - centres[i])
