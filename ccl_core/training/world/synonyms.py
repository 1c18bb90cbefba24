"""The words for what the procedural world has, and everyday words that mean nothing in it."""

from .sounds import SILENT

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
    SILENT: ("silently", "silent", "without a sound", "without sound", "no sound", "soundless", "in silence"),
}
WORDS = {
    "size": SIZE_WORDS,
    "colour": COLOUR_WORDS,
    "shape": SHAPE_WORDS,
    "motion": MOTION_WORDS,
    "sound": SOUND_WORDS,
}
# A sound that nothing in the picture makes, and the noise under a clip.
OFFSCREEN_WORDS = (
    "{} off screen",
    "a {} off screen",
    "off-screen {}",
    "an off-screen {}",
    "offscreen {}",
    "a {} is heard off screen",
    "we hear a {} off screen",
    "a {} from off screen",
    "the sound of a {} from off screen",
    "an unseen {}",
)
BED_WORDS = (
    "over soft noise",
    "soft noise",
    "with soft noise",
    "noise",
    "background noise",
    "with background noise",
    "with low noise in the background",
    "a low rumble",
    "rumbling noise",
)

# Everyday words, which must not change what the encoder reads.
MEANINGLESS = """
about above across action after against age air all almost alone along already also always and animal
another answer any apple area arm around art as at away baby back bad bag bank base bathroom beach
beautiful because bed before begin behind below beside best better between bird bit boat body book both
bottle bottom boy branch bread bridge bright bring brother brown build building bus but button buy by cake
call camera can car card care carry cartoon case cat catch centre chair change child cinematic city class
clean clear climb clock close cloud coat coffee cold colour come computer cook cool corner count country
cover cow cup cut dance dark daughter day deep desert desk detail dinner do dog door down draw dream dress
drink drive dry during each ear early earth easy eat edge egg eight empty end enough evening every eye face
family far farm fast father feel few field film find fine finger fire first fish five flat floor flower fly
follow food foot forest forward four free friend from fruit full fun game garden get giant girl give glass
go good grass grey ground group grow guitar hair half hall happy hard hat have head hear heart heavy help
her here high hill him his hold home horse hot hour house how hundred ice idea if inside into island its
join juice just keep key kid king kitchen know lake lamp land last late laugh leaf learn leave left leg
less letter light like line lion list listen live long look loud love lunch machine make man many map
market may meet middle milk minute mirror money monkey moon more morning most mother mountain mouse mouth
move much music name near neck need never new next nice night nine nose not now number ocean of office
often old once one only open or other our out outside over own page paint paper park part party pass people
person photo piano picture piece place plane plant play point pool present pretty quality question quick
rabbit rain read ready real realistic right river road robot rock roof room rope run sad same sand say
scene school sea season seat second see seven shadow sharp she ship shirt shoe shop short show side silver
simple sing sister sit six sky sleep slow smile smooth snow so soft some something son song soon space
speak speed spring stand start station stay step still stone stop story street strong style sugar summer
sun surface sweet swim table take talk tall tea ten than that the their then there they thick thin thing
think this thousand three through time tired to today together tomorrow too top toward town toy train
travel tree trip truck true try turn twelve twenty two ugly uncle under until up very view village visit
voice wait walk wall want war warm wash watch water wave way wear weather week well wet what wheel when
where which while who why wide wild wind window winter with woman wonderful word work world write year yes
yesterday you young zero blurry low-quality noisy distorted static watermark text subtitles worst deformed
background foreground synchronised mismatched pink black star violin colourful
"""
OTHER_WORDS = tuple(MEANINGLESS.split())
