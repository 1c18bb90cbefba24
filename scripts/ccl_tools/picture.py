"""A clip as one picture: frames, motion, waveform, spectrogram over one time axis, with its events marked."""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from ccl_tools.console import ScriptError
from ccl_tools.report import asked_objects

# Inches.
WIDTH = 10.0
# Pixels of an inch.
DPI = 120
# Inches around and between the rows.
LEFT = 0.82
RIGHT = 0.64
HEAD = 0.62
FOOT = 0.48
GAP = 0.07
# Inches, heights of the rows; that of the frames follows from their shape.
MOTION = 1.1
WAVE = 1.25
SPECTRUM = 1.5
# In the strip.
MOST_FRAMES = 20
CONTACT = "#e6007a"
HEARD = "#0b63ce"
NEAR = "#11772d"
FAR = "#c23b00"
# One frame at 16 fps.
NEAR_MS = 62.5
# Share of the time axis that the error of a pair takes.
LABEL = 0.065
# Characters.
TITLE = 88
# Mel bands of the spectrogram.
BANDS = 96
# Seconds, as in the onset detector: the picture shows what the detector hears.
WINDOW = 0.016
HOP = 0.004
# Decibels below the loudest that are shown.
LOUD = 70
HERTZ = (500, 1000, 2000, 4000, 8000, 16000)
NEEDED = ("prompt", "contacts_s", "onsets_s", "sounds_heard")


@dataclass(frozen=True)
class Sync:
    """What was seen and heard, in seconds, and what of it belongs together."""

    contacts: list[float]
    onsets: list[float]
    pairs: list[tuple[float, float]]  # (contact, onset)
    within: int  # contacts with an onset within 62.5 ms
    median_ms: float | None

    def summary(self) -> str:
        median = "none" if self.median_ms is None else f"{self.median_ms:.1f} ms"
        return f"contacts {len(self.contacts)}, within {NEAR_MS} ms {self.within}, median error {median}"


@dataclass(frozen=True)
class Curve:
    """One number per frame of an object, 0 to 1."""

    title: str
    values: Any  # (f,)
    colour: tuple[float, ...]


def read_report(video: Path) -> dict[str, Any]:
    """The report that belongs to the video."""
    if not video.is_file():
        raise ScriptError(f"{video} is not there", f"make it: python scripts/demo.py --output {video.parent}")
    path = video.with_name("report.json")
    remedy = f"make video and report together: python scripts/demo.py --output {video.parent}"
    if not path.is_file():
        raise ScriptError(f"{video} has no report.json beside it", remedy)
    try:
        report = json.loads(path.read_text())
    except ValueError as error:
        raise ScriptError(f"{path} is no JSON: {error}", remedy) from error
    missing = [name for name in NEEDED if name not in report]
    if missing:
        raise ScriptError(f"{path} lacks {', '.join(missing)}", remedy)
    return report


def compare(report: dict[str, Any]) -> Sync:
    """Contacts and onsets of the report, paired as the judge pairs them."""
    from ccl_pack.ccl_core.metrics.matching import WIDE, match_events, summarise_sync

    contacts = report["contacts_s"]
    onsets = report["onsets_s"]
    agree = same_sound(report)
    counts = summarise_sync(contacts, onsets, agree)
    pairs = match_events(contacts, onsets, WIDE, agree).pairs
    return Sync(contacts, onsets, pairs, counts.matched_62ms, counts.median_error_ms)


def same_sound(report: dict[str, Any]) -> Any:
    """Which onsets sound as each contact should; with a single object all do."""
    from ccl_pack.ccl_core.training.world.judge import Onset, agreement

    asked = asked_objects(report["prompt"])
    found = report.get("objects", ())
    if len(asked) < 2 or len(found) != len(asked):
        return None
    events = sorted((time, k) for k, thing in enumerate(found) for time in thing["contacts_s"])
    onsets = [Onset(*onset) for onset in zip(report["onsets_s"], report["sounds_heard"], strict=True)]
    return agreement([asked[k].sound for _, k in events], onsets)


def motion_curves(clip: dict[str, Any], prompt: str) -> list[Curve]:
    """Where each object of the prompt is along its motion, or its light if it blinks; else nothing."""
    import torch

    from ccl_pack.ccl_core.training.world.clip import PALETTE
    from ccl_pack.ccl_core.training.world.contacts import track_colours, track_foreground

    asked = asked_objects(prompt)
    palette = torch.tensor([PALETTE[thing.colour] for thing in asked]) / 255
    frames = clip["frames"]
    tracks = track_colours(frames, palette) if len(asked) > 1 else [track_foreground(frames)] * len(asked)
    return [motion_curve(*pair) for pair in zip(asked, tracks, strict=True)]


def motion_curve(thing: Any, track: Any) -> Curve:
    from ccl_pack.ccl_core.training.world.clip import PALETTE

    red, green, blue = (part / 255 for part in PALETTE[thing.colour])
    # Yellow and white would be lost on white paper.
    # The weights of luma (BT.601): no colour is brighter than 60 %.
    shade = min(1.0, 0.6 / (0.3 * red + 0.59 * green + 0.11 * blue))
    colour = (red * shade, green * shade, blue * shade)
    kind, values = {
        "blinks": ("light", track.presence.clamp(0, 1)),
        "slides": ("from left to right", track.x),
    }.get(thing.motion, ("height", 1 - track.y))
    if thing.motion != "blinks":
        values = values.where(track.presence > 0.5, math.nan)
    return Curve(f"{thing.colour} {thing.shape}: {kind}", values.numpy(), colour)


def mel_spectrogram(clip: dict[str, Any]) -> Any:
    """(BANDS, columns every HOP seconds) in dB below the loudest."""
    import torch
    from torchaudio.functional import melscale_fbanks

    rate = clip["sample_rate"]
    window = round(WINDOW * rate)
    hop = round(HOP * rate)
    size = 4 * 2 ** math.ceil(math.log2(window))  # long enough for the narrow bands at the bottom
    taper = torch.hann_window(window)
    # Zeros around the clip: a mirrored beginning would show a sound before it is there.
    spectrum = torch.stft(
        clip["waveform"], size, hop, window, taper, center=True, pad_mode="constant", return_complex=True
    )
    bank = melscale_fbanks(size // 2 + 1, 0.0, rate / 2, BANDS, rate)
    power = bank.T @ spectrum.abs() ** 2
    relative = power / power.amax().clamp_min(1e-4)
    return 10 * relative.clamp_min(10 ** (-LOUD / 10)).log10()


def mel(hertz: float) -> float:
    # The HTK formula, the default of torchaudio's filter bank.
    return 2595 * math.log10(1 + hertz / 700)


def draw(clip: dict[str, Any], sync: Sync, curves: list[Curve], title: str) -> Any:
    """The figure; its axes are labelled frames, motion (if there is any), waveform and spectrogram."""
    from matplotlib import rc_context

    with rc_context({"font.size": 9, "axes.linewidth": 0.6}):
        figure, rows = layout(clip, bool(curves))
        draw_frames(rows["frames"], clip)
        if curves:
            draw_motion(rows["motion"], clip, curves)
        draw_waveform(rows["waveform"], clip)
        draw_spectrogram(figure, rows["spectrogram"], clip)
        mark(rows, sync)
        head(figure, sync, title)
    return figure


def shown_every(clip: dict[str, Any]) -> int:
    """Of so many frames one is shown."""
    return math.ceil(len(clip["frames"]) / MOST_FRAMES)


def layout(clip: dict[str, Any], motion: bool) -> tuple[Any, dict[str, Any]]:
    """Axes one below the other with one time axis; the strip is as high as its frames need."""
    from matplotlib.figure import Figure

    count, high, wide = clip["frames"].shape[:3]
    half = shown_every(clip) / 2
    # A frame stands at its time, so half of the first one lies before zero.
    begin = -half / clip["fps"]
    end = max((count - 1 + half) / clip["fps"], len(clip["waveform"]) / clip["sample_rate"])
    across = WIDTH - LEFT - RIGHT
    strip = across * 2 * half / clip["fps"] / (end - begin) * high / wide
    heights = {
        "frames": strip,
        **({"motion": MOTION} if motion else {}),
        "waveform": WAVE,
        "spectrogram": SPECTRUM,
    }
    total = HEAD + sum(heights.values()) + GAP * (len(heights) - 1) + FOOT
    figure = Figure((WIDTH, total), dpi=DPI)
    rows = {}
    top = total - HEAD
    for name, height in heights.items():
        box = (LEFT / WIDTH, (top - height) / total, across / WIDTH, height / total)
        rows[name] = figure.add_axes(box, label=name, sharex=rows.get("frames"))
        rows[name].tick_params(labelbottom=name == "spectrogram", length=3)
        top -= height + GAP
    rows["frames"].set_xlim(begin, end)
    return figure, rows


def draw_frames(axes: Any, clip: dict[str, Any]) -> None:
    """Every so many frames, each with its middle at its time."""
    step = shown_every(clip)
    half = 0.48 * step / clip["fps"]
    for i in range(0, len(clip["frames"]), step):
        time = i / clip["fps"]
        axes.imshow(clip["frames"][i].numpy(), extent=(time - half, time + half, 0, 1), aspect="auto")
    axes.set(ylim=(0, 1), yticks=[])
    name_row(axes, "frames")
    axes.tick_params(bottom=False)
    axes.spines[:].set_visible(False)


def name_row(axes: Any, name: str) -> None:
    axes.text(-0.036, 0.5, name, transform=axes.transAxes, ha="right", va="center")


def draw_motion(axes: Any, clip: dict[str, Any], curves: list[Curve]) -> None:
    times = [i / clip["fps"] for i in range(len(clip["frames"]))]
    for curve in curves:
        axes.plot(
            times,
            curve.values,
            color=curve.colour,
            marker=".",
            markersize=4,
            linewidth=1.4,
            label=curve.title,
        )
    axes.set(ylim=(-0.08, 1.45), yticks=[0, 1])
    axes.legend(loc="upper right", fontsize=8, ncols=len(curves), frameon=False, borderpad=0.1)
    name_row(axes, "seen")


def draw_waveform(axes: Any, clip: dict[str, Any]) -> None:
    """With room above for the marks of what is heard."""
    sound = clip["waveform"].numpy()
    peak = max(float(abs(sound).max()), 1e-3)
    times = [i / clip["sample_rate"] for i in range(len(sound))]
    axes.plot(times, sound / peak, color="#333333", linewidth=0.5)
    axes.set(ylim=(-1.1, 3.1), yticks=[])
    name_row(axes, "heard")


def draw_spectrogram(figure: Any, axes: Any, clip: dict[str, Any]) -> None:
    levels = mel_spectrogram(clip)
    rate = clip["sample_rate"]
    top = mel(clip["sample_rate"] / 2)
    hop = round(HOP * rate) / rate
    extent = (-hop / 2, (levels.shape[1] - 0.5) * hop, 0, top)
    shown = axes.imshow(
        levels.numpy(), origin="lower", extent=extent, aspect="auto", cmap="Greys", vmin=-LOUD, vmax=0
    )
    ticks = [hertz for hertz in HERTZ if hertz <= rate / 2]
    axes.set_yticks([mel(hertz) for hertz in ticks], [f"{hertz / 1000:g}" for hertz in ticks])
    axes.set(xlabel="seconds")
    name_row(axes, "kHz")
    box = axes.get_position()
    bar = figure.add_axes((box.x1 + 0.08 / WIDTH, box.y0, 0.1 / WIDTH, box.height), label="loudness")
    figure.colorbar(shown, cax=bar, ticks=[-LOUD, -LOUD / 2, 0])
    bar.set_yticks([-LOUD, -LOUD / 2, 0], [f"-{LOUD}", f"-{LOUD / 2:g}", "0 dB"])


def mark(rows: dict[str, Any], sync: Sync) -> None:
    """Contacts through all rows, onsets on the waveform, errors of pairs; plus is sound after picture."""
    from matplotlib.patheffects import withStroke

    for name, axes in rows.items():
        for time in sync.contacts:
            line = axes.axvline(time, color=CONTACT, linewidth=1.2, gid="contact", zorder=4)
            if name in ("frames", "spectrogram"):
                line.set_path_effects([withStroke(linewidth=2.2, foreground="white", alpha=0.6)])
    axes = rows["waveform"]
    axes.plot(sync.onsets, [1.6] * len(sync.onsets), "v", color=HEARD, markersize=6, gid="onset", zorder=5)
    begin, end = axes.get_xlim()
    room = LABEL * (end - begin)
    above = cycle((2.2, 2.75))
    for pair in sync.pairs:
        crowded = any(0 < time - max(pair) < room for time in sync.contacts + sync.onsets)
        write_error(axes, pair, next(above) if crowded else 1.6, leftwards=max(pair) + room > end)


def write_error(axes: Any, pair: tuple[float, float], height: float, leftwards: bool) -> None:
    """Beside the two marks of the pair, so that neither runs through the number."""
    from matplotlib.patheffects import withStroke

    error = 1000 * (pair[1] - pair[0])
    text = axes.annotate(
        f"{round(error):+d} ms",
        (min(pair) if leftwards else max(pair), height),
        xytext=(-6 if leftwards else 6, 0),
        textcoords="offset points",
        color=NEAR if abs(error) <= NEAR_MS else FAR,
        ha="right" if leftwards else "left",
        va="center",
        gid="error",
        zorder=6,
    )
    text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def head(figure: Any, sync: Sync, title: str) -> None:
    """Title, then the numbers and what the marks mean."""
    from matplotlib.lines import Line2D

    inch = 1 / figure.get_figheight()
    shown = textwrap.shorten(title, TITLE, placeholder=" ...")
    figure.text(
        LEFT / WIDTH, 1 - 0.08 * inch, shown, fontsize=12, fontweight="bold", va="top", parse_math=False
    )
    figure.text(LEFT / WIDTH, 1 - 0.43 * inch, sync.summary(), fontsize=10, va="center")
    marks = [
        Line2D([], [], color=CONTACT, linewidth=1.5, label="contact seen"),
        Line2D([], [], color=HEARD, marker="v", linestyle="", label="onset heard, + after the contact"),
    ]
    corner = (1 - RIGHT / WIDTH, 1 - 0.43 * inch)
    figure.legend(
        handles=marks, loc="center right", bbox_to_anchor=corner, ncols=2, frameon=False, borderpad=0
    )
