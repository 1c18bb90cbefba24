"""Prompt tags: each form of speech and audio description into each other, nothing lost, every broken pair
shown.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.prompts import (
    PLAIN,
    Apart,
    Prompt,
    Span,
    read_prompt,
    read_speech,
    style_named,
    styles,
    write_apart,
    write_prompt,
    write_texts,
)

OVI_1_1, OVI_1_0, MOVA, PRISM = "Ovi 1.1 (960)", "Ovi 1.0 (720, 5 s)", "MOVA", "Prism"
NO_SUBTITLES = "This video has no subtitles."
SCENE, AUDIO = 'A woman waves: "Hello there." Rain falls.', "Warm voice, rain on glass"
WRITTEN = {
    OVI_1_0: f"A woman waves: <S>Hello there.<E> Rain falls. <AUDCAP>{AUDIO}<ENDAUDCAP>",
    OVI_1_1: f"A woman waves: <S>Hello there.<E> Rain falls. Audio: {AUDIO}",
    MOVA: f"{NO_SUBTITLES}\n\n{SCENE}\n\nThe audio shows {AUDIO}",
    PRISM: f"Continuous <sfx>{AUDIO}</sfx>. A woman waves: <speech>Hello there.</speech> Rain falls.",
}


def write(prompt: Prompt, title: str, lead: bool = True) -> str:
    return write_prompt(prompt, style_named(title), lead)


@pytest.mark.parametrize("variant", styles())
def test_text_and_description_are_written_as_published(variant: str) -> None:
    assert write(read_prompt(SCENE, AUDIO), variant) == WRITTEN[variant]


@pytest.mark.parametrize("wanted", styles())
@pytest.mark.parametrize("given", styles())
def test_each_form_turns_into_each_other(given: str, wanted: str) -> None:
    assert write(read_prompt(WRITTEN[given]), wanted) == WRITTEN[wanted]


@pytest.mark.parametrize(
    "said",
    [
        '"Hi."',
        "\u201cHi.\u201d",
        "\u201eHi.\u201c",
        "\u201eHi.\u201d",
        "\u00abHi.\u00bb",
        "<S>Hi.<E>",
        "<s> Hi. <e>",
    ],
)
def test_speech_in_any_marks_is_the_same(said: str) -> None:
    assert read_prompt(f"He says {said}") == Prompt((Span("He says "), Span("Hi.", speech=True)), ())


@pytest.mark.parametrize(
    ("text", "audio"),
    [
        ("A dog. <AUDCAP>Rain<ENDAUDCAP>", ""),
        ("<audcap>Rain<endaudcap> A dog.", ""),
        ("A dog.", "Rain"),
        ("A dog.", "<AUDCAP>Rain<ENDAUDCAP>"),
        ("A dog.", "audio: Rain"),
        ("A dog. Audio: Rain", "  "),
        ("A dog.\nAudio:\nRain", ""),
        ("A dog.\n\nThe audio shows Rain", ""),
        ("A dog.", "The audio shows Rain"),
    ],
)
def test_description_in_any_place_is_the_same(text: str, audio: str) -> None:
    assert read_prompt(text, audio) == Prompt((Span("A dog."),), (Span("Rain"),))


def test_descriptions_of_text_and_field_are_joined() -> None:
    prompt = read_prompt("A dog <AUDCAP>Rain,<ENDAUDCAP> runs. Audio: wind,", "a bell")
    assert prompt == Prompt((Span("A dog runs."),), (Span("Rain, wind, a bell"),))


def test_speech_in_a_description_is_speech() -> None:
    prompt = read_prompt("A dog.", 'A voice: "Sit."')
    assert write(prompt, OVI_1_0) == "A dog. <AUDCAP>A voice: <S>Sit.<E><ENDAUDCAP>"


def test_what_is_said_is_never_read_as_a_mark() -> None:
    prompt = read_prompt('"Audio: on. The audio shows it."')
    assert prompt == Prompt((Span("Audio: on. The audio shows it.", speech=True),), ())


def test_quotes_inside_speech_survive() -> None:
    prompt = read_prompt('<S>She said "no"<E>')
    assert write(prompt, MOVA, lead=False) == '\u201cShe said "no"\u201d'
    assert read_prompt(write(prompt, MOVA)) == prompt


@pytest.mark.parametrize("variant", styles())
def test_plain_prose_stays_as_it_is(variant: str) -> None:
    text = "A 12' pole, it's tall.\n\nSecond paragraph: audio equipment <3."
    assert write(read_prompt(text), variant, lead=False) == text


TAGGED = "Dawn. A door <sfx>creaks</sfx>, <MUSIC>a piano</MUSIC> begins. <sfx>Steps</sfx>. He stops."


def test_tags_of_the_prose_stay_at_their_place_where_they_belong() -> None:
    assert write(read_prompt(TAGGED), PRISM) == TAGGED
    plain = "Dawn. A door creaks, a piano begins. Steps. He stops."
    assert write(read_prompt(TAGGED), OVI_1_1) == plain
    assert write(read_prompt("", f"{TAGGED}"), OVI_1_0) == f"<AUDCAP>{plain}<ENDAUDCAP>"


def test_a_description_with_tags_of_its_own_gets_no_others() -> None:
    assert write(read_prompt("A dog.", "<music>A piano.</music>"), PRISM) == "<music>A piano.</music>. A dog."
    inside = read_prompt("<AUDCAP>a <sfx>bell</sfx> rings<ENDAUDCAP> A dog.")
    assert write(inside, PRISM) == "a <sfx>bell</sfx> rings. A dog."


@pytest.mark.parametrize("variant", styles())
def test_nothing_gives_nothing(variant: str) -> None:
    assert write(read_prompt(" \n", ""), variant, lead=False) == ""


def test_subtitles_sentence_is_written_once() -> None:
    twice = write(read_prompt(write(read_prompt("A dog."), MOVA)), MOVA)
    assert twice == f"{NO_SUBTITLES}\n\nA dog."


PIECES = [
    "A dog",
    "runs.",
    "<",
    "Audio",
    ":",
    "\n\n",
    "  ",
    "\t",
    "audio: x",
    "Audio: rain",
    "The audio shows birds",
]
PIECES += [
    '"Hi."',
    "\u201cYes, \u00abyes\u00bb.\u201d",
    '<S>A "b" c<E>',
    "<S><E>",
    "<AUDCAP>wind<ENDAUDCAP>",
    "Continuous <sfx>hum</sfx>",
    NO_SUBTITLES,
]


def test_a_round_trip_through_every_variant_loses_nothing() -> None:
    draw = random.Random(7)
    for _ in range(3000):
        text = "".join(draw.choice(PIECES) + draw.choice(["", " "]) for _ in range(draw.randrange(9)))
        audio = " ".join(draw.choice(PIECES) for _ in range(draw.randrange(4)))
        prompt = read_prompt(text, audio)
        for variant in styles():
            for no_subtitles in (True, False):
                assert read_prompt(write(prompt, variant, no_subtitles)) == prompt, (text, audio, variant)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('A man says "hi and goes', "line 1, column 12", 'says >>>"<<<hi and'),
        ("One.\nTwo <S>hi", "line 2, column 5", "Two >>><S><<<hi"),
        ("hi<E> there", "line 1, column 3", "closes nothing"),
        ("hi\u201d there", "line 1, column 3", "closes nothing"),
        ("\u201chi \u201cthere\u201d", "line 1, column 1", "\u201c has no closing \u201d"),
        ('"hi <S>there<E>"', "line 1, column 1", '" has no closing'),
        ("<S>hi <AUDCAP>x<ENDAUDCAP><E>", "line 1, column 1", "no closing <E>"),
        ("A <AUDCAP>x", "line 1, column 3", "no <ENDAUDCAP>"),
        ("A x<ENDAUDCAP>", "line 1, column 4", "closes nothing"),
        ("<AUDCAP>a<AUDCAP>b<ENDAUDCAP>", "line 1, column 10", "inside another"),
        ("<AUDCAP>a<E><ENDAUDCAP>", "line 1, column 10", "closes nothing"),
    ],
)
def test_a_broken_pair_is_shown_where_it_is(text: str, place: str, words: str) -> None:
    for arguments, source in (((text, ""), "prompt"), (("", text), "sound")):
        with pytest.raises(ValueError, match="complete the pair, or remove") as error:
            read_prompt(*arguments)
        assert str(error.value).startswith(f"{source}, {place}: ")
        assert words in str(error.value)


def test_speech_with_every_kind_of_quotes_is_refused_for_quotes() -> None:
    prompt = read_prompt('<S>"a" \u201cb\u201d \u00abc\u00bb<E>')
    assert "\u00abc\u00bb" in write(prompt, OVI_1_0)
    with pytest.raises(ValueError, match="quotation marks of every kind"):
        write(prompt, MOVA)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'Ovi 3'.*known are Ovi 1"):
        write(read_prompt("a"), "Ovi 3")


def test_each_line_of_speech_is_said_as_a_whole() -> None:
    said = read_speech("Good morning.\n\n  Come in.  ")
    assert said == (Span("Good morning.", speech=True), Span(" "), Span("Come in.", speech=True))


@pytest.mark.parametrize("line", ['He whispers: "Run."', "He whispers: <S>Run.<E>"])
def test_a_line_of_speech_may_say_how(line: str) -> None:
    assert read_speech(line) == (Span("He whispers: "), Span("Run.", speech=True))


def test_speech_without_an_end_is_shown() -> None:
    with pytest.raises(ValueError, match="speech, line 1, column 1"):
        read_speech('"Good morning.')


SCENE_ONLY, SOUND, SPEECH = "A woman waves.", "rain on glass", "Hello there."
TEXTS = {
    "ccl": 'A woman waves. "Hello there.", rain on glass',
    "ovi": "A woman waves. <S>Hello there.<E> Audio: rain on glass",
    "mova": f'{NO_SUBTITLES}\n\nA woman waves. "Hello there."\n\nThe audio shows rain on glass',
    "prism": "Continuous <sfx>rain on glass</sfx>. A woman waves. <speech>Hello there.</speech>",
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_of_each_family(name: str) -> None:
    family = FAMILIES[name]
    style = family.prompts[0] if family.prompts else PLAIN
    assert write_texts(family, style, SCENE_ONLY, SOUND, SPEECH) == (TEXTS[name], None)


def test_a_family_with_a_text_per_stream_gets_what_is_said_and_heard_apart() -> None:
    family = replace(FAMILIES["ccl"], audio_text=True)
    seen, heard = write_texts(family, PLAIN, SCENE_ONLY, SOUND, SPEECH)
    assert (seen, heard) == ('A woman waves. "Hello there."', '"Hello there.", rain on glass')


def test_a_caption_of_the_tiny_world_is_scene_and_sound() -> None:
    assert write_texts(FAMILIES["ccl"], PLAIN, "a red ball bounces", "drum") == (
        "a red ball bounces, drum",
        None,
    )


@pytest.mark.parametrize(
    ("scene", "speech", "wanted"),
    [
        ("A face.", " kama sulo \n\nmi ", Apart("A face.", "kama sulo mi")),
        ('She says "kama" and\tnods.', "", Apart("She says and nods.", "kama")),
        ("<S>kama<E> <S>sulo<E>", "", Apart("", "kama sulo")),
        ("A face.", 'He whispers: "kama"', Apart("A face. He whispers:", "kama")),
        ('She says "kama".', "sulo", Apart("She says .", "sulo", unsaid="kama")),
        ("A face. Audio: rain", "", Apart("A face.", "", unheard="rain")),
    ],
)
def test_words_of_a_stream_that_reads_nothing_else_are_not_in_the_caption(
    scene: str, speech: str, wanted: Apart
) -> None:
    assert write_apart(PLAIN, scene, "", speech) == wanted


def test_a_caption_without_words_is_in_the_chosen_style() -> None:
    assert write_apart(style_named(MOVA), 'A face. "kama"', "rain <sfx>drip</sfx>") == Apart(
        f"{NO_SUBTITLES}\n\nA face.", "kama", unheard="rain drip"
    )
