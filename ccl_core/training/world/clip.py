"""What is known of a clip of the procedural world, and the words that its captions are made of."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from .motions import MOTIONS
from .sounds import SILENT, SOUNDS

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (230, 30, 45),
    "orange": (245, 125, 15),
    "yellow": (240, 225, 50),
    "green": (40, 195, 60),
    "cyan": (40, 215, 225),
    "blue": (45, 85, 245),
    "purple": (185, 55, 230),
    "white": (240, 240, 240),
}
COLOURS = tuple(PALETTE)
SHAPES = ("ball", "square", "triangle")
SIZES = ("small", "big")
KINDS = {"colour": COLOURS, "shape": SHAPES, "motion": MOTIONS, "sound": SOUNDS}
# What a caption may state of an object.
STATED = {"size": SIZES, **KINDS, "sound": (*SOUNDS, SILENT)}


@dataclass(frozen=True)
class Attributes:
    """What a caption states of one object; None is what it leaves open."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None
    motion: str | None = None
    sound: str | None = None

    def values(self) -> tuple[str | None, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Ambience:
    """What a clip's caption states of the sounds that no object makes."""

    offscreen: str | None = None  # one of SOUNDS
    bed: bool = False  # soft noise under the whole clip


@dataclass(frozen=True)
class Object:
    """One object of a clip; contacts are seconds, exact to a sample of the sound.

    sound: one of SOUNDS, or SILENT for a distractor, whose contacts are seen and not heard.
    """

    colour: str
    shape: str
    motion: str
    sound: str
    contacts: tuple[float, ...]


@dataclass(frozen=True)
class OffScreen:
    """A sound that nothing in the picture makes; onsets are seconds."""

    sound: str
    onsets: tuple[float, ...]


@dataclass(frozen=True)
class Clip:
    """One clip with everything that is known about it."""

    frames: np.ndarray  # (f, h, w, 3) uint8
    waveform: np.ndarray  # (n,) float32
    objects: tuple[Object, ...]  # one or two, in the order of the caption
    caption: str
    offscreen: tuple[OffScreen, ...] = ()
    bed: float = 0.0  # root mean square of the noise under the whole clip

    @property
    def contacts(self) -> list[float]:
        """Those of all objects that sound, sorted."""
        return sorted(time for thing in self.objects if thing.sound != SILENT for time in thing.contacts)

    @property
    def ambience(self) -> Ambience:
        """What the caption says of the sounds that no object makes."""
        return Ambience(self.offscreen[0].sound if self.offscreen else None, self.bed > 0)

    @property
    def onsets(self) -> list[float]:
        """When anything is heard to begin, sorted."""
        return sorted([*self.contacts, *(time for sound in self.offscreen for time in sound.onsets)])
