"""Short videos with sound and captions: discs that flash with beeps, or open with the loudness of a voice."""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

FPS = 24
RATE = 44100
COLOURS = {"red": (220, 50, 40), "green": (60, 180, 70), "blue": (50, 80, 220), "yellow": (230, 210, 60)}
SENTENCES = (
    "the quick brown fox jumps over the lazy dog",
    "every sound has a picture of its own",
    "one two three four five six seven",
    "we speak and the circle opens",
)


def beeps(rng: random.Random, seconds: float) -> tuple[np.ndarray, str]:
    """A few short tones of one pitch, (n,) in -1..1, and what to say of them."""
    import numpy as np

    pitch = rng.choice((330, 440, 660, 880))
    time = np.arange(round(seconds * RATE)) / RATE
    sound = np.zeros_like(time)
    start = rng.uniform(0.1, 0.4)
    while start < seconds - 0.2:
        age = time - start
        sound += np.where(age >= 0, np.exp(-np.maximum(age, 0) * 12) * np.sin(2 * np.pi * pitch * age), 0)
        start += rng.uniform(0.35, 0.8)
    return 0.5 * sound.clip(-1, 1), f"flashes with beeps of {pitch} hertz"


def speech(rng: random.Random, seconds: float) -> tuple[np.ndarray, str]:
    """A sentence spoken by espeak-ng."""
    import av
    import numpy as np

    sentence = rng.choice(SENTENCES)
    with tempfile.TemporaryDirectory() as folder:
        spoken = Path(folder) / "speech.wav"
        subprocess.run(
            ["espeak-ng", "-s", str(rng.randint(120, 190)), "-w", str(spoken), sentence], check=True
        )
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        with av.open(str(spoken)) as file:
            pieces = [
                piece.to_ndarray()[0] for frame in file.decode(audio=0) for piece in resampler.resample(frame)
            ]
    count = round(seconds * RATE)
    return np.pad(np.concatenate(pieces), (0, count))[
        :count
    ], f'opens like a mouth, and a voice says "{sentence}"'


def draw(
    sound: np.ndarray, colour: tuple[int, int, int], size: tuple[int, int], seconds: float
) -> np.ndarray:
    """Frames (f, h, w, 3) of a disc that is as large and bright as its moment of the sound is loud."""
    import numpy as np

    width, height = size
    count = round(seconds * FPS)
    loudness = np.array([np.abs(part).max(initial=0) for part in np.array_split(sound, count)])
    loudness = loudness / max(loudness.max(), 1e-6)
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(x - width / 2, y - height / 2)[None]  # (1, h, w)
    radius = min(size) * (0.12 + 0.28 * loudness)[:, None, None]
    inside = (radius - distance).clip(0, 1)[..., None]  # (f, h, w, 1)
    shade = np.array(colour) * (0.4 + 0.6 * loudness)[:, None, None, None]
    return (30 * (1 - inside) + shade * inside).round().astype(np.uint8)


def write(path: Path, frames: np.ndarray, sound: np.ndarray, fps: int = FPS, rate: int = RATE) -> Path:
    """An mp4 file (H.264, AAC) of frames (f, h, w, 3) and a mono sound (n,)."""
    import av
    import numpy as np

    with av.open(str(path), "w") as file:
        video, audio = file.add_stream("libx264", rate=fps), file.add_stream("aac", rate=rate, layout="mono")
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        for picture in frames:
            file.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        file.mux(video.encode(None))
        heard = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
        heard.sample_rate = rate
        # Without a time, the padding of AAC would count as sound.
        heard.pts = 0
        file.mux(audio.encode(heard))
        file.mux(audio.encode(None))
    return path


def make(
    folder: Path,
    count: int,
    seconds: float = 3.0,
    size: tuple[int, int] = (128, 96),
    seed: int = 0,
    voice: bool = True,
) -> list[Path]:
    """Write `count` clips and their captions."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    written = []
    voice = voice and shutil.which("espeak-ng") is not None
    for i in range(count):
        sound, words = (speech if voice and i % 2 else beeps)(rng, seconds)
        name = rng.choice(list(COLOURS))
        path = write(folder / f"clip-{i:03}.mp4", draw(sound, COLOURS[name], size, seconds), sound)
        path.with_suffix(".txt").write_text(f"a {name} disc {words}\n", encoding="utf-8")
        written.append(path)
    return written
