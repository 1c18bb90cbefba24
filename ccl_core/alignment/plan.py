"""Where the tokens of both streams stand on the axis of a coupling, and which of them see each other."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from .timeline import Timeline, frame_start, tokens_per_latent_frame

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Plan:
    """The alignment of `len(frame_positions)` latent frames with `len(audio_positions)` audio tokens.

    A latent frame stands at its position times frame_unit, an audio token at its position; the product is
    left to the coupling, which takes it in float32.
    a2v: per latent frame the half-open range of audio tokens that its video queries see, None: all.
    v2a: per latent frame the half-open range of audio tokens that see this frame, None: all.
    A clip may have fewer audio tokens than latent frames: a range of v2a is then empty for some of them,
    while one of a2v holds one token at least.
    """

    frame_positions: tuple[Fraction, ...]
    audio_positions: tuple[Fraction, ...]
    frame_unit: Fraction = Fraction(1)
    a2v: Ranges | None = None
    v2a: Ranges | None = None


@lru_cache(maxsize=64)
def whole_clip(timeline: Timeline) -> Plan:
    """Both streams on the clock of the timeline, and every query sees the whole of the other stream."""
    return Plan(_indices(timeline.latent_frames), timeline.audio_positions)


@lru_cache(maxsize=64)
def in_audio_tokens(timeline: Timeline, first_frame_bias: bool) -> Plan:
    """The plan of MOVA's bridge: positions in audio tokens, and every query sees the whole other stream.

    first_frame_bias: the first latent frame counts as one pixel frame.
    """
    frames = _indices(timeline.latent_frames)
    if first_frame_bias:
        frames = tuple(frame_start(i) for i in range(timeline.latent_frames))
    # By the rates, not by the lengths: in MOVA 50 / (24 / 4) = 25/3 audio tokens per latent frame.
    unit = tokens_per_latent_frame(timeline.fps, timeline.audio_rate)
    return Plan(frames, _indices(timeline.audio_tokens), unit)


def _indices(count: int) -> tuple[Fraction, ...]:
    return tuple(Fraction(i) for i in range(count))
