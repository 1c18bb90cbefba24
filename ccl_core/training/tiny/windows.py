"""Windows of clips of both worlds, and how much an error counts in each of their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..world import face, scene
from ..world.clip import Clip
from ..world.shares import HARD

# Of 255: above the lines of the room (66), below the colours of the shapes (195).
FOREGROUND = 77
# Of 255: a smaller change from frame to frame is noise.
CHANGE = 12
# Added to the weight 1 of a pixel: near a shape, where something changes, in the box of the mouth.
NEAR_SHAPE = 6
CHANGING = 2
MOUTH = 20


@dataclass(frozen=True)
class Film:
    """The frames of a clip, and the weight of each of their pixels."""

    frames: np.ndarray  # (f, h, w, 3) uint8
    weight: np.ndarray  # (f, h, w) uint8


def of_shapes(clip: Clip) -> Film:
    """The shape and its surroundings count most: three pixels to each side, and a frame."""
    shape = torch.from_numpy(clip.frames.max(-1) > FOREGROUND).float()
    near = F.max_pool3d(shape[None], (3, 7, 7), stride=1, padding=(1, 3, 3))[0].numpy()
    return Film(clip.frames, weigh(clip.frames, NEAR_SHAPE * near))


def of_face(clip: face.FaceClip) -> Film:
    """The mouth counts most: with equal weights a small code drops it. Skin and hair are bright."""
    mouth = np.zeros(clip.frames.shape[:3])
    for picture, (top, left, bottom, right) in zip(mouth, clip.mouth_box, strict=True):
        picture[top:bottom, left:right] = MOUTH
    return Film(clip.frames, weigh(clip.frames, mouth))


def weigh(frames: np.ndarray, focus: np.ndarray) -> np.ndarray:
    """1, more where a pixel differs from the frame before or after, and the focus of its world."""
    step = np.abs(np.diff(frames.astype(np.int16), axis=0)).max(-1) > CHANGE  # (f - 1, h, w)
    still = np.zeros_like(step[:1])
    changing = np.concatenate([still, step]) | np.concatenate([step, still])
    return (1 + CHANGING * changing + focus).astype(np.uint8)  # (f, h, w)


def films(seed: int, frames: int) -> Iterator[Film]:
    """An endless stream of both worlds in turn."""
    shapes = scene.clips(seed, frames=frames, world=HARD)
    for clip, talking in zip(shapes, face.clips(seed, frames=frames), strict=True):
        yield of_shapes(clip)
        yield of_face(talking)


class FilmPool:
    """Films to cut training windows from. Every third draw replaces one, so that none is seen for long."""

    def __init__(self, rng: np.random.Generator, seed: int, size: int, frames: int) -> None:
        self.rng = rng
        self.source = films(seed, frames)
        self.films = [next(self.source) for _ in range(size)]
        self.oldest = 0

    def draw(self, batch: int, frames: int, crop: int) -> tuple[np.ndarray, np.ndarray]:
        """Windows of both worlds in turn, (b, f, crop, crop, 3) uint8, and weights (b, f, crop, crop)."""
        if self.rng.random() < 1 / 3:
            self.films[self.oldest] = next(self.source)
            self.oldest = (self.oldest + 1) % len(self.films)
        # Even places hold shapes, odd ones faces; a batch of one has either.
        first = self.rng.integers(2)
        worlds = (first + np.arange(batch)) % 2
        places = 2 * self.rng.integers(len(self.films) // 2, size=batch) + worlds
        windows = [self.window(self.films[place], frames, crop) for place in places]
        return np.stack([film.frames for film in windows]), np.stack([film.weight for film in windows])

    def window(self, film: Film, frames: int, crop: int) -> Film:
        """A random window, mostly around something that counts when it is smaller than the picture."""
        begin = self.rng.integers(len(film.frames) - frames + 1)
        size = film.frames.shape[1]
        weight = film.weight[begin : begin + frames]
        corner = self.rng.uniform(0, size - crop, 2)
        rows, columns = np.nonzero(weight[frames // 2] > 1)
        if len(rows) and self.rng.random() < 0.8:
            seen = self.rng.integers(len(rows))
            corner = (
                np.array([rows[seen], columns[seen]]) - crop / 2 + self.rng.uniform(-crop / 2, crop / 2, 2)
            )
        top, left = np.clip(corner.round().astype(int), 0, size - crop)
        area = np.s_[:, top : top + crop, left : left + crop]
        return Film(film.frames[begin : begin + frames][area], weight[area])
