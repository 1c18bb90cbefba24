"""Draw icon and banner for the registry: a ball bounces above its own sound, each contact over its onset.

python scripts/draw_icon.py             writes docs/icon.png and docs/banner.png
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from ccl_tools.environment import ROOT, reexec

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

SCALE = 4  # drawn so much larger, then brought down, for smooth edges
BACKGROUND, FLOOR = "#161a2e", "#3a4266"
BALL, SOUND, QUIET, LINK = "#ff9f45", "#4fd1c5", "#2b5d6b", "#59628f"
TITLE_TEXT, SMALL_TEXT = "#f2f4ff", "#9aa3cf"
BARS = 25
# The bars at which the ball is on the floor, and how high it flies before the first and after each of them.
CONTACTS, HEIGHTS = (3, 11, 20), (0.5, 0.8, 0.55, 0.35)
# Bars before the first contact and behind the last at which an arc would end: outside of the drawing.
ENDS = (-4, 27)
TITLE = "Video with Sound"
NAMES = "Ovi  ·  MOVA  ·  Prism  ·  CCL"
SUBTITLE = "in ComfyUI, on its own nodes"


def height(bar: float) -> float:
    """Of the ball above the floor, as a part of the upper half."""
    stops = (ENDS[0], *CONTACTS, ENDS[1])
    start, end, top = next(arc for arc in zip(stops, stops[1:], HEIGHTS, strict=False) if bar <= arc[1])
    part = (bar - start) / (end - start)
    return 4 * top * part * (1 - part)


def loudness(bar: int) -> float:
    """Of the sound: a stroke at each contact that dies away, 0 to 1."""
    strokes = [math.exp((at - bar) / 1.6) for at in CONTACTS if bar >= at]
    return min(1.0, 0.07 + sum(strokes))


def draw_scene(pen: ImageDraw, left: float, top: float, side: float) -> None:
    """The bouncing ball over the bars of its sound, in a square of `side`."""
    floor, middle, width = top + 0.50 * side, top + 0.78 * side, side / BARS
    places = [left + (bar + 0.5) * width for bar in range(BARS)]
    for bar in CONTACTS:
        pen.line((places[bar], floor, places[bar], middle), fill=LINK, width=round(0.008 * side))
    pen.line((left, floor, left + side, floor), fill=FLOOR, width=round(0.016 * side))
    for bar, x in enumerate(places):
        loud = loudness(bar)
        half = max(0.2 * width, 0.20 * side * loud)
        box = (x - 0.32 * width, middle - half, x + 0.32 * width, middle + half)
        pen.rounded_rectangle(box, 0.32 * width, fill=SOUND if loud > 0.15 else QUIET)
        draw_ball(pen, x, floor - 0.02 * side - 0.56 * side * height(bar), 0.010 * side, LINK)
    draw_ball(pen, places[CONTACTS[1]], floor - 0.104 * side, 0.096 * side, BALL)


def draw_ball(pen: ImageDraw, x: float, y: float, radius: float, colour: str) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def icon() -> Image:
    """400x400, the largest that the registry takes, with round corners."""
    picture, pen = canvas(400, 400, (0, 0, 0, 0))
    side = 400 * SCALE
    pen.rounded_rectangle((0, 0, side - 1, side - 1), 0.19 * side, fill=BACKGROUND)
    draw_scene(pen, 0.12 * side, 0.12 * side, 0.76 * side)
    return picture.resize((400, 400))


def banner() -> Image:
    """1260x540, 21:9."""
    from PIL import ImageFont

    picture, pen = canvas(1260, 540, BACKGROUND)
    draw_scene(pen, 90 * SCALE, 80 * SCALE, 400 * SCALE)
    title, names = (ImageFont.load_default(size * SCALE) for size in (74, 34))
    pen.text((560 * SCALE, 238 * SCALE), TITLE, fill=TITLE_TEXT, font=title, anchor="ls")
    pen.text((563 * SCALE, 312 * SCALE), NAMES, fill=SOUND, font=names, anchor="ls")
    pen.text((563 * SCALE, 372 * SCALE), SUBTITLE, fill=SMALL_TEXT, font=names, anchor="ls")
    return picture.resize((1260, 540))


def canvas(wide: int, high: int, colour: str | tuple[int, ...]) -> tuple[Image, ImageDraw]:
    from PIL import Image, ImageDraw

    picture = Image.new("RGBA", (wide * SCALE, high * SCALE), colour)
    return picture, ImageDraw.Draw(picture)


def write(picture: Image, path: Path) -> None:
    picture.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    reexec()
    write(icon(), ROOT / "docs" / "icon.png")
    write(banner().convert("RGB"), ROOT / "docs" / "banner.png")
