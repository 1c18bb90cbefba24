"""TARP's partition: which tokens of the other stream a query sees (CCL, arXiv 2603.18600).

The windows are those of public trainers (`tarp_dcr.py` of a musubi-tuner fork): the paper's are not public.
A latent frame's video queries see s = 3c audio tokens around its middle, an audio token sees the spatial
tokens of its nearest latent frame. Where the tokens stand in time, for the windows as for TARP's RoPE, the
timeline knows.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from math import floor

from .plan import Plan, whole_clip
from .timeline import Timeline

WINDOW_FRAMES = 3  # an A2V window spans s = 3c audio tokens


@lru_cache(maxsize=64)
def plan(timeline: Timeline) -> Plan:
    """Each latent frame sees a window of audio tokens, each audio token its nearest latent frame."""
    # s in whole tokens, where the trainers floor c: at 5.9 tokens per frame they would see 15, not 18.
    span = WINDOW_FRAMES * max(1, round(timeline.tokens_per_frame))
    windows = tuple(_window(middle, span, timeline.audio_tokens) for middle in timeline.frame_middles)
    return replace(whole_clip(timeline), a2v=windows, v2a=timeline.tokens_of_frames)


def _window(middle: Fraction, span: int, audio_tokens: int) -> tuple[int, int]:
    """`span` audio tokens around the middle of a latent frame, fewer at the ends of the sound, never none."""
    # [m - floor(s / 2), m + floor((s + 1) / 2)) for the middle m, in whole tokens.
    centre = floor(middle)
    start = min(max(0, centre - span // 2), audio_tokens - 1)
    return start, max(start + 1, min(audio_tokens, centre + (span + 1) // 2))
