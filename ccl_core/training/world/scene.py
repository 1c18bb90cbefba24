"""The procedural world of ccl-tiny: coloured shapes whose visible contacts are the onsets of their sounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ...alignment.timeline import fills_latent_frames
from .clip import KINDS, SIZES, STATED, Ambience, Attributes, Clip, Object, OffScreen
from .motions import COLUMNS, RHYTHMS, ROOM, UPPER, Lane, Path, beats, sample_path
from .render import render
from .shares import EASY, World
from .sounds import BED, FAR, SAMPLE_RATE, SILENT, make_bed, synthesise
from .wording import read_ambience, read_caption, say

# Pixels of a 64 x 64 frame, of the only object of a clip.
RADII = {None: (8.0, 11.0), "small": (8.0, 8.8), "big": (10.2, 11.0)}
# How much smaller objects are when there are two: a column is 27 pixels wide, the room 58.
CROWDED = 0.75
# Frames of a clip: a second at 16 fps, in which any motion can have a contact.
SHORTEST = 17
# Least seconds between contacts of two objects: the onset detector hears notes up to .12 s apart as one.
APART = 0.18
# About four of five drawn pairs of paths have contacts closer than that.
TRIES = 3000


@dataclass(frozen=True)
class Scene:
    """What a caption says, and what it leaves open: sizes, places, rhythm."""

    words: tuple[Attributes, ...]
    ambience: Ambience
    radii: tuple[float, ...]
    lanes: tuple[Lane, ...]
    rhythm: str
    apart: float  # least seconds between contacts of two objects
    caption: str


def sample_clip(
    rng: np.random.Generator,
    *asked: Attributes,
    frames: int = 45,
    size: int = 64,
    fps: float = 16,
    objects: int | None = None,
    caption: str | None = None,
    ambience: Ambience | None = None,
    rhythm: str | None = None,
    world: World = EASY,
) -> Clip:
    """One random clip.

    The clip has what is asked of its objects or stated by the caption; everything else is drawn, as often as
    the world has it. A caption states the ambience by saying nothing of it, too.
    """
    check_length(frames)
    scene = sample_scene(
        rng, *asked, objects=objects, caption=caption, ambience=ambience, rhythm=rhythm, world=world
    )
    paths = sample_paths(rng, scene, frames, fps)
    things = tuple(
        Object(words.colour, words.shape, words.motion, words.sound, path.contacts)
        for words, path in zip(scene.words, paths, strict=True)
    )
    offscreen = sample_offscreen(rng, scene.ambience, frames / fps)
    bed = float(10 ** rng.uniform(*np.log10(BED))) if scene.ambience.bed else 0.0
    return Clip(
        frames=render(scene.words, scene.radii, paths, size, shelf=UPPER in scene.lanes),
        waveform=mix(rng, things, offscreen, bed, round(frames / fps * SAMPLE_RATE)),
        objects=things,
        caption=scene.caption,
        offscreen=offscreen,
        bed=bed,
    )


def mix(
    rng: np.random.Generator,
    objects: Sequence[Object],
    offscreen: Sequence[OffScreen],
    bed: float,
    samples: int,
) -> np.ndarray:
    """Notes of the objects, softer ones of what is off screen, and noise under both; (n,) within -1..1."""
    near = synthesise(rng, [(thing.sound, thing.contacts) for thing in objects], samples)
    far = synthesise(rng, [(sound.sound, sound.onsets) for sound in offscreen], samples, FAR)
    return near + far + (make_bed(rng, samples, bed) if bed else 0)


def check_length(frames: int) -> None:
    """ValueError unless a clip can have so many frames: they fill latent frames, and a contact fits in."""
    if frames < SHORTEST or not fills_latent_frames(frames):
        raise ValueError(
            f"a clip needs 4k+1 frames and at least {SHORTEST} (one contact must fit), got {frames}"
        )


def sample_scene(
    rng: np.random.Generator,
    *asked: Attributes,
    objects: int | None = None,
    caption: str | None = None,
    ambience: Ambience | None = None,
    rhythm: str | None = None,
    world: World = EASY,
) -> Scene:
    """Draw what is left open: the number of objects, words, sizes, places, rhythm, ambience, the caption."""
    if rhythm not in (None, *RHYTHMS):
        raise ValueError(f"rhythm {rhythm!r} is not part of the world; use one of {', '.join(RHYTHMS)}")
    asked = asked or read_caption(caption or "")
    count = max(len(asked), objects or (2 if not asked and rng.random() < world.pairs else 1))
    if count > len(COLUMNS):
        raise ValueError(f"a clip shows one or two objects, got {count}: leave the others out")
    asked = silence(rng, [*asked, *[Attributes()] * (count - len(asked))], world)
    words = complete(rng, asked, world)
    if caption is None:
        # A caption of a person mostly says nothing of the size.
        sizes = [None, *SIZES]
        words = tuple(replace(w, size=w.size or sizes[rng.choice(3, p=[0.6, 0.2, 0.2])]) for w in words)
        ambience = ambience or sample_ambience(rng, words, world)
    ambience = ambience or read_ambience(caption)
    if ambience.offscreen in {w.sound for w in words}:
        raise ValueError(
            f"an object makes the off-screen sound {ambience.offscreen}: ask for another one off screen"
        )
    scale = 1.0 if count == 1 else CROWDED
    return Scene(
        words=words,
        ambience=ambience,
        radii=tuple(float(rng.uniform(*RADII[w.size])) * scale for w in words),
        lanes=sample_lanes(rng, words),
        rhythm=rhythm or ("irregular" if rng.random() < world.irregular else "regular"),
        apart=0.0 if rng.random() < world.close else APART,
        caption=say(rng, words, ambience) if caption is None else caption,
    )


def silence(rng: np.random.Generator, asked: list[Attributes], world: World) -> list[Attributes]:
    """Now and then one object whose sound nobody asked for is silent."""
    chosen = rng.integers(len(asked))
    chance = world.silent if len(asked) == 2 else world.silent_alone
    if rng.random() < chance and asked[chosen].sound is None:
        asked[chosen] = replace(asked[chosen], sound=SILENT)
    return asked


def complete(
    rng: np.random.Generator, asked: Sequence[Attributes], world: World = EASY
) -> tuple[Attributes, ...]:
    """Draw the words nobody asked for; two objects never share a drawn colour or sound."""
    alike = rng.random() < world.same_motion
    columns = {}
    for kind in KINDS:
        words = [getattr(attributes, kind) for attributes in asked]
        for unknown in set(words) - {None, *STATED[kind]}:
            raise ValueError(
                f"{kind} {unknown!r} is not part of the world; use one of {', '.join(STATED[kind])}"
            )
        for i, word in enumerate(words):
            words[i] = word or str(rng.choice(left_open(kind, set(words) - {None}, alike)))
        columns[kind] = words
    if len(set(columns["colour"])) < len(asked):
        raise ValueError(f"two objects need two colours, got {columns['colour'][0]} for both")
    drawn = (dict(zip(columns, words, strict=True)) for words in zip(*columns.values(), strict=True))
    return tuple(replace(attributes, **words) for attributes, words in zip(asked, drawn, strict=True))


def left_open(kind: str, others: set[str], alike: bool) -> list[str]:
    """What an object may be beside these words of another; they move alike or not."""
    if kind == "shape" or not others:
        return list(KINDS[kind])
    return [word for word in KINDS[kind] if (word in others) == (alike and kind == "motion")]


def sample_ambience(rng: np.random.Generator, words: Sequence[Attributes], world: World) -> Ambience:
    """An off-screen sound that no object makes, or none, and a bed of noise, or none."""
    free = left_open("sound", {w.sound for w in words}, alike=False)
    sound = str(rng.choice(free)) if rng.random() < world.offscreen else None
    return Ambience(sound, bool(rng.random() < world.bed))


def sample_offscreen(rng: np.random.Generator, ambience: Ambience, seconds: float) -> tuple[OffScreen, ...]:
    """Onsets at a rhythm of their own, which knows nothing of the picture; each a whole sample."""
    if ambience.offscreen is None:
        return ()
    rhythm = str(rng.choice(RHYTHMS))
    # The first note has silence before it, and the last can be heard.
    heard = []
    while not heard:
        times = beats(lambda: rng.uniform(0.5, 0.9), rng, rhythm, seconds)
        heard = [round(float(t) * SAMPLE_RATE) / SAMPLE_RATE for t in times if 0.05 <= t <= seconds - 0.15]
    return (OffScreen(ambience.offscreen, tuple(heard)),)


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


def sample_paths(rng: np.random.Generator, scene: Scene, frames: int, fps: float) -> list[Path]:
    """Every object's path, redrawn until no contact comes too close to one of another object."""
    for _ in range(TRIES):
        paths = [
            sample_path(rng, words.motion, radius, lane, frames, fps, SAMPLE_RATE, scene.rhythm)
            for words, radius, lane in zip(scene.words, scene.radii, scene.lanes, strict=True)
        ]
        times = sorted(time for path in paths for time in path.contacts)
        if all(later - earlier >= scene.apart for earlier, later in pairwise(times)):
            return paths
    raise ValueError(
        f"{frames} frames are too many for two objects with contacts {APART} s apart: "
        "ask for fewer, or for one object"
    )


def clips(
    seed: int,
    frames: int = 45,
    size: int = 64,
    fps: float = 16,
    objects: int | None = None,
    rhythm: str | None = None,
    world: World = EASY,
) -> Iterator[Clip]:
    """An endless stream of clips, the same for the same seed. objects: in each clip; None: one or two."""
    rng = np.random.default_rng(seed)
    while True:
        yield sample_clip(rng, frames=frames, size=size, fps=fps, objects=objects, rhythm=rhythm, world=world)
