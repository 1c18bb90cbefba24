"""One user text in the tags of each published model: speech and audio description of Ovi 1.0, Ovi 1.1 and MOVA."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

NO_SUBTITLES = "This video has no subtitles."
AUDIO_SHOWS = "The audio shows"

_TAG = r"(?i:<(?:S|E|AUDCAP|ENDAUDCAP)>)"
_CLOSING = {'"': '"', "\u201c": "\u201d", "\u201e": "\u201c\u201d", "\u00ab": "\u00bb"}
_QUOTES = ('""', "\u201c\u201d", "\u00ab\u00bb")
_MARK = re.compile(
    rf"(?P<speech>(?i:<S>)|[{''.join(_CLOSING)}])|(?P<stray>(?i:<E>)|[\u201d\u00bb])"
    r"|(?P<begin>(?i:<AUDCAP>))|(?P<end>(?i:<ENDAUDCAP>))"
    rf"|(?P<rest>\bAudio:|\b{AUDIO_SHOWS}\b)"
)
_SCENE_LEAD = re.compile(rf"(?:{re.escape(NO_SUBTITLES)}\s*)+", re.IGNORECASE)
_AUDIO_LEAD = re.compile(rf"(?:(?:Audio:|{AUDIO_SHOWS}\b)\s*)+", re.IGNORECASE)
_EXCERPT = 20


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


def read_prompt(text: str, audio: str = "") -> Prompt:
    """Take a text apart, whichever model's marks it has.

    Speech: <S>...<E> or double quotes. Audio description: the second argument, <AUDCAP>...<ENDAUDCAP>, everything
    behind "Audio:" or "The audio shows"; several are joined. ValueError shows the place of a mark without its partner.
    """
    scene, described = _read(text, "prompt", in_audio=False)
    _, added = _read(audio, "audio_description", in_audio=True)
    audio_spans = _tidy([*described, Span(" "), *added])
    return Prompt(_without(_SCENE_LEAD, _tidy(scene)), _without(_AUDIO_LEAD, audio_spans))


def write_prompt(prompt: Prompt, variant: str, no_subtitles: bool = True) -> str:
    """The text as the variant was trained on it; `no_subtitles` puts the sentence MOVA's prompts begin with in front.

    Whatever is written here, `read_prompt` reads back to the same prompt.
    """
    if variant not in VARIANTS:
        raise ValueError(f"the prompt variant is {variant!r}, known are {', '.join(VARIANTS)}")
    return VARIANTS[variant](prompt, no_subtitles)


def _ovi_tags(prompt: Prompt, _no_subtitles: bool) -> str:
    audio = _tagged(prompt.audio)
    return f"{_tagged(prompt.scene)} <AUDCAP>{audio}<ENDAUDCAP>".strip() if audio else _tagged(prompt.scene)


def _ovi_audio(prompt: Prompt, _no_subtitles: bool) -> str:
    audio = _tagged(prompt.audio)
    return f"{_tagged(prompt.scene)} Audio: {audio}".strip() if audio else _tagged(prompt.scene)


def _mova(prompt: Prompt, no_subtitles: bool) -> str:
    scene, audio = _quoted(prompt.scene), _quoted(prompt.audio)
    paragraphs = [NO_SUBTITLES if no_subtitles else "", scene, f"{AUDIO_SHOWS} {audio}" if audio else ""]
    return "\n\n".join(filter(None, paragraphs))


VARIANTS: dict[str, Callable[[Prompt, bool], str]] = {
    "Ovi 1.0 (720, 5 s)": _ovi_tags,
    "Ovi 1.1 (960)": _ovi_audio,
    "MOVA": _mova,
}


def _tagged(spans: tuple[Span, ...]) -> str:
    return "".join(f"<S>{span.text}<E>" if span.speech else span.text for span in spans)


def _quoted(spans: tuple[Span, ...]) -> str:
    return "".join(_in_quotes(span.text) if span.speech else span.text for span in spans)


def _in_quotes(words: str) -> str:
    """In the first kind of quotation marks that the words themselves do not use."""
    for opening, closing in _QUOTES:
        if opening not in words and closing not in words:
            return f"{opening}{words}{closing}"
    raise ValueError(f"the speech {words!r} holds quotation marks of every kind: leave one kind out")


def _read(text: str, source: str, in_audio: bool) -> tuple[list[Span], list[Span]]:
    """The spans of the scene and of the audio description, untidied."""
    scene: list[Span] = []
    audio: list[Span] = []
    tag: re.Match[str] | None = None
    rest, position = in_audio, 0
    while mark := _MARK.search(text, position):
        spans = audio if rest or tag else scene
        spans.append(Span(text[position : mark.start()]))
        position = mark.end()
        if mark["speech"]:
            closing = _closing(text, mark, source)
            spans.append(Span(text[mark.end() : closing.start()].strip(), speech=True))
            position = closing.end()
        elif mark["rest"]:
            if spans is audio:
                spans.append(Span(mark[0]))
            rest = True
        elif mark["begin"] and tag:
            raise _fault(text, mark, source, "stands inside another <AUDCAP>")
        elif mark["stray"] or (mark["end"] and not tag):
            raise _fault(text, mark, source, "closes nothing")
        else:
            tag = mark if mark["begin"] else None
            spans.append(Span(" "))
    if tag:
        raise _fault(text, tag, source, "has no <ENDAUDCAP> behind it")
    (audio if rest else scene).append(Span(text[position:]))
    return scene, audio


def _closing(text: str, opening: re.Match[str], source: str) -> re.Match[str]:
    """The end of a speech; any other tag, or the same mark opening again, means that it was never closed."""
    quotes = _CLOSING.get(opening[0])
    pattern = _TAG if quotes is None else rf"[{opening[0]}{quotes}]|{_TAG}"
    wanted = "<E>" if quotes is None else quotes
    found = re.compile(pattern).search(text, opening.end())
    if found is None or found[0].upper() not in wanted:
        raise _fault(text, opening, source, f"has no closing {' or '.join([wanted] if quotes is None else wanted)}")
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
