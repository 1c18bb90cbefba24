"""Pictures of templates: frames and waveform of a real result, or a card that says what goes in and out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ccl_tools.template_jobs import (
    Job,
    extend_video,
    first_image_to_video,
    image_to_video,
    sound_for_video,
    text_to_video,
    video_for_sound,
    white_image_to_video,
)
from ccl_tools.template_texts import FACTS

if TYPE_CHECKING:
    from PIL.Image import Image

    from ccl_tools.template_table import Row

# Pixels.
WIDTH, HEIGHT, EDGE = 600, 400, 14
FRAMES = 3
SIDE = (WIDTH - (FRAMES + 1) * EDGE) // FRAMES
WAVE_TOP, BOX_TOP, BOX_HEIGHT = 2 * EDGE + SIDE, 150, 110
TITLE, TEXT, SMALL = 46, 26, 18
BACKGROUND, BOX, WAVE, BRIGHT, PALE = "#161a2e", "#262c4a", "#4fd1c5", "#f2f4ff", "#9aa3c7"
NOT_RUN = "no picture of a result: its weights were not run here"
# What goes in and what comes out.
JOBS: dict[Job, tuple[str, str]] = {
    text_to_video: ("text", "video + sound"),
    white_image_to_video: ("text", "video + sound"),
    image_to_video: ("image + text", "video + sound"),
    first_image_to_video: ("image + text", "video + sound"),
    sound_for_video: ("your video", "its sound"),
    video_for_sound: ("your sound", "its video"),
    extend_video: ("your video", "what comes next"),
}


@dataclass(frozen=True)
class Result:
    """frames: (f, h, w, 3) of bytes, none of a sound alone; sound: (n,) from -1 to 1."""

    frames: Any
    sound: Any


def of_result(result: Result) -> Image:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    shown = [] if result.frames is None else fullest(result.frames)
    for k, frame in enumerate(shown):
        still = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        picture.paste(still, (EDGE + k * (SIDE + EDGE), EDGE))
    top = WAVE_TOP if shown else EDGE
    draw_wave(ImageDraw.Draw(picture), result.sound, top)
    return picture


def fullest(frames: Any) -> list[Any]:
    """Of each of some equal parts the frame with the most in it: what blinks is seen."""
    bounds = [k * len(frames) // FRAMES for k in range(FRAMES + 1)]
    return [max(frames[first:stop], key=lambda frame: frame.std()) for first, stop in pairwise(bounds)]


def draw_wave(draw: Any, sound: Any, top: int) -> None:
    """The peak of each column, up and down from the middle of what is left below `top`."""
    columns = WIDTH - 2 * EDGE
    middle, height = (top + HEIGHT - EDGE) // 2, (HEIGHT - EDGE - top) // 2
    for k in range(columns):
        part = sound[k * len(sound) // columns : (k + 1) * len(sound) // columns]
        reach = max(1, round(float(abs(part).max()) * height))
        draw.line([(EDGE + k, middle - reach), (EDGE + k, middle + reach)], WAVE)


def card(row: Row) -> Image:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    write(draw, row.release.title, (WIDTH // 2, 62), TITLE, BRIGHT)
    write(draw, row.name.removeprefix(row.release.title).strip(), (WIDTH // 2, 112), SMALL, PALE)
    half = (WIDTH - 6 * EDGE) // 2
    for k, text in enumerate(JOBS[row.job]):
        left = 2 * EDGE + k * (half + 2 * EDGE)
        draw.rounded_rectangle([left, BOX_TOP, left + half, BOX_TOP + BOX_HEIGHT], EDGE, BOX)
        write(draw, text, (left + half // 2, BOX_TOP + BOX_HEIGHT // 2), TEXT, WAVE if k else BRIGHT)
    middle = BOX_TOP + BOX_HEIGHT // 2
    arrow = [
        (WIDTH // 2 - EDGE, middle - EDGE),
        (WIDTH // 2 + EDGE, middle),
        (WIDTH // 2 - EDGE, middle + EDGE),
    ]
    draw.polygon(arrow, BRIGHT)
    write(draw, FACTS[row.release.title].short, (WIDTH // 2, 310), TEXT, BRIGHT)
    write(draw, NOT_RUN, (WIDTH // 2, 355), SMALL, PALE)
    return picture


def write(draw: Any, text: str, place: tuple[int, int], size: int, colour: str) -> None:
    from PIL import ImageFont

    draw.text(place, text, colour, ImageFont.load_default(size), anchor="mm")
