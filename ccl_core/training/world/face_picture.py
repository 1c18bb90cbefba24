"""How the talking face looks: anti-aliased layers of ellipses, and the shapes of the mouth."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from .clip import PALETTE
from .render import COVERS

SKINS = {"pale": (246, 214, 194), "tan": (222, 172, 130), "brown": (172, 118, 82), "dark": (128, 88, 66)}
HAIRS = {
    "black": (28, 24, 30),
    "brown": (96, 58, 32),
    "blond": (226, 190, 96),
    "red": (176, 66, 26),
    "grey": (168, 168, 174),
}
EYES = {"blue": (50, 110, 205), "green": (50, 140, 80), "brown": (92, 54, 28)}
WALLS = {"grey": (70, 74, 84), "blue": (44, 62, 98), "green": (46, 80, 68), "brown": (92, 76, 62)}
LIPS = (186, 62, 72)
THROAT = (44, 8, 16)
TEETH = (238, 234, 226)


@dataclass(frozen=True)
class Looks:
    """What a face is drawn from; words of the tables above and of the palette."""

    skin: str
    hair: str
    long_hair: bool
    eyes: str
    shirt: str
    wall: str
    width: float  # of the face, pixels of a 64 x 64 frame from its middle to its side


@dataclass(frozen=True)
class Mouth:
    """width: of the lips beside a mouth at rest; open: 0 shut, 1 widest; teeth: 0 none, 1 all of the gap."""

    width: float
    open: float
    teeth: float


SHUT = Mouth(1.0, 0.0, 0.0)
MOUTHS = {
    "a": Mouth(1.0, 1.0, 0.0),
    "e": Mouth(1.2, 0.55, 0.6),
    "i": Mouth(1.35, 0.28, 1.0),
    "o": Mouth(0.7, 0.75, 0.0),
    "u": Mouth(0.42, 0.4, 0.0),
}
# Pixels of a 64 x 64 frame: half the width of a mouth at rest, half the height of the widest gap, the lips.
MOUTH_WIDTH = 5.6
MOUTH_HEIGHT = 4.6
LIP = 1.5
# Of a face whose middle is at (32, 29).
HEAD_HEIGHT = 17.0
MOUTH_BELOW = 9.0
EYE_ABOVE = 3.0
EYE_ASIDE = 5.6


@dataclass(frozen=True)
class Place:
    """Where the middle of a picture of 64 x 64 pixels lies in the frame, and how large that picture is."""

    x: float
    y: float
    size: float


WHOLE = Place(32.0, 32.0, 1.0)


@dataclass(frozen=True)
class Pose:
    """By frame: the middle of the face in pixels of its picture, the mouth, and how open the eyes are."""

    x: np.ndarray  # (f,)
    y: np.ndarray  # (f,)
    mouth: np.ndarray  # (f, 3): width, open, teeth
    eyes: np.ndarray  # (f,) 0 shut .. 1
    place: Place = WHOLE


@dataclass(frozen=True)
class Passer:
    """What moves behind the head; x and y by frame."""

    colour: str
    shape: str
    x: np.ndarray  # (f,)
    y: np.ndarray  # (f,)


class Canvas:
    """Frames that layers are laid over, in pixels of a picture of 64 x 64 whatever its size and place."""

    def __init__(self, frames: int, size: int, wall: tuple[int, int, int]) -> None:
        self.scale = size / 64
        self.columns = self.rows = (np.arange(size, dtype=np.float32) + 0.5) / self.scale
        # Light from above.
        shade = np.linspace(1.1, 0.8, size, dtype=np.float32)[:, None, None]
        self.picture = np.tile(np.asarray(wall, dtype=np.float32) * shade, (frames, 1, size, 1))

    def at(self, place: Place) -> Canvas:
        """The same frames in pixels of the picture at this place."""
        moved = copy(self)
        moved.scale = self.scale * place.size
        moved.columns = (self.columns - place.x) / place.size + 32
        moved.rows = (self.rows - place.y) / place.size + 32
        return moved

    def offsets(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances of every pixel from a place by frame: (f, 1, w) and (f, h, 1)."""
        dx = self.columns - np.asarray(x, dtype=np.float32)[..., None]
        dy = self.rows - np.asarray(y, dtype=np.float32)[..., None]
        return dx[:, None, :], dy[:, :, None]

    def ellipse(self, x: np.ndarray, y: np.ndarray, wide: np.ndarray, tall: np.ndarray) -> np.ndarray:
        """The share of every pixel that an ellipse of these half axes fills, (f, h, w)."""
        dx, dy = self.offsets(x, y)
        wide = np.maximum(np.asarray(wide, dtype=np.float32), 1e-3)[..., None, None]
        tall = np.maximum(np.asarray(tall, dtype=np.float32), 1e-3)[..., None, None]
        # To first order the distance from the rim is k (k - 1) over the slope of k, which is 1 at the rim.
        k = np.sqrt((dx / wide) ** 2 + (dy / tall) ** 2) + 1e-6
        slope = np.sqrt((dx / wide**2) ** 2 + (dy / tall**2) ** 2) + 1e-9
        cover = np.clip(0.5 - k * (k - 1) / slope * self.scale, 0, 1)
        # A line thinner than a pixel fills it in part.
        return cover * np.clip(2 * np.minimum(wide, tall) * self.scale, 0, 1)

    def lay(self, cover: np.ndarray, colour: tuple[int, int, int]) -> None:
        # In place: all views of a canvas share its picture.
        self.picture += cover[..., None] * (np.asarray(colour, dtype=np.float32) - self.picture)


def draw_faces(people: Sequence[tuple[Looks, Pose]], passer: Passer, size: int) -> np.ndarray:
    """Frames (f, size, size, 3) uint8 of people in front of the wall of the first of them."""
    canvas = Canvas(len(passer.x), size, WALLS[people[0][0].wall])
    dx, dy = canvas.offsets(passer.x, passer.y)
    canvas.lay(
        COVERS[passer.shape](dx * canvas.scale, dy * canvas.scale, 6 * canvas.scale), PALETTE[passer.colour]
    )
    for looks, pose in people:
        own = canvas.at(pose.place)
        draw_head(own, looks, pose)
        draw_eyes(own, looks, pose)
        draw_mouth(own, pose)
    return (canvas.picture.clip(0, 255) + 0.5).astype(np.uint8)


def face_cover(looks: Looks, pose: Pose, size: int) -> np.ndarray:
    """The share of every pixel that a face fills, without hair and neck, (f, size, size)."""
    canvas = Canvas(len(pose.x), size, (0, 0, 0)).at(pose.place)
    same = np.ones_like(pose.x)
    return canvas.ellipse(pose.x, pose.y, same * looks.width, same * HEAD_HEIGHT)


def draw_head(canvas: Canvas, looks: Looks, pose: Pose) -> None:
    """Hair behind, shoulders, neck, face and the hair over the forehead."""
    x = pose.x
    y = pose.y
    same = np.ones_like(x)
    skin = SKINS[looks.skin]
    shadow = darker(skin, 0.78)
    if looks.long_hair:
        canvas.lay(
            canvas.ellipse(x, y + 5, same * (looks.width + 5), same * (HEAD_HEIGHT + 5)), HAIRS[looks.hair]
        )
    # Shoulders sway less than the head.
    shoulders = canvas.ellipse(0.5 * x + 16, same * 66, same * 27, same * 14)
    dx, dy = canvas.offsets(0.5 * x + 16, same * 66)
    # Below its middle the ellipse goes on as wide as it is there.
    trunk = (dy > 0) * np.clip((27 - np.abs(dx)) * canvas.scale + 0.5, 0, 1)
    canvas.lay(np.maximum(shoulders, trunk), PALETTE[looks.shirt])
    canvas.lay(canvas.ellipse(x, y + 18, same * 6, same * 9), shadow)
    hair = canvas.ellipse(x, y - 3, same * (looks.width + 2.2), same * (HEAD_HEIGHT + 1.5))
    face = canvas.ellipse(x, y, same * looks.width, same * HEAD_HEIGHT)
    canvas.lay(hair, HAIRS[looks.hair])
    # The face is cut by the hair line, which is the lower rim of an ellipse.
    fringe = canvas.ellipse(x, y - 15, same * (looks.width + 3), same * 8.5)
    canvas.lay(face * (1 - fringe), skin)
    # The nose.
    canvas.lay(canvas.ellipse(x, y + 2.5, same * 1.3, same * 3.2) * 0.7, shadow)


def draw_eyes(canvas: Canvas, looks: Looks, pose: Pose) -> None:
    for side in (-EYE_ASIDE, EYE_ASIDE):
        x = pose.x + side
        y = pose.y - EYE_ABOVE
        same = np.ones_like(x)
        # The lid first: it is what is left when the eye shuts.
        canvas.lay(canvas.ellipse(x, y, same * 3.1, same * 0.7), darker(SKINS[looks.skin], 0.55))
        white = canvas.ellipse(x, y, same * 2.9, 2.1 * pose.eyes)
        canvas.lay(white, (245, 245, 245))
        canvas.lay(white * canvas.ellipse(x, y, same * 1.5, same * 1.7), EYES[looks.eyes])
        canvas.lay(white * canvas.ellipse(x, y, same * 0.7, same * 0.8), (10, 10, 12))
        canvas.lay(canvas.ellipse(x, y - 4.2, same * 3.2, same * 0.8), darker(HAIRS[looks.hair], 0.8))


def draw_mouth(canvas: Canvas, pose: Pose) -> None:
    width, opening, teeth = pose.mouth.T
    x = pose.x
    y = pose.y + MOUTH_BELOW
    wide = MOUTH_WIDTH * width
    gap = MOUTH_HEIGHT * opening
    canvas.lay(canvas.ellipse(x, y, wide + 0.6, gap + LIP), LIPS)
    inside = canvas.ellipse(x, y, wide - 0.6, gap) * np.clip(gap, 0, 1)[:, None, None]
    canvas.lay(inside, THROAT)
    # The upper teeth hang from the upper lip.
    upper = canvas.ellipse(x, y - gap, wide, gap * (0.4 + 1.4 * teeth))
    canvas.lay(inside * upper * teeth[:, None, None], TEETH)


def darker(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    return tuple(round(factor * channel) for channel in colour)
