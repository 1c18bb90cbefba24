"""Cut and join AV latents in time, both streams at one place.

A clip that is cut begins with the last of the pictures that its first latent frame holds (four of Wan, eight
of LTX-2), since the first latent frame of a clip counts as one picture. So every later latent frame keeps its
pictures, and the sound is cut where that picture begins. MiniMax H3 has a latent frame of one picture every
17 frames, and is cut there.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from comfy.sd import VAE

from ...alignment.timeline import ramp
from ...notices import notice, told
from ..vae.sockets import require_video_vae
from .latents import AUDIO_RATE, AVLatent
from .masks import STREAMS, Clip, Part, full_mask

# Latent frames that a decoder is shown before one whose last picture is wanted. ccl-tiny: .0006 from that of
# the whole clip, mean over pixels of 0 to 1.
BEFORE = 2
PLACES = {"video": "latent frame", "audio": "audio token"}
IN_WORDS = {4: "four", 8: "eight"}


def trim(av: AVLatent, fps: Fraction | None, part: Part, vae: VAE | None = None) -> AVLatent:
    """The part of a clip. vae: of the video, for a first picture that is one of several in its latent frame.

    fps: None for a sound alone.
    """
    clip = Clip.of(av, fps)
    lead = clip.lead
    first, last = clip.cut(lead, part.start), _end_of_part(clip, lead, part)
    if part.start >= clip.seconds or first >= last:
        raise ValueError(
            f"{part} holds no whole {PLACES[lead]} of a latent of {float(clip.seconds):.3f} s: make it "
            "longer, or let it start earlier"
        )
    made = cut_streams(av, clip, first, last)
    pictures = 1 if lead == "audio" else clip.steps(lead).held(first)
    if pictures > 1 and vae is not None:
        made = replace(made, video=_with_own_start(av, made.video, first, vae))
    elif pictures > 1:
        notice(
            f"the first latent frame of the part holds {IN_WORDS.get(pictures, pictures)} pictures and is "
            "decoded as one: connect video_vae to have it made anew from the last of them"
        )
    start = clip.time_of_cut(lead, first)
    end = clip.seconds if part.end is None else min(part.end, clip.seconds)
    _tell_of_cut(part.start, end, start, start + clip.length(lead, last - first), PLACES[lead])
    return made


def _end_of_part(clip: Clip, lead: str, part: Part) -> int:
    """The latent frame or audio token behind the part."""
    if part.end is None or part.end >= clip.seconds:
        return clip.places(lead)
    if lead == "audio":
        return clip.cut(lead, part.end)
    return min(clip.places(lead), clip.steps(lead).nearest_length(part.end * clip.fps))


def _tell_of_cut(start: Fraction, end: Fraction, first: Fraction, last: Fraction, places: str) -> None:
    if max(abs(start - first), abs(end - last)) > Fraction(1, 1000):
        told(
            f"{float(start):.3f} to {float(end):.3f} s became {float(first):.3f} to {float(last):.3f} s, the "
            f"nearest whole {places}s"
        )


def cut_streams(av: AVLatent, clip: Clip, first: int, last: int) -> AVLatent:
    """Latent frames from first up to last, and the audio tokens of their time; of a sound alone tokens."""
    parts = {clip.lead: slice(first, last)}
    if clip.lead == "video" and av.audio is not None:
        parts["audio"] = _tokens_of_cut(clip, first, last)
    changed: dict[str, Any] = {}
    for stream, part in parts.items():
        latent, mask = getattr(av, stream), getattr(av, f"{stream}_mask")
        changed[stream] = latent[:, :, part].clone()
        if mask is not None:
            changed[f"{stream}_mask"] = full_mask(latent, mask)[:, :, part]
    return replace(av, **changed)


def _tokens_of_cut(clip: Clip, first: int, last: int) -> slice:
    start = clip.time_of_cut("video", first)
    token = clip.cut("audio", start)
    # The end of the clip is that of its sound, which may go on for a part of a token.
    if last == clip.latent_frames:
        return slice(token, clip.tokens)
    return slice(token, max(token + 1, clip.cut("audio", start + clip.length("video", last - first))))


def _with_own_start(av: AVLatent, video: torch.Tensor, first: int, vae: VAE) -> torch.Tensor:
    """The video with a first latent frame made of the last picture of the one that stands there."""
    require_video_vae(vae, av.video.shape[1], av.grid)
    start = max(0, first - BEFORE)
    clips = vae.decode(av.video[:, :, start : first + 1])  # (b, f, h, w, c)
    made = [vae.encode(clip[-1:, ..., :3]) for clip in clips]  # (1, c, 1, h, w) each
    return torch.cat([torch.cat(made).to(video), video[:, :, 1:]], dim=2)


def join_in_time(first: AVLatent, second: AVLatent, fps: Fraction | None, overlap: Fraction) -> AVLatent:
    """Two clips one behind the other; what both have of the overlap is faded from the first to the second.

    Where both are equal to the bit there, so is the result: a clip and its continuation join without a seam.
    fps: None for two sounds alone.
    """
    require_alike(first, second)
    clip, other = Clip.of(first, fps), Clip.of(second, fps)
    lead = clip.lead
    start = _start_of_end(clip, overlap)
    if clip.places(lead) - start > other.places(lead):
        raise ValueError(
            f"the overlap of {float(overlap):g} s is longer than the second clip, of "
            f"{float(other.seconds):.3f} s: make it shorter"
        )
    begin = clip.time_of_cut(lead, start)
    starts = {lead: start}
    if lead == "video" and first.audio is not None:
        starts["audio"] = clip.cut("audio", begin)
    made: dict[str, torch.Tensor] = {}
    for stream, place in starts.items():
        one, two = getattr(first, stream), getattr(second, stream)
        # A first step that holds less than the one it meets gives way to that one.
        short = int(clip.steps(stream).held(place) > clip.steps(stream).held(0))
        made[stream] = _faded(one, two[:, :, short:], place + short)
        made |= _joined_mask(first, second, stream, one.shape[2] - place)
    real = clip.seconds - begin
    if abs(real - overlap) > Fraction(1, 1000):
        asked = f"an overlap of {float(overlap):.3f} s"
        told(f"{asked} became {float(real):.3f} s, the nearest whole {PLACES[lead]}s")
    return replace(first, **made)


def _start_of_end(clip: Clip, seconds: Fraction) -> int:
    """The place that begins the last seconds of a clip, as a clip of its own."""
    start = clip.cut(clip.lead, max(Fraction(0), clip.seconds - seconds))
    return min(start, clip.steps(clip.lead).last_cut(clip.places(clip.lead)))


def _joined_mask(first: AVLatent, second: AVLatent, stream: str, both: int) -> dict[str, torch.Tensor]:
    """The masks of a stream one behind the other, where a clip has any; `both` places are shared."""
    name = f"{stream}_mask"
    if getattr(first, name) is None and getattr(second, name) is None:
        return {}
    one, two = (full_mask(getattr(av, stream), getattr(av, name)) for av in (first, second))
    return {name: torch.cat([one, two[:, :, both:]], dim=2)}


def _faded(one: torch.Tensor, two: torch.Tensor, start: int) -> torch.Tensor:
    """(b, c, n, ...) of both, where the second begins at `start` of the first; faded where both are."""
    both = one.shape[2] - start
    weights = torch.tensor([float(weight) for weight in ramp(both)]).to(one)
    weights = weights.reshape(-1, *[1] * (one.ndim - 3))
    # `lerp` of equal values is that value to the bit, a sum of shares is not.
    middle = torch.lerp(one[:, :, start:], two[:, :, :both].to(one), weights)
    return torch.cat([one[:, :, :start], middle, two[:, :, both:].to(one)], dim=2)


def require_alike(first: AVLatent, second: AVLatent) -> None:
    """ValueError where two clips cannot stand behind each other."""
    for stream in STREAMS:
        missing = [name for name, av in (("first", first), ("second", second)) if getattr(av, stream) is None]
        if len(missing) == 1:
            raise ValueError(
                f"the {missing[0]} latent has no {stream} part, the other one has: give both one, or none"
            )
    for name, one, two in (("video", first.video, second.video), ("audio", first.audio, second.audio)):
        if one is None:
            continue
        shapes = [(*stream.shape[:2], *stream.shape[3:]) for stream in (one, two)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the {name} latents have the shapes {first.shape(name)} and {second.shape(name)}: wanted "
                "the same batch, channels, height and width"
            )
    rates = {
        "frames": (first.fps, second.fps),
        "audio tokens": (first.rest.get(AUDIO_RATE), second.rest.get(AUDIO_RATE)),
    }
    for what, (one, two) in rates.items():
        if None not in (one, two) and one != two:
            raise ValueError(f"the latents have {one:g} and {two:g} {what} a second: wanted the same rate")


def continued(av: AVLatent, fps: Fraction, kept: Fraction, new: Fraction) -> AVLatent:
    """The last seconds of a clip as the kept start of another, with so many new ones to generate."""
    clip = Clip.of(av, fps)
    start = _start_of_end(clip, kept)
    end = replace(av, video_mask=None, audio_mask=None)
    end = cut_streams(end, clip, start, clip.latent_frames)
    steps, places = clip.steps("video"), clip.latent_frames - start
    length = steps.covering(steps.before(places) + int(new * fps))
    changed = dict(zip(("video", "video_mask"), _lengthened(end.video, length), strict=True))
    if end.audio is not None:
        tokens = max(clip.tokens_of(length), end.audio.shape[2])
        changed |= dict(zip(("audio", "audio_mask"), _lengthened(end.audio, tokens), strict=True))
    real = clip.length("video", places)
    if abs(real - min(kept, clip.seconds)) > Fraction(1, 1000):
        told(f"{float(kept):.3f} kept seconds became {float(real):.3f}, the nearest whole latent frames")
    return replace(end, **changed)


def _lengthened(latent: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The latent with zeros behind it, and the mask that keeps it and generates those."""
    more = latent.new_zeros(*latent.shape[:2], length - latent.shape[2], *latent.shape[3:])
    mask = torch.cat([torch.zeros_like(latent[:, :1]), torch.ones_like(more[:, :1])], dim=2)
    return torch.cat([latent, more], dim=2), mask
