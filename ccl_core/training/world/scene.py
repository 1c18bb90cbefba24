"""The procedural world of ccl-tiny: coloured shapes whose visible contacts are the onsets of their sounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np

from ...alignment.timeline import fills_latent_frames
from .motions import (
    COLUMNS,
    FLOOR,
    LEFT_WALL,
    MOTIONS,
    RIGHT_WALL,
    ROOM,
    SHELF,
    UPPER,
    Lane,
    Path,
    sample_path,
)
from .sounds import SAMPLE_RATE, SILENT, SOUNDS, synthesise

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

BACKGROUND = (18, 20, 28)
LINE = (58, 60, 66)
# Pixels of a 64 x 64 frame, of the only object of a clip.
RADII = {None: (8.0, 11.0), "small": (8.0, 8.8), "big": (10.2, 11.0)}
# How much smaller objects are when there are two: a column is 27 pixels wide, the room 58.
CROWDED = 0.75
PAIR_SHARE = 0.4
# Frames of a clip: a second at 16 fps, in which any motion can have a contact.
SHORTEST = 17
# Least seconds between contacts of two objects: the onset detector hears notes up to .12 s apart as one.
APART = 0.18
# About four of five drawn pairs of paths have contacts closer than that.
TRIES = 3000

GERUNDS = {"bounces": "bouncing", "falls": "falling", "slides": "sliding", "blinks": "blinking"}
GERUND_OF = {gerund: motion for motion, gerund in GERUNDS.items()}
CLAUSES = (
    "{article} {size}{colour} {shape} {motion}, {sound}",
    "{article} {size}{colour} {shape} {motion} with a {sound}",
    "{article} {size}{colour} {shape} {motion} with a {sound} sound",
    "{article} {size}{colour} {shape} is {gerund}, {sound} sound",
    "{article} {size}{colour} {shape} is {gerund} with a {sound} sound",
    "{size}{colour} {shape} {gerund}, {sound}",
)
TEMPLATES = (*CLAUSES, "a video of {article} {size}{colour} {shape} that {motion}, we hear a {sound}")
JOINTS = (", and ", " and ", " while ", "; ", ". ")


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
    def onsets(self) -> list[float]:
        """When anything is heard to begin, sorted."""
        return sorted([*self.contacts, *(time for sound in self.offscreen for time in sound.onsets)])


@dataclass(frozen=True)
class Scene:
    """What a caption says, and what it leaves open: sizes and places."""

    words: tuple[Attributes, ...]
    radii: tuple[float, ...]
    lanes: tuple[Lane, ...]
    caption: str


def sample_clip(
    rng: np.random.Generator,
    *asked: Attributes,
    frames: int = 45,
    size: int = 64,
    fps: float = 16,
    objects: int | None = None,
    caption: str | None = None,
) -> Clip:
    """One random clip.

    The clip has what is asked of its objects or stated by the caption; everything else is drawn.
    """
    check_length(frames)
    scene = sample_scene(rng, *asked, objects=objects, caption=caption)
    paths = sample_paths(rng, scene, frames, fps)
    things = tuple(
        Object(words.colour, words.shape, words.motion, words.sound, path.contacts)
        for words, path in zip(scene.words, paths, strict=True)
    )
    notes = [(thing.sound, thing.contacts) for thing in things]
    return Clip(
        frames=render(scene, paths, size),
        waveform=synthesise(rng, notes, round(frames / fps * SAMPLE_RATE)),
        objects=things,
        caption=scene.caption,
    )


def check_length(frames: int) -> None:
    """ValueError unless a clip can have so many frames: they fill latent frames, and a contact fits in."""
    if frames < SHORTEST or not fills_latent_frames(frames):
        raise ValueError(
            f"a clip needs 4k+1 frames and at least {SHORTEST} (one contact must fit), got {frames}"
        )


def sample_scene(
    rng: np.random.Generator, *asked: Attributes, objects: int | None = None, caption: str | None = None
) -> Scene:
    """Draw what is left open: the number of objects (one or two), words, sizes, places, the caption."""
    asked = asked or read_caption(caption or "")
    count = max(len(asked), objects or (2 if not asked and rng.random() < PAIR_SHARE else 1))
    if count > len(COLUMNS):
        raise ValueError(f"a clip shows one or two objects, got {count}: leave the others out")
    words = complete(rng, [*asked, *[Attributes()] * (count - len(asked))])
    if caption is None:
        # A caption of a person mostly says nothing of the size.
        sizes = [None, *SIZES]
        words = tuple(replace(w, size=w.size or sizes[rng.choice(3, p=[0.6, 0.2, 0.2])]) for w in words)
    scale = 1.0 if count == 1 else CROWDED
    return Scene(
        words=words,
        radii=tuple(float(rng.uniform(*RADII[w.size])) * scale for w in words),
        lanes=sample_lanes(rng, words),
        caption=say(rng, words) if caption is None else caption,
    )


def complete(rng: np.random.Generator, asked: Sequence[Attributes]) -> tuple[Attributes, ...]:
    """Draw the words nobody asked for; two objects never share a drawn colour or sound."""
    columns = {}
    for kind, options in KINDS.items():
        words = [getattr(attributes, kind) for attributes in asked]
        for unknown in set(words) - {None, *options}:
            raise ValueError(f"{kind} {unknown!r} is not part of the world; use one of {', '.join(options)}")
        for i, word in enumerate(words):
            taken = words if kind in ("colour", "sound") else ()
            words[i] = word or str(rng.choice([option for option in options if option not in taken]))
        columns[kind] = words
    if len(set(columns["colour"])) < len(asked):
        raise ValueError(f"two objects need two colours, got {columns['colour'][0]} for both")
    drawn = (dict(zip(columns, words, strict=True)) for words in zip(*columns.values(), strict=True))
    return tuple(replace(attributes, **words) for attributes, words in zip(asked, drawn, strict=True))


def sample_lanes(rng: np.random.Generator, words: Sequence[Attributes]) -> tuple[Lane, ...]:
    """Two objects never meet: side by side, or, if one slides, that one below a shelf and the other above."""
    if len(words) == 1:
        return (ROOM,)
    swapped = rng.random() < 0.5
    sliding = [w.motion == "slides" for w in words]
    if not any(sliding):
        return COLUMNS[::-1] if swapped else COLUMNS
    first_below = swapped if all(sliding) else sliding[0]
    return (ROOM, UPPER) if first_below else (UPPER, ROOM)


def say(rng: np.random.Generator, words: Sequence[Attributes]) -> str:
    """A caption; half of them have the canonical form, so that short prompts work best."""
    canonical = rng.random() < 0.5
    pool = TEMPLATES if len(words) == 1 else CLAUSES
    said = [fill(pool[0] if canonical else pool[rng.integers(1, len(pool))], w) for w in words]
    return (JOINTS[0] if canonical else str(rng.choice(JOINTS))).join(said)


def fill(template: str, words: Attributes) -> str:
    size = f"{words.size} " if words.size else ""
    return template.format(
        article="an" if (size or words.colour)[0] in "aeiou" else "a",
        size=size,
        colour=words.colour,
        shape=words.shape,
        motion=words.motion,
        sound=words.sound,
        gerund=GERUNDS[words.motion],
    )


def read_caption(caption: str) -> tuple[Attributes, ...]:
    """What a caption in the world's own words says of each object; a second colour begins a second object."""
    kinds = {word: kind for kind, options in {"size": SIZES, **KINDS}.items() for word in options}
    found: list[dict[str, str]] = []
    size = {}
    for raw in caption.lower().translate(str.maketrans(",.;!", "    ")).split():
        word = GERUND_OF.get(raw, raw)
        kind = kinds.get(word)
        if kind == "size":
            size = {"size": word}
        elif kind is not None:
            if not found or (kind == "colour" and "colour" in found[-1]):
                found.append({})
            # The size is said before the colour, so it waits for the object that the next word begins.
            found[-1] = {**size, kind: word, **found[-1]}
            size = {}
    return tuple(Attributes(**words) for words in found)


def sample_paths(rng: np.random.Generator, scene: Scene, frames: int, fps: float) -> list[Path]:
    """Every object's path, redrawn until no contact comes close to one of another object."""
    for _ in range(TRIES):
        paths = [
            sample_path(rng, words.motion, radius, lane, frames, fps, SAMPLE_RATE)
            for words, radius, lane in zip(scene.words, scene.radii, scene.lanes, strict=True)
        ]
        times = sorted(time for path in paths for time in path.contacts)
        if all(later - earlier >= APART for earlier, later in pairwise(times)):
            return paths
    raise ValueError(
        f"{frames} frames are too many for two objects with contacts {APART} s apart: "
        "ask for fewer, or for one object"
    )


def render(scene: Scene, paths: Sequence[Path], size: int) -> np.ndarray:
    """Anti-aliased frames of the shapes in the dark room."""
    frames = draw_room(size, shelf=UPPER in scene.lanes)[None]
    grid = np.arange(size, dtype=np.float32) + 0.5
    for words, radius, path in zip(scene.words, scene.radii, paths, strict=True):
        dx = grid - path.x.astype(np.float32)[:, None] * size / 64  # (f, w)
        dy = grid - path.y.astype(np.float32)[:, None] * size / 64  # (f, h)
        cover = COVERS[words.shape](dx[:, None, :], dy[:, :, None], radius * size / 64)  # (f, h, w)
        cover = (cover * path.brightness.astype(np.float32)[:, None, None])[..., None]
        # Later shapes lie over earlier ones; `cover` is the share of a pixel that the shape fills.
        frames = frames + cover * (np.asarray(PALETTE[words.colour], dtype=np.float32) - frames)
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


def clips(
    seed: int, frames: int = 45, size: int = 64, fps: float = 16, objects: int | None = None
) -> Iterator[Clip]:
    """An endless stream of clips, the same for the same seed. objects: in each clip; None: one or two."""
    rng = np.random.default_rng(seed)
    while True:
        yield sample_clip(rng, frames=frames, size=size, fps=fps, objects=objects)
