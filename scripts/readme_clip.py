"""Make the moving picture of the README: clips of ccl-tiny over their waveforms; and a film with the sound.

Runs the template "Text to Video with Sound (tiny)" in a real ComfyUI on the CPU, with one seed, none picked.

python scripts/readme_clip.py           writes docs/clip.webp (side by side) and docs/clip.mp4 (in turns)
"""

from __future__ import annotations

import argparse
import json
import tempfile
import textwrap
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccl_tools.console import exit_on_script_error, say
from ccl_tools.environment import ROOT, load_pack, reexec
from ccl_tools.prompt import set_everywhere, set_text
from ccl_tools.report import read_clip
from ccl_tools.workflow import to_prompt

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPLATE = ROOT / "workflows" / "Text to Video with Sound (tiny).json"
PROMPTS = (
    "a green square blinks, horn, and a yellow ball slides, click",
    "a red ball bounces, drum",
    "a blue triangle falls, bell",
)
SEED = 7
SIDE, WAVE, CAPTION, GAP = 272, 64, 42, 8  # pixels
BACKGROUND, HEARD, COMING, TEXT = "#161a2e", "#4fd1c5", "#2b5d6b", "#f2f4ff"


@dataclass(frozen=True)
class Shown:
    """The frames of one clip as they are shown, and its sound."""

    frames: list[Image]
    sound: Any  # (n,), -1 to 1
    fps: float
    sample_rate: int


def sampled() -> list[Shown]:
    """Each prompt through the server."""
    from ccl_tools.server import ComfyServer

    load_pack()
    with tempfile.TemporaryDirectory(prefix="ccl-clip-") as base, ComfyServer(Path(base)) as server:
        return [shown(made(server, text, Path(base)), text) for text in PROMPTS]


def made(server: Any, text: str, folder: Path) -> dict[str, Any]:
    prompt = to_prompt(json.loads(TEMPLATE.read_text(encoding="utf-8")), server.get("/object_info"))
    set_text(prompt, text)
    set_everywhere(prompt, "seed", SEED)
    run = server.run(prompt)
    assert run.status == "success", run.error
    path = folder / "clip.mp4"
    path.write_bytes(server.view(run.files(".mp4")[0]))
    return read_clip(path)


def shown(clip: dict[str, Any], text: str) -> Shown:
    frames = (clip["frames"] * 255).byte().numpy()
    sound = clip["waveform"].numpy()
    pictures = [drawn(frame, sound, (i + 1) / len(frames), text) for i, frame in enumerate(frames)]
    return Shown(pictures, sound, clip["fps"], clip["sample_rate"])


def drawn(frame: Any, sound: Any, part: float, text: str) -> Image:
    """One frame over the waveform, which is bright as far as it was heard."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (SIDE, CAPTION + SIDE + WAVE), BACKGROUND)
    pixels = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    picture.paste(pixels, (0, CAPTION))
    pen = ImageDraw.Draw(picture)
    lines = "\n".join(textwrap.wrap(text, 36))
    place = {"anchor": "mm", "align": "center"}
    pen.multiline_text((SIDE / 2, CAPTION / 2), lines, fill=TEXT, font=ImageFont.load_default(13), **place)
    middle = CAPTION + SIDE + WAVE / 2
    for x in range(0, SIDE, 3):
        piece = sound[x * len(sound) // SIDE : (x + 3) * len(sound) // SIDE]
        half = max(1.0, float(abs(piece).max()) * WAVE * 0.46)
        pen.line((x, middle - half, x, middle + half), fill=HEARD if x < part * SIDE else COMING, width=2)
    return picture


def side_by_side(frames: tuple[Image, ...]) -> Image:
    from PIL import Image

    wide, high = frames[0].size
    joined = Image.new("RGB", (len(frames) * (wide + GAP) - GAP, high), "white")
    for i, frame in enumerate(frames):
        joined.paste(frame, (i * (wide + GAP), 0))
    return joined


def write_picture(clips: list[Shown], path: Path) -> None:
    rows = zip(*[clip.frames for clip in clips], strict=True)
    first, *others = map(side_by_side, rows)
    duration = round(1000 / clips[0].fps)  # milliseconds
    first.save(path, save_all=True, append_images=others, duration=duration, loop=0, quality=60, method=6)


def write_film(clips: list[Shown], path: Path) -> None:
    """H.264 and AAC, as every browser plays them."""
    import av
    import numpy

    sound = numpy.concatenate([clip.sound for clip in clips]).astype("float32")[None]
    with av.open(str(path), "w") as film:
        video = film.add_stream("libx264", rate=Fraction(clips[0].fps).limit_denominator(1001))
        video.width, video.height, video.pix_fmt = *clips[0].frames[0].size, "yuv420p"
        audio = film.add_stream("aac", rate=clips[0].sample_rate, layout="mono")
        for frame in [frame for clip in clips for frame in clip.frames]:
            film.mux(video.encode(av.VideoFrame.from_image(frame)))
        samples = av.AudioFrame.from_ndarray(sound, "fltp", "mono")
        samples.sample_rate = clips[0].sample_rate
        film.mux(audio.encode(samples))
        film.mux(video.encode(None))
        film.mux(audio.encode(None))


def main() -> None:
    clips = sampled()
    for name, write in (("clip.webp", write_picture), ("clip.mp4", write_film)):
        path = ROOT / "docs" / name
        write(clips, path)
        say(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    reexec()
    exit_on_script_error(main)
