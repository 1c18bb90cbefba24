"""A clip of minutes, made window by window: what each window is given, and the film of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from comfy.sd import VAE
from torch import Tensor

from ...alignment.timeline import HALF, TEMPORAL_STRIDE, frames_of, latent_frames_of, samples_of
from ...alignment.windows import Span, spans
from ...tasks import State
from ..run import state_of
from ..vae.sockets import output_sample_rate, token_rate
from .damage import Decoded, usable
from .decode import SILENCE_RATE, decode_video, fit_samples, limit_peak, silence
from .film_parts import join_parts, write_part
from .latents import AUDIO_RATE, AVLatent
from .listening import tell_of_sound
from .masks import Clip, full_mask
from .picture import Film, Frames, first_seconds, open_film
from .remux import save_both, save_with_sound
from .source import Source, original_sound, source_of
from .states import is_absent
from .unfinished import Unfinished

# Latent frames in front of a window that the decoder is shown and whose pictures are left out.
CONTEXT = 4
# A sound is decoded in pieces, with this much of it on both sides. Seconds.
PIECE, AROUND = 5, 1
# Of a sound that is listened to: its spectra take 80 MB a minute at 16 kHz. Seconds.
LISTENED = 20

Streams = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class LongClip:
    """The whole clip, with what is given of it, and its windows. tokens: of each window, () without sound."""

    av: AVLatent
    fps: Fraction
    windows: tuple[Span, ...]
    tokens: tuple[Span, ...]
    source: Source
    video_vae: VAE
    audio_vae: VAE | None

    @property
    def count(self) -> int:
        return len(self.windows)

    def seconds(self, number: int) -> Fraction:
        """Of the clip up to the end of a window."""
        return frames_of(self.windows[number].stop) / self.fps

    def begin(self, number: int) -> Fraction:
        """The second at which the new part of a window begins."""
        return frames_of(self.windows[number].new) / self.fps if number else Fraction(0)

    def parts(self, number: int) -> dict[str, Span]:
        """Where each stream of a window stands in the whole."""
        found = {"video": self.windows[number]}
        return {**found, "audio": self.tokens[number]} if self.tokens else found


def long_clip(
    av: AVLatent,
    fps: Fraction,
    window: Fraction,
    overlap: Fraction,
    borders: Sequence[Fraction],
    vaes: tuple[VAE, VAE | None],
) -> LongClip:
    """Window and overlap in seconds, to whole latent frames. borders: seconds at which a window has to end.

    ValueError for a batch, where all is given, and where a window makes nothing new.
    """
    _check(av)
    clip = Clip.of(av, fps)
    length = latent_frames_of(max(1, -int(-window * fps // 1)))
    # As a continuation cuts: the first picture of a window is the last of four.
    step = int((frames_of(length) / fps - overlap) * fps / TEMPORAL_STRIDE + HALF)
    if step < 1:
        raise ValueError(
            f"overlap is {float(overlap):g} s and window {float(window):g} s: a window makes nothing new. "
            "Let the overlap be shorter"
        )
    ends = [clip.nearest("video", border) for border in borders]
    windows = spans(clip.latent_frames, length, max(1, length - step), ends)
    tokens = _token_spans(clip, windows) if clip.tokens else ()
    return LongClip(av, fps, windows, tokens, source_of(av), *vaes)


def _check(av: AVLatent) -> None:
    if av.video.shape[0] != 1:
        raise ValueError(
            f"latent_image has {av.video.shape[0]} clips, and a VIDEO is one: make the latent with "
            "batch_size 1"
        )
    streams = [(av.video, av.video_mask), (av.audio, av.audio_mask)]
    states = {state_of(mask, latent) for latent, mask in streams if latent is not None}
    if State.GENERATED not in states:
        raise ValueError(
            "latent_image is kept as a whole, so nothing is left to make: choose a task that makes video or "
            "sound in Set Task (CCL)"
        )


def _token_spans(clip: Clip, windows: Sequence[Span]) -> tuple[Span, ...]:
    """The audio tokens of each window, by the clock of the whole clip: what is rounded does not add up."""
    found: list[Span] = []
    done = 0
    for window in windows:
        # Its first picture is the last of those in its first latent frame.
        begin = (frames_of(window.start + 1) - 1) / clip.fps
        start = min(done, clip.nearest("audio", begin))
        stop = min(clip.tokens, start + clip.tokens_of(window.stop - window.start))
        if window.stop == clip.latent_frames:
            stop = clip.tokens
        found.append(Span(start, done, stop))
        done = stop
    return tuple(found)


def window_of(clip: LongClip, number: int, before: Streams | None) -> AVLatent:
    """The latent of a window: the given material of its time, and the end of the window before it, kept.

    before: the latents of that window.
    """
    changed: dict[str, Any] = {}
    for stream, span in clip.parts(number).items():
        whole, mask = getattr(clip.av, stream), getattr(clip.av, f"{stream}_mask")
        latent = whole[:, :, span.start : span.stop].clone()
        if mask is not None or span.kept:
            mask = full_mask(whole, mask)[:, :, span.start : span.stop].clone()
        if span.kept:
            latent[:, :, : span.kept] = before[stream][:, :, -span.kept :]
            mask[:, :, : span.kept] = 0
        changed |= {stream: latent, f"{stream}_mask": mask}
    known = {name: value for name, value in clip.av.rest.items() if name == AUDIO_RATE}
    return replace(clip.av, **changed, rest=known)


def write_pictures(clip: LongClip, number: int, made: Streams, before: Streams | None, path: Path) -> None:
    """Decode and write the new pictures of a window, where they are not given."""
    if clip.source.picture is not None:
        return
    span = clip.windows[number]
    video = made["video"][:, :, span.kept :]
    lead = before["video"][:, :, -CONTEXT:] if span.kept else video[:, :, :0]
    skipped = frames_of(lead.shape[2]) if span.kept else 0
    if is_absent(clip.av, "video"):
        side = clip.video_vae.spacial_compression_decode()
        height, width = (cells * side for cells in video.shape[-2:])
        count = frames_of(lead.shape[2] + video.shape[2]) - skipped
        write_part(video.new_zeros(count, height, width, 3), clip.fps, path)
        return
    shown = torch.cat([lead.to(video), video], dim=2)
    images = decode_video(clip.video_vae, shown)[:, skipped:]  # (1, f, h, w, 3)
    (images,) = usable(Decoded("picture", images, video, clip.video_vae))
    write_part(images[0], clip.fps, path)


def write_film(clip: LongClip, work: Unfinished, count: int, path: str) -> None:
    """Write an mp4 of the first windows, with the originals in it; what a file has is copied from it."""
    seconds = clip.seconds(count - 1)
    film = _film(clip, work, count, seconds)
    sound = clip.source.sound
    if isinstance(sound, Film):
        save_both(film, first_seconds(sound, seconds), path)
        return
    audio = _audio(clip, work, count, seconds)
    samples = samples_of(min(film.seconds, seconds), audio["sample_rate"])
    save_with_sound(film, {**audio, "waveform": audio["waveform"][..., :samples]}, path)


def _film(clip: LongClip, work: Unfinished, count: int, seconds: Fraction) -> Film:
    """The picture as a file."""
    picture, path = clip.source.picture, work.folder / "picture.mp4"
    if isinstance(picture, Film):
        return first_seconds(picture, seconds)
    if isinstance(picture, Frames):
        write_part(picture.images[: -int(-seconds * picture.fps // 1)], picture.fps, path)
    else:
        parts = [(work.pictures(number), _new_frames(clip.windows[number])) for number in range(count)]
        join_parts(parts, clip.fps, path)
    return open_film(str(path))


def _new_frames(span: Span) -> int:
    return frames_of(span.stop) - (frames_of(span.new) if span.new else 0)


def _audio(clip: LongClip, work: Unfinished, count: int, seconds: Fraction) -> dict[str, Any]:
    """The sound of the first windows as an AUDIO: given, decoded, or silence."""
    sound = clip.source.sound
    if sound is not None:
        audio = original_sound(sound, seconds)
        wanted = samples_of(seconds, audio["sample_rate"])
        return {**audio, "waveform": fit_samples(audio["waveform"], wanted)}
    vae = clip.audio_vae
    if not clip.tokens or is_absent(clip.av, "audio"):
        return silence(1, seconds, SILENCE_RATE if vae is None else output_sample_rate(vae))
    latents = [work.load(number)["audio"][:, :, clip.tokens[number].kept :] for number in range(count)]
    waveform = decode_long_sound(vae, torch.cat(latents, dim=2))
    (waveform,) = usable(Decoded("sound", waveform, latents[0], vae))
    rate = output_sample_rate(vae)
    waveform = fit_samples(limit_peak(waveform), samples_of(seconds, rate))
    tell_of_sound(waveform[..., : LISTENED * rate], rate)
    return {"waveform": waveform, "sample_rate": rate}


def decode_long_sound(vae: VAE, latent: Tensor) -> Tensor:
    """(b, c, a) -> (b, ch, n), piece by piece, each with what stands beside it on both sides."""
    tokens, hop = latent.shape[2], Fraction(output_sample_rate(vae)) / token_rate(vae)
    # Pieces begin at whole samples.
    piece, around = (_whole(seconds * token_rate(vae), hop) for seconds in (PIECE, AROUND))
    found = []
    for start in range(0, tokens, piece):
        stop, low = min(tokens, start + piece), max(0, start - around)
        comfy.model_management.throw_exception_if_processing_interrupted()
        waveform = vae.decode(latent[:, :, low : stop + around]).movedim(-1, 1).float()
        # The last piece has what the VAE made of the last token.
        count = int((stop - start) * hop) if stop < tokens else waveform.shape[-1]
        found.append(waveform[..., int((start - low) * hop) :][..., :count])
    return torch.cat(found, dim=-1)


def _whole(tokens: Fraction, hop: Fraction) -> int:
    """About so many tokens, which have a whole number of samples."""
    return max(1, round(tokens / hop.denominator)) * hop.denominator


def streams_of_result(av: AVLatent) -> Streams:
    """What is kept of a window that was sampled."""
    streams = {"video": av.video, "audio": av.audio}
    return {name: latent.cpu() for name, latent in streams.items() if latent is not None}
