"""Cut and join AV latents in time, both streams at one place.

A clip that is cut begins with the last of the four pictures that its first latent frame holds, since the
first latent frame of a clip counts as one picture. So every later latent frame keeps its pictures, and the
sound is cut where that picture begins.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from comfy.sd import VAE

from ...alignment.timeline import frame_of_cut, frames_of, latent_frames_of, nearest_cut, ramp
from ...notices import notice, told
from ..vae.sockets import require_video_vae
from .latents import AVLatent
from .masks import Clip, Part, full_mask

# Latent frames that a decoder is shown before one whose last picture is wanted. ccl-tiny: .0006 from that of
# the whole clip, mean over pixels of 0 to 1.
BEFORE = 2


def trim(av: AVLatent, fps: Fraction, part: Part, vae: VAE | None = None) -> AVLatent:
    """The part of a clip. vae: of the video, for a first picture that is no longer one of four."""
    clip = Clip.of(av, fps)
    end = clip.seconds if part.end is None else min(part.end, clip.seconds)
    first = nearest_cut(part.start * fps)
    last = clip.nearest("video", end)
    if part.start >= clip.seconds or first >= last:
        raise ValueError(
            f"{part} holds no whole latent frame of a latent of {float(clip.seconds):.3f} s: make it longer, "
            "or let it start earlier"
        )
    start = frame_of_cut(first) / fps
    made = cut_streams(av, clip, first, last)
    if first and vae is not None:
        made = replace(made, video=_with_own_start(av.video, made.video, first, vae))
    elif first:
        notice(
            "the first latent frame of the part holds four pictures and is decoded as one: connect video_vae "
            "to have it made anew from the last of them"
        )
    _tell_of_cut(part.start, end, start, start + frames_of(last - first) / fps)
    return made


def _tell_of_cut(start: Fraction, end: Fraction, first: Fraction, last: Fraction) -> None:
    if max(abs(start - first), abs(end - last)) > Fraction(1, 1000):
        told(
            f"{float(start):.3f} to {float(end):.3f} s became {float(first):.3f} to {float(last):.3f} s, the "
            "nearest whole latent frames"
        )


def cut_streams(av: AVLatent, clip: Clip, first: int, last: int) -> AVLatent:
    """Latent frames from first up to last, and the audio tokens of their time."""
    video = slice(first, last)
    changed: dict[str, Any] = {"video": av.video[:, :, video].clone()}
    if av.video_mask is not None:
        changed["video_mask"] = full_mask(av.video, av.video_mask)[:, :, video]
    if av.audio is not None:
        start = frame_of_cut(first) / clip.fps
        stop = start + frames_of(last - first) / clip.fps
        # The end of the clip is that of its sound, which may go on for a part of a token.
        to = clip.tokens if last == clip.latent_frames else clip.nearest("audio", stop)
        audio = slice(clip.nearest("audio", start), max(1, to))
        changed["audio"] = av.audio[:, :, audio].clone()
        if av.audio_mask is not None:
            changed["audio_mask"] = full_mask(av.audio, av.audio_mask)[:, :, audio]
    return replace(av, **changed)


def _with_own_start(whole: torch.Tensor, video: torch.Tensor, first: int, vae: VAE) -> torch.Tensor:
    """The video with a first latent frame made of the last picture of the one that stands there."""
    require_video_vae(vae, whole.shape[1])
    start = max(0, first - BEFORE)
    clips = vae.decode(whole[:, :, start : first + 1])  # (b, f, h, w, c)
    made = [vae.encode(clip[-1:, ..., :3]) for clip in clips]  # (1, c, 1, h, w) each
    return torch.cat([torch.cat(made).to(video), video[:, :, 1:]], dim=2)


def join_in_time(first: AVLatent, second: AVLatent, fps: Fraction, overlap: Fraction) -> AVLatent:
    """Two clips one behind the other; what both have of the overlap is faded from the first to the second.

    Where both are equal to the bit there, so is the result: a clip and its continuation join without a seam.
    """
    require_alike(first, second)
    clip, other = Clip.of(first, fps), Clip.of(second, fps)
    start = nearest_cut(max(Fraction(0), clip.seconds - overlap) * fps)
    # The first picture of the second clip is the last of four of a latent frame of the first, which stays.
    start = min(start, clip.latent_frames - 1)
    if clip.latent_frames - start > other.latent_frames:
        raise ValueError(
            f"the overlap of {float(overlap):g} s is longer than the second clip, of "
            f"{float(other.seconds):.3f} s: make it shorter"
        )
    made = {"video": _faded(first.video, second.video[:, :, 1:], start + 1)}
    begin = frame_of_cut(start) / fps
    if first.audio is not None:
        made["audio"] = _faded(first.audio, second.audio, clip.nearest("audio", begin))
    real = clip.seconds - begin
    if abs(real - overlap) > Fraction(1, 1000):
        asked = f"an overlap of {float(overlap):.3f} s"
        told(f"{asked} became {float(real):.3f} s, the nearest whole latent frames")
    return replace(first, **made, **_joined_masks(first, second, start, clip, begin))


def _joined_masks(
    first: AVLatent, second: AVLatent, start: int, clip: Clip, begin: Fraction
) -> dict[str, torch.Tensor]:
    """Masks of both clips one behind the other, where one of the two has any."""
    both = {"video": clip.latent_frames - start}
    if first.audio is not None:
        both["audio"] = clip.tokens - clip.nearest("audio", begin)
    found = {}
    for stream, places in both.items():
        name = f"{stream}_mask"
        if getattr(first, name) is not None or getattr(second, name) is not None:
            one, two = (full_mask(getattr(av, stream), getattr(av, name)) for av in (first, second))
            found[name] = torch.cat([one, two[:, :, places:]], dim=2)
    return found


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
    if (first.audio is None) != (second.audio is None):
        which = "second" if second.audio is None else "first"
        raise ValueError(f"the {which} latent has no audio part, the other one has: give both one, or none")
    for name, one, two in (("video", first.video, second.video), ("audio", first.audio, second.audio)):
        if one is None:
            continue
        shapes = [(*stream.shape[:2], *stream.shape[3:]) for stream in (one, two)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the {name} latents have the shapes {tuple(one.shape)} and {tuple(two.shape)}: wanted the "
                "same batch, channels, height and width"
            )
    rates = first.fps, second.fps
    if None not in rates and rates[0] != rates[1]:
        raise ValueError(
            f"the latents have {rates[0]:g} and {rates[1]:g} frames a second: wanted the same rate"
        )


def continued(av: AVLatent, fps: Fraction, kept: Fraction, new: Fraction) -> AVLatent:
    """The last seconds of a clip as the kept start of another, with so many new ones to generate."""
    clip = Clip.of(av, fps)
    start = min(nearest_cut(max(Fraction(0), clip.seconds - kept) * fps), clip.latent_frames - 1)
    end = replace(av, video_mask=None, audio_mask=None)
    end = cut_streams(end, clip, start, clip.latent_frames)
    length = latent_frames_of(frames_of(end.video.shape[2]) + int(new * fps))
    changed = dict(zip(("video", "video_mask"), _lengthened(end.video, length), strict=True))
    if end.audio is not None:
        tokens = max(clip.tokens_of(length), end.audio.shape[2])
        changed |= dict(zip(("audio", "audio_mask"), _lengthened(end.audio, tokens), strict=True))
    real = frames_of(end.video.shape[2]) / fps
    if abs(real - min(kept, clip.seconds)) > Fraction(1, 1000):
        told(f"{float(kept):.3f} kept seconds became {float(real):.3f}, the nearest whole latent frames")
    return replace(end, **changed)


def _lengthened(latent: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The latent with zeros behind it, and the mask that keeps it and generates those."""
    more = latent.new_zeros(*latent.shape[:2], length - latent.shape[2], *latent.shape[3:])
    mask = torch.cat([torch.zeros_like(latent[:, :1]), torch.ones_like(more[:, :1])], dim=2)
    return torch.cat([latent, more], dim=2), mask
