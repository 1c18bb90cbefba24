"""Reading the mouth of the talking face in pictures alone: how open it is, and the shape of which vowel.

Every frame is compared with drawn mouths of all shapes at all places where the mouth of a face may be; the
nearest one is read. Only the colour of the skin comes from the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from .face_picture import MOUTH_BELOW, MOUTHS, SHUT, WHOLE, Canvas, Place, Pose, draw_mouth

# Pixels of a picture that the judge looks at, whatever the clip has.
SIZE = 64
# Of a face of full size, rows and columns, top, left, bottom, right, of where the middle of a mouth may lie.
PLACES = (33, 26, 44, 39)
# Half the columns and rows of a drawn mouth, and half axes of the ellipse that counts: skin surrounds it.
HALF = (10, 7)
OVAL = (9.2, 6.6)
# How far from shut (0) to the vowel's shape (1) a mouth may be.
SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
# From this share a shape shows its vowel.
SHOWN = 0.6
# Parts of a pixel by which a drawn mouth is moved.
STEPS = (-0.25, 0.25)
# Rows and columns of both cheeks beside the nose: skin, wherever the head sways.
CHEEK_ROWS = (31, 34)
CHEEK_COLUMNS = ((22, 26), (38, 42))


@dataclass(frozen=True)
class Shapes:
    """Drawn mouths: picture = base + bare * skin."""

    base: Tensor  # (shapes, steps, 3, rows, columns) 0..1
    bare: Tensor  # (shapes, steps, 1, rows, columns)
    counts: Tensor  # (rows, columns), 1 within the oval
    opening: Tensor  # (shapes,)
    vowels: tuple[str, ...]  # of each shape, "" when shut
    shares: Tensor  # (shapes,)


def mouth_costs(frames: Tensor, place: Place = WHOLE) -> Tensor:
    """How unlike every shape each frame's mouth is at its best place, (f, shapes).

    frames: (f, h, w, 3), 0..1; place: of the face.
    """
    shapes = drawn_shapes(round(place.size, 2))
    pictures = interpolate(frames.movedim(-1, 1).float(), (SIZE, SIZE), mode="area")
    skin = skin_of(pictures, place)
    templates = (shapes.base + shapes.bare * skin[:, None, None]).flatten(0, 1)
    weight = shapes.counts.expand(1, 3, -1, -1)
    rows, columns = (side // 2 for side in shapes.counts.shape)
    top, left, bottom, right = PLACES
    across = span_of(place.x, place.size, left, right, columns)
    area = pictures[..., span_of(place.y, place.size, top, bottom, rows), across]
    # The square of a difference, summed within the oval.
    unlike = conv2d(area.square(), weight) - 2 * conv2d(area, templates * weight)
    unlike += (templates.square() * weight).sum((1, 2, 3))[:, None, None]
    return unlike.flatten(2).unflatten(1, (len(shapes.shares), -1)).amin((2, 3)) / weight.sum()


def span_of(middle: float, size: float, first: float, last: float, margin: int = 0) -> slice:
    """Rows or columns of the frame, within it, from those of a face's picture around its middle."""
    begin = round(middle + size * (first - 32)) - margin
    end = round(middle + size * (last - 32)) + margin
    begin = min(max(begin, 0), SIZE - 2 * margin - 1)
    return slice(begin, min(max(end, begin + 2 * margin + 1), SIZE))


def skin_of(pictures: Tensor, place: Place) -> Tensor:
    """The colour of the cheeks, (3,); pictures: (f, 3, SIZE, SIZE)."""
    rows = span_of(place.y, place.size, *CHEEK_ROWS)
    sides = [span_of(place.x, place.size, *columns) for columns in CHEEK_COLUMNS]
    cheeks = [pictures[:, :, rows, columns].flatten(2) for columns in sides]
    return torch.cat(cheeks, 2).movedim(1, 0).flatten(1).median(1).values


def opening_of(costs: Tensor) -> Tensor:
    """How open each frame's mouth is, (f,) 0..1: near shapes count by how near they are."""
    least = costs.amin(1, keepdim=True)
    near = torch.softmax(-2 * costs / least.clamp_min(1e-4), 1)
    return near @ drawn_shapes().opening


def vowel_shown(costs: Tensor, fps: float, time: float) -> str:
    """The vowel that the mouth shows at this time in seconds; "" for one that is shut."""
    # The two frames around it; behind the last one, that.
    before = min(int(time * fps), len(costs) - 1)
    after = min(before + 1, len(costs) - 1)
    share = min(time * fps - before, 1.0)
    return nearest_vowel((1 - share) * costs[before] + share * costs[after])


def nearest_vowel(costs: Tensor) -> str:
    """costs: (shapes,)"""
    shapes = drawn_shapes()
    shown = (shapes.shares >= SHOWN) | (shapes.shares == 0)
    return shapes.vowels[int(torch.where(shown, costs, torch.inf).argmin())]


@cache
def drawn_shapes(size: float = 1.0) -> Shapes:
    """Mouths of faces of this size."""
    named = [("", 0.0), *((vowel, share) for vowel in MOUTHS for share in SHARES)]
    mouths = np.array([between(vowel, share) for vowel, share in named])
    dark, bright = (draw_shapes(mouths, skin, size) for skin in (0.0, 1.0))
    columns, rows = halves(size)
    down = torch.arange(-rows, rows + 1)[:, None] / (OVAL[1] * size)
    across = torch.arange(-columns, columns + 1) / (OVAL[0] * size)
    return Shapes(
        base=dark,
        bare=(bright - dark)[:, :, :1],
        counts=(down**2 + across**2 <= 1).float(),
        opening=torch.from_numpy(mouths[:, 1]).float(),
        vowels=tuple(vowel for vowel, _ in named),
        shares=torch.tensor([share for _, share in named]),
    )


def halves(size: float) -> tuple[int, int]:
    """Half the columns and rows of a drawn mouth of a face of this size."""
    return round(HALF[0] * size), round(HALF[1] * size)


def between(vowel: str, share: float) -> Sequence[float]:
    """Width, opening and teeth of a mouth on its way from shut to a vowel."""
    shape = MOUTHS.get(vowel, SHUT)
    pairs = zip(vars(SHUT).values(), vars(shape).values(), strict=True)
    return [shut + share * (full - shut) for shut, full in pairs]


def draw_shapes(mouths: np.ndarray, skin: float, size: float) -> Tensor:
    """Mouths (n, 3) on grey skin, each moved by every step, (n, steps, 3, rows, columns) 0..1."""
    # The middle of the pixel (32, 32), moved.
    places = [Place(32.5 + dx, 32.5 + dy, size) for dx in STEPS for dy in STEPS]
    return torch.stack([draw_at(mouths, skin, place) for place in places], 1)


def draw_at(mouths: np.ndarray, skin: float, place: Place) -> Tensor:
    canvas = Canvas(len(mouths), SIZE, (0, 0, 0))
    canvas.picture += 255 * skin
    middle = np.full(len(mouths), 32.0)
    draw_mouth(canvas.at(place), Pose(middle, middle - MOUTH_BELOW, mouths, np.ones_like(middle)))
    columns, rows = halves(place.size)
    cut = canvas.picture[:, 32 - rows : 33 + rows, 32 - columns : 33 + columns]
    return torch.from_numpy(cut / 255).movedim(-1, 1).float()
