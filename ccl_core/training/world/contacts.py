"""Contacts of coloured shapes that are seen in frames: pure numbers from the kinematics of the foreground."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...metrics.onsets import drop_close

# Smallest difference from the background colour that counts as the shape; the lines of the room have .16.
FOREGROUND = 0.2
# Displacement of the centroid in one frame, in picture heights, that is a cut and no motion.
JUMP = 0.2
# Least cosine (35 degrees) between a pixel's colour and the one it counts for.
NEAR_HUE = 0.82
# Reach of one shape around its heaviest place, in picture heights: the largest shape has a radius of .17.
BLOB = 0.2
# Frames below which no motion can be told: an impact is seen in the two frames before it and the two after.
INSTANT = 4
# Smallest abrupt change of velocity, in picture heights per frame.
IMPACT = 0.04


@dataclass(frozen=True)
class Track:
    """The foreground of a clip, one number per frame; positions in picture heights."""

    x: Tensor  # (f,)
    y: Tensor  # (f,) downwards
    presence: Tensor  # (f,) amount of light of the shape, 1 = as much as in its brightest frames
    colour: Tensor  # (3,) of the shape, 0..1


def track_foreground(frames: Tensor) -> Track:
    """Follow whatever differs from the clip's most common colour."""
    difference = (frames - background_of(frames)).abs().amax(-1)  # (f, h, w)
    return follow(frames, difference, (difference - FOREGROUND).clamp_min(0))


def track_colours(frames: Tensor, colours: Tensor) -> list[Track]:
    """Follow some colours (k, 3) in 0..1: a pixel counts for the one whose hue is nearest, or for none."""
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
    # Some 100,000 pixels give the same median as all of them, in far less time.
    stride = max(1, frames.numel() // 300_000)
    return frames.reshape(-1, 3)[::stride].median(dim=0).values


def keep_blob(weight: Tensor) -> Tensor:
    """Of each frame (f, h, w) only the surroundings of its heaviest place.

    Nothing is left of a frame where that place has little light beside other frames.
    """
    height, width = weight.shape[1:]
    reach = max(1, round(BLOB * height))
    # Odd, so that the pooled picture keeps its size.
    side = 2 * (reach // 2) + 1
    heavy = torch.nn.functional.avg_pool2d(weight[:, None], side, 1, side // 2)[:, 0].flatten(1).argmax(1)
    rows = torch.arange(height)
    columns = torch.arange(width)
    near_row = (rows - heavy[:, None] // width).abs() <= reach  # (f, h)
    near_column = (columns - heavy[:, None] % width).abs() <= reach  # (f, w)
    weight = weight * near_row[:, :, None] * near_column[:, None, :]
    light = weight.sum((1, 2))
    return weight * (light > 0.15 * light.quantile(0.9))[:, None, None]


def follow(frames: Tensor, difference: Tensor, weight: Tensor) -> Track:
    """The track of a shape from its difference to the background (f, h, w) and the certain part of that."""
    height, width = frames.shape[1:3]
    light = weight.sum((1, 2))  # (f,)
    full = light.quantile(0.9).clamp_min(1e-9)
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / height
    total = light.clamp_min(1e-9)
    x = (weight.sum(1) * columns).sum(-1) / total
    y = (weight.sum(2) * rows).sum(-1) / total
    # Faint frames of a fading shape lie below the threshold: presence counts all light where it ever was.
    support = (weight > 0).any(0)
    shine = (difference * support).sum((1, 2))
    # Lines of the room that the shape passed shine in every frame: the constant part goes, up to 30 %.
    shine = shine - shine.amin().clamp_max(0.3 * shine.amax())
    presence = shine / shine.quantile(0.9).clamp_min(1e-9)
    # Less than a thousandth of the picture is noise.
    if full < 0.001 * height * width:
        presence = torch.zeros_like(presence)
    # Squares, since pixels at the edge of a shape are mixed with the background.
    strong = (weight**2)[..., None]
    colour = (frames * strong).sum((0, 1, 2)) / strong.sum().clamp_min(1e-9)
    return Track(x, y, presence, colour)


def contacts_of(track: Track, fps: float) -> list[float]:
    """Seconds at which the shape of a track hits floor or wall, lands, or is switched on."""
    if len(track.x) < INSTANT:
        return []
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
            # A light that takes longer than three frames fades in: no moment is its onset.
            if frame - dark <= 3:
                found.append(frame - sum(min(1.0, value) for value in presence[dark + 1 : frame + 1]))
            dark = None
    return found


def visible_segments(track: Track) -> list[slice]:
    """Runs of frames in which the shape is there and moves without a cut."""
    step = torch.hypot(track.x.diff(), track.y.diff())
    segments = []
    start = None
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
    return [segment for segment in segments if segment.stop - segment.start >= INSTANT]


def impacts(position: list[float], offset: int, downwards_only: bool) -> list[float]:
    """Frame positions where the lines before and after an abrupt stop or turn meet."""
    candidates = []
    for i in range(1, len(position) - 2):
        before = position[i] - position[i - 1]
        after = position[i + 2] - position[i + 1]
        # A shape hits walls from both sides and the floor from above.
        speed = before if downwards_only else abs(before)
        turned = after if before > 0 else -after
        change = speed - turned
        if speed < IMPACT / 2 or turned > 0.4 * speed or change < IMPACT:
            continue
        # Solve position[i] + before m = position[i + 1] + after (m - 1) for m, in frames after frame i.
        meet = (position[i + 1] - after - position[i]) / (before - after)
        # The lines should meet between the two frames; a third of a frame is the noise of the positions.
        if -0.35 <= meet <= 1.35:
            candidates.append(
                (change - 0.3 * change * abs(meet - 0.5), i + offset + min(1.0, max(0.0, meet)))
            )
    # The strongest of neighbouring candidates is the impact, the others see the same one from a frame away.
    candidates.sort(reverse=True)
    kept: list[float] = []
    for _, time in candidates:
        if all(abs(time - other) > 2 for other in kept):
            kept.append(time)
    return kept
