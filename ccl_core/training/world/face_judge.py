"""The judge of a talking face: whether mouth and sound say the same at the same time, and what was asked.

Timing alone is not enough: a mouth that follows the loudness in one shape has it. The shapes must be those of
the vowels that are heard, and these those of the words that were asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...metrics.onsets import to_mono
from .face_mouth import mouth_costs, opening_of, vowel_shown
from .face_picture import WHOLE, Place
from .speech import Syllable, syllables_of
from .speech_listen import RATE, envelope, hear_syllables, pitch_of, vowel_heard

# Milliseconds: a lag up to the first is right; the search ends at the second.
LAG_RIGHT = 40.0
LAG_FAR = 300.0
# Part of the reference by which a pitch may differ.
PITCH_RIGHT = 0.08
# Seconds over which a loudness is smoothed, as a mouth is slower than a voice.
SMOOTH = 0.06
# Deviations below which a mouth (it is read to about .02) and a sound are steady, and have no lag.
STEADY = 0.03
SILENCE = 1e-4


@dataclass(frozen=True)
class FaceJudgement:
    """One clip; vowels in the order in which they sound, "" shown by a mouth that is shut.

    lag: milliseconds by which the sound follows the mouth, None when either is steady.
    pitch: Hz, None when no vowel is heard.
    """

    asked: tuple[str, ...]
    heard: tuple[str, ...]
    shown: tuple[str, ...]
    lag: float | None
    correlation: float
    pitch: float | None

    @property
    def lag_is_right(self) -> bool:
        return self.lag is not None and abs(self.lag) <= LAG_RIGHT

    @property
    def parts(self) -> int:
        """How many vowels count: one that is missing is wrong, and so is one too many."""
        return max(len(self.asked), len(self.heard))

    @property
    def visemes_right(self) -> int:
        """How many vowels that are heard the mouth shows."""
        return sum(shown == heard for shown, heard in zip(self.shown, self.heard, strict=True))

    @property
    def vowels_right(self) -> int:
        """How many vowels that are asked are heard at their place."""
        return sum(heard == asked for heard, asked in zip(self.heard, self.asked, strict=False))

    def pitch_is_right(self, reference: float) -> bool:
        """Whether the voice is as high as one of `reference` Hz."""
        return self.pitch is not None and abs(self.pitch / reference - 1) <= PITCH_RIGHT


@dataclass(frozen=True)
class FaceSummary:
    """Of some clips: shares of 1, and the lag in ms that nine of ten stay within (steady ones are far)."""

    lag_ms_p90: float
    lag_right: float
    envelope_correlation: float
    visemes_right: float
    vowels_right: float
    words_right: float


def judge_face(
    frames: Tensor,
    fps: float,
    waveform: Tensor,
    sample_rate: int,
    transcript: str,
    syllables: Sequence[Syllable] | None = None,
    place: Place = WHOLE,
) -> FaceJudgement:
    """A clip against the words asked.

    frames: (f, h, w, 3), 0..1. waveform: (n,) or (c, n). syllables: when the vowels sound, if that is known;
    else they are heard. place: of the face that speaks.
    """
    sound = to_mono(waveform).double().numpy()
    spans = hear_syllables(sound, sample_rate) if syllables is None else syllables
    costs = mouth_costs(frames, place)
    lag, correlation = lag_of(opening_of(costs).double().numpy(), fps, sound, sample_rate)
    return FaceJudgement(
        asked=vowels_of(transcript),
        heard=tuple(vowel_heard(sound, sample_rate, span.opening, span.end) for span in spans),
        shown=tuple(vowel_shown(costs, fps, (span.opening + span.end) / 2) for span in spans),
        lag=lag,
        correlation=correlation,
        pitch=pitch_of(sound, sample_rate),
    )


def vowels_of(transcript: str) -> tuple[str, ...]:
    return tuple(syllable[1] for word in transcript.split() for syllable in syllables_of(word))


def lag_of(
    opening: np.ndarray, fps: float, waveform: np.ndarray, sample_rate: int
) -> tuple[float | None, float]:
    """Milliseconds by which the sound follows the mouth, and their correlation; None, 0 if steady."""
    loudness = loudness_of(waveform, sample_rate)
    times = np.arange(len(loudness)) / RATE
    mouth = np.interp(times, np.arange(len(opening)) / fps, opening)
    # The sound ends after the last frame.
    heard = times <= (len(opening) - 1) / fps
    mouth, loudness = mouth[heard], loudness[heard]
    if mouth.std() < STEADY or loudness.std() < SILENCE:
        return None, 0.0
    furthest = min(int(LAG_FAR / 1000 * RATE), len(mouth) - 1)
    # Beyond its ends a clip is as on average, so that a short overlap is no likeness.
    alike = np.correlate(standard(loudness), standard(mouth), mode="full") / len(mouth)
    near = alike[len(mouth) - 1 - furthest : len(mouth) + furthest]
    return float((near.argmax() - furthest) * 1000 / RATE), float(near[furthest])


def standard(values: np.ndarray) -> np.ndarray:
    """With a mean of 0 and a deviation of 1."""
    return (values - values.mean()) / values.std()


def loudness_of(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """The loudness of the vowels, RATE values a second; its root, for mouths grow less than powers."""
    kernel = np.hanning(round(2 * SMOOTH * RATE) | 1)
    return np.convolve(np.sqrt(envelope(waveform, sample_rate)), kernel / kernel.sum(), mode="same")


def summarise_faces(judged: Sequence[FaceJudgement]) -> FaceSummary:
    """Every vowel counts alike, and every clip."""
    parts = sum(clip.parts for clip in judged)
    lags = [LAG_FAR if clip.lag is None else abs(clip.lag) for clip in judged]
    return FaceSummary(
        lag_ms_p90=float(np.quantile(lags, 0.9)),
        lag_right=float(np.mean([clip.lag_is_right for clip in judged])),
        envelope_correlation=float(np.mean([clip.correlation for clip in judged])),
        visemes_right=sum(clip.visemes_right for clip in judged) / parts,
        vowels_right=sum(clip.vowels_right for clip in judged) / parts,
        words_right=float(np.mean([clip.heard == clip.asked for clip in judged])),
    )
