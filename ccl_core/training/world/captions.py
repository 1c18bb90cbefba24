"""Many ways to say what happens in a clip of the procedural world: the text that the tiny encoder reads."""

import random
import re
from collections.abc import Sequence

from .clip import Attributes, Object
from .wording import CLAUSES, JOINTS, TEMPLATES, fill

SIZE_WORDS = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine", "amber"),
    "yellow": ("yellow", "golden", "lemon yellow"),
    "green": ("green", "emerald", "lime"),
    "cyan": ("cyan", "turquoise", "aqua"),
    "blue": ("blue", "azure", "navy blue"),
    "purple": ("purple", "violet", "lilac"),
    "white": ("white", "snow white", "pale white"),
}
SHAPE_WORDS = {
    "ball": ("ball", "sphere", "round ball", "circle", "disc"),
    "square": ("square", "box", "block", "cube", "rectangle"),
    "triangle": ("triangle", "pyramid", "wedge", "cone"),
}
MOTION_WORDS = {
    "bounces": (
        "bounces",
        "is bouncing",
        "bouncing",
        "bounce",
        "that bounces",
        "bounces up and down",
        "hops",
        "jumping",
    ),
    "falls": ("falls", "is falling", "falling", "fall", "that falls", "falls down", "drops", "is dropped"),
    "slides": (
        "slides",
        "is sliding",
        "sliding",
        "slide",
        "that slides",
        "slides sideways",
        "glides",
        "slides left and right",
    ),
    "blinks": (
        "blinks",
        "is blinking",
        "blinking",
        "blink",
        "that blinks",
        "flashes",
        "is flashing",
        "flashing on and off",
    ),
}
SOUND_WORDS = {
    "drum": ("drum", "drums", "drum hits", "drumming", "kick drum", "thump"),
    "bell": ("bell", "bells", "ringing bell", "metal bell", "chime", "ding"),
    "click": ("click", "clicks", "clicking", "tick", "ticking", "clap", "snap"),
    "beep": ("beep", "beeps", "beeping", "electronic beep", "tone", "beep tone"),
    "horn": ("horn", "horns", "honk", "honking", "car horn", "trumpet"),
}
WORDS = {
    "size": SIZE_WORDS,
    "colour": COLOUR_WORDS,
    "shape": SHAPE_WORDS,
    "motion": MOTION_WORDS,
    "sound": SOUND_WORDS,
}

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
    "with sound",
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
# Everyday words, which must not change what the encoder reads.
MEANINGLESS = """
about above across action after against age air all almost alone along already also always and animal
another answer any apple area arm around art as at away baby back bad bag bank base bathroom beach beautiful
because bed before begin behind below beside best better between bird bit boat body book both bottle bottom
boy branch bread bridge bright bring brother brown build building bus but button buy by cake call camera can
car card care carry cartoon case cat catch centre chair change child cinematic city class clean clear climb
clock close cloud coat coffee cold colour come computer cook cool corner count country cover cow cup cut
dance dark daughter day deep desert desk detail dinner do dog door down draw dream dress drink drive dry
during each ear early earth easy eat edge egg eight empty end enough evening every eye face family far farm
fast father feel few field film find fine finger fire first fish five flat floor flower fly follow food foot
forest forward four free friend from fruit full fun game garden get giant girl give glass go good grass grey
ground group grow guitar hair half hall happy hard hat have head hear heart heavy help her here high hill
him his hold home horse hot hour house how hundred ice idea if inside into island its join juice just keep
key kid king kitchen know lake lamp land last late laugh leaf learn leave left leg less letter light like
line lion list listen live long look loud love low lunch machine make man many map market may meet middle
milk minute mirror money monkey moon more morning most mother mountain mouse mouth move much music name near
neck need never new next nice night nine no nose not now number ocean of off office often old once one only
open or other our out outside over own page paint paper park part party pass people person photo piano
picture piece place plane plant play point pool present pretty quality question quick quiet rabbit rain read
ready real realistic right river road robot rock roof room rope run sad same sand say scene school sea
season seat second see seven shadow sharp she ship shirt shoe shop short show side silent silver simple sing
sister sit six sky sleep slow smile smooth snow so soft some something son song soon sound space speak speed
spring stand start station stay step still stone stop story street strong style sugar summer sun surface
sweet swim table take talk tall tea ten than that the their then there they thick thin thing think this
thousand three through time tired to today together tomorrow too top toward town toy train travel tree trip
truck true try turn twelve twenty two ugly uncle under until up very view village visit voice wait walk wall
want war warm wash watch water wave way wear weather week well wet what wheel when where which while who why
wide wild wind window winter with without woman wonderful word work world write year yes yesterday you young
zero blurry low-quality noisy distorted static watermark text subtitles worst deformed background foreground
synchronised mismatched silence pink black star violin colourful
"""
OTHER_WORDS = tuple(MEANINGLESS.split())


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
NOUNS = ("thing", "object", "shape", "something")

# At the end of a word: it speaks of the first or of the second object. Private characters of Unicode, which
# no caption has and no change of case alters.
MARKS = "\ue000\ue001"


def held_out(thing: Attributes | Object) -> bool:
    """Whether no training clip has an object with this motion and this sound: 4 pairs of 20."""
    return (thing.motion, thing.sound) in HELD_OUT


def paraphrase(rng: random.Random, *things: Attributes) -> str:
    """Say what is stated of one or two objects in one of many ways, word orders and letter cases.

    Words that mean nothing here come in between. The first object is spoken of first.
    """
    return owned(rng, *things)[0]


def owned(rng: random.Random, *things: Attributes) -> tuple[str, list[int]]:
    """A paraphrase, and by character which object it speaks of: 0, 1, or -1 for neither alone."""
    text = ""
    owners: list[int] = []
    # A run is a word with its mark, if any, or a single space.
    for run in re.findall(rf"[^{MARKS}\s]+[{MARKS}]?|\s", _marked(rng, *things)):
        said = run.rstrip(MARKS)
        text += said
        owners += [MARKS.find(run[-1])] * len(said)
    return text, owners


def _mark(text: str, thing: int) -> str:
    return re.sub(r"(?<=\S)(?=\s|$)", MARKS[thing], text)


def _marked(rng: random.Random, *things: Attributes) -> str:
    if all(None not in thing.values()[1:] for thing in things) and rng.random() < 0.4:
        templates = TEMPLATES if len(things) == 1 else CLAUSES
        joint = rng.choice(JOINTS)
        return joint.join(_mark(fill(rng.choice(templates), thing), i) for i, thing in enumerate(things))
    said = [_words(rng, thing) for thing in things]
    if len(said) == 2:
        text = _two(rng, said)
    elif rng.random() < 0.15:
        text = _mark(_tags(rng, said[0]), 0)
    else:
        text = _mark(_sentence(rng, said[0]), 0)
    return _case(rng, _sprinkle(rng, text))


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
    article = rng.choice(("a", "a", "a", "one", "the", "", "an old", "a shiny", "a single"))
    if colour and rng.random() < 0.15:
        name = f"{size} {noun}{rng.choice((' that is', ' coloured', ',', ' in'))} {colour}".strip()
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
    return rng.choice(SOUND_FRAMES).format(said["sound"]) if said["sound"] else ""


def _two(rng: random.Random, said: Sequence[dict[str, str]]) -> str:
    """One clause after the other, each with its sound, or both objects and then both sounds in that order."""
    seen = [_mark(_seen(rng, words), i) for i, words in enumerate(said)]
    sounds = [_mark(words["sound"], i) for i, words in enumerate(said)]
    if all(sounds) and rng.random() < 0.3:
        names = [
            _mark(f"{words['colour']} {words['shape'] or 'one'}".strip(), i) for i, words in enumerate(said)
        ]
        # The first two call the objects by their colours.
        pool = GROUPED if all(words["colour"] for words in said) else GROUPED[2:]
        text = rng.choice(pool).format(seen=seen, sound=sounds, name=names)
    elif all(sounds) and rng.random() < 0.1:
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
