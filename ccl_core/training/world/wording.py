"""The world's own captions: what they say of a clip, and what one of them says read back."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from .clip import STATED, Ambience, Attributes
from .sounds import SILENT, SOUNDS

GERUNDS = {"bounces": "bouncing", "falls": "falling", "slides": "sliding", "blinks": "blinking"}
CLAUSES = (
    "{article} {size}{colour} {shape} {motion}, {sound}",
    "{article} {size}{colour} {shape} {motion} with a {sound}",
    "{article} {size}{colour} {shape} {motion} with a {sound} sound",
    "{article} {size}{colour} {shape} is {gerund}, {sound} sound",
    "{article} {size}{colour} {shape} is {gerund} with a {sound} sound",
    "{size}{colour} {shape} {gerund}, {sound}",
)
TEMPLATES = (*CLAUSES, "a video of {article} {size}{colour} {shape} that {motion}, we hear a {sound}")
SILENT_CLAUSES = (
    "{article} {size}{colour} {shape} {motion} silently",
    "{article} {size}{colour} {shape} {motion} without a sound",
    "{article} {size}{colour} {shape} is {gerund} silently",
    "{article} {size}{colour} {shape} is {gerund} without a sound",
    "{size}{colour} {shape} {gerund} silently",
)
SILENT_TEMPLATES = (*SILENT_CLAUSES, "a video of {article} {size}{colour} {shape} that {motion} silently")
JOINTS = (", and ", " and ", " while ", "; ", ". ")
# What a sound does that nothing in the picture makes.
DOES = {"drum": "beats", "bell": "rings", "click": "repeats", "beep": "sounds", "horn": "honks"}
OFFSCREEN = (
    ", and a {sound} {does} off screen",
    " while a {sound} {does} off screen",
    ", and a {sound} is heard off screen",
    ", with a {sound} off screen",
    "; off screen a {sound} {does}",
    ". an off-screen {sound} {does}",
)
BED = (
    ", over soft noise",
    ", with soft noise in the background",
    ", and soft noise in the background",
    "; soft noise underneath",
    ". there is soft noise",
)

# Words that read as an attribute's.
FORMS = {
    **{gerund: motion for motion, gerund in GERUNDS.items()},
    **dict.fromkeys(("silently", "soundless", "soundlessly"), SILENT),
}
NO_SOUND = re.compile(r"\b(without|makes no|making no|no) (a |any )?sounds?\b")
HEARD = "|".join(SOUNDS)
DOING = "|".join([*DOES.values(), "is heard", "plays"])
BEYOND = re.compile(
    rf"\b({HEARD})s?( sound)?( ({DOING}))?( from)? off[ -]?screen\b"
    rf"|\boff[ -]?screen( an?)? ({HEARD})s?\b( ({DOING}))?"
)


def say(rng: np.random.Generator, words: Sequence[Attributes], ambience: Ambience) -> str:
    """A caption; half of them have the canonical form, so that short prompts work best."""
    canonical = rng.random() < 0.5
    said = [fill(pick(rng, templates_of(w, len(words) == 1), canonical), w) for w in words]
    parts = [pick(rng, JOINTS, canonical).join(said)]
    if ambience.offscreen:
        said_of = {"sound": ambience.offscreen, "does": DOES[ambience.offscreen]}
        parts.append(pick(rng, OFFSCREEN, canonical).format(**said_of))
    if ambience.bed:
        parts.append(pick(rng, BED, canonical))
    return "".join(parts)


def pick(rng: np.random.Generator, pool: Sequence[str], canonical: bool) -> str:
    """The first, or any of the others."""
    return pool[0 if canonical else rng.integers(1, len(pool))]


def templates_of(words: Attributes, alone: bool) -> tuple[str, ...]:
    """What fits an object that is alone in the clip or has company."""
    if words.sound == SILENT:
        return SILENT_TEMPLATES if alone else SILENT_CLAUSES
    return TEMPLATES if alone else CLAUSES


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
    kinds = {word: kind for kind, options in STATED.items() for word in options}
    found: list[dict[str, str]] = []
    size = {}
    text = NO_SOUND.sub(SILENT, BEYOND.sub(" ", caption.lower()))
    for raw in text.translate(str.maketrans(",.;!", "    ")).split():
        word = FORMS.get(raw, raw)
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


def read_ambience(caption: str) -> Ambience:
    """What a caption in the world's own words says of an off-screen sound and of noise."""
    beyond = BEYOND.search(caption.lower())
    sounds = [word for word in beyond.groups() if word in SOUNDS] if beyond else [None]
    return Ambience(sounds[0], bool(re.search(r"\bnoise\b", caption.lower())))
