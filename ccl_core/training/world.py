"""The procedural world of ccl-tiny: coloured shapes whose visible contacts are exactly the onsets of a sound."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (230, 45, 40),
    "green": (50, 200, 70),
    "blue": (50, 100, 240),
    "yellow": (240, 215, 50),
    "purple": (175, 60, 225),
    "white": (240, 240, 240),
}
COLOURS = tuple(PALETTE)
SHAPES = ("ball", "square")
MOTIONS = ("bounces", "falls", "slides", "blinks")
SOUNDS = ("drum", "bell", "click", "beep")
WORD_KINDS = ("colour", "shape", "motion", "sound")
SAMPLE_RATE = 16000

BACKGROUND = (18, 20, 28)
LINE = (58, 60, 66)
# Geometry in pixels of a 64 x 64 frame; other sizes scale it.
FLOOR, LEFT_WALL, RIGHT_WALL = 58.0, 3.0, 61.0
GRAVITY = 300.0
RADII = {"": (8.0, 11.0), "small ": (8.0, 8.8), "big ": (10.2, 11.0)}

GERUNDS = {"bounces": "bouncing", "falls": "falling", "slides": "sliding", "blinks": "blinking"}
TEMPLATES = (
    "a {size}{colour} {shape} {motion}, {sound}",
    "a {size}{colour} {shape} {motion} with a {sound}",
    "a {size}{colour} {shape} {motion} with a {sound} sound",
    "a {size}{colour} {shape} is {gerund}, {sound} sound",
    "a {size}{colour} {shape} is {gerund} with a {sound} sound",
    "{size}{colour} {shape} {gerund}, {sound}",
    "a video of a {size}{colour} {shape} that {motion}, we hear a {sound}",
)


@dataclass(frozen=True)
class Clip:
    """One clip with everything that is known about it; contacts are seconds, exact to a sample of the sound."""

    frames: np.ndarray  # (f, h, w, 3) uint8
    waveform: np.ndarray  # (n,) float32
    contacts: list[float]
    caption: str
    colour: str
    shape: str
    motion: str
    sound: str


@dataclass(frozen=True)
class Scene:
    """What a caption says, and the size it leaves open."""

    colour: str
    shape: str
    motion: str
    sound: str
    radius: float
    caption: str


@dataclass(frozen=True)
class Path:
    """Motion as seen at the frame times, and the exact contact times behind it."""

    x: np.ndarray  # (f,)
    y: np.ndarray  # (f,)
    brightness: np.ndarray  # (f,) 0..1
    contacts: list[float]


def sample_scene(rng: np.random.Generator, **fixed: str) -> Scene:
    """Draw what is not fixed (colour, shape, motion, sound, caption); a fixed caption decides the words it contains."""
    words = dict(zip(WORD_KINDS, read_caption(fixed.get("caption", "")), strict=True))
    choices = dict(zip(WORD_KINDS, (COLOURS, SHAPES, MOTIONS, SOUNDS), strict=True))
    picked = {name: fixed.get(name) or words.get(name) or str(rng.choice(options)) for name, options in choices.items()}
    for name, value in picked.items():
        if value not in choices[name]:
            raise ValueError(f"{name} {value!r} is not part of the world; use one of {', '.join(choices[name])}")
    size = str(rng.choice(["", "small ", "big "], p=[0.6, 0.2, 0.2]))
    # Half of the captions have the canonical form, so that short prompts work best.
    template = TEMPLATES[0] if rng.random() < 0.5 else TEMPLATES[rng.integers(1, len(TEMPLATES))]
    drawn = template.format(size=size, gerund=GERUNDS[picked["motion"]], **picked)
    caption = fixed.get("caption", drawn)
    size = next((word for word in ("small ", "big ") if word in caption), "")
    return Scene(**picked, radius=float(rng.uniform(*RADII[size])), caption=caption)


def read_caption(caption: str) -> tuple[str | None, str | None, str | None, str | None]:
    """Colour, shape, motion and sound named by a caption; None for what it does not say."""
    words = {GERUND_OF.get(word, word) for word in caption.lower().replace(",", " ").replace(".", " ").split()}
    groups = (COLOURS, SHAPES, MOTIONS, SOUNDS)
    colour, shape, motion, sound = (next((word for word in group if word in words), None) for group in groups)
    return colour, shape, motion, sound


GERUND_OF = {gerund: motion for motion, gerund in GERUNDS.items()}


def sample_clip(rng: np.random.Generator, frames: int = 45, size: int = 64, fps: float = 16, **fixed: str) -> Clip:
    """One random clip; `fixed` pins colour, shape, motion, sound or the caption."""
    if frames < 17 or frames % 4 != 1:
        raise ValueError(f"a clip needs 4k+1 frames and at least 17 (one contact must fit), got {frames}")
    scene = sample_scene(rng, **fixed)
    path = sample_path(rng, scene, frames, fps)
    return Clip(
        frames=render(scene, path, size),
        waveform=synthesise(rng, scene.sound, path.contacts, round(frames / fps * SAMPLE_RATE)),
        contacts=path.contacts,
        caption=scene.caption,
        colour=scene.colour,
        shape=scene.shape,
        motion=scene.motion,
        sound=scene.sound,
    )


def sample_path(rng: np.random.Generator, scene: Scene, frames: int, fps: float) -> Path:
    """Random period and phase, redrawn until every contact lies between two seen frames on either side."""
    times = np.arange(frames) / fps
    first, last = 0.1, (frames - 1) / fps - 0.1
    while True:
        path = PATHS[scene.motion](rng, scene.radius, times)
        near = [t for t in path.contacts if -0.1 < t < times[-1] + 0.15]
        if near and near[0] >= first and near[-1] <= last:
            return Path(path.x, path.y, path.brightness, [round(t * SAMPLE_RATE) / SAMPLE_RATE for t in near])


def bounce(rng: np.random.Generator, radius: float, times: np.ndarray) -> Path:
    """Parabolas between elastic hits of the floor."""
    period = rng.uniform(0.55, 0.9)
    start = rng.uniform(-period, 0)
    since = np.mod(times - start, period)
    y = FLOOR - radius - GRAVITY / 2 * since * (period - since)
    x = np.full_like(times, rng.uniform(LEFT_WALL + radius + 1, RIGHT_WALL - radius - 1))
    return Path(x, y, np.ones_like(times), regular(start, period, times))


def fall(rng: np.random.Generator, radius: float, times: np.ndarray) -> Path:
    """Held at the top, dropped, at rest on the floor, and again from the top."""
    top = radius + 2
    hold, rest = rng.uniform(0.1, 0.35), rng.uniform(0.25, 0.5)
    drop = math.sqrt(2 * (FLOOR - radius - top) / GRAVITY)
    period = hold + drop + rest
    start = rng.uniform(-period, 0)
    falling = np.clip(np.mod(times - start, period) - hold, 0, drop)
    y = top + GRAVITY / 2 * falling**2
    x = np.full_like(times, rng.uniform(LEFT_WALL + radius + 1, RIGHT_WALL - radius - 1))
    return Path(x, y, np.ones_like(times), regular(start + hold + drop, period, times))


def slide(rng: np.random.Generator, radius: float, times: np.ndarray) -> Path:
    """Constant speed along the floor, turned round by each wall."""
    period = rng.uniform(0.5, 0.85)
    start = rng.uniform(-2 * period, 0)
    phase = np.mod((times - start) / period, 2)
    left, right = LEFT_WALL + radius, RIGHT_WALL - radius
    x = left + (right - left) * np.minimum(phase, 2 - phase)
    return Path(x, np.full_like(times, FLOOR - radius), np.ones_like(times), regular(start, period, times))


def blink(rng: np.random.Generator, radius: float, times: np.ndarray) -> Path:
    """Dark and lit in turn; the light grows over one frame, so that frames tell when within a frame it came on."""
    lit, dark = rng.uniform(0.25, 0.45), rng.uniform(0.25, 0.45)
    start = rng.uniform(-lit - dark, 0)
    since = np.mod(times - start, lit + dark)
    ramp = times[1] - times[0]
    brightness = np.clip(since / ramp, 0, 1) * np.clip((lit + ramp - since) / ramp, 0, 1)
    x = np.full_like(times, rng.uniform(LEFT_WALL + radius + 1, RIGHT_WALL - radius - 1))
    y = np.full_like(times, rng.uniform(radius + 3, FLOOR - radius - 1))
    return Path(x, y, brightness, regular(start, lit + dark, times))


PATHS = {"bounces": bounce, "falls": fall, "slides": slide, "blinks": blink}


def regular(start: float, period: float, times: np.ndarray) -> list[float]:
    """Every start + k * period from shortly before the first to shortly after the last frame."""
    count = math.ceil((times[-1] - start) / period) + 2
    return [start + k * period for k in range(-2, count)]


def render(scene: Scene, path: Path, size: int) -> np.ndarray:
    """Anti-aliased frames of the shape over the dark room."""
    room = draw_room(size)
    half = scene.radius * size / 64
    grid = np.arange(size, dtype=np.float32) + 0.5
    dx = np.abs(grid - path.x.astype(np.float32)[:, None] * size / 64)  # (f, w)
    dy = np.abs(grid - path.y.astype(np.float32)[:, None] * size / 64)  # (f, h)
    if scene.shape == "ball":
        distance = np.sqrt(dx[:, None, :] ** 2 + dy[:, :, None] ** 2)  # (f, h, w)
        cover = np.clip(half + 0.5 - distance, 0, 1)
    else:
        # The square has the width of a ball of nearly the same area.
        side = 0.9 * half + 0.5
        cover = np.clip(side - dx, 0, 1)[:, None, :] * np.clip(side - dy, 0, 1)[:, :, None]
    cover = (cover * path.brightness.astype(np.float32)[:, None, None])[..., None]  # (f, h, w, 1)
    colour = np.asarray(PALETTE[scene.colour], dtype=np.float32)
    return (room + cover * (colour - room) + 0.5).astype(np.uint8)  # (f, h, w, 3)


def draw_room(size: int) -> np.ndarray:
    """A dark room with a floor line and two walls."""
    room = np.empty((size, size, 3), dtype=np.float32)
    room[:] = BACKGROUND
    floor, left, right = (round(v * size / 64) for v in (FLOOR, LEFT_WALL, RIGHT_WALL))
    thick = max(1, round(size / 64))
    room[floor : floor + thick] = LINE
    room[:floor, left - thick : left] = LINE
    room[:floor, right : right + thick] = LINE
    return room  # (h, w, 3)


def synthesise(rng: np.random.Generator, sound: str, contacts: list[float], samples: int) -> np.ndarray:
    """The sound once at every contact, with a little variation in loudness."""
    waveform = np.zeros(samples, dtype=np.float32)
    for time in contacts:
        note = strike(rng, sound) * rng.uniform(0.85, 1.0)
        begin = round(time * SAMPLE_RATE)
        waveform[begin : begin + len(note)] += note[: samples - begin]
    return waveform  # (n,)


def strike(rng: np.random.Generator, sound: str) -> np.ndarray:
    """One note of at most a quarter of a second with an immediate attack."""
    seconds = np.arange(round(0.25 * SAMPLE_RATE)) / SAMPLE_RATE
    fade = np.clip((0.25 - seconds) / 0.04, 0, 1)
    return (NOTES[sound](rng, seconds) * fade).astype(np.float32)


def drum(_rng: np.random.Generator, seconds: np.ndarray) -> np.ndarray:
    """A low thump that sinks in pitch."""
    turns = 85 * seconds + 75 * 0.03 * (1 - np.exp(-seconds / 0.03))
    return 0.8 * np.cos(2 * np.pi * turns) * np.exp(-seconds / 0.06)


def bell(_rng: np.random.Generator, seconds: np.ndarray) -> np.ndarray:
    """Slightly inharmonic partials that ring."""
    partials = ((700, 0.28), (1410, 0.22), (2130, 0.16), (3480, 0.12))
    return sum(level * np.cos(2 * np.pi * hertz * seconds) for hertz, level in partials) * np.exp(-seconds / 0.1)


def click(rng: np.random.Generator, seconds: np.ndarray) -> np.ndarray:
    """A short burst of noise without low frequencies."""
    noise = rng.standard_normal(len(seconds) + 1)
    return 0.25 * (noise[1:] - noise[:-1]) * np.exp(-seconds / 0.025)


def beep(_rng: np.random.Generator, seconds: np.ndarray) -> np.ndarray:
    """A steady tone that begins and ends sharply."""
    return 0.4 * np.cos(2 * np.pi * 1050 * seconds) * np.clip((0.15 - seconds) / 0.01, 0, 1)


NOTES = {"drum": drum, "bell": bell, "click": click, "beep": beep}


def clips(seed: int, frames: int = 45, size: int = 64, fps: float = 16, **fixed: str) -> Iterator[Clip]:
    """An endless stream of clips, the same for the same seed."""
    rng = np.random.default_rng(seed)
    while True:
        yield sample_clip(rng, frames=frames, size=size, fps=fps, **fixed)
