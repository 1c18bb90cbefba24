"""The judge of the talking face accepts the truth, and some column of it refuses every cheat."""

from __future__ import annotations

from functools import cache
from itertools import islice

import numpy as np
import pytest
import torch

from ccl_pack.ccl_core.training.world import face
from ccl_pack.ccl_core.training.world.face_cheats import CHEATS
from ccl_pack.ccl_core.training.world.face_judge import (
    FaceJudgement,
    FaceSummary,
    judge_face,
    lag_of,
    summarise_faces,
    vowels_of,
)
from ccl_pack.ccl_core.training.world.sounds import SAMPLE_RATE

CLIPS = 24
FPS = 16


@cache
def drawn() -> tuple[face.FaceClip, ...]:
    return tuple(islice(face.clips(21), CLIPS))


def judged(clip: face.FaceClip, known: bool = False) -> FaceJudgement:
    frames = torch.from_numpy(clip.frames).float() / 255
    times = clip.syllables if known else None
    return judge_face(
        frames, FPS, torch.from_numpy(clip.waveform), SAMPLE_RATE, clip.transcript, times, clip.place
    )


@cache
def row(name: str) -> FaceSummary:
    rng = np.random.default_rng(3)
    clips = drawn() if name == "truth" else [CHEATS[name](rng, clip, FPS) for clip in drawn()]
    return summarise_faces([judged(clip) for clip in clips])


def test_the_truth_is_right_in_every_column() -> None:
    truth = row("truth")
    assert truth.lag_right >= 0.95 and truth.lag_ms_p90 <= 40 and truth.envelope_correlation > 0.8
    assert min(truth.visemes_right, truth.vowels_right, truth.words_right) > 0.95


def test_the_truth_is_right_where_the_times_are_known() -> None:
    known = summarise_faces([judged(clip, known=True) for clip in drawn()])
    assert min(known.visemes_right, known.vowels_right, known.words_right) > 0.95


# Which columns refuse it, and which it passes.
REFUSED = {
    "other clip": (("lag_right", "envelope_correlation", "visemes_right"), ("words_right",)),
    "other words": (("visemes_right", "vowels_right", "words_right"), ("lag_right", "envelope_correlation")),
    "one shape": (("visemes_right",), ("lag_right", "envelope_correlation", "words_right")),
    "constant": (("lag_right", "envelope_correlation", "visemes_right"), ("words_right",)),
    "metronome": (("lag_right", "envelope_correlation", "visemes_right"), ("words_right",)),
    "late": (("lag_right", "visemes_right"), ("words_right",)),
}
# Of the truth's value.
FAILS, PASSES = 0.5, 0.9


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_refused(name: str) -> None:
    refused, passed = REFUSED[name]
    cheat, truth = row(name), row("truth")
    for column in refused:
        assert getattr(cheat, column) < FAILS * getattr(truth, column), column
    for column in passed:
        assert getattr(cheat, column) > PASSES * getattr(truth, column), column


@pytest.mark.parametrize("shift", [-0.12, -0.04, 0.0, 0.08, 0.2])
def test_a_lag_is_measured(shift: float) -> None:
    times = np.arange(round(2 * SAMPLE_RATE)) / SAMPLE_RATE
    frames = np.arange(33) / FPS
    middles = (0.5, 0.85, 1.4)
    opening = sum(np.exp(-(((frames - middle) / 0.06) ** 2)) for middle in middles)
    loudness = sum(np.exp(-(((times - shift - middle) / 0.06) ** 2)) for middle in middles)
    lag, _ = lag_of(opening, FPS, loudness**2 * np.sin(2 * np.pi * 600 * times), SAMPLE_RATE)
    assert lag == pytest.approx(1000 * shift, abs=16)


def test_what_is_steady_has_no_lag() -> None:
    clip = drawn()[0]
    assert lag_of(np.full(33, 0.4), FPS, clip.waveform, SAMPLE_RATE) == (None, 0.0)
    assert lag_of(clip.mouth, FPS, np.zeros(33000), SAMPLE_RATE) == (None, 0.0)


def test_silence_has_no_vowel_right() -> None:
    clip = drawn()[0]
    frames = torch.from_numpy(clip.frames).float() / 255
    silent = judge_face(frames, FPS, torch.zeros(33000), SAMPLE_RATE, clip.transcript)
    assert silent.heard == silent.shown == () and silent.pitch is None and not silent.lag_is_right
    summary = summarise_faces([silent])
    assert (summary.visemes_right, summary.vowels_right, summary.words_right) == (0, 0, 0)


def judgement(asked: str, heard: str, shown: str, lag: float | None = 0.0) -> FaceJudgement:
    return FaceJudgement(tuple(asked), tuple(heard), tuple(shown), lag, 0.5, 120.0)


def test_missing_and_surplus_vowels_are_wrong() -> None:
    summary = summarise_faces([judgement("aio", "ai", "ae"), judgement("u", "ua", "ua", lag=None)])
    assert summary.visemes_right == 3 / 5 and summary.vowels_right == 3 / 5 and summary.words_right == 0
    assert summary.lag_right == 0.5


def test_the_vowels_of_words_are_asked() -> None:
    assert vowels_of("bama tiko") == ("a", "a", "i", "o")


@pytest.mark.parametrize(
    ("reference", "right"), [(112.0, True), (120.0, True), (100.0, False), (240.0, False)]
)
def test_a_pitch_is_right_within_eight_per_cent(reference: float, right: bool) -> None:
    assert judgement("a", "a", "a").pitch_is_right(reference) is right
