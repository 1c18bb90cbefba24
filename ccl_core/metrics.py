"""Synchrony of a clip (paper, UCG section: the coupling is judged by it): contacts seen, onsets heard, and their match.

Pure numbers, no weights: contacts come from the kinematics of the foreground, onsets from spectral flux.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

FOREGROUND = 0.2  # smallest difference from the background colour that counts as the shape
JUMP = 0.2  # centroid displacement per frame, in picture heights, that is a cut and no motion
NEAR_HUE = 0.82  # least cosine (35 degrees) between a pixel's colour and the one it counts for
BLOB = 0.2  # reach of one shape around its heaviest place, in picture heights
IMPACT = 0.04  # smallest abrupt change of velocity, in picture heights per frame
WINDOW, HOP = 256, 64  # of the onset detector, in samples at 16 kHz; other rates scale them
WIDE = 0.125  # seconds beyond which contact and onset have nothing to do with each other
REFRACTORY = 0.12  # seconds within which a second onset belongs to the first


@dataclass(frozen=True)
class Track:
    """The foreground of a clip, one number per frame; positions in picture heights."""

    x: Tensor  # (f,)
    y: Tensor  # (f,) downwards
    presence: Tensor  # (f,) amount of light of the shape, 1 = as much as in its brightest frames
    colour: Tensor  # (3,) of the shape, 0..1


@dataclass(frozen=True)
class Matches:
    """Pairs are (contact, onset) in seconds; missed contacts and spurious onsets found no partner."""

    pairs: list[tuple[float, float]]
    missed: list[float]
    spurious: list[float]


@dataclass(frozen=True)
class SyncSummary:
    """Counts of one clip; `median_error_ms` over the pairs within 125 ms, None without any pair."""

    contacts: int
    onsets: int
    matched_62ms: int
    matched_125ms: int
    spurious: int
    median_error_ms: float | None
    errors_ms: tuple[float, ...]


def track_foreground(frames: Tensor) -> Track:
    """Follow whatever differs from the clip's most common colour."""
    difference = (frames - background_of(frames)).abs().amax(-1)  # (f, h, w)
    return follow(frames, difference, (difference - FOREGROUND).clamp_min(0))


def track_colours(frames: Tensor, colours: Tensor) -> list[Track]:
    """Follow each of some colours (k, 3) in 0..1: every pixel counts for the one whose hue is nearest, or for none."""
    background = background_of(frames)
    light = (frames - background).movedim(-1, 1)  # (f, 3, h, w)
    difference = light.abs().amax(1)  # (f, h, w)
    # The hue of an edge or a faint pixel is that of its surroundings.
    blurred = torch.nn.functional.avg_pool2d(light, 3, 1, 1, count_include_pad=False)
    directions = torch.nn.functional.normalize(colours - background, dim=-1)
    cosines = torch.einsum("kc,fchw->kfhw", directions, torch.nn.functional.normalize(blurred, dim=1))
    best, owner = cosines.max(0)
    tracks = []
    for k in range(len(colours)):
        own = difference * ((owner == k) & (best > NEAR_HUE))
        tracks.append(follow(frames, own, keep_blob((own - FOREGROUND).clamp_min(0))))
    return tracks


def background_of(frames: Tensor) -> Tensor:
    """The most common colour, (3,)."""
    return frames.reshape(-1, 3)[:: max(1, frames.numel() // 300_000)].median(dim=0).values


def keep_blob(weight: Tensor) -> Tensor:
    """Of every frame (f, h, w) only the surroundings of its heaviest place, and nothing where that is a mere splash."""
    height, width = weight.shape[1:]
    reach = max(1, round(BLOB * height))
    side = 2 * (reach // 2) + 1
    heavy = torch.nn.functional.avg_pool2d(weight[:, None], side, 1, side // 2)[:, 0].flatten(1).argmax(1)
    rows, columns = torch.arange(height), torch.arange(width)
    near_row = (rows - heavy[:, None] // width).abs() <= reach  # (f, h)
    near_column = (columns - heavy[:, None] % width).abs() <= reach  # (f, w)
    weight = weight * near_row[:, :, None] * near_column[:, None, :]
    light = weight.sum((1, 2))
    return weight * (light > 0.15 * light.quantile(0.9))[:, None, None]


def follow(frames: Tensor, difference: Tensor, weight: Tensor) -> Track:
    """The track of a shape from its difference to the background (f, h, w) and the part of it that is certain."""
    height, width = frames.shape[1:3]
    light = weight.sum((1, 2))  # (f,)
    full = light.quantile(0.9).clamp_min(1e-9)
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / height
    total = light.clamp_min(1e-9)
    x = (weight.sum(1) * columns).sum(-1) / total
    y = (weight.sum(2) * rows).sum(-1) / total
    # Faint frames of a fading shape lie below the threshold: presence counts all light where the shape ever was.
    support = (weight > 0).any(0)
    shine = (difference * support).sum((1, 2))
    shine = shine - shine.amin().clamp_max(0.3 * shine.amax())
    presence = shine / shine.quantile(0.9).clamp_min(1e-9)
    if full < 0.001 * height * width:
        presence = torch.zeros_like(presence)
    strong = (weight**2)[..., None]
    colour = (frames * strong).sum((0, 1, 2)) / strong.sum().clamp_min(1e-9)
    return Track(x, y, presence, colour)


def detect_contacts(frames: Tensor, fps: float) -> list[float]:
    """Seconds at which the shape hits floor or wall, lands, or is switched on. Frames (f, h, w, 3) in 0..1."""
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames must be (f, h, w, 3), got {tuple(frames.shape)}")
    if fps <= 0:
        raise ValueError(f"fps must be positive, got {fps}")
    if len(frames) < 4:
        return []
    return contacts_of(track_foreground(frames.float().cpu()), fps)


def contacts_of(track: Track, fps: float) -> list[float]:
    """The contacts of one track, in seconds."""
    times = switch_ons(track.presence.tolist())
    for segment in visible_segments(track):
        times += impacts(track.x[segment].tolist(), segment.start, downwards_only=False)
        times += impacts(track.y[segment].tolist(), segment.start, downwards_only=True)
    return [time / fps for time in drop_close(sorted(times), 0.15 * fps)]


def switch_ons(presence: list[float]) -> list[float]:
    """Frame positions at which the light came on; partial light in between tells where within the frame."""
    found = []
    dark = None
    for frame, light in enumerate(presence):
        if light < 0.15:
            dark = frame
        elif light > 0.8 and dark is not None:
            if frame - dark <= 3:
                found.append(frame - sum(min(1.0, value) for value in presence[dark + 1 : frame + 1]))
            dark = None
    return found


def visible_segments(track: Track) -> list[slice]:
    """Runs of frames in which the shape is there and moves without a cut."""
    step = torch.hypot(track.x.diff(), track.y.diff())
    segments, start = [], None
    for frame in range(len(track.x)):
        visible = bool(track.presence[frame] > 0.5)
        cut = frame > 0 and bool(step[frame - 1] > JUMP)
        if start is not None and (not visible or cut):
            segments.append(slice(start, frame))
            start = None
        if visible and start is None:
            start = frame
    if start is not None:
        segments.append(slice(start, len(track.x)))
    return [segment for segment in segments if segment.stop - segment.start >= 4]


def impacts(position: list[float], offset: int, downwards_only: bool) -> list[float]:
    """Frame positions where the lines before and after an abrupt stop or turn meet."""
    candidates = []
    for i in range(1, len(position) - 2):
        before, after = position[i] - position[i - 1], position[i + 2] - position[i + 1]
        speed = before if downwards_only else abs(before)
        turned = after if before > 0 else -after
        change = speed - turned
        if speed < IMPACT / 2 or turned > 0.4 * speed or change < IMPACT:
            continue
        meet = (position[i + 1] - after - position[i]) / (before - after)
        if -0.35 <= meet <= 1.35:
            candidates.append((change - 0.3 * change * abs(meet - 0.5), i + offset + min(1.0, max(0.0, meet))))
    # The strongest of neighbouring candidates is the impact, the others see the same one from a frame away.
    candidates.sort(reverse=True)
    kept: list[float] = []
    for _, time in candidates:
        if all(abs(time - other) > 2 for other in kept):
            kept.append(time)
    return kept


def drop_close(times: list[float], distance: float) -> list[float]:
    """Sorted times without those that follow another one too closely."""
    kept: list[float] = []
    for time in times:
        if not kept or time - kept[-1] >= distance:
            kept.append(time)
    return kept


def detect_onsets(waveform: Tensor, sample_rate: int) -> list[float]:
    """Seconds at which sounds begin: peaks of spectral flux, placed where the energy rises. Waveform (n,) or (c, n)."""
    if sample_rate <= 0:
        raise ValueError(f"sample_rate must be positive, got {sample_rate}")
    signal = to_mono(waveform)
    window, hop = (max(1, round(n * sample_rate / 16000)) for n in (WINDOW, HOP))
    if len(signal) < window or signal.abs().amax() < 1e-3:
        return []
    flux = spectral_flux(signal, window, hop)
    reach = round(REFRACTORY * sample_rate / hop)
    picked = pick_peaks(flux, reach)
    starts = [rise(signal, peak * hop, window, sample_rate) / sample_rate for peak in picked]
    return drop_close(sorted(starts), REFRACTORY * 0.8)


def to_mono(waveform: Tensor) -> Tensor:
    """The mean of all channels, (n,), from (n,), (c, n) or (b, c, n)."""
    signal = torch.as_tensor(waveform).float().cpu()
    return signal.flatten(0, -2).mean(0) if signal.ndim > 1 else signal


def spectral_flux(signal: Tensor, window: int, hop: int) -> Tensor:
    """Sum over frequencies of the growth of the compressed magnitude, with the clip's loudest bin as reference."""
    taper = torch.hann_window(window)
    spectrum = torch.stft(signal, window, hop, window=taper, return_complex=True, pad_mode="constant").abs()
    compressed = torch.log1p(100 * spectrum / spectrum.amax())  # (bins, frames)
    growth = compressed[:, 2:] - compressed[:, :-2]
    flux = growth.clamp_min(0).sum(0)
    return torch.cat([flux.new_zeros(1), flux, flux.new_zeros(1)])  # (frames,)


def pick_peaks(flux: Tensor, reach: int) -> list[int]:
    """Local maxima that stand out from the clip's largest and from their own surroundings."""
    values = flux.tolist()
    threshold = 0.3 * max(values)
    picked = []
    for i, value in enumerate(values):
        around = values[max(0, i - reach) : i + reach + 1]
        if value >= threshold and value == max(around) and value > 2.5 * statistics.fmean(around):
            picked.append(i)
    return picked


def rise(signal: Tensor, sample: int, window: int, sample_rate: int) -> float:
    """The sample at which the level near a flux peak first reaches a third of what it rises by."""
    begin, end = max(0, sample - 2 * window), min(len(signal), sample + 2 * window)
    smooth = max(1, sample_rate // 2000)
    level = torch.nn.functional.max_pool1d(signal[begin:end].abs()[None], 2 * smooth + 1, 1, smooth)[0]
    floor = level[: max(1, window // 2)].mean()
    high = (level >= floor + (level.amax() - floor) / 3).nonzero()
    # The smoothing looks ahead by its own half width.
    return float(begin + high[0, 0] + smooth) if len(high) else float(sample)


def match_events(contacts: list[float], onsets: list[float], tolerance: float, agree: Tensor | None = None) -> Matches:
    """One-to-one, the smallest differences first, none beyond the tolerance (seconds).

    agree: (contacts, onsets) booleans, which onsets sound as the contact should; these pairs come before all others.
    """
    order = sorted(
        (agree is not None and not agree[i, j], abs(c - o), i, j)
        for i, c in enumerate(contacts)
        for j, o in enumerate(onsets)
    )
    taken: dict[int, int] = {}
    for _, difference, i, j in order:
        if difference <= tolerance and i not in taken and j not in taken.values():
            taken[i] = j
    return Matches(
        pairs=[(contacts[i], onsets[taken[i]]) for i in sorted(taken)],
        missed=[c for i, c in enumerate(contacts) if i not in taken],
        spurious=[o for j, o in enumerate(onsets) if j not in taken.values()],
    )


def summarise_sync(contacts: list[float], onsets: list[float], agree: Tensor | None = None) -> SyncSummary:
    """Counts at 62.5 ms (one frame at 16 fps) and 125 ms; a spurious onset has no contact within 125 ms."""
    wide = match_events(contacts, onsets, WIDE, agree)
    errors = tuple(1000 * abs(c - o) for c, o in wide.pairs)
    return SyncSummary(
        contacts=len(contacts),
        onsets=len(onsets),
        matched_62ms=len(match_events(contacts, onsets, 0.0625, agree).pairs),
        matched_125ms=len(wide.pairs),
        spurious=len(wide.spurious),
        median_error_ms=statistics.median(errors) if errors else None,
        errors_ms=errors,
    )
