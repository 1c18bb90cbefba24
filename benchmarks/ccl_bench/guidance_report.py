"""Chart, tables and recommendations of benchmarks/guidance.py, from the points in its work folder."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccl_bench.ablation_report import MEDIAN, RIGHT, SHARE
from ccl_bench.charts import save
from ccl_bench.generate import TASKS
from ccl_bench.guidance import NONE, write
from ccl_bench.tiny_options import guidance_modes
from ccl_tools.console import ScriptError

TITLES = {
    "t2av": "Video and sound from text",
    "v2a": "Sound for a given video",
    "a2v": "Video for a given sound",
}
BEGIN, END = "<!-- guidance, written by benchmarks/guidance.py -->", "<!-- end of guidance -->"
COLUMNS = ("guidance", "scales", "passes", "within 62.5 ms", "spurious", "F1", "median error")
# By passes per step.
LINES = {1: ":", 2: "-", 3: "--", 4: "-."}
# By mode: some modes are the same at equal scales, and their lines cover each other.
MARKERS = "os^vDPX"

Row = dict[str, Any]


def collect(options: argparse.Namespace) -> None:
    """Write guidance.json from all points of the work folder, whichever process measured them."""
    tasks = list(TASKS)
    modes = [NONE, *guidance_modes()]
    found = [json.loads(path.read_text()) for path in options.work.glob("*-*-*.json")]
    found.sort(key=lambda row: (tasks.index(row["task"]), modes.index(row["mode"]), row["strength"]))
    settings = json.loads((options.work / "settings.json").read_text())
    write(options.out / "guidance.json", {"settings": settings, "points": found})


def right_of(task: str) -> list[str]:
    """What of a caption the generated streams show."""
    from ccl_pack.ccl_core.training.world.evaluate import AT_LEAST

    return [name for name in RIGHT if name in AT_LEAST[task]]


def accuracy(row: Row) -> float:
    return statistics.fmean(row[name] for name in right_of(row["task"]))


def events(row: Row) -> tuple[int, int]:
    """How many events were to be met (onsets where the sound is given, else contacts), and how many came."""
    contacts = row["contacts"]
    onsets = row["onsets"]
    return (onsets, contacts) if row["task"] == "a2v" else (contacts, onsets)


def met(row: Row) -> float | None:
    """Share of the events to be met that were, within 62.5 ms."""
    wanted, _ = events(row)
    return row["matched_62ms"] / wanted if wanted else None


def spurious(row: Row) -> float | None:
    """Share of the others that are further than 125 ms from all of them."""
    _, made = events(row)
    return 1 - row["matched_125ms"] / made if made else None


def f1_of(row: Row) -> float | None:
    from ccl_pack.ccl_core.metrics.matching import f1

    return f1(row["matched_62ms"], row["contacts"], row["onsets"])


MEASURES = {"share within 62.5 ms": met, "spurious share": spurious, "mean caption accuracy": accuracy}


def meets_bars(row: Row) -> bool:
    from ccl_pack.ccl_core.training.world.evaluate import AT_LEAST

    return all(row[name] >= AT_LEAST[row["task"]][name] for name in right_of(row["task"]))


def sync_score(row: Row) -> float:
    """Share within 62.5 ms less share of spurious events."""
    return (met(row) or 0.0) - (spurious(row) or 0.0)


def generated(task: str) -> list[str]:
    """The streams that are not given."""
    return [name for name, given in zip(("video", "audio"), TASKS[task], strict=True) if not given]


def amount(row: Row) -> float:
    """How strong the guidance is: the mean scale of what is generated."""
    streams = tuple(generated(row["task"]))
    scales = [value for name, value in row["scales"].items() if name.startswith(streams)]
    return statistics.fmean(scales) if scales else 1.0


def recommended(rows: Sequence[Row]) -> Row:
    """Of one task: best sync where the captions are right; within one event the cheaper, then the weaker."""
    fit = [row for row in rows if meets_bars(row)]
    if not fit:
        best = max(map(accuracy, rows))
        # Where nothing reaches the bars, the settings with the best captions.
        fit = [row for row in rows if accuracy(row) == best]
    top = max(fit, key=sync_score)
    # One event less counts as equal; 1e-9 takes up the rounding of the division.
    enough = sync_score(top) - 1 / max(1, events(top)[0]) - 1e-9
    return min(
        (row for row in fit if sync_score(row) >= enough), key=lambda row: (row["passes"], amount(row))
    )


def by_task(report: dict[str, Any]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {task: [] for task in TITLES}
    for row in report["points"]:
        groups[row["task"]].append(row)
    return {task: rows for task, rows in groups.items() if rows}


def summarise(out: Path) -> None:
    """Chart and tables from guidance.json."""
    report = json.loads((out / "guidance.json").read_text())
    draw(report, out)
    page = out / "README.md"
    text = page.read_text() if page.exists() else f"# Guidance, measured\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        raise ScriptError(f"{page} has no place for the tables", f"add the lines {BEGIN} and {END}")
    before, rest = text.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{tables(report)}\n{END}{rest.split(END)[1]}")


def tables(report: dict[str, Any]) -> str:
    settings = report["settings"]
    tasks = by_task(report)
    shift = f", audio shift {settings['audio_shift']:g}" if settings["audio_shift"] else ""
    lines = [
        f"{settings['clips']} clips of seed {settings['seed']}, objects per clip: {settings['objects']}, "
        f"{settings['frames']} frames, {settings['sampling_steps']} steps of {settings['sampler']}{shift}. "
        "Scales are video / audio.",
        "",
        "![sync and caption accuracy over the scale of each guidance mode](guidance.png)",
        "",
        "### Recommended",
        "",
        *table(
            "task", [(verdict(task, recommended(rows)), recommended(rows)) for task, rows in tasks.items()]
        ),
    ]
    for task, rows in tasks.items():
        best = recommended(rows)
        marked = [("**recommended**" if row is best else "", row) for row in rows]
        lines += ["", f"### {TITLES[task]}", "", *table("", marked), *chance_lines(rows)]
    return "\n".join(lines)


def verdict(task: str, best: Row) -> str:
    return TITLES[task] + ("" if meets_bars(best) else " (no setting reaches the captions' bars)")


def table(first: str, rows: Sequence[tuple[str, Row]]) -> list[str]:
    """One line per point, with a name in front."""
    names = (first, *COLUMNS, *(name.removesuffix("_right") for name in RIGHT))
    lines = [" | ".join((name, f"`{row['mode']}`", *cells(row))) for name, row in rows]
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names), *(f"| {line} |" for line in lines)]


def cells(row: Row) -> list[str]:
    terms = [name.removeprefix("video_") for name in row["scales"] if name.startswith("video_")]
    scales = [
        f"{term} {row['scales'][f'video_{term}']:g} / {row['scales'][f'audio_{term}']:g}" for term in terms
    ]
    median = "-" if row[MEDIAN] is None else f"{row[MEDIAN]:.0f} ms"
    accuracies = [percent(row[name]) for name in RIGHT]
    score = f1_of(row)
    sync = [percent(met(row)), percent(spurious(row)), "-" if score is None else f"{score:.2f}", median]
    return [", ".join(scales), str(row["passes"]), *sync, *accuracies]


def chance_lines(rows: Sequence[Row]) -> list[str]:
    """The floor: contacts against the onsets of the next clip, over all points, by objects if known."""
    groups = {"one object": "objects_1", "two objects": "objects_2"}
    lines = []
    for title, name in groups.items():
        floors = [(row | row[name], row[name]["chance"]["matched_62ms_share"]) for row in rows if name in row]
        if floors:
            lines.append(chance_line(title, floors))
    return lines or [
        chance_line("one and two objects mixed", [(row, row["chance_62ms_share"]) for row in rows])
    ]


def chance_line(title: str, floors: Sequence[tuple[Row, float | None]]) -> str:
    """The mean over points, each with its share of contacts that chance matches."""
    shares = [share * row["contacts"] / events(row)[0] for row, share in floors if share is not None]
    return f"| | chance, {title} | | | {percent(statistics.fmean(shares) if shares else None)} | | | | | | |"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def draw(report: dict[str, Any], out: Path) -> None:
    """A row per task, a line per mode from no guidance on, the bars dotted, the recommended point a star."""
    tasks = by_task(report)

    def plot(plt: Any) -> None:
        grid = plt.subplots(len(tasks), 3, figsize=(13, 3 * len(tasks) + 0.5), squeeze=False)[1]
        for line, (task, rows) in zip(grid, tasks.items(), strict=True):
            for axes, label in zip(line, MEASURES, strict=True):
                plot_measure(axes, rows, label)
                axes.set(xlabel=f"{generated(task)[0]} scale of the mode's first term", ylabel=label)
            line[1].set_title(TITLES[task])
        legends = [axes.get_legend_handles_labels() for axes in grid.flat]
        labels = {
            label: handle for handles, names in legends for handle, label in zip(handles, names, strict=True)
        }
        grid[0, 2].legend(labels.values(), labels, fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1))

    save(plot, out / "guidance")


def plot_measure(axes: Any, rows: Sequence[Row], label: str) -> None:
    """A measure of a task over the scale of each mode's first term; what was not measured is left out."""
    value = MEASURES[label]
    best = recommended(rows)
    known = [row for row in rows if value(row) is not None]
    none = [row for row in known if row["mode"] == NONE]
    for number, mode in enumerate(guidance_modes()):
        own = [row for row in known if row["mode"] == mode]
        if own:
            count = max(row["passes"] for row in own)
            style = {"color": f"C{number}", "linestyle": LINES[count], "marker": MARKERS[number]}
            curve = sorted((first_scale(row), value(row)) for row in [*none, *own])
            axes.plot(*zip(*curve, strict=True), label=f"{mode}, {count} passes", fillstyle="none", **style)
    for row in none:
        axes.plot(1.0, value(row), "ko", label="none, 1 pass")
    if best in known:
        axes.plot(
            first_scale(best),
            value(best),
            "*",
            color="gold",
            mec="black",
            ms=13,
            label="recommended",
            zorder=3,
        )
    axes.axhline(bar_of(best["task"], label), color="grey", linestyle=":", linewidth=1)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.grid(alpha=0.3)


def bar_of(task: str, label: str) -> float:
    """What a finished model must reach, or in spurious onsets stay under."""
    from ccl_pack.ccl_core.training.world.evaluate import AT_LEAST, AT_MOST

    bars = AT_LEAST[task]
    captions = statistics.fmean(bars[name] for name in right_of(task))
    return dict(zip(MEASURES, (bars[SHARE], AT_MOST["spurious_share"], captions), strict=True))[label]


def first_scale(row: Row) -> float:
    """Of the first term, for the video, or for the audio where the video is given; 1 is no guidance."""
    stream = generated(row["task"])[0]
    return next((value for name, value in row["scales"].items() if name.startswith(stream)), 1.0)
