"""Frames of coloured shapes in a dark room."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .clip import PALETTE, Attributes
from .motions import FLOOR, LEFT_WALL, RIGHT_WALL, SHELF, Path

BACKGROUND = (18, 20, 28)
LINE = (58, 60, 66)


def render(
    words: Sequence[Attributes], radii: Sequence[float], paths: Sequence[Path], size: int, shelf: bool
) -> np.ndarray:
    """Anti-aliased frames of the shapes in the dark room."""
    frames = draw_room(size, shelf)[None]
    grid = np.arange(size, dtype=np.float32) + 0.5
    for thing, radius, path in zip(words, radii, paths, strict=True):
        dx = grid - path.x.astype(np.float32)[:, None] * size / 64  # (f, w)
        dy = grid - path.y.astype(np.float32)[:, None] * size / 64  # (f, h)
        cover = COVERS[thing.shape](dx[:, None, :], dy[:, :, None], radius * size / 64)  # (f, h, w)
        cover = (cover * path.brightness.astype(np.float32)[:, None, None])[..., None]
        # Later shapes lie over earlier ones; `cover` is the share of a pixel that the shape fills.
        frames = frames + cover * (np.asarray(PALETTE[thing.colour], dtype=np.float32) - frames)
    return (frames + 0.5).astype(np.uint8)  # (f, h, w, 3)


def cover_ball(dx: np.ndarray, dy: np.ndarray, half: float) -> np.ndarray:
    return np.clip(half + 0.5 - np.sqrt(dx**2 + dy**2), 0, 1)


def cover_square(dx: np.ndarray, dy: np.ndarray, half: float) -> np.ndarray:
    """The square has the width of a ball of nearly the same area."""
    side = 0.9 * half + 0.5
    return np.clip(side - np.abs(dx), 0, 1) * np.clip(side - np.abs(dy), 0, 1)


def cover_triangle(dx: np.ndarray, dy: np.ndarray, half: float) -> np.ndarray:
    """On its base, as wide and as high as the ball."""
    # Distance from the two upper edges: they lean 1 to 2, so their normal (1, 1/2) has the length 1.25 ** .5.
    slope = ((dy + half) / 2 - np.abs(dx)) * 0.8**0.5
    return np.clip(half - dy + 0.5, 0, 1) * np.clip(slope + 0.5, 0, 1)


COVERS = {"ball": cover_ball, "square": cover_square, "triangle": cover_triangle}


def draw_room(size: int, shelf: bool) -> np.ndarray:
    """A dark room with a floor line and two walls, and a shelf for the upper of two objects."""
    room = np.empty((size, size, 3), dtype=np.float32)
    room[:] = BACKGROUND
    floor = round(FLOOR * size / 64)
    left = round(LEFT_WALL * size / 64)
    right = round(RIGHT_WALL * size / 64)
    board = round(SHELF * size / 64)
    thick = max(1, round(size / 64))
    room[floor : floor + thick] = LINE
    room[:floor, left - thick : left] = LINE
    room[:floor, right : right + thick] = LINE
    if shelf:
        room[board : board + thick, left:right] = LINE
    return room  # (h, w, 3)
