"""What is found in a talking clip, counted: sound and mouth, vowels and words, who it is, and the seam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...metrics.onsets import HOP, WINDOW, spectral_flux
from .evaluate import Result
from .face import FaceClip
from .face_find import find_face
from .face_judge import LAG_FAR, LAG_RIGHT, FaceJudgement, judge_face
from .face_looks import ATTRIBUTES, is_same, looks_right, read_looks
from .face_picture import Looks, Place
from .speech import Syllable
from .speech_listen import Heard, hear_syllables


@dataclass(frozen=True)
class FaceTask:
    """What a task generates. voice: a reference voice is heard; kept: pixel frames at the start are given."""

    video: bool = True
    audio: bool = True
    voice: bool = False
    kept: int = 0

    @property
    def pitched(self) -> bool:
        """Whether a voice is known that the sound shall have."""
        return self.audio and (self.voice or self.kept > 0)


# Of 33 frames at 16 a second the first five latent frames, 1.06 s.
KEPT = 17
TASKS = {
    "joint": FaceTask(),
    "reference": FaceTask(voice=True),
    "continuation": FaceTask(kept=KEPT),
    "dubbing": FaceTask(video=False),
    "driven": FaceTask(audio=False),
}
COLUMNS = (
    "lag_right",
    "envelope_correlation",
    "visemes_right",
    "words_right",
    "identity_right",
    *(f"{name}_right" for name in ATTRIBUTES),
    "pitch_right",
    "prefix_exact",
    "seam_smooth",
)
# Parts and wholes by column.
Counts = dict[str, tuple[float, int]]


@dataclass(frozen=True)
class FoundFace:
    """One clip. whole: its words; made: mouth and sound of the part that was made.

    smooth: nothing jumps where that part begins, None where all is made.
    """

    place: Place
    looks: Looks
    whole: FaceJudgement
    made: FaceJudgement
    smooth: bool | None = None


def find(clip: FaceClip, result: Result, fps: float, kept: int = 0) -> FoundFace:
    """The face of the clip's person in a result, and what it says; kept: pixel frames that were given."""
    seen = find_face(result.frames[kept:], clip.identity.looks)
    sound = result.waveform.double().numpy()
    spans = hear_syllables(sound, result.sample_rate)
    whole = judge(clip, result, fps, spans, seen.place)
    looks = read_looks(seen, clip.identity.looks)
    if not kept:
        return FoundFace(seen.place, looks, whole, whole)
    made = judge_behind(clip, result, fps, spans, seen.place, kept)
    return FoundFace(seen.place, looks, whole, made, is_smooth(result, fps, kept))


def judge(
    clip: FaceClip, result: Result, fps: float, spans: Sequence[Heard | Syllable], place: Place
) -> FaceJudgement:
    return judge_face(result.frames, fps, result.waveform, result.sample_rate, clip.transcript, spans, place)


def judge_behind(
    clip: FaceClip, result: Result, fps: float, spans: Sequence[Heard], place: Place, kept: int
) -> FaceJudgement:
    """The clip behind its kept frames alone: the vowels whose middles are there."""
    seam = kept / fps
    left = [said.text for said in clip.syllables if middle(said) >= seam]
    heard = [
        replace(span, opening=max(span.opening - seam, 0.0), end=span.end - seam)
        for span in spans
        if middle(span) >= seam
    ]
    rest = Result(
        result.frames[kept:], result.waveform[round(seam * result.sample_rate) :], result.sample_rate
    )
    return judge(replace(clip, transcript=" ".join(left)), rest, fps, heard, place)


def middle(vowel: Heard | Syllable) -> float:
    """Of a vowel, in seconds."""
    return (vowel.opening + vowel.end) / 2


def is_smooth(result: Result, fps: float, kept: int) -> bool:
    """Whether picture and sound change no more where the made part begins than anywhere else."""
    steps = result.frames.diff(dim=0).abs().mean((1, 2, 3))
    around = WINDOW // HOP
    flux = spectral_flux(result.waveform, WINDOW, HOP)
    seam = round(kept / fps * result.sample_rate / HOP)
    return is_usual(steps, kept - 1, kept) and is_usual(flux, seam - around, seam + around + 1)


def is_usual(values: Tensor, first: int, last: int) -> bool:
    """Whether the values from first up to last are no greater than the greatest beside them."""
    beside = torch.cat([values[:first], values[last:]])
    return bool(values[first:last].max() <= beside.max())


def late_by(found: Sequence[FoundFace]) -> float:
    """The median lag of true clips, in ms: consonants sound while the mouth is shut."""
    lags = [one.made.lag for one in found if one.made.lag is not None]
    return float(np.median(lags)) if lags else 0.0


def lag_of(found: FoundFace, usual: float) -> float:
    """Milliseconds beside the usual lag; what is steady is far."""
    return LAG_FAR if found.made.lag is None else found.made.lag - usual


def count(
    clip: FaceClip, found: FoundFace, task: FaceTask, usual: float, exact: bool | None = None
) -> Counts:
    """Every column; those that the task does not ask are 0 of 0.

    usual: the lag of true clips, ms. exact: what was kept came back so.
    """
    made = found.made
    who = {f"{name}_right": (float(right), 1) for name, right in seen_of(clip, found).items()}
    columns: Counts = {
        "lag_right": (float(abs(lag_of(found, usual)) <= LAG_RIGHT), 1),
        "envelope_correlation": (made.correlation, 1),
        "visemes_right": (float(made.visemes_right), made.parts),
    }
    if task.audio:
        columns["words_right"] = (float(found.whole.heard == found.whole.asked), 1)
    if task.video:
        columns |= who
    if task.pitched:
        columns["pitch_right"] = (float(made.pitch_is_right(clip.identity.voice.pitch)), 1)
    if exact is not None:
        columns["prefix_exact"] = (float(exact), 1)
    if found.smooth is not None:
        columns["seam_smooth"] = (float(found.smooth), 1)
    return {name: columns.get(name, (0.0, 0)) for name in COLUMNS}


def seen_of(clip: FaceClip, found: FoundFace) -> dict[str, bool]:
    looks = clip.identity.looks
    return {"identity": is_same(looks, found.looks), **looks_right(looks, found.looks)}
