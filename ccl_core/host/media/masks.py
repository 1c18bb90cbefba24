"""What of an AV latent is kept: by seconds, and by a mask within the picture.

Masks act on whole latent frames and audio tokens. What was rounded is told.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import comfy.utils
import torch

from ...alignment.agreement import disagreement
from ...alignment.sizing import audio_tokens_of, exact_rate, pinned_at
from ...alignment.time_grid import WAN, Steps, TimeGrid
from ...families import FAMILIES
from ...notices import told
from .latents import AUDIO_RATE, AVLatent, ones_mask

STREAMS = ("video", "audio")
# Beyond it a cut is worth telling of.
TOLERANCE = Fraction(1, 1000)  # seconds


@dataclass(frozen=True)
class Clip:
    """The length of both streams of a latent on one clock; 0 latent frames or tokens: it has none."""

    latent_frames: int
    tokens: int
    fps: Fraction | None
    token_rate: Fraction  # a second
    grid: TimeGrid = WAN

    @classmethod
    def of(cls, av: AVLatent, fps: Fraction | None) -> Clip:
        frames, tokens = (0 if stream is None else stream.shape[2] for stream in (av.video, av.audio))
        if fps is None:
            return cls(frames, tokens, fps, rate_of_sound(av), av.grid)
        rate = token_rate_of(frames, tokens, fps, av.rest.get(AUDIO_RATE), av.grid)
        return cls(frames, tokens, fps, rate, av.grid)

    @property
    def lead(self) -> str:
        """The stream at whose steps both are cut."""
        return "video" if self.latent_frames else "audio"

    @property
    def seconds(self) -> Fraction:
        return self.length(self.lead, self.places(self.lead))

    def steps(self, stream: str) -> Steps:
        return self.grid.video if stream == "video" else self.grid.audio

    def units(self, stream: str) -> Fraction:
        """Frames of the video, or units of the sound, a second."""
        return self.fps if stream == "video" else self.token_rate * self.grid.audio.mean

    def length(self, stream: str, places: int) -> Fraction:
        """Seconds of a clip of so many latent frames or audio tokens."""
        if stream == "video":
            return self.steps(stream).before(places) / self.fps
        # As models size their sound. LTX-2's last token ends 30 ms earlier, since its first one is short.
        return places / self.token_rate

    def tokens_of(self, latent_frames: int) -> int:
        """Audio tokens of a clip of the same model with so many latent frames."""
        if self.grid is not WAN:
            return self.grid.tokens(self.length("video", latent_frames) * self.token_rate)
        c = self.token_rate * self.grid.video.mean / self.fps
        # The paper gives the short first latent frame as many tokens as the others.
        exact_c = c * self.latent_frames == self.tokens
        pinned = pinned_at(self.fps, self.token_rate)
        return audio_tokens_of(latent_frames, self.fps, self.token_rate, pinned, exact_c)

    def places(self, stream: str) -> int:
        """Latent frames or audio tokens."""
        return self.latent_frames if stream == "video" else self.tokens

    def nearest(self, stream: str, seconds: Fraction) -> int:
        """The latent frame or audio token that begins nearest to a time, at most one behind the last."""
        return min(self.places(stream), self.steps(stream).nearest(seconds * self.units(stream)))

    def time(self, stream: str, place: int) -> Fraction:
        """Where a latent frame or audio token begins, in seconds."""
        return self.steps(stream).before(place) / self.units(stream)

    def cut(self, stream: str, seconds: Fraction) -> int:
        """The latent frame or audio token nearest to a time with which a clip of its own can begin."""
        return min(self.places(stream), self.steps(stream).nearest_cut(seconds * self.units(stream)))

    def time_of_cut(self, stream: str, place: int) -> Fraction:
        """Where a clip begins that is cut to begin with a place, in seconds."""
        return self.steps(stream).unit_of_cut(place) / self.units(stream)


def known_rate(av: AVLatent) -> Fraction | None:
    """Audio tokens a second: as the latent states, of its model, or of the one family with as many channels;
    None where nothing says it.
    """
    if av.rest.get(AUDIO_RATE) is not None:
        return exact_rate(av.rest[AUDIO_RATE])
    published = (family.published.get("audio_latent") for family in FAMILIES.values())
    channels = av.audio.shape[1]
    rates = {latent.rate for latent in published if latent is not None and latent.channels == channels}
    return av.grid.audio_rate or (rates.pop() if len(rates) == 1 else None)


def rate_of_sound(av: AVLatent) -> Fraction:
    """Audio tokens a second of a sound alone; ValueError where nothing says it."""
    rate = known_rate(av)
    if rate is None:
        raise ValueError(
            f"the latent is a sound {av.shape('audio')} alone that does not say how many audio "
            "tokens a second has: type it into the audio_rate input instead of 0"
        )
    return rate


def token_rate_of(
    latent_frames: int, tokens: int, fps: Fraction, stated: float | None = None, grid: TimeGrid = WAN
) -> Fraction:
    """Audio tokens a second: as the latent states, of its model, of a family that they fit, or as many as the
    video has.
    """
    # Not by the counts alone: Ovi's 157 tokens are short of its rate by half a token, and streams of clips
    # that are joined again and again would drift apart.
    families = (family.published for family in FAMILIES.values() if family.published)
    known = [fields["audio_latent"].rate for fields in families if fields.get("fps") == fps]
    known = known if grid.audio_rate is None else [grid.audio_rate]
    rates = known if stated is None else [exact_rate(stated)]
    fitting = [rate for rate in rates if disagreement(latent_frames, tokens, fps, rate, grid.video) is None]
    seconds = grid.video.before(latent_frames) / fps
    return min(fitting, key=lambda rate: abs(tokens - seconds * rate), default=tokens / seconds)


@dataclass(frozen=True)
class Part:
    """A part of a clip in seconds; None: to its end. prefix: of the inputs, for messages."""

    start: Fraction = Fraction(0)
    end: Fraction | None = None
    prefix: str = ""

    @classmethod
    def typed(cls, start: float, end: float, prefix: str = "") -> Part:
        """From the inputs of a node, where an end of 0 is that of the clip."""
        typed = f"{prefix}start_time is {start:g} s, {prefix}end_time {end:g} s"
        if not (math.isfinite(start) and math.isfinite(end)) or start < 0 or end < 0:
            raise ValueError(f"{typed}: give times from 0 on")
        if end and end <= start:
            raise ValueError(f"{typed}: let the part end later (0: with the clip)")
        # In microseconds, as `alignment/sizing.py` reads seconds.
        exact = [Fraction(seconds).limit_denominator(1_000_000) for seconds in (start, end)]
        return cls(exact[0], exact[1] if end else None, prefix)

    def __str__(self) -> str:
        end = "the end of the clip" if self.end is None else f"{float(self.end):g} s"
        start = f"{self.prefix}start_time {float(self.start):g} s"
        return f"the part from {start} to {self.prefix}end_time ({end})"


def part_of(clip: Clip, stream: str, part: Part, lead: str | None = None) -> slice:
    """The latent frames or audio tokens of a part. lead: the stream at whose borders both are cut."""
    end = clip.seconds if part.end is None else part.end
    places = [_border(clip, stream, seconds, lead) for seconds in (part.start, end)]
    if part.start >= clip.seconds or places[0] == places[1]:
        name = "latent frame" if stream == "video" else "audio token"
        raise ValueError(
            f"{part} holds no whole {name} of a latent of {float(clip.seconds):.3f} s: make it longer, or "
            "let it start earlier"
        )
    _tell_of_rounding(clip, stream, (part.start, min(end, clip.seconds)), places)
    return slice(*places)


def _border(clip: Clip, stream: str, seconds: Fraction, lead: str | None) -> int:
    if seconds >= clip.seconds:
        return clip.places(stream)
    if lead is not None and lead != stream:
        seconds = clip.time(lead, clip.nearest(lead, seconds))
    return clip.nearest(stream, seconds)


def _tell_of_rounding(clip: Clip, stream: str, asked: tuple[Fraction, Fraction], places: list[int]) -> None:
    made = [clip.time(stream, place) for place in places]
    # The end of the clip is met, whatever its last audio token makes of it.
    made[1] = asked[1] if places[1] == clip.places(stream) else made[1]
    if any(abs(x - y) > TOLERANCE for x, y in zip(asked, made, strict=True)):
        unit = "latent frames" if stream == "video" else "audio tokens"
        told(
            f"{stream}: {float(asked[0]):.3f} to {float(asked[1]):.3f} s became {float(made[0]):.3f} to "
            f"{float(made[1]):.3f} s, the nearest whole {unit}"
        )


def mark_part(
    av: AVLatent, streams: Mapping[str, slice], value: float, within: torch.Tensor | None = None
) -> AVLatent:
    """The mask of a part of each stream set to a value: 0 keeps it, 1 makes it anew.

    within: (t, h, w) of the video latent, 1 where the value is set and 0 where the mask stays as it is.
    """
    changed = {}
    for stream, part in streams.items():
        latent = getattr(av, stream)
        mask = full_mask(latent, getattr(av, f"{stream}_mask"))
        target = torch.full_like(mask[:, :, part], value)
        if stream == "video" and within is not None:
            target = torch.lerp(mask[:, :, part], target, within[part].to(mask))
        mask[:, :, part] = target
        changed[f"{stream}_mask"] = mask
    return replace(av, **changed)


def full_mask(latent: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """A mask of one channel and the size of the latent, that may be written to."""
    full = ones_mask(latent)
    return full if mask is None else comfy.utils.reshape_mask(mask, full.shape)[:, :1].to(full).clone()


def streams_of(av: AVLatent, wanted: str) -> Collection[str]:
    """The streams that "both", "video" or "audio" names; ValueError for one that the latent has not."""
    there = [stream for stream in STREAMS if getattr(av, stream) is not None]
    if wanted == "both":
        return there
    if wanted not in there:
        remedy = ", or connect an audio_vae to Encode Audio-Video (CCL) in front" if wanted == "audio" else ""
        raise ValueError(
            f"streams is {wanted}, and the latent has no {wanted} part: choose {there[0]}{remedy}"
        )
    return (wanted,)


def mask_of_latent(mask: torch.Tensor, av: AVLatent, least: bool) -> torch.Tensor:
    """A MASK (f, h, w) of the picture in cells of the video latent, (t, h, w).

    One image is for all frames. A cell has the largest value that it covers, with `least` the least one.
    """
    if av.video is None:
        raise ValueError("mask is a part of the picture, and the latent is a sound alone: disconnect it")
    latent_frames, height, width = av.video.shape[2:]
    frames = av.grid.video.before(latent_frames)
    if mask.ndim != 3 or mask.shape[0] not in (1, frames):
        raise ValueError(
            f"mask has the shape {tuple(mask.shape)}: give one image, or one for each of the {frames} frames"
        )
    turned = 1 - mask.float() if least else mask.float()
    cells = torch.nn.functional.adaptive_max_pool2d(turned[:, None], (height, width))[:, 0]  # (f, h, w)
    if len(cells) == 1:
        cells = cells.expand(latent_frames, -1, -1)
    else:
        borders = [av.grid.video.before(i) for i in range(latent_frames + 1)]
        spans = [cells[start:stop].amax(dim=0) for start, stop in pairwise(borders)]
        cells = torch.stack(spans)
    return 1 - cells if least else cells
