"""The captions that the text encoder of ccl-tiny learns from, and its SentencePiece vocabulary."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass

import sentencepiece

from ..world.captions import held_out, joining_words, owned
from ..world.clip import Ambience, Attributes
from ..world.sounds import SILENT, SOUNDS
from ..world.synonyms import BED_WORDS, OFFSCREEN_WORDS, OTHER_WORDS, WORDS

# The ids of umT5.
PAD = 0
EOS = 1
UNKNOWN = 2


def sample_attributes(rng: random.Random, present: float = 0.85) -> Attributes:
    """Draw each attribute, or leave it open."""
    # Captions of the world leave the size open more often than not.
    odds = {kind: min(present, 0.3) if kind == "size" else present for kind in WORDS}
    return Attributes(
        **{
            kind: rng.choice(list(words)) if rng.random() < odds[kind] else None
            for kind, words in WORDS.items()
        }
    )


def sample_objects(rng: random.Random, count: int, present: float) -> tuple[Attributes, ...]:
    """Attributes of one or two objects; two differ in colour and sound, and something of each can be seen."""
    while True:
        things = tuple(sample_attributes(rng, present) for _ in range(count))
        if count == 1:
            return things
        visible = all(thing.colour or thing.shape for thing in things)
        if visible and all(
            getattr(things[0], kind) != getattr(things[1], kind) for kind in ("colour", "sound")
        ):
            return things


@dataclass(frozen=True)
class Stated:
    """A caption with what it states; owners: by character, what it speaks of (see `owned`)."""

    caption: str
    owners: list[int]
    things: tuple[Attributes, ...]
    ambience: Ambience


def sample_ambience(rng: random.Random, things: Sequence[Attributes]) -> Ambience:
    """An off-screen sound that no object makes, or none; a bed of noise, or none."""
    taken = {thing.sound for thing in things}
    sound = rng.choice([sound for sound in SOUNDS if sound not in taken])
    return Ambience(sound if rng.random() < 0.35 else None, rng.random() < 0.35)


def draw_caption(
    rng: random.Random, unseen: bool = False, count: int | None = None, silent: bool | None = None
) -> Stated:
    """A caption of one or two objects and of what is heard around them.

    unseen: every object that sounds is a held-out combination; else none is. silent: whether there is a
    silent object; None: now and then. Some trained captions leave everything open (the empty prompt).
    """
    count = count or rng.choice((1, 2))
    while True:
        empty = not unseen and count == 1 and rng.random() < 0.08
        # Held-out captions state everything: a combination with an open attribute is no held-out one.
        present = 1.0 if unseen else 0.0 if empty else 0.88
        things = sample_objects(rng, count, present)
        if silent not in (None, SILENT in {thing.sound for thing in things}):
            continue
        if all(held_out(thing) == unseen for thing in things if thing.sound != SILENT):
            ambience = Ambience() if empty else sample_ambience(rng, things)
            return Stated(*owned(rng, *things, ambience=ambience), things, ambience)


def train_vocabulary(rng: random.Random, vocab_size: int, captions: int = 12000) -> bytes:
    """Fit a SentencePiece unigram model; bytes stand in for what it has no piece for, case is folded."""
    lines = [draw_caption(rng).caption for _ in range(captions)]
    # Three times, so that common words get pieces and are not spelt in bytes.
    lines += [word for word in OTHER_WORDS for _ in range(3)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for line in lines if line]),
        model_writer=model,
        # NFKC with case folding: a prompt may be written in any case.
        normalization_rule_name="nmt_nfkc_cf",
        model_type="unigram",
        vocab_size=vocab_size,
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        pad_id=PAD,
        eos_id=EOS,
        unk_id=UNKNOWN,
        # T5 has no token for the beginning.
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def taught() -> dict[str, dict[str, dict[str, list[str]]] | list[str]]:
    """What the configuration of the encoder says of its words; those that mean nothing are left out."""
    words: dict[str, dict[str, list[str]]] = {}
    for kind, values in WORDS.items():
        words[kind] = {value: list(ways) for value, ways in values.items()}
    beyond = [ways.format("") for ways in OFFSCREEN_WORDS]
    words["ambience"] = {"off screen": beyond, "soft noise": list(BED_WORDS)}
    return {"words": words, "other_words": joining_words()}
