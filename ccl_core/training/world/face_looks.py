"""Who a face is, read from the picture: skin, hair, shirt and eyes, each from the words that there are."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .clip import PALETTE
from .face_find import Sighting, beside_mouth, draw_on
from .face_picture import EYES, HAIRS, SKINS, WALLS, Looks

# What may be asked of each attribute.
ATTRIBUTES: dict[str, tuple[str | bool, ...]] = {
    "skin": tuple(SKINS),
    "hair": tuple(HAIRS),
    "long_hair": (False, True),
    "shirt": tuple(PALETTE),
    "eyes": tuple(EYES),
}
# An iris is three pixels wide, and the video VAE of the tiny models leaves no colour of it: of 32 clips .25
# are right, where chance is a third.
UNREADABLE = ("eyes",)
READABLE = tuple(name for name in ATTRIBUTES if name not in UNREADABLE)
# One attribute shows how much another covers, so all are read again.
ROUNDS = 2


def read_looks(found: Sighting, start: Looks) -> Looks:
    """The looks whose drawing is most like the face; wall and width of the head are those of `start`."""
    # The median leaves out blinks, and what passes behind.
    picture = found.cuts.median(0).values
    looks = start
    for name in list(ATTRIBUTES) * ROUNDS:
        looks = nearest(picture, looks, name, found.place.size)
    return looks


def nearest(picture: Tensor, looks: Looks, name: str, size: float) -> Looks:
    """These looks with the best value of one attribute, where its values look different."""
    options = [replace(looks, **{name: value}) for value in ATTRIBUTES[name]]
    drawn = torch.stack([draw_on(option, size, WALLS[option.wall]) for option in options])
    telling = (drawn.amax(0) - drawn.amin(0)).sum(0) * beside_mouth(size)
    unlike = ((drawn - picture).square().sum(1) * telling).sum((1, 2))
    return options[int(unlike.argmin())]


def looks_right(asked: Looks, seen: Looks) -> dict[str, bool]:
    """Each attribute by name."""
    return {name: getattr(seen, name) == getattr(asked, name) for name in ATTRIBUTES}


def is_same(asked: Looks, seen: Looks) -> bool:
    """Whether everything that can be read is right."""
    right = looks_right(asked, seen)
    return all(right[name] for name in READABLE)
