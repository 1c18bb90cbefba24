"""The captions say what they state, the vocabulary reads everything, training learns and the host loads
the result.
"""

import random
import re
from dataclasses import replace
from itertools import product

import pytest
import sentencepiece
import torch

from ccl_pack.ccl_core.host.vae.text_encoder import load_text_encoder
from ccl_pack.ccl_core.training.tiny.text_encoder import (
    LABELS,
    NOBODY,
    OWN,
    Batches,
    TextRecipe,
    build_encoder,
    encode,
    labels_of,
    own_labels,
    train_text_encoder,
)
from ccl_pack.ccl_core.training.tiny.vocabulary import EOS, PAD, UNKNOWN, draw_caption, train_vocabulary
from ccl_pack.ccl_core.training.world import wording
from ccl_pack.ccl_core.training.world.captions import (
    BEYOND,
    OTHER_WORDS,
    WORDS,
    held_out,
    owned,
    paraphrase,
)
from ccl_pack.ccl_core.training.world.clip import STATED, Ambience, Attributes
from ccl_pack.ccl_core.training.world.sounds import SILENT

SMALL = TextRecipe(
    vocab_size=560,
    d_model=32,
    num_layers=1,
    num_heads=2,
    d_ff=64,
    batch=64,
    steps=300,
    learning_rate=1e-2,
    evaluated=300,
)


@pytest.fixture(scope="module")
def vocabulary() -> bytes:
    return train_vocabulary(random.Random(3), SMALL.vocab_size, captions=2000)


def says(caption: str, kind: str, value: str) -> bool:
    heard = set(re.findall(r"[a-z-]+", caption.lower()))
    return any(heard.issuperset(word.split()) for word in WORDS[kind][value])


def test_every_word_of_the_world_can_be_said() -> None:
    assert {kind: set(words) for kind, words in WORDS.items()} == {
        kind: set(words) for kind, words in STATED.items()
    }


def test_paraphrases_say_what_they_state_and_nothing_else() -> None:
    rng = random.Random(1)
    for _ in range(500):
        drawn = draw_caption(rng)
        said = [*drawn.things, Attributes(sound=drawn.ambience.offscreen)]
        for kind, values in WORDS.items():
            for value in values:
                stating = any(getattr(thing, kind) == value for thing in said)
                assert says(drawn.caption, kind, value) == stating, (drawn.caption, kind, value)
        beyond = re.search("off.?screen|unseen", drawn.caption.lower())
        assert bool(beyond) == (drawn.ambience.offscreen is not None), drawn.caption
        noise = re.search(r"\b(noise|rumble)\b", drawn.caption.lower())
        assert bool(noise) == drawn.ambience.bed, drawn.caption


def test_paraphrases_differ() -> None:
    rng = random.Random(2)
    stated = Attributes(colour="red", shape="ball", motion="bounces", sound="drum")
    captions = {paraphrase(rng, stated) for _ in range(200)}
    assert len(captions) > 100
    assert "a red ball bounces, drum" in captions


def test_two_objects_are_spoken_of_in_order_and_with_their_own_sounds() -> None:
    rng = random.Random(2)
    stated = (
        Attributes(colour="red", shape="ball", motion="bounces", sound="drum"),
        Attributes(colour="cyan", shape="triangle", motion="slides", sound="horn"),
    )
    captions = {paraphrase(rng, *stated) for _ in range(800)}
    assert len(captions) > 150
    assert "a red ball bounces, drum, and a cyan triangle slides, horn" in captions
    for caption in captions:
        for kind in ("colour", "shape", "motion", "sound"):
            first, second = (first_place(caption, kind, getattr(thing, kind)) for thing in stated)
            assert first < second, (caption, kind)


def first_place(caption: str, kind: str, value: str) -> int:
    heard = re.findall(r"[a-z-]+", caption.lower())
    return min(
        place
        for words in map(str.split, WORDS[kind][value])
        for place in range(len(heard))
        if heard[place : place + len(words)] == words
    )


def test_two_drawn_objects_can_be_told_apart() -> None:
    rng = random.Random(8)
    for _ in range(100):
        first, second = draw_caption(rng, count=2).things
        assert first.colour != second.colour and first.sound != second.sound
        assert (first.colour or first.shape) and (second.colour or second.shape)
    counts = [len(draw_caption(rng).things) for _ in range(100)]
    assert 25 < counts.count(2) < 75


def test_meaningless_words_mean_nothing() -> None:
    meaningful = {
        part
        for values in WORDS.values()
        for words in values.values()
        for word in words
        for part in word.split()
    }
    assert not set(OTHER_WORDS) & meaningful - {
        "down",
        "up",
        "left",
        "right",
        "and",
        "on",
        "off",
        "is",
        "that",
        "kick",
        "snow",
        "car",
    }


def test_four_pairs_of_motion_and_sound_are_held_out_and_never_trained_on() -> None:
    rng = random.Random(4)
    grid = product(STATED["motion"], STATED["sound"])
    held = [pair for pair in grid if held_out(Attributes("big", "red", "ball", *pair))]
    assert [len(set(words)) for words in zip(*held, strict=True)] == [4, 4] and len(held) == 4
    assert SILENT not in {sound for _, sound in held}
    assert not any(held_out(thing) for _ in range(500) for thing in draw_caption(rng).things)
    assert all(
        held_out(thing) for _ in range(100) for thing in draw_caption(rng, unseen=True, silent=False).things
    )


def test_vocabulary_reads_any_text_in_any_case(vocabulary: bytes) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary, add_eos=True)
    assert (processor.pad_id(), processor.eos_id(), processor.unk_id()) == (PAD, EOS, UNKNOWN)
    assert processor.get_piece_size() == SMALL.vocab_size
    for text in ("A RED BALL bounces", "Qwyjibo? 100 %!", "\u65e5\u672c \N{SNOWMAN} \n tab\t", ""):
        assert UNKNOWN not in processor.encode(text)
    assert processor.encode("A Red BALL") == processor.encode("a red ball")
    assert processor.encode("") == [EOS]


def test_vocabulary_and_batches_repeat_with_the_seed(vocabulary: bytes) -> None:
    assert vocabulary == train_vocabulary(random.Random(3), SMALL.vocab_size, captions=2000)
    first, second = (Batches(vocabulary, SMALL, random.Random(5)).draw(8) for _ in range(2))
    assert torch.equal(first.tokens, second.tokens)
    assert all(torch.equal(first.labels[label], second.labels[label]) for label in LABELS)
    assert all(torch.equal(first.own[kind], second.own[kind]) for kind in WORDS)


def test_batches_are_whole_captions_within_the_context(vocabulary: bytes) -> None:
    drawn = Batches(vocabulary, SMALL, random.Random(6)).draw(64)
    assert drawn.tokens.shape[1] <= SMALL.min_length
    assert ((drawn.tokens == EOS).sum(1) == 1).all()
    assert set(drawn.labels) == set(LABELS) and set(drawn.own) == set(OWN)
    assert all(c.shape == (64,) and c.max() <= len(LABELS[label]) for label, c in drawn.labels.items())
    assert all(c.shape == drawn.tokens.shape and c.max() <= len(OWN[kind]) for kind, c in drawn.own.items())
    assert all((c[drawn.tokens == PAD] == NOBODY).all() for c in drawn.own.values())


def test_words_are_owned_by_the_object_that_they_speak_of() -> None:
    """In every wording of two objects, all that says an attribute of one is marked as that object's."""
    rng = random.Random(9)
    stated = (
        Attributes(size="big", colour="red", shape="ball", motion="bounces", sound="drum"),
        Attributes(size="small", colour="cyan", shape="triangle", motion="slides", sound="horn"),
    )
    for _ in range(400):
        caption, owners = owned(rng, *stated)
        assert len(owners) == len(caption) and set(owners) == {-1, 0, 1}
        for thing, attributes in enumerate(stated):
            said = "".join(letter for letter, owner in zip(caption, owners, strict=True) if owner == thing)
            for kind in WORDS:
                value = getattr(attributes, kind)
                ways = [
                    "".join(words.split())
                    for words in (*WORDS[kind][value], wording.GERUNDS.get(value, value))
                ]
                assert any(way in said.lower() for way in ways), (caption, said, kind)


@pytest.mark.parametrize("objects", [1, 2])
def test_words_of_the_off_screen_sound_are_its_own(objects: int) -> None:
    rng = random.Random(9)
    stated = (
        Attributes(colour="red", shape="ball", motion="bounces", sound=SILENT),
        Attributes(colour="cyan", shape="triangle", motion="slides", sound="horn"),
    )[:objects]
    for _ in range(300):
        caption, owners = owned(rng, *stated, ambience=Ambience("bell", True))
        letters = list(zip(caption, owners, strict=True))
        beyond = "".join(letter for letter, owner in letters if owner == BEYOND).lower()
        others = "".join(letter for letter, owner in letters if owner != BEYOND).lower()
        assert any("".join(way.split()) in beyond for way in WORDS["sound"]["bell"]), caption
        assert re.search("off-?screen|unseen", beyond) and not re.search("screen|unseen|bell|chime", others)
        assert re.search("noise|rumbl", others), caption


def test_a_caption_of_one_object_speaks_of_it_from_end_to_end(vocabulary: bytes) -> None:
    drawn = Batches(vocabulary, SMALL, random.Random(7)).draw(16, objects=1)
    beyond = drawn.own["place"] == 1
    assert beyond.any() and torch.equal(beyond.any(1), drawn.labels["offscreen"] > 0)
    for kind in WORDS:
        wanted = drawn.labels[f"{kind}_first"][:, None].expand_as(beyond)
        heard = drawn.labels["offscreen"][:, None] if kind == "sound" else torch.zeros(())
        own = torch.where(beyond, heard, wanted)
        assert torch.equal(drawn.own[kind], torch.where(drawn.tokens == PAD, NOBODY, own).long())


def test_tokens_take_the_owner_of_their_last_letter(vocabulary: bytes) -> None:
    batches = Batches(vocabulary, SMALL, random.Random(0))
    caption = "a red ball, qwyjibo, and a cyan square"
    owners = [0] * 10 + [-1] * 14 + [1] * 14
    found = batches.owners(caption, owners)
    pieces = batches.processor.encode(caption, out_type=str)
    owned = list(zip(pieces, found, strict=True))
    assert "".join(piece for piece, owner in owned if owner == 0) == "\u2581a\u2581red\u2581ball"
    assert "".join(piece for piece, owner in owned if owner == 1) == "\u2581a\u2581cyan\u2581square"


def test_own_labels_are_those_of_the_owner() -> None:
    things = (Attributes(colour="red", sound="beep"), Attributes(colour="white", sound=SILENT))
    own = own_labels(labels_of([things], [Ambience("bell")]), torch.tensor([[0, -1, 1, 1, 2]]))
    assert own["colour"].tolist() == [[1, NOBODY, 8, 8, 0]]
    assert own["sound"].tolist() == [[4, NOBODY, 6, 6, 2]]
    assert own["place"].tolist() == [[0, NOBODY, 0, 0, 1]]


def test_labels_count_from_one_and_zero_is_open() -> None:
    one, other = Attributes(colour="red", sound="beep"), Attributes(size="big", colour="orange")
    labels = labels_of(
        [(Attributes(),), (one,), (other, one)], [Ambience(), Ambience("drum"), Ambience(bed=True)]
    )
    assert labels["colour_first"].tolist() == [0, 1, 2] and labels["colour_second"].tolist() == [0, 0, 1]
    assert labels["sound_first"].tolist() == [0, 4, 0] and labels["sound_second"].tolist() == [0, 0, 4]
    assert labels["size_first"].tolist() == [0, 0, 2]
    assert labels["offscreen"].tolist() == [0, 1, 0] and labels["bed"].tolist() == [0, 0, 1]
    assert not labels["motion_first"].any() and not labels["motion_second"].any()


def test_padding_is_neither_seen_nor_returned() -> None:
    torch.manual_seed(0)
    model = build_encoder(SMALL).requires_grad_(False)
    tokens = torch.tensor([[9, 8, 7, EOS]])
    alone, _ = encode(model, tokens)
    padded, _ = encode(model, torch.nn.functional.pad(tokens, (0, 5), value=PAD))
    torch.testing.assert_close(padded[:, :4], alone)
    assert not padded[:, 4:].any()
    torch.testing.assert_close(alone.square().mean(-1), torch.ones(1, 4), atol=1e-4, rtol=0)


def test_training_learns_and_the_host_loads_the_result() -> None:
    _, untrained = train_text_encoder(replace(SMALL, steps=1))
    weights, report = train_text_encoder(SMALL)
    assert untrained["accuracy_held_out"] < 0.1
    assert report["accuracy_held_out"] > 0.5
    assert report["accuracy_own_offscreen"] > 0.15 > 2 * untrained["accuracy_own_offscreen"]
    assert report["accuracy_bed"] > 0.9 > untrained["accuracy_bed"]
    assert report["token_std"] == pytest.approx(1, abs=0.05)
    assert {value.dtype for key, value in weights.items() if key != "spiece_model"} == {torch.float16}
    config = {"umt5xxl_model_config": SMALL.model_config(), "min_length": SMALL.min_length}
    clip = load_text_encoder(weights, config)
    ((cond, _),) = clip.encode_from_tokens_scheduled(clip.tokenize("a red ball bounces, drum"))
    assert cond.shape == (1, SMALL.min_length, 32)


def test_host_and_training_encode_alike(vocabulary: bytes) -> None:
    torch.manual_seed(1)
    model = build_encoder(SMALL).requires_grad_(False)
    sd = {**model.state_dict(), "spiece_model": torch.frombuffer(bytearray(vocabulary), dtype=torch.uint8)}
    clip = load_text_encoder(
        sd, {"umt5xxl_model_config": SMALL.model_config(), "min_length": SMALL.min_length}
    )
    caption = "a big blue square slides, bell"
    ((cond, _),) = clip.encode_from_tokens_scheduled(clip.tokenize(caption))
    ours, _ = encode(model, Batches(vocabulary, SMALL, random.Random(0)).tokens([caption]))
    torch.testing.assert_close(cond[:, : ours.shape[1]], ours, atol=1e-5, rtol=1e-4)
