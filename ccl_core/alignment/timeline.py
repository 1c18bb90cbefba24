"""The clock that both streams share: seconds, pixel frames, latent frames, audio tokens, samples, all exact.

Wan's VAE makes a latent frame of the first pixel frame alone and one of every four that follow. This is the
only file that knows it; `time_grid.py` has other models beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from ..config import CLOCKS, CCLConfig

TEMPORAL_STRIDE = 4  # pixel frames of every latent frame but the first
HALF = Fraction(1, 2)


@dataclass(frozen=True)
class Timeline:
    """The latent frames and audio tokens of a clip, or of a window of it, on one clock in latent frames.

    `uniform` is the clock of the paper (CCL, arXiv 2603.18600): every latent frame lasts equally long, audio
    token j stands at j / c. `causal` follows Wan's VAE: a latent frame stands at the mean time of its pixel
    frames, an audio token at its own middle. `linear` puts audio token j at j * clock_scale, for models
    trained with a constant of their own (Ovi, arXiv 2510.01284: 0.19676), and shares out the tokens as
    `causal` does.

    first: index, in the whole clip, of the first latent frame of a context window. Only a window that starts
    at 0 holds the short frame.
    """

    latent_frames: int
    audio_tokens: int
    fps: Fraction
    audio_rate: Fraction  # tokens a second
    clock: str = "causal"
    clock_scale: float | None = None
    first: int = 0

    def __post_init__(self) -> None:
        if self.latent_frames < 1 or self.audio_tokens < 1:
            raise ValueError(
                f"a timeline has {self.latent_frames} latent frames and {self.audio_tokens} audio tokens: "
                "it needs at least one of each"
            )
        if self.clock not in CLOCKS:
            raise ValueError(f"a timeline has the clock {self.clock!r}, known are {', '.join(CLOCKS)}")

    @classmethod
    def of(cls, config: CCLConfig, latent_frames: int, audio_tokens: int, first: int = 0) -> Timeline:
        """The timeline of a clip, or of a window from latent frame `first` on, as this model counts it."""
        return cls(
            latent_frames,
            audio_tokens,
            fps=config.fps,
            audio_rate=config.audio_latent.rate,
            clock=config.clock,
            clock_scale=config.clock_scale,
            first=first,
        )

    @property
    def has_short_frame(self) -> bool:
        """Whether the first latent frame counts as one pixel frame."""
        return self.clock != "uniform" and self.first == 0

    @property
    def tokens_per_frame(self) -> Fraction:
        """The paper's c: audio tokens of a latent frame of full length, as the two streams have them here."""
        if self.has_short_frame:
            return Fraction(TEMPORAL_STRIDE * self.audio_tokens, frames_of(self.latent_frames))
        return Fraction(self.audio_tokens, self.latent_frames)

    @property
    def frame_middles(self) -> tuple[Fraction, ...]:
        """Middle of each latent frame, in audio tokens."""
        return _frame_middles(self)

    @property
    def audio_positions(self) -> tuple[Fraction, ...]:
        """Temporal RoPE position of each audio token, in latent frames."""
        return _audio_positions(self)

    @property
    def tokens_of_frames(self) -> tuple[tuple[int, int], ...]:
        """Per latent frame the half-open range of audio tokens nearest to it: a partition of all tokens."""
        return _tokens_of_frames(self)

    def positions_before(self, tokens: int) -> tuple[Fraction, ...]:
        """Temporal RoPE position of so many audio tokens in front of the first one."""
        first = self.audio_positions[0]
        return tuple(first - Fraction(j) / self.tokens_per_frame for j in range(tokens, 0, -1))

    def tokens_of(self, frames: Iterable[int]) -> list[int]:
        """The audio tokens of these latent frames."""
        ranges = self.tokens_of_frames
        return [token for frame in frames for token in range(*ranges[frame])]


def latent_frames_of(frames: int) -> int:
    """Latent frames that hold so many pixel frames, the last one perhaps not full."""
    return -(-(frames - 1) // TEMPORAL_STRIDE) + 1


def frames_of(latent_frames: int) -> int:
    """Pixel frames of so many latent frames."""
    return (latent_frames - 1) * TEMPORAL_STRIDE + 1


def fills_latent_frames(frames: int) -> bool:
    """Whether so many pixel frames fill their last latent frame: 4k + 1 of them do."""
    return frames >= 1 and frames_of(latent_frames_of(frames)) == frames


def tokens_per_latent_frame(fps: Fraction, audio_rate: Fraction) -> Fraction:
    """Audio tokens of a latent frame of full length, by the two rates of a model."""
    return audio_rate * TEMPORAL_STRIDE / fps


def pixel_frames(latent_frame: int) -> range:
    """The pixel frames in a latent frame of a whole clip."""
    return range(frames_before(latent_frame), frames_of(latent_frame + 1))


def frames_before(latent_frame: int) -> int:
    """Pixel frames of a whole clip in front of a latent frame."""
    return max(0, frames_of(latent_frame))


def full_frames_before(latent_frame: int) -> int:
    """Pixel frames in front of a latent frame where every one of them holds as many."""
    return latent_frame * TEMPORAL_STRIDE


def ramp(steps: int) -> tuple[Fraction, ...]:
    """Weights of the second of two clips over a cross-fade of so many steps: neither 0 nor 1."""
    return tuple(Fraction(i + 1, steps + 1) for i in range(steps))


def frame_start(latent_frame: int) -> Fraction:
    """Where a latent frame of a whole clip begins, in latent frames of full length."""
    # Pixel frames before it: 0, 1, 5, 9 ... MOVA's first_frame_bias writes (1 + 4 (i - 1)) / fps seconds.
    return Fraction(frames_before(latent_frame), TEMPORAL_STRIDE)


def frame_time(latent_frame: int) -> Fraction:
    """Mean time of the pixel frames in a latent frame of a whole clip, in pixel frames."""
    if latent_frame == 0:
        return Fraction(0)
    # Pixel frames 4 i - 3 to 4 i, the middle of which is 4 i - 3/2.
    return TEMPORAL_STRIDE * latent_frame - Fraction(TEMPORAL_STRIDE - 1, 2)


def samples_of(seconds: Fraction, sample_rate: int) -> int:
    """Waveform samples of a duration, rounded half up."""
    return math.floor(seconds * sample_rate + HALF)


@lru_cache(maxsize=64)
def _frame_middles(timeline: Timeline) -> tuple[Fraction, ...]:
    c = timeline.tokens_per_frame
    if timeline.has_short_frame:
        return tuple(c * frame_time(i) / TEMPORAL_STRIDE for i in range(timeline.latent_frames))
    # Public trainers write floor(c / 2) + c i with a floored c, which drifts where c is no integer.
    return tuple(c * (i + HALF) for i in range(timeline.latent_frames))


@lru_cache(maxsize=64)
def _tokens_of_frames(timeline: Timeline) -> tuple[tuple[int, int], ...]:
    """Cut the audio half-way between neighbouring frames: a token goes to the frame nearest to its middle."""
    tokens = timeline.audio_tokens
    # Token j has its middle at j + 1/2, so the first one behind a cut at x is ceil(x - 1/2).
    cuts = [min(tokens, max(0, math.ceil((a + b) / 2 - HALF))) for a, b in pairwise(timeline.frame_middles)]
    return tuple(zip([0, *cuts], [*cuts, tokens], strict=True))


@lru_cache(maxsize=64)
def _audio_positions(timeline: Timeline) -> tuple[Fraction, ...]:
    tokens = range(timeline.audio_tokens)
    if timeline.clock == "linear":
        # Ovi: 0.19676 latent frames a token, about 31 / 157, the frames and tokens of its 5 s clips.
        scale = Fraction(timeline.clock_scale)
        return tuple(scale * j for j in tokens)
    if timeline.clock == "uniform" or timeline.latent_frames == 1:
        frames = Fraction(timeline.latent_frames, timeline.audio_tokens)  # latent frames of a token
        return tuple(frames * j for j in tokens)
    # Length of a token, in latent frames.
    length = 1 / timeline.tokens_per_frame
    middles = [length * Fraction(2 * j + 1, 2) for j in tokens]
    if timeline.has_short_frame:
        return tuple(_position(middle * TEMPORAL_STRIDE, timeline.latent_frames) for middle in middles)
    return tuple(middle - HALF for middle in middles)


def _position(time: Fraction, latent_frames: int) -> Fraction:
    """The inverse of `frame_time`: the latent frame, with its fraction, whose middle has this time.

    It is linear between the latent frames, and the line of the last two goes on to the end of the sound.
    """
    second = frame_time(1)
    if time < second or latent_frames == 2:
        return time / second
    return 1 + (time - second) / TEMPORAL_STRIDE
