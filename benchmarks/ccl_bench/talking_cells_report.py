"""The page, the JSON and the chart of benchmarks/talking_ablations.py, from the reports of its runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ccl_bench import charts
from ccl_bench.cell_report import (
    Curve,
    Report,
    Value,
    by_seed,
    counted,
    curve,
    difference,
    halfway,
    paired,
    spread,
    steps_to,
    table,
)
from ccl_bench.cells import Cell
from ccl_bench.talking_cells import CELLS, INTERACTIONS, MASKS, REFERENCE
from ccl_bench.talking_mask import AHEAD, GOAL
from ccl_bench.talking_ranges import RANGES

PAGE, DATA, CHART = "talking.md", "talking.json", "talking"
BEGIN, END = "<!-- results, written by benchmarks/talking_ablations.py -->", "<!-- end of results -->"
ABOUT = (
    "# A talking face, measured\n\n`python benchmarks/talking_ablations.py` trains and measures all of it."
)
# Files of part C.
GUIDANCE = "guidance-"


def own(name: str) -> Value:
    return lambda probe: probe["validation"].get(name)


def gap(name: str) -> Value:
    return lambda probe: probe["other"][name] - probe["validation"][name] if name in probe["other"] else None


def of_mask(*path: str) -> Value:
    """A number of the mask, by the keys on the way to it."""

    def value(probe: Mapping[str, Any]) -> float | None:
        found: Any = probe.get("mask")
        for key in path:
            found = None if found is None else found[key]
        return found

    return value


LOSSES = {
    "driven": own("a2v/video"),
    "dubbing": own("v2a/audio"),
    "joint, picture": own("joint/video"),
    "joint, sound": own("joint/audio"),
}
GAPS = {"gap driven": gap("a2v/video"), "gap dubbing": gap("v2a/audio")}
# What a threshold is set for, and whether it rises to it.
REACHED = {"driven": False, "dubbing": False, "gap driven": True, "gap dubbing": True}
REGIONS = ("mouth", "speaking face", "silent face", "object")


def read_reports(work: Path) -> list[Report]:
    """Of the finished runs in a work folder, in the order of the cells."""
    paths = [path for name in CELLS for path in sorted(work.glob(f"{name}-[0-9]*.json"))]
    return [json.loads(path.read_text()) for path in paths]


def write(work: Path, out: Path) -> None:
    """Page, JSON and chart of all that is finished."""
    reports = read_reports(work)
    guidance = [json.loads(path.read_text()) for path in sorted(work.glob(f"{GUIDANCE}*.json"))]
    out.mkdir(parents=True, exist_ok=True)
    found = {"runs": list(map(without_steps, reports)), "guidance": guidance}
    (out / DATA).write_text(json.dumps(found, indent=1) + "\n")
    page = out / PAGE
    text = page.read_text() if page.exists() else f"{ABOUT}\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{results(reports, guidance)}\n{END}{rest.split(END)[1]}")
    if reports:
        draw(reports, out)


def without_steps(report: Report) -> Report:
    """Without the losses of every step, which are many."""
    return {key: value for key, value in report.items() if key != "losses"}


def results(reports: Sequence[Report], guidance: Sequence[Report]) -> str:
    parts = [
        *(said_of(reports) if reports else []),
        *section("Who sees whom, with a clock and without", INTERACTIONS, reports),
        *section("Face masks", [REFERENCE, *MASKS], reports),
        *mask_section([REFERENCE, *INTERACTIONS[1:], *MASKS], reports),
        *guidance_section(guidance),
    ]
    return "\n".join(parts)


def said_of(reports: Sequence[Report]) -> list[str]:
    settings = reports[0]["settings"]
    seeds = sorted({report["seed"] for report in reports})
    return [
        f"{settings['steps']} steps of {settings['batch']} clips on the same towers with a fresh "
        f"interaction, seeds {', '.join(map(str, seeds))}; {settings['held_out']} held-out clips at fixed "
        "noise. Mean over the seeds (lowest to highest). A gap is the loss with the given stream of another "
        "clip less that with its own. Differences are paired by seed, with the 95 % interval of their mean "
        "(Student's t); bold where it does not hold 0.",
    ]


def of_cell(cell: Cell, reports: Sequence[Report]) -> list[Report]:
    return [report for report in reports if report["cell"] == cell.name]


def section(title: str, cells: Sequence[Cell], reports: Sequence[Report]) -> list[str]:
    """Values, steps to the thresholds and differences of cells; nothing before one is finished."""
    shown = [cell for cell in cells if of_cell(cell, reports)]
    if not shown:
        return []
    values = LOSSES | GAPS
    rows = []
    for cell in shown:
        runs = of_cell(cell, reports)
        numbers = (list(by_seed(runs, value).values()) for value in values.values())
        rows.append([cell.title, *map(spread, numbers)])
    return [
        *["", f"## {title}", "", *table(["", *values], rows)],
        *threshold_table(shown, reports),
        *difference_table(shown, reports),
    ]


def threshold_table(cells: Sequence[Cell], reports: Sequence[Report]) -> list[str]:
    """Steps to half of the way from the first value to the best last one of these cells."""
    values = LOSSES | GAPS
    head, columns = [""], []
    for name, rising in REACHED.items():
        curves = [curves_of(cell, reports, values[name]) for cell in cells]
        limit = halfway(list(chain(*curves)), rising)
        if limit is not None:
            head.append(f"{name} {'from' if rising else 'to'} {limit:.3f}")
            columns.append([reached_in(some, limit, rising) for some in curves])
    rows = [[cell.title, *found] for cell, *found in zip(cells, *columns, strict=True)]
    return ["", "Steps until half of the way to the best is reached:", "", *table(head, rows)]


def curves_of(cell: Cell, reports: Sequence[Report], value: Value) -> list[Curve]:
    return [curve(run, value) for run in of_cell(cell, reports)]


def reached_in(curves: Sequence[Curve], limit: float, rising: bool) -> str:
    return counted([steps_to(points, limit, rising) for points in curves])


def difference_table(cells: Sequence[Cell], reports: Sequence[Report]) -> list[str]:
    """Every cell less the reference."""
    reference = of_cell(REFERENCE, reports)
    others = [cell for cell in cells if cell is not REFERENCE]
    if not reference or not others:
        return []
    values = LOSSES | GAPS
    rows = []
    for cell in others:
        runs = of_cell(cell, reports)
        found = (paired(by_seed(runs, value), by_seed(reference, value)) for value in values.values())
        rows.append([cell.title, *map(difference, found)])
    return ["", f"Less *{REFERENCE.title}*:", "", *table(["", *values], rows)]


def mask_section(cells: Sequence[Cell], reports: Sequence[Report]) -> list[str]:
    """Where masks lie before the training and behind it; a cell without a mask has no row."""
    rows = [mask_row(cell, of_cell(cell, reports)) for cell in cells if has_mask(of_cell(cell, reports))]
    if not rows:
        return []
    head = ["", "IoU", "of the best constant mask", "goal", *(f"share on {name}" for name in REGIONS)]
    return [
        *["", "## Where the masks lie", ""],
        f"Before the training → behind it, at noise level .3 on the grid of tokens. The goal is an IoU of "
        f"{GOAL} and {AHEAD} more than the best constant mask. The share is of the whole mask.",
        *["", *table(head, rows)],
    ]


def has_mask(runs: Sequence[Report]) -> bool:
    return any("mask" in run["probes"][-1] for run in runs)


def mask_row(cell: Cell, runs: Sequence[Report]) -> list[str]:
    iou = by_seed(runs, of_mask("iou"))
    constant = by_seed(runs, of_mask("constant_iou"))
    met = sum(iou[seed] >= GOAL and iou[seed] >= constant[seed] + AHEAD for seed in iou)
    return [
        cell.title,
        before_after(runs, of_mask("iou")),
        spread(list(constant.values()), "{:.2f}"),
        f"met in {met} of {len(iou)}",
        *(before_after(runs, of_mask("share", name)) for name in REGIONS),
    ]


def before_after(runs: Sequence[Report], value: Value) -> str:
    """Mean over the seeds at the first probe and at the last."""
    curves = [points for run in runs if (points := curve(run, value))]
    if not curves:
        return ""
    first = statistics.fmean(points[0][1] for points in curves)
    last = statistics.fmean(points[-1][1] for points in curves)
    return f"{first:.2f} → {last:.2f}"


def guidance_section(found: Sequence[Report]) -> list[str]:
    lines = []
    for task in dict.fromkeys(one["task"] for one in found):
        reports = [one for one in found if one["task"] == task]
        columns = [name for name in reports[0]["columns"] if asked(reports, name)]
        rows = [guided_row(reports, name, columns) for name in RANGES]
        lines += ["", f"### {task}, {sum(one['clips'] for one in reports)} clips", ""]
        lines += table(["", *columns], rows)
    if not lines:
        return []
    first = next(iter(RANGES))
    about = (
        f"Seeds apart by a comma. ↑ or ↓: *{first}* is better or worse there by more than the interval over "
        "the same clips."
    )
    return ["", "## MA-CFG by noise level", "", about, *lines]


def asked(reports: Sequence[Report], column: str) -> bool:
    return any(values[column] is not None for one in reports for values in one["values"].values())


def guided_row(reports: Sequence[Report], name: str, columns: Sequence[str]) -> list[str]:
    return [name, *(guided(reports, name, column) for column in columns)]


MARKS = {"better": " ↑", "worse": " ↓"}


def guided(reports: Sequence[Report], name: str, column: str) -> str:
    """A column of a range, seed by seed, with what the judge says of the published range against it."""
    cells = []
    for one in reports:
        value = one["values"][name][column]
        verdict = one["ahead"].get(name, {}).get(column, {}).get("verdict", "")
        cells.append("" if value is None else f"{value:.3f}{MARKS.get(verdict, '')}")
    return ", ".join(cells)


def draw(reports: Sequence[Report], out: Path) -> None:
    """Losses and gaps over the steps: the interactions left, the masks right."""
    shown = {"interactions": INTERACTIONS, "face masks": [REFERENCE, *MASKS]}
    values = {name: (LOSSES | GAPS)[name] for name in REACHED}

    def plot(plt: Any) -> None:
        grid = plt.subplots(len(values), len(shown), figsize=(11, 3 * len(values)), squeeze=False)[1]
        for row, (name, value) in zip(grid, values.items(), strict=True):
            for axes, (title, cells) in zip(row, shown.items(), strict=True):
                for cell in cells:
                    curves = curves_of(cell, reports, value)
                    charts.draw_curve(axes, curves, cell.title, charts.AS_MEASURED)
                axes.set(xlabel="step", title=f"{name}: {title}")
                axes.grid(alpha=0.3)
        for axes in grid[0]:
            axes.legend(fontsize=7)

    charts.save(plot, out / CHART)
