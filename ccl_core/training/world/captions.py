"""Many ways to say what happens in a clip of the procedural world: the text that the tiny encoder reads."""

import random
import re
from collections.abc import Sequence

from .clip import Ambience, Attributes, Object
from .sounds import SILENT
from .synonyms import BED_WORDS, OFFSCREEN_WORDS, OTHER_WORDS, SOUND_WORDS, WORDS
from .wording import BED, DOES, JOINTS, OFFSCREEN, SILENT_TEMPLATES, TEMPLATES, fill, templates_of

# What stands more than once in a list is drawn so much more often.
OPENINGS = (
    "",
    "",
    "",
    "",
    "a video of",
    "video of",
    "a clip of",
    "a short clip of",
    "an animation of",
    "we see",
    "there is",
    "a scene with",
    "footage of",
    "the camera shows",
    "a movie of",
    "imagine",
    "please show",
    "show me",
)
CLOSINGS = (
    "",
    "",
    "",
    "",
    "on a dark background",
    "on a black background",
    "high quality",
    "in slow motion",
    "on the floor",
    "in a room",
    "best quality",
    "simple and clean",
    "again and again",
    "in time",
    "in sync",
    "for two seconds",
    "with perfect timing",
    "masterpiece",
    "4k",
    "16 fps",
    "in the middle",
)
SOUND_FRAMES = (
    "{}",
    "{}",
    "{}",
    "with {}",
    "with a {}",
    "and a {}",
    "sound of {}",
    "the sound of a {}",
    "accompanied by {}",
    "to the sound of {}",
    "we hear a {}",
    "audio: {}",
    "sound: {}",
    "a {} plays",
    "making a {}",
    "like a {}",
)
# What joins the clauses of two objects, besides the world's own ways.
AND = (
    *JOINTS,
    " and ",
    ", ",
    ", then ",
    " next to ",
    " plus ",
    " - ",
    "; also ",
    " beside ",
    ", while ",
    " whereas ",
)
GROUPED = (
    "{seen[0]} and {seen[1]}, {sound[0]} for the {name[0]} and {sound[1]} for the {name[1]}",
    "{seen[0]} and {seen[1]}; the {name[0]} sounds like a {sound[0]}, the {name[1]} like a {sound[1]}",
    "{seen[0]}, {seen[1]}, {sound[0]} and {sound[1]}",
    "{seen[0]} and {seen[1]}, {sound[0]} and {sound[1]} respectively",
    "{seen[0]} and {seen[1]}. {sound[0]}, {sound[1]}",
)
# Motions and sounds that no object has together in training; each is trained with all the others.
HELD_OUT = {("bounces", "beep"), ("falls", "bell"), ("slides", "horn"), ("blinks", "drum")}
NOTHING = Ambience()
ARTICLES = ("a", "a", "a", "one", "the", "", "an old", "a shiny", "a single")
# Between a noun and its colour.
TAILS = (" that is", " coloured", ",", " in")
NOUNS = ("thing", "object", "shape", "something")

# At the end of a word: it speaks of the first object, of the second or of the off-screen sound. Private
# characters of Unicode, which no caption has and no change of case alters.
MARKS = "\ue000\ue001\ue002"
BEYOND = 2


def held_out(thing: Attributes | Object) -> bool:
    """Whether no training clip has an object with this motion and this sound: 4 pairs of 20."""
    return (thing.motion, thing.sound) in HELD_OUT


def paraphrase(rng: random.Random, *things: Attributes, ambience: Ambience = NOTHING) -> str:
    """Say what is stated of one or two objects and around them in one of many ways, orders and letter cases.

    Words that mean nothing here come in between. The first object is spoken of first.
    """
    return owned(rng, *things, ambience=ambience)[0]


def owned(rng: random.Random, *things: Attributes, ambience: Ambience = NOTHING) -> tuple[str, list[int]]:
    """A paraphrase, and by character what it speaks of: object 0 or 1, BEYOND (off screen), or -1."""
    text = ""
    owners: list[int] = []
    # A run is a word with its mark, if any, or a single space.
    for run in re.findall(rf"[^{MARKS}\s]+[{MARKS}]?|\s", _marked(rng, things, ambience)):
        said = run.rstrip(MARKS)
        text += said
        owners += [MARKS.find(run[-1])] * len(said)
    return text, owners


def joining_words() -> list[str]:
    """Every word that captions have besides those for what they state, in lower case."""
    pools = (OPENINGS, CLOSINGS, SOUND_FRAMES, AND, GROUPED, NOUNS, ARTICLES, JOINTS, OFFSCREEN, BED)
    templates = (TEMPLATES, SILENT_TEMPLATES, TAILS)
    text = " ".join(words for pool in (*pools, *templates) for words in pool)
    return sorted(set(re.findall(r"[a-z]+", re.sub(r"{[^}]*}", " ", text))) | {"an", *DOES.values()})


def _mark(text: str, thing: int) -> str:
    return re.sub(r"(?<=\S)(?=\s|$)", MARKS[thing], text)


def _marked(rng: random.Random, things: Sequence[Attributes], ambience: Ambience) -> str:
    if all(None not in thing.values()[1:] for thing in things) and rng.random() < 0.4:
        return _canonical(rng, things, ambience)
    said = [_words(rng, thing) for thing in things]
    if len(said) == 2:
        text = _two(rng, said)
    elif rng.random() < 0.15:
        text = _mark(_tags(rng, said[0]), 0)
    else:
        text = _mark(_sentence(rng, said[0]), 0)
    return _case(rng, _sprinkle(rng, _around(rng, text, ambience)))


def _canonical(rng: random.Random, things: Sequence[Attributes], ambience: Ambience) -> str:
    """In the world's own words."""
    said = [fill(rng.choice(templates_of(thing, len(things) == 1)), thing) for thing in things]
    text = rng.choice(JOINTS).join(_mark(words, i) for i, words in enumerate(said))
    if sound := ambience.offscreen:
        text += _mark(rng.choice(OFFSCREEN).format(sound=sound, does=DOES[sound]), BEYOND)
    return text + (rng.choice(BED) if ambience.bed else "")


def _around(rng: random.Random, text: str, ambience: Ambience) -> str:
    """The text with what is heard besides the objects, mostly behind it."""
    parts = [text] if text.strip() else []
    if ambience.offscreen:
        words = rng.choice(OFFSCREEN_WORDS).format(_say(rng, "sound", ambience.offscreen))
        parts.append(_mark(words, BEYOND))
    if ambience.bed:
        parts.insert(len(parts) if rng.random() < 0.8 else 0, rng.choice(BED_WORDS))
    if rng.random() < 0.15:
        parts.reverse()
    return rng.choice((", ", ", ", ", and ", ". ", "; ", " - ")).join(parts)


def _words(rng: random.Random, thing: Attributes) -> dict[str, str]:
    """By attribute, the word that is said for it, or nothing."""
    return {kind: _say(rng, kind, getattr(thing, kind)) for kind in WORDS}


def _say(rng: random.Random, kind: str, value: str | None) -> str:
    if value is None:
        return ""
    words = WORDS[kind][value]
    # Half the time the word of the world itself, so that short prompts are read best.
    return words[0] if rng.random() < 0.5 else rng.choice(words)


def _tags(rng: random.Random, said: dict[str, str]) -> str:
    words = [word for word in said.values() if word]
    rng.shuffle(words)
    return rng.choice((", ", " ", ",", "; ")).join(words)


def _seen(rng: random.Random, said: dict[str, str]) -> str:
    """The object and what it does; empty if nothing of either is stated."""
    size = said["size"]
    colour = said["colour"]
    motion = said["motion"]
    noun = said["shape"] or (rng.choice(NOUNS) if size or colour or motion else "")
    if not noun:
        return ""
    article = rng.choice(ARTICLES)
    if colour and rng.random() < 0.15:
        name = f"{size} {noun}{rng.choice(TAILS)} {colour}".strip()
    else:
        name = " ".join(filter(None, (size, colour, noun)))
    if article == "a" and name[0] in "aeiou":
        article = "an"
    return f"{article} {name} {motion}".strip()


def _sentence(rng: random.Random, said: dict[str, str]) -> str:
    shown = _seen(rng, said)
    seen = f"{rng.choice(OPENINGS)} {shown} {rng.choice(CLOSINGS)}" if shown else ""
    parts = [part for part in (seen, _heard(rng, said)) if part.strip()]
    if rng.random() < 0.25:
        parts.reverse()
    return rng.choice((", ", ", ", " ", ". ", "; ", " - ")).join(parts)


def _heard(rng: random.Random, said: dict[str, str]) -> str:
    if not said["sound"] or _is_silent(said):
        return said["sound"]
    return rng.choice(SOUND_FRAMES).format(said["sound"])


def _is_silent(said: dict[str, str]) -> bool:
    return said["sound"] in SOUND_WORDS[SILENT]


def _two(rng: random.Random, said: Sequence[dict[str, str]]) -> str:
    """One clause after the other, each with its sound, or both objects and then both sounds in that order."""
    seen = [_mark(_seen(rng, words), i) for i, words in enumerate(said)]
    sounds = [_mark(words["sound"], i) for i, words in enumerate(said)]
    # Silence is said in its own clause, where it cannot be taken for the other object's.
    apart = all(sounds) and not any(map(_is_silent, said))
    if apart and rng.random() < 0.3:
        names = [
            _mark(f"{words['colour']} {words['shape'] or 'one'}".strip(), i) for i, words in enumerate(said)
        ]
        # The first two call the objects by their colours.
        pool = GROUPED if all(words["colour"] for words in said) else GROUPED[2:]
        text = rng.choice(pool).format(seen=seen, sound=sounds, name=names)
    elif apart and rng.random() < 0.1:
        text = rng.choice(("; ", ". ", " and ")).join(
            f"{s}: {thing}" for s, thing in zip(sounds, seen, strict=True)
        )
    else:
        comma = rng.choice((", ", ", ", " "))
        heard = [_mark(_heard(rng, words), i) for i, words in enumerate(said)]
        clauses = [comma.join(filter(None, pair)) for pair in zip(seen, heard, strict=True)]
        text = rng.choice(AND).join(clauses)
    return f"{rng.choice(OPENINGS)} {text} {rng.choice(CLOSINGS)}"


def _sprinkle(rng: random.Random, text: str) -> str:
    words = text.split()
    while rng.random() < 0.2:
        words.insert(rng.randint(0, len(words)), rng.choice(OTHER_WORDS))
    return " ".join(words).replace(" ,", ",") + rng.choice(("", "", "", ".", "!"))


def _case(rng: random.Random, text: str) -> str:
    return rng.choice((str, str, str.lower, str.capitalize, str.upper, str.title))(text)
