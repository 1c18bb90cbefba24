"""Many ways to say what happens in a clip of the procedural world: the text the tiny encoder learns to read."""

import random
from dataclasses import dataclass, fields

from .world import COLOURS, GERUNDS, MOTIONS, SHAPES, SOUNDS, TEMPLATES

SIZE_WORDS = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "green": ("green", "emerald", "lime"),
    "blue": ("blue", "azure", "navy blue"),
    "yellow": ("yellow", "golden", "lemon yellow"),
    "purple": ("purple", "violet", "lilac"),
    "white": ("white", "snow white", "pale white"),
}
SHAPE_WORDS = {
    "ball": ("ball", "sphere", "round ball", "circle", "disc"),
    "square": ("square", "box", "block", "cube", "rectangle"),
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
}
WORDS = {"size": SIZE_WORDS, "colour": COLOUR_WORDS, "shape": SHAPE_WORDS, "motion": MOTION_WORDS, "sound": SOUND_WORDS}

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
MEANINGLESS = """
about above across action after against age air all almost alone along already also always and animal another answer
any apple area arm around art as at away baby back bad bag bank base bathroom beach beautiful because bed before begin
behind below beside best better between bird bit boat body book both bottle bottom boy branch bread bridge bright
bring brother brown build building bus but button buy by cake call camera can car card care carry cartoon case cat
catch centre chair change child cinematic city class clean clear climb clock close cloud coat coffee cold colour come
computer cook cool corner count country cover cow cup cut dance dark daughter day deep desert desk detail dinner do
dog door down draw dream dress drink drive dry during each ear early earth easy eat edge egg eight empty end enough
evening every eye face family far farm fast father feel few field film find fine finger fire first fish five flat
floor flower fly follow food foot forest forward four free friend from fruit full fun game garden get giant girl give
glass go good grass grey ground group grow guitar hair half hall happy hard hat have head hear heart heavy help her
here high hill him his hold home horse hot hour house how hundred ice idea if inside into island its join juice just
keep key kid king kitchen know lake lamp land last late laugh leaf learn leave left leg less letter light like line
lion list listen live long look loud love low lunch machine make man many map market may meet middle milk minute
mirror money monkey moon more morning most mother mountain mouse mouth move much music name near neck need never new
next nice night nine no nose not now number ocean of off office often old once one only open or other our out outside
over own page paint paper park part party pass people person photo piano picture piece place plane plant play point
pool present pretty quality question quick quiet rabbit rain read ready real realistic right river road robot rock
roof room rope run sad same sand say scene school sea season seat second see seven shadow sharp she ship shirt shoe
shop short show side silent silver simple sing sister sit six sky sleep slow smile smooth snow so soft some something
son song soon sound space speak speed spring stand start station stay step still stone stop story street strong style
sugar summer sun surface sweet swim table take talk tall tea ten than that the their then there they thick thin thing
think this thousand three through time tired to today together tomorrow too top toward town toy train travel tree trip
truck true try turn twelve twenty two ugly uncle under until up very view village visit voice wait walk wall want war
warm wash watch water wave way wear weather week well wet what wheel when where which while who why wide wild wind
window winter with without woman wonderful word work world write year yes yesterday you young zero blurry low-quality
noisy distorted static watermark text subtitles worst deformed background foreground synchronised mismatched silence
pink orange black triangle star violin colourful
"""
OTHER_WORDS = tuple(MEANINGLESS.split())


@dataclass(frozen=True)
class Attributes:
    """What a caption states; None is what it leaves open."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None
    motion: str | None = None
    sound: str | None = None

    def values(self) -> tuple[str | None, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))


def held_out(attributes: Attributes) -> bool:
    """Whether this combination is never trained on: one colour for each of shape, motion and sound, 32 of 192."""
    values = attributes.values()[1:]  # the size of an object is often left open
    if None in values:
        return False
    choices = zip(values, (COLOURS, SHAPES, MOTIONS, SOUNDS), (1, 3, 1, 2), strict=True)
    return sum(step * options.index(value) for value, options, step in choices) % len(COLOURS) == 0


def paraphrase(rng: random.Random, attributes: Attributes) -> str:
    """Say the attributes in one of many ways, in any word order and letter case, with words that mean nothing here."""
    if None not in attributes.values()[1:] and rng.random() < 0.4:
        return _as_world(rng, attributes)
    said = [_say(rng, field.name, value) for field, value in zip(fields(attributes), attributes.values(), strict=True)]
    text = _tags(rng, [word for word in said if word]) if rng.random() < 0.15 else _sentence(rng, *said)
    return _case(rng, _sprinkle(rng, text))


def _as_world(rng: random.Random, attributes: Attributes) -> str:
    size, colour, shape, motion, sound = attributes.values()
    size = f"{size} " if size else ""
    words = {"colour": colour, "shape": shape, "motion": motion, "sound": sound, "gerund": GERUNDS[motion]}
    return rng.choice(TEMPLATES).format(size=size, **words)


def _say(rng: random.Random, kind: str, value: str | None) -> str:
    if value is None:
        return ""
    words = WORDS[kind][value]
    return words[0] if rng.random() < 0.5 else rng.choice(words)


def _tags(rng: random.Random, words: list[str]) -> str:
    rng.shuffle(words)
    return rng.choice((", ", " ", ",", "; ")).join(words)


def _sentence(rng: random.Random, size: str, colour: str, shape: str, motion: str, sound: str) -> str:
    article = rng.choice(("a", "a", "a", "one", "the", "", "an old", "a shiny", "a single"))
    noun = shape or (rng.choice(("thing", "object", "shape", "something")) if size or colour or motion else "")
    if colour and rng.random() < 0.15:
        subject = f"{article} {size} {noun}{rng.choice((' that is', ' coloured', ',', ' in'))} {colour}"
    else:
        subject = f"{article} {size} {colour} {noun}"
    seen = f"{rng.choice(OPENINGS)} {subject} {motion} {rng.choice(CLOSINGS)}" if noun else ""
    heard = rng.choice(SOUND_FRAMES).format(sound) if sound else ""
    parts = [part for part in (seen, heard) if part.strip()]
    if rng.random() < 0.25:
        parts.reverse()
    return rng.choice((", ", ", ", " ", ". ", "; ", " - ")).join(parts)


def _sprinkle(rng: random.Random, text: str) -> str:
    words = text.split()
    while rng.random() < 0.2:
        words.insert(rng.randint(0, len(words)), rng.choice(OTHER_WORDS))
    return " ".join(words).replace(" ,", ",") + rng.choice(("", "", "", ".", "!"))


def _case(rng: random.Random, text: str) -> str:
    return rng.choice((str, str, str.lower, str.capitalize, str.upper, str.title))(text)
