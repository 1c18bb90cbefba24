"""A small text encoder tells which words of a prompt it was never taught, on whichever node encodes them."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from comfy.sd import CLIP
from comfy_execution.utils import CurrentNodeContext

from ccl_pack.ccl_core.host.vae.taught_words import taught_words
from ccl_pack.ccl_core.host.vae.text_encoder import load_text_encoder
from ccl_pack.ccl_core.training.tiny.text_encoder import TextRecipe, build_encoder
from ccl_pack.nodes import notices
from nodes import CLIPTextEncode
from support.vocabulary import train_words

RECIPE = TextRecipe(vocab_size=320, d_model=32, num_layers=1, num_heads=2, d_kv=8, d_ff=32)
WORDS = {
    "colours": {"red": ["crimson"], "blue": ["navy blue"]},
    "motions": {"bounces": ["is bouncing", "goes up and down"]},
}
CONFIG = {
    "umt5xxl_model_config": RECIPE.model_config(),
    "min_length": 12,
    "words": WORDS,
    "other_words": ["a", "the", "with"],
}


@pytest.fixture(scope="module")
def clip() -> CLIP:
    torch.manual_seed(0)
    vocabulary = torch.frombuffer(bytearray(train_words(RECIPE.vocab_size)), dtype=torch.uint8)
    return load_text_encoder({**build_encoder(RECIPE).state_dict(), "spiece_model": vocabulary}, CONFIG)


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("", []),
        ("A RED ball, bounces!", ["ball"]),
        ("a crimson navy thing goes up", ["thing"]),
        ("(red:1.2) with 3 dogs, dogs", ["dogs"]),
        ("é red", ["é"]),
    ],
)
def test_words_are_known_by_themselves_as_synonyms_and_as_parts_of_them(
    text: str, unknown: list[str]
) -> None:
    assert taught_words(CONFIG).unknown(text) == unknown


def test_an_encoder_that_lists_no_words_is_not_checked() -> None:
    assert taught_words({"min_length": 12}) is None


@pytest.mark.parametrize(
    "wrong", [{"words": ["red"]}, {"words": {"colours": ["red"]}}, {"words": WORDS, "other_words": "a"}]
)
def test_lists_of_another_form_are_refused_in_words(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'words' must be an object of kinds"):
        taught_words(CONFIG | wrong)


def test_the_node_that_encodes_tells_the_words_until_they_are_gone(
    clip: CLIP, caplog: pytest.LogCaptureFixture
) -> None:
    encoded = []
    with caplog.at_level(logging.WARNING):
        for text in ("a red dog bounces", "a red cat", "a red"):
            with CurrentNodeContext(text, "7", 0):
                encoded.append(CLIPTextEncode().encode(clip, text)[0][0][0])
            _, shown = notices.shown.get("7", (text, []))
            assert len(shown) == (0 if text == "a red" else 1)
    first, second = (record.message for record in caplog.records)
    assert "never taught dog:" in first and "never taught cat:" in second
    assert "colours: red, blue; motions: bounces." in first
    assert not torch.equal(encoded[0], encoded[2])


def test_a_node_that_encodes_two_texts_tells_the_words_of_both(clip: CLIP) -> None:
    with CurrentNodeContext("both", "8", 0):
        for text in ("a red dog", "blue"):
            clip.tokenize(text)
    _, shown = notices.shown.pop("8")
    assert len(shown) == 1 and "dog" in shown[0]


def test_the_notice_changes_nothing_of_the_tokens(clip: CLIP) -> None:
    plain = {key: value for key, value in CONFIG.items() if key not in ("words", "other_words")}
    assert taught_words(plain) is None
    torch.manual_seed(0)
    vocabulary = torch.frombuffer(bytearray(train_words(RECIPE.vocab_size)), dtype=torch.uint8)
    other = load_text_encoder({**build_encoder(RECIPE).state_dict(), "spiece_model": vocabulary}, plain)
    assert clip.tokenize("a red dog bounces") == other.tokenize("a red dog bounces")
