"""Captions say what is there, in English, and what they say can be read back."""

import re
from itertools import product

import numpy as np
import pytest

from ccl_pack.ccl_core.training.world.clip import Ambience, Attributes
from ccl_pack.ccl_core.training.world.scene import sample_scene
from ccl_pack.ccl_core.training.world.shares import HARD, World
from ccl_pack.ccl_core.training.world.sounds import SILENT, SOUNDS
from ccl_pack.ccl_core.training.world.wording import (
    BED,
    CLAUSES,
    OFFSCREEN,
    SILENT_TEMPLATES,
    TEMPLATES,
    read_ambience,
    read_caption,
    say,
)

RED = Attributes(None, "red", "ball", "bounces", "drum")
BLUE = Attributes(None, "blue", "square", "slides", "bell")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize("objects", [1, 2])
def test_captions_round_trip(rng: np.random.Generator, objects: int) -> None:
    everywhere = World(silent=0.5, silent_alone=0.5, offscreen=0.8, bed=0.6)
    for _ in range(500):
        scene = sample_scene(rng, objects=objects, world=everywhere)
        assert read_caption(scene.caption) == scene.words, scene.caption
        assert read_ambience(scene.caption) == scene.ambience, scene.caption
        assert not re.search(r"\ba [aeo]|\ban [^aeo]|  | ,|{", scene.caption), scene.caption


def test_a_caption_is_read_object_by_object() -> None:
    assert read_caption("A red ball bounces, drum.") == (RED,)
    assert read_caption("a red ball bounces, drum, and a blue square slides, bell") == (RED, BLUE)
    assert read_caption("something else") == ()
    assert read_ambience("something else") == Ambience()


@pytest.mark.parametrize(
    ("words", "sound"),
    [
        ("silently", SILENT),
        ("without a sound", SILENT),
        ("without any sound", SILENT),
        ("and makes no sound", SILENT),
        (", no sound", SILENT),
        ("with a drum sound", "drum"),
        (", a bell rings off screen", None),
    ],
)
def test_silence_is_a_sound_of_an_object(words: str, sound: str | None) -> None:
    assert read_caption(f"a red ball bounces {words}") == (Attributes(None, "red", "ball", "bounces", sound),)


@pytest.mark.parametrize(
    "words",
    ["a bell rings off screen", "Off-screen bell", "a bell sound from offscreen", "off screen a bell rings"],
)
def test_an_off_screen_sound_is_no_sound_of_an_object(words: str) -> None:
    for caption in (
        f"a red ball bounces, drum, and {words}",
        f"{words}. a red ball bounces with a drum sound",
    ):
        assert read_caption(caption) == (RED,)
        assert read_ambience(caption) == Ambience("bell")


def test_short_prompts_have_the_canonical_form(rng: np.random.Generator) -> None:
    said = {say(rng, (RED,), Ambience("bell", True)) for _ in range(50)}
    assert "a red ball bounces, drum, and a bell rings off screen, over soft noise" in said
    silent = Attributes(None, "red", "ball", "bounces", SILENT)
    assert "a red ball bounces silently" in {say(rng, (silent,), Ambience()) for _ in range(50)}
    pairs = {
        say(rng, (RED, Attributes(None, "cyan", "ball", "falls", SILENT)), Ambience()) for _ in range(200)
    }
    assert "a red ball bounces, drum, and a cyan ball falls silently" in pairs


def test_a_caption_never_says_when(rng: np.random.Generator) -> None:
    later = re.compile(r"\b(first|then|later|after|before|twice|irregular\w*|second|seconds|times?)\b|\d")
    for _ in range(300):
        caption = sample_scene(rng, world=HARD).caption
        assert not later.search(caption), caption


def test_every_template_can_be_said() -> None:
    assert len(TEMPLATES) > len(CLAUSES) >= 5 and len(SILENT_TEMPLATES) >= 5
    for template, sound in product(OFFSCREEN, SOUNDS):
        words = template.format(sound=sound, does="rings")
        assert read_ambience(words) == Ambience(sound) and read_caption(words) == ()
    assert all(read_ambience(words) == Ambience(bed=True) for words in BED)
