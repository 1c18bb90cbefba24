"""The talking face: a person whose mouth follows the syllables that are heard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...alignment.timeline import fills_latent_frames
from .clip import PALETTE, SHAPES
from .face_picture import (
    EYES,
    HAIRS,
    MOUTH_BELOW,
    MOUTHS,
    SHUT,
    SKINS,
    WALLS,
    Looks,
    Mouth,
    Passer,
    Place,
    Pose,
    draw_faces,
)
from .sounds import SAMPLE_RATE
from .speech import SYLLABLE, Syllable, Voice, sample_syllables, sample_transcript, speak

# Hz.
PITCH = (90.0, 250.0)
# Seconds: a mouth takes about so long from one shape to the next.
GLIDE = 0.06
BLINK = 0.14
# Share of clips with a second face, which is silent.
PAIRS = 1 / 3
# Pixels from the middle of a face's picture to what must stay in the frame: hair, crown, chin.
HAIR = 20.0
CROWN = 23.0
CHIN = 14.0
# Half of the box around the mouth, pixels of a 64 x 64 frame: lips at their widest and highest, and a margin.
BOX = (10, 8)
# One word of one syllable with silence around it.
SHORTEST = SYLLABLE[1] + 0.1


@dataclass(frozen=True)
class Identity:
    """Whose face and voice it is."""

    looks: Looks
    voice: Voice


@dataclass(frozen=True)
class FaceClip:
    """One clip with everything that is known about it.

    mouth: how open it is at each frame; mouth_box: its rows and columns, top, left, bottom, right, in pixels.
    place: of the face that speaks, pose: it by frame; beside: the looks of a silent one, beside_pose: it by
    frame; passer: what moves behind.
    """

    frames: np.ndarray  # (f, h, w, 3) uint8
    waveform: np.ndarray  # (n,) float32
    identity: Identity
    syllables: tuple[Syllable, ...]
    mouth: np.ndarray  # (f,) 0..1
    mouth_box: np.ndarray  # (f, 4) int
    transcript: str
    caption: str
    place: Place
    pose: Pose
    beside: Looks | None
    beside_pose: Pose | None
    passer: Passer

    @property
    def people(self) -> list[tuple[Looks, Pose]]:
        """Who is drawn, in this order: the one who speaks first."""
        silent = [] if self.beside is None else [(self.beside, self.beside_pose)]
        return [(self.identity.looks, self.pose), *silent]


def sample_clip(
    rng: np.random.Generator,
    identity: Identity | None = None,
    transcript: str | None = None,
    frames: int = 33,
    size: int = 64,
    fps: float = 16,
) -> FaceClip:
    """One random clip of this person and these words; what is not given is drawn."""
    seconds = frames / fps
    if not fills_latent_frames(frames) or seconds < SHORTEST:
        raise ValueError(
            f"a clip needs 4k+1 frames and at least {SHORTEST:.2f} s, got {frames} at {fps:g} fps"
        )
    identity = identity or sample_identity(rng)
    transcript = sample_transcript(rng, seconds) if transcript is None else transcript
    syllables = sample_syllables(rng, transcript, seconds)
    times = np.arange(frames) / fps
    places = sample_places(rng)
    pose = sample_pose(rng, syllables, times, places[0])
    passer = sample_passer(rng, times, identity.looks)
    silent = [(sample_looks(rng), sample_pose(rng, (), times, place)) for place in places[1:]]
    beside, beside_pose = silent[0] if silent else (None, None)
    return FaceClip(
        frames=draw_faces([(identity.looks, pose), *silent], passer, size),
        waveform=speak(rng, syllables, identity.voice, round(seconds * SAMPLE_RATE)),
        identity=identity,
        syllables=syllables,
        mouth=pose.mouth[:, 1],
        mouth_box=box_of(pose, size),
        transcript=transcript,
        caption=describe(passer),
        place=pose.place,
        pose=pose,
        beside=beside,
        beside_pose=beside_pose,
        passer=passer,
    )


def sample_identity(rng: np.random.Generator) -> Identity:
    # Even in octaves. A higher voice mostly comes from a shorter mouth.
    height = rng.random()
    pitch = PITCH[0] * (PITCH[1] / PITCH[0]) ** height
    scale = 0.95 + 0.2 * height + rng.uniform(-0.05, 0.05)
    return Identity(sample_looks(rng), Voice(float(pitch), float(scale), float(rng.uniform(0.3, 0.6))))


def sample_looks(rng: np.random.Generator) -> Looks:
    return Looks(
        skin=str(rng.choice(list(SKINS))),
        hair=str(rng.choice(list(HAIRS))),
        long_hair=bool(rng.random() < 0.5),
        eyes=str(rng.choice(list(EYES))),
        shirt=str(rng.choice(list(PALETTE))),
        wall=str(rng.choice(list(WALLS))),
        width=float(rng.uniform(12.0, 14.5)),
    )


def sample_places(rng: np.random.Generator) -> list[Place]:
    """Where the speaking face is, and where a silent one is if there is one; they stand side by side."""
    if rng.random() >= PAIRS:
        return [sample_place(rng, (0.8, 1.0), (0.0, 64.0))]
    sides = [(0.0, 32.0), (32.0, 64.0)]
    rng.shuffle(sides)
    return [sample_place(rng, (0.66, 0.74), side) for side in sides]


def sample_place(rng: np.random.Generator, sizes: tuple[float, float], columns: tuple[float, float]) -> Place:
    """A face of a size between these, between these columns and whole."""
    size = rng.uniform(*sizes)
    x = rng.uniform(columns[0] + HAIR * size + 1, columns[1] - HAIR * size - 1)
    y = rng.uniform(CROWN * size + 1, min(CROWN * size + 9, 60 - CHIN * size))
    return Place(float(x), float(y), float(size))


def sample_pose(
    rng: np.random.Generator, syllables: tuple[Syllable, ...], times: np.ndarray, place: Place
) -> Pose:
    """A head that sways slowly, eyes that blink, and the mouth of what is said."""
    return Pose(
        x=32 + sway(rng, times, 2.2),
        y=29 + sway(rng, times, 1.2),
        mouth=mouth_track(syllables, times),
        eyes=blinks(rng, times),
        place=place,
    )


def sway(rng: np.random.Generator, times: np.ndarray, width: float) -> np.ndarray:
    """Up to `width` pixels to either side, in one to three seconds there and back."""
    hertz = rng.uniform(0.3, 0.8)
    return rng.uniform(0.4, 1.0) * width * np.sin(2 * np.pi * (hertz * times + rng.random()))


def blinks(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """How open the eyes are: shut for a moment every one to three seconds."""
    openness = np.ones_like(times)
    middle = rng.uniform(0.1, 1.5)
    while middle < times[-1]:
        openness = np.minimum(openness, np.clip(2 * np.abs(times - middle) / BLINK, 0, 1))
        middle += rng.uniform(1.0, 3.0)
    return openness


def mouth_track(syllables: tuple[Syllable, ...], times: np.ndarray) -> np.ndarray:
    """The mouth at each frame (f, 3): from shape to shape in GLIDE seconds, shut in consonants."""
    # Shapes at a fine time, then the mean of GLIDE seconds around each frame.
    offsets = (np.arange(25) - 12) / 24 * GLIDE
    fine = np.add.outer(times, offsets).ravel()  # (f * 25,)
    shapes = np.tile(numbers(SHUT), (len(fine), 1))
    for syllable in syllables:
        said = (fine >= syllable.opening) & (fine < syllable.end)
        shapes[said] = numbers(MOUTHS[syllable.vowel])
    return shapes.reshape(len(times), len(offsets), 3).mean(axis=1)


def numbers(mouth: Mouth) -> tuple[float, float, float]:
    return (mouth.width, mouth.open, mouth.teeth)


def sample_passer(rng: np.random.Generator, times: np.ndarray, looks: Looks) -> Passer:
    """A silent object that moves from side to side behind the head, in another colour than the shirt."""
    colour = str(rng.choice([name for name in PALETTE if name != looks.shirt]))
    hertz = rng.uniform(0.3, 0.8)
    turn = rng.random()
    height = rng.uniform(10, 34)
    # The free place is left and right of the head, so that it passes behind it.
    x = 32 + 25 * np.sin(2 * np.pi * (hertz * times + turn))
    y = height + 4 * np.sin(2 * np.pi * (2 * hertz * times + turn))
    return Passer(colour, str(rng.choice(SHAPES)), x, y)


def box_of(pose: Pose, size: int) -> np.ndarray:
    """Rows and columns around the mouth, within the frame; (f, 4)"""
    place = pose.place
    x = place.x + place.size * (pose.x - 32)
    y = place.y + place.size * (pose.y + MOUTH_BELOW - 32)
    middle = np.stack([y, x, y, x], axis=1)
    half = place.size * np.array([-BOX[1], -BOX[0], BOX[1], BOX[0]])
    return np.clip(((middle + half) * size / 64).round(), 0, size).astype(int)


def describe(passer: Passer) -> str:
    """What moves behind, in words of the world of shapes; the words that are said stand apart."""
    return f"{'an' if passer.colour[0] in 'aeiou' else 'a'} {passer.colour} {passer.shape} slides silently"


def clips(seed: int, frames: int = 33, size: int = 64, fps: float = 16) -> Iterator[FaceClip]:
    """An endless stream of clips, the same for the same seed."""
    rng = np.random.default_rng(seed)
    while True:
        yield sample_clip(rng, frames=frames, size=size, fps=fps)
