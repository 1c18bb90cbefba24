"""One user text in the marks of each family: what is said, and how the sound is described."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from .families import FAMILIES
from .families.base import Family, PromptStyle

# Closing marks of each opening one: "so", English and French quotes; the German low mark ends in either.
_CLOSING = {'"': '"', "\u201c": "\u201d", "\u201e": "\u201c\u201d", "\u00ab": "\u00bb"}
_QUOTES = ('""', "\u201c\u201d", "\u00ab\u00bb")
_EXCERPT = 20  # characters to either side of a fault in its message


@dataclass(frozen=True)
class Span:
    """A piece of a prompt: prose, or words that somebody says."""

    text: str
    speech: bool = False


@dataclass(frozen=True)
class Prompt:
    """A prompt without the marks of any model."""

    scene: tuple[Span, ...]
    audio: tuple[Span, ...]


@dataclass(frozen=True)
class Apart:
    """Texts for a model whose audio stream reads words alone: the video's caption, and the words.

    unsaid, unheard: quoted words and a description of the sound that neither of the two holds.
    """

    caption: str
    words: str
    unsaid: str = ""
    unheard: str = ""


@dataclass(frozen=True)
class Marks:
    """The marks of all families together."""

    # The closing tag of each opening one, in capitals.
    partners: dict[str, str]
    # With a group for each meaning: speech, stray, begin, end, rest.
    any_mark: re.Pattern[str]
    # Tags of speech and of descriptions.
    any_tag: str
    # Tags that stand in the prose of some styles.
    inline: re.Pattern[str]
    # Words in front of the scene or of a description that only mark what it is.
    scene_lead: re.Pattern[str]
    audio_lead: re.Pattern[str]


# For a family trained on texts without marks: the sound behind the scene, as in the captions of ccl-tiny.
PLAIN = PromptStyle("", speech=None, audio=("", ""), gap=", ")


def styles() -> dict[str, PromptStyle]:
    """The prompt styles of all families by their titles."""
    return {style.title: style for family in FAMILIES.values() for style in family.prompts}


def read_prompt(text: str, audio: str = "") -> Prompt:
    """Take a text apart, whichever family's marks it has.

    Speech stands between a family's tags (<S>...<E>) or in double quotes. The audio description is the second
    argument, what stands between a family's tags (<AUDCAP>...<ENDAUDCAP>), and everything behind its words
    ("Audio:", "The audio shows"); several are joined. ValueError shows the place of a mark without its
    partner.
    """
    marks = _marks(tuple(styles().values()))
    scene, described = _read(text, "prompt", marks, in_audio=False)
    _, added = _read(audio, "sound", marks, in_audio=True)
    audio_spans = _tidy([*described, Span(" "), *added])
    return Prompt(_without(marks.scene_lead, _tidy(scene)), _without(marks.audio_lead, audio_spans))


def read_speech(text: str) -> tuple[Span, ...]:
    """What is said: each line as a whole, or what its marks of speech enclose (He whispers: "Run.")."""
    marks = _marks(tuple(styles().values()))
    spans: list[Span] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        read, _ = _read(line, "speech", marks, in_audio=False)
        marked = any(span.speech for span in read)
        spans += read if marked else [Span(line, speech=True)]
        spans.append(Span(" "))
    return _tidy(spans)


def style_named(title: str) -> PromptStyle:
    known = styles()
    if title not in known:
        raise ValueError(f"the prompt variant is {title!r}, known are {', '.join(known)}")
    return known[title]


def write_prompt(prompt: Prompt, style: PromptStyle, lead: bool = True) -> str:
    """The text as models of this style were trained on it. lead: with the sentence that they begin with.

    Whatever is written here in a style with marks, `read_prompt` reads back to the same prompt, but for tags
    in the prose.
    """
    scene = _written(prompt.scene, style)
    audio = _written(prompt.audio, style)
    # A description with tags of its own says what it is.
    marked = audio and not _marks(tuple(styles().values())).inline.search(audio)
    described = f"{style.audio[0]}{audio}{style.audio[1]}" if marked else audio
    parts = [described, scene] if style.audio_first else [scene, described]
    return style.gap.join(filter(None, [style.lead if lead else "", *parts]))


def write_texts(
    family: Family, style: PromptStyle, scene: str, sound: str = "", speech: str = ""
) -> tuple[str, str | None]:
    """The text of the video and, for a family whose audio stream reads its own, that of the audio."""
    read = read_prompt(scene, sound)
    said = read_speech(speech)
    seen = _tidy([*read.scene, Span(" "), *said])
    if not family.audio_text:
        return write_prompt(Prompt(seen, read.audio), style), None
    heard = Prompt(_speech_of(seen), read.audio)
    return write_prompt(Prompt(seen, ()), style), write_prompt(heard, style, lead=False)


def write_apart(style: PromptStyle, scene: str, sound: str = "", speech: str = "") -> Apart:
    """The caption without words, and the words: those of the speech, else what the scene has in quotes."""
    read = read_prompt(scene, sound)
    typed = read_speech(speech)
    quoted, said = _words(read.scene), _words(typed)
    prose = _tidy([span for span in (*read.scene, Span(" "), *typed) if not span.speech])
    caption = write_prompt(Prompt(prose, ()), style)
    return Apart(caption, said or quoted, quoted if said else "", _written(read.audio, style))


def _words(spans: tuple[Span, ...]) -> str:
    return " ".join(span.text for span in spans if span.speech)


def _speech_of(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    said: list[Span] = []
    for span in spans:
        if span.speech:
            said += [span, Span(" ")]
    return _tidy(said)


def _written(spans: tuple[Span, ...], style: PromptStyle) -> str:
    inline = _marks(tuple(styles().values())).inline

    def prose(text: str) -> str:
        return inline.sub(lambda tag: tag[0] if tag[1].lower() in style.inline else "", text)

    return "".join(_said(span.text, style) if span.speech else prose(span.text) for span in spans)


def _said(words: str, style: PromptStyle) -> str:
    if style.speech is None:
        return _in_quotes(words)
    opening, closing = style.speech
    return f"{opening}{words}{closing}"


@cache
def _marks(known: tuple[PromptStyle, ...]) -> Marks:
    speech = {style.speech[0]: style.speech[1] for style in known if style.speech}
    sections = {style.audio[0]: style.audio[1] for style in known if style.audio[1]}
    words = [style.audio[0].strip() for style in known if not style.audio[1]]
    quotes = "".join(_CLOSING)
    any_mark = re.compile(
        rf"(?P<speech>{_any_of(speech)}|[{quotes}])|(?P<stray>{_any_of(speech.values())}|[\u201d\u00bb])"
        rf"|(?P<begin>{_any_of(sections)})|(?P<end>{_any_of(sections.values())})"
        rf"|(?P<rest>{_any_words(words)})"
    )
    leads = [re.escape(style.lead) for style in known if style.lead]
    # A full stop that a gap put between description and scene.
    leads += [f"{re.escape(style.gap.strip())}(?=\\s)" for style in known if style.gap.strip()]
    inline = {tag for style in known for tag in style.inline}
    return Marks(
        {opening.upper(): closing.upper() for opening, closing in (speech | sections).items()},
        any_mark,
        _any_of([*speech, *speech.values(), *sections, *sections.values()]),
        re.compile(rf"</?({'|'.join(sorted(inline))})>", re.IGNORECASE),
        re.compile(rf"(?:(?:{'|'.join(leads)})\s*)+", re.IGNORECASE),
        re.compile(rf"(?:(?:{_any_words(words)})\s*)+", re.IGNORECASE),
    )


def _any_of(tags: Iterable[str]) -> str:
    return f"(?i:{'|'.join(map(re.escape, tags))})"


def _any_words(words: Iterable[str]) -> str:
    """Whole words: "Audio:" is one, the end of "Radio audio:" is not."""
    return "|".join(rf"\b{re.escape(word)}" + (r"\b" if word[-1].isalnum() else "") for word in words)


def _in_quotes(words: str) -> str:
    """In the first kind of quotation marks that the words themselves do not use."""
    for opening, closing in _QUOTES:
        if opening not in words and closing not in words:
            return f"{opening}{words}{closing}"
    raise ValueError(f"the speech {words!r} holds quotation marks of every kind: leave one kind out")


def _read(text: str, source: str, marks: Marks, in_audio: bool) -> tuple[list[Span], list[Span]]:
    """The spans of the scene and of the audio description, untidied."""
    scene: list[Span] = []
    audio: list[Span] = []
    tag: re.Match[str] | None = None
    rest = in_audio
    position = 0
    while mark := marks.any_mark.search(text, position):
        spans = audio if rest or tag else scene
        spans.append(Span(text[position : mark.start()]))
        position = mark.end()
        if mark["speech"]:
            closing = _closing(text, mark, source, marks)
            spans.append(Span(text[mark.end() : closing.start()].strip(), speech=True))
            position = closing.end()
        elif mark["rest"]:
            if spans is audio:
                spans.append(Span(mark[0]))
            # A description between tags ends with them.
            rest = rest or not tag
        elif mark["begin"] and tag:
            raise _fault(text, mark, source, f"stands inside another {tag[0]}")
        elif mark["end"] and _stands_in_prose(mark, tag, marks):
            spans.append(Span(mark[0]))
        elif mark["stray"] or (mark["end"] and not tag):
            raise _fault(text, mark, source, "closes nothing")
        else:
            tag = mark if mark["begin"] else None
            spans.append(Span(" "))
    if tag:
        raise _fault(text, tag, source, f"has no {marks.partners[tag[0].upper()]} behind it")
    (audio if rest else scene).append(Span(text[position:]))
    return scene, audio


def _stands_in_prose(end: re.Match[str], tag: re.Match[str] | None, marks: Marks) -> bool:
    """Whether a closing tag is one of the prose, and does not close the description that is open."""
    if not marks.inline.fullmatch(end[0]):
        return False
    return tag is None or marks.partners[tag[0].upper()] != end[0].upper()


def _closing(text: str, opening: re.Match[str], source: str, marks: Marks) -> re.Match[str]:
    """The end of a speech; any other tag, or the same mark opening again, means that it was never closed."""
    quotes = _CLOSING.get(opening[0])
    pattern = marks.any_tag if quotes is None else rf"[{opening[0]}{quotes}]|{marks.any_tag}"
    wanted = [marks.partners[opening[0].upper()]] if quotes is None else list(quotes)
    found = re.compile(pattern).search(text, opening.end())
    if found is None or found[0].upper() not in wanted:
        raise _fault(text, opening, source, f"has no closing {' or '.join(wanted)}")
    return found


def _fault(text: str, mark: re.Match[str], source: str, what: str) -> ValueError:
    line = text.count("\n", 0, mark.start()) + 1
    column = mark.start() - text.rfind("\n", 0, mark.start())
    before = text[max(0, mark.start() - _EXCERPT) : mark.start()]
    after = text[mark.end() : mark.end() + _EXCERPT]
    return ValueError(
        f"{source}, line {line}, column {column}: {mark[0]} {what}, here: {before}>>>{mark[0]}<<<{after}. "
        "Speech stands in double quotes or between <S> and <E>, the audio description between <AUDCAP> and "
        "<ENDAUDCAP>: complete the pair, or remove the mark"
    )


def _tidy(spans: list[Span]) -> tuple[Span, ...]:
    """Neighbouring prose joined, its runs of blanks shortened, and no space around the whole."""
    joined: list[Span] = []
    for span in spans:
        if joined and not span.speech and not joined[-1].speech:
            span = Span(joined.pop().text + span.text)
        joined.append(span)
    joined = [span if span.speech else Span(re.sub(r"[ \t]+", " ", span.text)) for span in joined]
    if joined and not joined[0].speech:
        joined[0] = Span(joined[0].text.lstrip())
    if joined and not joined[-1].speech:
        joined[-1] = Span(joined[-1].text.rstrip())
    return tuple(span for span in joined if span.text or span.speech)


def _without(lead: re.Pattern[str], spans: tuple[Span, ...]) -> tuple[Span, ...]:
    """The spans without the words at their start that only mark what they are."""
    found = lead.match(spans[0].text) if spans and not spans[0].speech else None
    return _tidy([Span(spans[0].text[found.end() :]), *spans[1:]]) if found else spans
