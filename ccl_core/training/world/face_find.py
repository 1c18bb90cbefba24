"""Where a person's face is in a film, and how large: the drawn face compared at all places and sizes.

The face is drawn from its looks, so that of two faces the one that looks so is found. Where none does, a face
that differs in its skin or its hair is found. The mouth does not count, whatever it says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.fft import irfft2, rfft2
from torch.nn.functional import interpolate, max_pool2d, pad

from .face_mouth import SIZE, halves
from .face_picture import (
    HAIRS,
    MOUTH_BELOW,
    SHUT,
    SKINS,
    Canvas,
    Looks,
    Place,
    Pose,
    draw_eyes,
    draw_head,
)

# Pixels from the middle of a face's picture to what is cut out: to both sides, above, below.
ASIDE, ABOVE, BELOW = 20, 24, 26
# To what is compared below: the shirt is not.
CHIN = 15
# The row of a face's middle in its picture.
HEAD = 29.0
# Sizes of faces that are looked for.
SIZES = tuple(round(0.6 + 0.03 * step, 2) for step in range(17))
# Pixels of a face that may be beyond the frame.
MARGIN = 4
# Pixels that a swaying head may be away from where it mostly is, rows and columns.
SWAY = (2, 3)
# Every so many frames are looked at.
STRIDE = 6
# Mean square of the difference, of 0..1, up to which no other looks are tried: of true faces the greatest is
# .0081 after the video VAE of the tiny models.
SURE = 0.006
# Part of its difference below which another face is taken for a person who looks otherwise.
CLEARLY = 0.5
OTHER = {"skin": tuple(SKINS), "hair": tuple(HAIRS), "long_hair": (False, True)}


@dataclass(frozen=True)
class Sighting:
    """A face that was found.

    place: on average over the frames. unlike: mean square of its difference from the one looked for, of 0..1.
    cuts: the face in the frames that were looked at, (n, 3, rows, columns).
    """

    place: Place
    unlike: float
    cuts: Tensor


@dataclass(frozen=True)
class Template:
    """A drawn face of one size; middle: row and column of the middle of its picture."""

    picture: Tensor  # (3, rows, columns) 0..1
    counts: Tensor  # (rows, columns) 0..1
    middle: tuple[int, int]


@dataclass(frozen=True)
class Pictures:
    """Frames with their margin, their spectra, and those of their squares, summed over the colours."""

    frames: Tensor  # (n, 3, h, w)
    spectra: Tensor  # (n, 3, h, w // 2 + 1)
    squares: Tensor  # (n, h, w // 2 + 1)


def find_face(frames: Tensor, looks: Looks) -> Sighting:
    """The face that is most like these looks; frames: (f, h, w, 3), 0..1."""
    small = interpolate(frames[::STRIDE].movedim(-1, 1).float(), (SIZE, SIZE), mode="area")
    wide = pad(small, [MARGIN] * 4, mode="replicate")
    pictures = Pictures(wide, rfft2(wide), rfft2(wide.square().sum(1)))
    asked = find_exactly(pictures, looks)
    if asked.unlike < SURE:
        return asked
    other = nearest(find_exactly(pictures, some) for some in others(looks))
    return other if other.unlike < CLEARLY * asked.unlike else asked


def others(looks: Looks) -> list[Looks]:
    """These looks with one of OTHER changed."""
    changes = [(name, word) for name, words in OTHER.items() for word in words]
    return [replace(looks, **{name: word}) for name, word in changes if word != getattr(looks, name)]


def find_exactly(pictures: Pictures, looks: Looks) -> Sighting:
    return nearest(sighting(pictures, looks, size) for size in SIZES)


def nearest(found: Iterable[Sighting]) -> Sighting:
    return min(found, key=lambda one: one.unlike)


def sighting(pictures: Pictures, looks: Looks, size: float) -> Sighting:
    """The best place of a face of one size."""
    template = drawn_face(looks, size)
    corners, unlike = track(differences(pictures, template))
    rows, columns = template.counts.shape
    cuts = [
        frame[:, y : y + rows, x : x + columns]
        for frame, (y, x) in zip(pictures.frames, corners.tolist(), strict=True)
    ]
    # The middle of a pixel lies half a pixel behind its edge.
    y, x = (corners.double().mean(0) + torch.tensor(template.middle) + 0.5 - MARGIN).tolist()
    return Sighting(Place(x, y, size), unlike, torch.stack(cuts))


def track(unlike: Tensor) -> tuple[Tensor, float]:
    """Row and column (n, 2) where a swaying template fits each frame best, and how unlike it is on average.

    unlike: (n, y, x)
    """
    down, across = SWAY
    near = -max_pool2d(-unlike[:, None], (2 * down + 1, 2 * across + 1), 1, SWAY)[:, 0].mean(0)
    y, x = divmod(int(near.argmin()), near.shape[1])
    top, left = max(y - down, 0), max(x - across, 0)
    around = unlike[:, top : y + down + 1, left : x + across + 1]
    best = around.flatten(1).argmin(1)
    width = around.shape[2]
    return torch.stack([best // width + top, best % width + left], 1), float(near.min())


def differences(pictures: Pictures, template: Template) -> Tensor:
    """The mean square of the difference with the template's corner at each place, (n, y, x)."""
    weight = template.counts
    drawn = template.picture * weight
    whole = pictures.frames.shape[2:]
    height, width = whole[0] - weight.shape[0] + 1, whole[1] - weight.shape[1] + 1
    crossed = (pictures.spectra * rfft2(drawn, s=whole).conj()).sum(1)
    squares = pictures.squares * rfft2(weight, s=whole).conj()
    found = irfft2(squares - 2 * crossed, s=whole)[:, :height, :width]
    return (found + (template.picture * drawn).sum()) / (3 * weight.sum())


# As many as the looks that are tried of one person.
@lru_cache(maxsize=9 * len(SIZES))
def drawn_face(looks: Looks, size: float) -> Template:
    """The face; what it leaves free, its mouth and its shirt do not count."""
    dark, bright = (draw_on(looks, size, (level,) * 3) for level in (0, 255))
    counts = (1 - (bright - dark).mean(0)) * beside_mouth(size)
    middle = round(ABOVE * size), round(ASIDE * size)
    counts[middle[0] + 1 + round(CHIN * size) :] = 0
    return Template(dark, counts, middle)


def beside_mouth(size: float) -> Tensor:
    """1 but 0 where a mouth may be, (rows, columns)."""
    above, aside = round(ABOVE * size), round(ASIDE * size)
    free = torch.ones(above + 1 + round(BELOW * size), 2 * aside + 1)
    middle = above + round((HEAD + MOUTH_BELOW - 32) * size)
    columns, rows = halves(size)
    free[middle - rows : middle + rows + 1, aside - columns : aside + columns + 1] = 0
    return free


def draw_on(looks: Looks, size: float, ground: tuple[int, int, int]) -> Tensor:
    """The face on a ground of one colour, (3, rows, columns) in 0..1."""
    canvas = Canvas(1, SIZE, ground)
    # Without its light from above.
    canvas.picture[:] = ground
    same = np.ones(1)
    pose = Pose(32 * same, HEAD * same, np.array([[SHUT.width, SHUT.open, SHUT.teeth]]), same)
    # The middle of the pixel (32, 32).
    own = canvas.at(Place(32.5, 32.5, size))
    draw_head(own, looks, pose)
    draw_eyes(own, looks, pose)
    above, aside = round(ABOVE * size), round(ASIDE * size)
    cut = canvas.picture[0, 32 - above : 33 + round(BELOW * size), 32 - aside : 33 + aside]
    return torch.from_numpy(cut / 255).movedim(-1, 0).float()
