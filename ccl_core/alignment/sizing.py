"""Sizes of both streams on one clock, in integers and fractions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from ..families import FAMILIES
from .timeline import frames_of, latent_frames_of, samples_of, tokens_per_latent_frame

Pins = tuple[tuple[int, int], ...]

# Far beyond what any model makes: they catch numbers in a wrong unit, such as milliseconds.
MAX_SECONDS = 600
MAX_FPS = 240
MAX_RATE = 100_000  # audio tokens a second
MAX_SIDE = 16384  # pixels; MAX_RESOLUTION of the host's nodes


@dataclass(frozen=True)
class Grid:
    """What a model fixes: its clock, and the steps in which its latents can grow.

    `spatial_stride` is pixels per latent cell, `patch` latent cells per token side, `audio_rate` audio tokens
    a second. `exact_c` asks for a whole number of audio tokens per latent frame, the first one included.
    `pinned`: pairs of latent frames and audio tokens the model was trained with at its own fps.
    """

    fps: Fraction
    spatial_stride: int
    patch: int
    audio_rate: Fraction
    sample_rate: int
    exact_c: bool = False
    pinned: Pins = ()

    @property
    def cell(self) -> int:
        """Pixels per video token side: widths and heights are multiples of it."""
        return self.spatial_stride * self.patch


@dataclass(frozen=True)
class AVSize:
    """One clip in every unit that somebody counts in. `samples` fill exactly the video's duration."""

    fps: Fraction
    frames: int
    latent_frames: int
    width: int
    height: int
    latent_width: int
    latent_height: int
    audio_tokens: int
    samples: int
    video_seconds: Fraction
    audio_seconds: Fraction


def pinned_at(fps: Fraction, audio_rate: Fraction) -> Pins:
    """The lengths at which families with these two rates were trained."""
    pins: list[tuple[int, int]] = []
    for family in FAMILIES.values():
        latent = family.published.get("audio_latent")
        if latent is not None and (family.published["fps"], latent.rate) == (fps, audio_rate):
            trained = [preset for preset in family.presets if preset.audio_tokens is not None]
            pins += [(latent_frames_of(preset.frames), preset.audio_tokens) for preset in trained]
    return tuple(dict.fromkeys(pins))


def exact_fps(fps: float | Fraction) -> Fraction:
    """The fraction behind a typed number: 23.976 is 2997/125. ValueError outside 1 to 240."""
    if not math.isfinite(fps) or not 1 <= fps <= MAX_FPS:
        raise ValueError(f"fps is {fps}: give a frame rate from 1 to {MAX_FPS}")
    # 1001 is the denominator of the NTSC rates, such as 30000/1001.
    return Fraction(fps).limit_denominator(1001)


def exact_rate(tokens: float) -> Fraction:
    """The fraction behind a stated number of audio tokens a second; ValueError for none of a sound."""
    if not math.isfinite(tokens) or not 0 < tokens <= MAX_RATE:
        raise ValueError(f"audio_rate is {tokens}: give more than 0 and at most {MAX_RATE} tokens a second")
    return Fraction(tokens).limit_denominator(1_000_000)


def audio_tokens_of(
    latent_frames: int, fps: Fraction, audio_rate: Fraction, pinned: Pins = (), exact_c: bool = False
) -> int:
    """Audio tokens for a video: the pinned count, c per latent frame, or the smallest that covers it."""
    # Ovi's 157 tokens are no product of its rates: what a model was trained with goes before what covers.
    trained = dict(pinned)
    if latent_frames in trained:
        return trained[latent_frames]
    c = tokens_per_latent_frame(fps, audio_rate)
    if exact_c and c.denominator == 1:
        return int(c) * latent_frames
    return math.ceil(frames_of(latent_frames) / fps * audio_rate)


def size_av(
    grid: Grid,
    *,
    width: int,
    height: int,
    seconds: float | None = None,
    frames: int | None = None,
    fps: float | Fraction | None = None,
) -> AVSize:
    """The clip that covers `seconds` or `frames` (one of them): the next 4k+1 frames, sides rounded down."""
    rate = grid.fps if fps is None else exact_fps(fps)
    wanted = _wanted_frames(seconds, frames, rate)
    latent_frames = latent_frames_of(wanted)
    whole = frames_of(latent_frames)
    pinned = grid.pinned if rate == grid.fps else ()
    tokens = audio_tokens_of(latent_frames, rate, grid.audio_rate, pinned, grid.exact_c)
    width = _side(width, grid.cell, "width")
    height = _side(height, grid.cell, "height")
    return AVSize(
        fps=rate,
        frames=whole,
        latent_frames=latent_frames,
        width=width,
        height=height,
        latent_width=width // grid.spatial_stride,
        latent_height=height // grid.spatial_stride,
        audio_tokens=tokens,
        samples=samples_of(whole / rate, grid.sample_rate),
        video_seconds=whole / rate,
        audio_seconds=tokens / grid.audio_rate,
    )


def sides_like(grid: Grid, sides: tuple[int, int], pixels: int) -> tuple[int, int]:
    """Width and height on the grid, in the proportions of a picture and of about so many pixels."""
    scale = math.sqrt(pixels / (sides[0] * sides[1]))
    width, height = (max(1, round(side * scale / grid.cell)) * grid.cell for side in sides)
    return width, height


def _wanted_frames(seconds: float | None, frames: int | None, fps: Fraction) -> int:
    if (seconds is None) == (frames is None):
        raise ValueError(f"the length is given as {seconds=} and {frames=}: give exactly one of the two")
    if seconds is not None:
        if not math.isfinite(seconds) or not 0 < seconds <= MAX_SECONDS:
            raise ValueError(f"the length is {seconds} seconds: give more than 0 and at most {MAX_SECONDS}")
        # In microseconds, since 5.04 as a float is a little more than 126 frames at 25 fps.
        return math.ceil(Fraction(seconds).limit_denominator(1_000_000) * fps)
    limit = int(MAX_SECONDS * fps)
    if not 0 < frames <= limit:
        raise ValueError(
            f"the length is {frames} frames: give at least 1 and at most {limit} ({MAX_SECONDS} s at "
            f"{float(fps):g} fps)"
        )
    return frames


def _side(pixels: int, cell: int, name: str) -> int:
    if not cell <= pixels <= MAX_SIDE:
        raise ValueError(
            f"{name} is {pixels} pixels: this model needs at least {cell} and at most {MAX_SIDE},"
            f" in steps of {cell}"
        )
    return pixels // cell * cell
