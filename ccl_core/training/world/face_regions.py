"""Where face, mouth, silent face and object of a talking clip are, and how a face mask lies on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .face import FaceClip
from .face_picture import draw_faces, face_cover

FACE = "speaking face"
REGIONS = ("mouth", FACE, "silent face", "object")
# Colours of the palette that differ most in every channel.
FAR_APART = ("blue", "yellow")
# A token is in the face, and in a mask, from here on.
HALF = 0.5


def regions_of(clip: FaceClip) -> dict[str, np.ndarray]:
    """The share of every pixel that each region fills, (f, h, w) in 0..1."""
    size = clip.frames.shape[1]
    faces = [face_cover(looks, pose, size) for looks, pose in clip.people]
    silent = faces[1] if len(faces) > 1 else np.zeros_like(faces[0])
    return dict(zip(REGIONS, (box_cover(clip), faces[0], silent, object_cover(clip)), strict=True))


def box_cover(clip: FaceClip) -> np.ndarray:
    """The box around the mouth, (f, h, w)"""
    cover = np.zeros(clip.frames.shape[:3], np.float32)
    for frame, (top, left, bottom, right) in zip(cover, clip.mouth_box, strict=True):
        frame[top:bottom, left:right] = 1
    return cover


def object_cover(clip: FaceClip) -> np.ndarray:
    """Where the object behind is seen: the pixels that its colour changes, (f, h, w)"""
    size = clip.frames.shape[1]
    drawn = [
        draw_faces(clip.people, replace(clip.passer, colour=colour), size).astype(np.int16)
        for colour in FAR_APART
    ]
    return (drawn[0] != drawn[1]).any(-1).astype(np.float32)


def overlap(mask: Tensor, face: Tensor) -> tuple[float, float]:
    """Tokens in both, and in any, of a mask and a face (t, h, w); a token counts from HALF on."""
    both = [one >= HALF for one in (mask, face)]
    return float((both[0] & both[1]).sum()), float((both[0] | both[1]).sum())


def best_constant(faces: Sequence[Tensor]) -> float:
    """The intersection over union, over all clips, of the one best mask (h, w) for all of their frames.

    Of masks of k tokens the best is that of the k which most often are face, so that k alone is tried.
    """
    seen = torch.cat([face >= HALF for face in faces]).flatten(1)  # (frames, tokens)
    often = seen.sum(0).sort(descending=True).values
    met = often.cumsum(0)
    whole = int(seen.sum()) + len(seen) * torch.arange(1, len(often) + 1) - met
    return float((met / whole).max())


def shares(mask: Tensor, regions: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float, float]]:
    """Of a mask (f, h, w) in pixels by region: what of it lies there, all of it, and pixels of the region."""
    covers = {name: torch.from_numpy(cover).to(mask) for name, cover in regions.items()}
    return {
        name: (float((mask * cover).sum()), float(mask.sum()), float(cover.sum()))
        for name, cover in covers.items()
    }
