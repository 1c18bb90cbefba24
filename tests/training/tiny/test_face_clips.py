"""Clips of the talking face: each with its person in another picture, its voice in other words, its face."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from ccl_pack.ccl_core.training.finetune.media import Shape, read_extras, read_media
from ccl_pack.ccl_core.training.finetune.sources import find_clips
from ccl_pack.ccl_core.training.tiny.face_clips import (
    ANYBODY,
    drawn_again,
    held_out,
    write_faces,
    write_voices,
)
from ccl_pack.ccl_core.training.world.face import sample_identity
from ccl_pack.ccl_core.training.world.speech import sample_transcript
from ccl_pack.ccl_core.training.world.speech_listen import hear_syllables, pitch_of, vowel_heard
from ccl_pack.ccl_core.training.world.wording import read_caption

SHAPE = Shape(Fraction(16), 16000, 1, ((64, 64),), (33,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faces")
    assert len(list(write_faces(path, 4, 3, 33))) == 4
    return path


def test_each_clip_has_what_training_reads(folder: Path) -> None:
    sources, refused = find_clips(folder)
    assert len(sources) == 4 and not refused
    for source in sources:
        media = read_media(source.path, SHAPE)
        extras = read_extras(source.beside, media, SHAPE)
        assert media.frames.shape == (33, 64, 64, 3) and media.waveform.shape == (1, 33000)
        assert extras.image.shape == (1, 64, 64, 3) and extras.voice.shape == (1, 16000)
        assert len(extras.speech.replace(" ", "")) >= 2
        # The face fills a part of each frame, and another picture is the reference.
        share = extras.face.mean(dim=(1, 2))
        assert share.min() > 0.05 and share.max() < 0.5
        assert all((extras.image[0] - frame).abs().max() > 0.2 for frame in media.frames)


def test_the_reference_voice_is_as_high_as_the_clip(folder: Path) -> None:
    for source in find_clips(folder)[0]:
        media = read_media(source.path, SHAPE)
        voice = read_extras(source.beside, media, SHAPE).voice
        heard = [pitch_of(sound[0].double().numpy(), 16000) for sound in (media.waveform, voice)]
        assert heard[1] == pytest.approx(heard[0], rel=0.08)


def test_half_of_the_captions_are_empty_and_the_others_tell_what_moves_behind(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    stated = [read_caption(row["caption"]) for row in rows if row["caption"] != ANYBODY]
    assert 0 < len(stated) < 4
    assert all(thing.colour and thing.shape for (thing,) in stated)


def test_a_voice_alone_says_its_words_at_its_times(tmp_path: Path) -> None:
    list(write_voices(tmp_path, 3, 7, 33))
    sources, refused = find_clips(tmp_path)
    assert len(sources) == 3 and not refused
    for source in sources:
        media = read_media(source.path, SHAPE)
        assert media.frames is None and media.waveform.shape == (1, 33000)
        sound = media.waveform[0].double().numpy()
        spans = hear_syllables(sound, 16000)
        heard = [vowel_heard(sound, 16000, span.opening, span.end) for span in spans]
        assert heard == [letter for letter in source.beside.speech if letter in "aeiou"]


def test_what_is_there_stays_and_what_is_lost_comes_back(folder: Path) -> None:
    lost, kept = folder / "3-00001.mkv", folder / "3-00002.mkv"
    before, changed = read_media(lost, SHAPE).frames, kept.stat().st_mtime_ns
    lost.unlink()
    list(write_faces(folder, 4, 3, 33))
    assert torch.equal(read_media(lost, SHAPE).frames, before) and kept.stat().st_mtime_ns == changed


def test_a_part_of_the_persons_and_of_the_words_is_held_out() -> None:
    rng = np.random.default_rng(0)
    asked = [held_out(sample_identity(rng), sample_transcript(rng, 2.0)) for _ in range(400)]
    assert np.mean(asked) == pytest.approx(1 - (7 / 8) ** 2, abs=0.06)


def test_a_clip_is_drawn_again_from_the_name_of_its_film(folder: Path) -> None:
    for path in sorted(folder.glob("*[0-9].mkv")):
        again = drawn_again(path.name, 33)
        shown = torch.from_numpy(again.frames).float() / 255
        # What the film's code loses.
        assert float((read_media(path, SHAPE).frames - shown).abs().mean()) < 0.02
    with pytest.raises(ValueError, match="no film of the talking face"):
        drawn_again("3-00001.face.mkv", 33)
