"""What a LATENT is, in words: its streams, lengths and rates, how far they differ, its task and its masks."""

from __future__ import annotations

from fractions import Fraction
from itertools import groupby

import torch

from ...alignment.agreement import disagreement
from ...alignment.sizing import exact_fps
from ..run import state_of
from .latents import AUDIO_RATE, AVLatent
from .masks import STREAMS, Clip, full_mask, known_rate

# Of the parts of a mask, so that a text stays one.
SHOWN = 8
PLACES = {"video": "latent frames", "audio": "tokens"}


def describe(av: AVLatent) -> str:
    """A line for each thing that can be said of a latent; rates that nobody says are said to be unknown."""
    fps = av.grid.fps if av.fps is None else exact_fps(av.fps)
    rate = None if av.audio is None else known_rate(av)
    streams = [stream for stream in STREAMS if getattr(av, stream) is not None]
    lines = [f"{av.grid.name}: {' and '.join(streams)}{'' if len(streams) == 2 else ' alone'}"]
    clip = _clip(av, fps, rate)
    lines += [_stream_line(av, stream, clip) for stream in streams]
    if len(streams) == 2:
        lines.append(_mismatch_line(av, clip))
    lines.append(f"task: {av.rest.get('task') or 'none set'}")
    lines += [_mask_line(av, stream, clip) for stream in streams]
    others = [name for name in av.rest if name not in ("task", AUDIO_RATE)]
    return "\n".join([*lines, *([f"also: {', '.join(others)}"] if others else [])])


def _clip(av: AVLatent, fps: Fraction | None, rate: Fraction | None) -> Clip:
    """The lengths; a rate that nobody says is 0."""
    frames, tokens = (0 if stream is None else stream.shape[2] for stream in (av.video, av.audio))
    return Clip(frames, tokens, fps or Fraction(0), rate or Fraction(0), av.grid)


def _stream_line(av: AVLatent, stream: str, clip: Clip) -> str:
    latent = getattr(av, stream)
    size = f"{av.shape(stream)} {str(latent.dtype).removeprefix('torch.')} on {latent.device}"
    places = f"{clip.places(stream)} {PLACES[stream]}"
    if stream == "video":
        places += f", {clip.steps(stream).before(clip.places(stream))} frames"
    return f"{stream}: {size}; {places}, {_length(stream, clip)}; {_values(latent)}"


def _length(stream: str, clip: Clip) -> str:
    rate = clip.fps if stream == "video" else clip.token_rate
    unit = "fps" if stream == "video" else "tokens a second"
    if not rate:
        name = "fps" if stream == "video" else "audio_rate"
        return f"{unit} not said (type them into {name})"
    return f"{float(clip.length(stream, clip.places(stream))):.3f} s at {float(rate):.5g} {unit}"


def _values(latent: torch.Tensor) -> str:
    # fp8 can do nothing but become another.
    values = latent.float()
    if not torch.isfinite(values).all():
        return "holds NaN or infinite values"
    if not values.any():
        return "empty (zeros)"
    return f"mean {values.mean():.3f}, deviation {values.std(correction=0):.3f}"


def _mismatch_line(av: AVLatent, clip: Clip) -> str:
    if not clip.fps or not clip.token_rate:
        return "mismatch: not known, since a rate is not said"
    seconds = clip.length("audio", clip.tokens) - clip.length("video", clip.latent_frames)
    fault = disagreement(clip.latent_frames, clip.tokens, clip.fps, clip.token_rate, av.grid.video)
    verdict = "the streams agree" if fault is None else "they do not agree: cut both to the same seconds"
    more = "longer" if seconds >= 0 else "shorter"
    return f"mismatch: the sound is {abs(float(1000 * seconds)):.1f} ms {more} than the video; {verdict}"


def _mask_line(av: AVLatent, stream: str, clip: Clip) -> str:
    latent, mask = getattr(av, stream).float(), getattr(av, f"{stream}_mask")
    state = state_of(mask, latent).value
    if mask is None:
        return f"{stream} mask: none ({state})"
    values = full_mask(latent, mask).movedim(2, 0).flatten(1)  # (n, rest)
    ends = zip(values.amin(1).tolist(), values.amax(1).tolist(), strict=True)
    runs = [(value, len(list(run))) for value, run in groupby(ends)]
    parts, start = [], 0
    for value, count in runs:
        parts.append(f"{_span(stream, clip, start, start + count)} {_in_words(*value)}")
        start += count
    more = [] if len(parts) <= SHOWN else [f"and {len(parts) - SHOWN} parts more"]
    return f"{stream} mask: {'; '.join(parts[:SHOWN] + more)} ({state})"


def _span(stream: str, clip: Clip, start: int, stop: int) -> str:
    if (start, stop) == (0, clip.places(stream)):
        return "all"
    if not clip.units(stream):
        return f"{PLACES[stream]} {start} to {stop - 1}"
    return f"{float(clip.time(stream, start)):.3f} to {float(clip.time(stream, stop)):.3f} s"


def _in_words(least: float, most: float) -> str:
    if least != most:
        return f"{least:g} to {most:g}, by place"
    return {0.0: "kept", 1.0: "made"}.get(least, f"made at strength {least:g}")
