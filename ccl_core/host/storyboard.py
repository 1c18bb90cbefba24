"""Texts that hold from a second of a clip on: written, read by the loop sampler, refused by the others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Any

# Entry of a CONDITIONING: the second of the clip from which its text holds.
FROM = "ccl_from"
LINE = re.compile(r"\s*(\d+(?:[.,]\d+)?)\s*s?\s*:\s*(.*)")

Conditioning = list[list[Any]]


def read_lines(text: str) -> list[tuple[Fraction, str]]:
    """Seconds and prompt of each line "seconds: prompt"; a line without seconds goes on with the one above.

    ValueError where nothing holds at 0, times do not rise, or a time has no prompt.
    """
    scenes: list[tuple[Fraction, list[str]]] = []
    for line in text.splitlines():
        found = LINE.fullmatch(line)
        if found:
            scenes.append((Fraction(found[1].replace(",", ".")), [found[2].strip()]))
        elif line.strip() and not scenes:
            raise ValueError(f'lines begins with {line!r}: write "seconds: prompt", the first from 0 on')
        elif line.strip():
            scenes[-1][1].append(line.strip())
    read = [(time, " ".join(filter(None, words))) for time, words in scenes]
    _check([time for time, _ in read])
    for time, prompt in read:
        if not prompt:
            raise ValueError(f"lines has no prompt at {float(time):g} s: write one behind the colon")
    return read


def _check(times: list[Fraction]) -> None:
    if not times or times[0] != 0:
        raise ValueError('lines has no prompt for the start: begin with "0: what is seen first"')
    for before, after in pairwise(times):
        if after <= before:
            raise ValueError(
                f"lines has {float(after):g} s behind {float(before):g} s: write the times in rising order"
            )


def timed(conditioning: Conditioning, seconds: Fraction) -> Conditioning:
    """The conditioning, holding from this second on."""
    return [[text, {**extra, FROM: float(seconds)}] for text, extra in conditioning]


def times_of(conditioning: Conditioning) -> list[Fraction]:
    """The seconds at which another text begins, in rising order."""
    return sorted({_time(extra) for _, extra in conditioning if FROM in extra})


def _time(extra: Mapping[str, Any]) -> Fraction:
    return Fraction(extra[FROM]).limit_denominator(1_000_000)


def at(conditioning: Conditioning, seconds: Fraction) -> Conditioning:
    """What holds at this second, without its time; texts without a time always hold."""
    begun = [time for time in times_of(conditioning) if time <= seconds]
    held = [entry for entry in conditioning if FROM not in entry[1] or begun[-1:] == [_time(entry[1])]]
    return [[text, _untimed(extra)] for text, extra in held]


def _untimed(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in extra.items() if name != FROM}


def refuse_storyboard(name: str, entries: Iterable[Mapping[str, Any]]) -> None:
    """ValueError for texts of several scenes, which a sampler of one pass would mix."""
    if any(FROM in entry for entry in entries):
        raise ValueError(
            f"{name} is a storyboard, whose texts hold one after the other: connect it to Loop Sampler "
            "(CCL), or write one prompt with Prompt for Video with Sound (CCL)"
        )
