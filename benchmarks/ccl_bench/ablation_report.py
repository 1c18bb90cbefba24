"""Numbers, plots and tables of benchmarks/method.py, from the runs in its work folder."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccl_bench.ablation_settings import shared_settings, whole
from ccl_bench.charts import bars, draw_curve, save

# Of a loss curve in method.json.
POINTS = 200
# Share of the steps whose mean is a final loss.
LAST = 0.2
# By task, of what the task generates.
LOSSES = {"joint": "joint loss", "v2a": "v2a loss", "a2v": "a2v loss"}
BEGIN, END = "<!-- results, written by benchmarks/method.py -->", "<!-- end of results -->"
SHARE = "matched_62ms_share"
MEDIAN = "sync_error_ms_median"
RIGHT = ("colour_right", "motion_right", "sound_right")

Run = dict[str, Any]


def collect(options: argparse.Namespace) -> Path:
    """Write method.json from all finished runs of the work folder and those that it records already."""
    from ccl_pack.ccl_core.training.tiny.ablations import VARIANTS

    runs = []
    for variant in VARIANTS:
        for path in sorted(options.work.glob(f"{variant}-[0-9]*.json")):
            curves = curves_of(path.with_suffix(".jsonl"))
            losses = {t: {"curve": thinned(curve), "final": final(curve)} for t, curve in curves.items()}
            runs.append({**json.loads(path.read_text()), "losses": losses})
    runs = [run for run in runs if whole(run, options)]  # another process may be at some of them
    fresh = {(run["variant"], run["seed"]) for run in runs}
    runs += [run for run in recorded(options) if (run["variant"], run["seed"]) not in fresh]
    titles = {name: variant.title for name, variant in VARIANTS.items()}
    path = options.out / "method.json"
    report = {"settings": shared_settings(options), "titles": titles, "runs": runs}
    path.write_text(json.dumps(report, indent=1) + "\n")
    return path


def curves_of(log: Path) -> dict[str, list[tuple[int, float]]]:
    """By task, the steps that trained it and the summed losses of its streams."""
    curves: dict[str, list[tuple[int, float]]] = {task: [] for task in LOSSES}
    for line in map(json.loads, log.read_text().splitlines()):
        if line["task"] in curves:
            curves[line["task"]].append((line["step"], line.get("video", 0.0) + line.get("audio", 0.0)))
    return curves


def recorded(options: argparse.Namespace) -> list[Run]:
    """The whole runs of method.json, if they were made with these settings."""
    path = options.out / "method.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    if report.get("settings") != shared_settings(options):
        return []
    return [run for run in report["runs"] if whole(run, options)]


def thinned(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most POINTS points, each the mean of as many neighbours."""
    # Division rounded up.
    size = -(-len(curve) // POINTS)
    blocks = [curve[i : i + size] for i in range(0, len(curve), size)] if curve else []
    points = []
    for block in blocks:
        losses = [loss for _, loss in block]
        points.append((block[-1][0], round(statistics.fmean(losses), 4)))
    return points


def final(curve: Sequence[tuple[int, float]]) -> float | None:
    last = [loss for step, loss in curve if step > (1 - LAST) * curve[-1][0]]
    return round(statistics.fmean(last), 4) if last else None


def summarise(out: Path) -> None:
    """Plots and tables from method.json."""
    report = json.loads((out / "method.json").read_text())
    shown = {name: title for name, title in report["titles"].items() if runs_of(report, name)}
    draw_losses(report, shown, out)
    draw_sync(report, shown, out)
    page = out / "README.md"
    text = page.read_text() if page.exists() else f"# The method, measured\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{tables(report, shown)}\n{END}{rest.split(END)[1]}")


def runs_of(report: dict[str, Any], variant: str) -> list[Run]:
    return [run for run in report["runs"] if run["variant"] == variant]


def values(runs: Sequence[Run], key: str, measure: str) -> list[float]:
    """One number per seed; seeds in which nothing could be measured are left out."""
    return [run[key][measure] for run in runs if run.get(key, {}).get(measure) is not None]


def f1s(runs: Sequence[Run], key: str) -> list[float]:
    """F1 at 62.5 ms per seed, from the counts."""
    from ccl_pack.ccl_core.metrics.matching import f1

    totals = [run[key] for run in runs if key in run]
    scores = [f1(total["matched_62ms"], total["contacts"], total["onsets"]) for total in totals]
    return [score for score in scores if score is not None]


def shares(runs: Sequence[Run], key: str) -> list[float]:
    return values(runs, key, SHARE)


DRAWN = {"share within 62.5 ms": shares, "F1": f1s}


def tables(report: dict[str, Any], shown: dict[str, str]) -> str:
    settings = report["settings"]
    seeds = len({run["seed"] for run in report["runs"]})
    lines = [
        f"{settings['stream_steps']} steps of the streams alone, then {settings['steps']} of each variant, "
        f"of {settings['batch']} clips; seeds: {seeds}, held-out captions for each: "
        f"{settings['evaluation_clips']}. Mean over the seeds (lowest to highest).",
        "",
        *loss_table(report, shown),
    ]
    for guidance in settings["guidance"]:
        for task, title in (("t2av", "Joint sampling"), ("v2a", "Sound for a given video")):
            key = f"{task}/{guidance}"
            if any(key in run for run in report["runs"]):
                lines += ["", f"### {title}, guidance `{guidance}`", "", *sync_table(report, shown, key)]
    return "\n".join(lines)


def loss_table(report: dict[str, Any], shown: dict[str, str]) -> list[str]:
    rows = []
    for name, title in shown.items():
        runs = runs_of(report, name)
        losses = " | ".join(spread(finals(runs, task), "{:.3f}") for task in LOSSES)
        gates = [abs(gate) for run in runs for gate in run["gates"]]
        opened = f"{statistics.fmean(gates):.3f}" if gates else ""
        rows.append(f"| {title} | {runs[0]['parameters'] / 1e6:.3f} M | {losses} | {opened} |")
    names = " | ".join(LOSSES.values())
    head = f"| | parameters | {names} | mean opening of the gates |"
    return ["Losses are means of the last fifth of the steps.", "", head, "|---|---|---|---|---|---|", *rows]


def finals(runs: Sequence[Run], task: str) -> list[float]:
    """The final loss of a task per seed, where the seed drew the task at all."""
    losses = [run["losses"][task]["final"] for run in runs]
    return [loss for loss in losses if loss is not None]


def sync_table(report: dict[str, Any], shown: dict[str, str], key: str) -> list[str]:
    own = f1s(runs_of(report, "ccl"), key)
    rows = []
    for name, title in shown.items():
        runs = runs_of(report, name)
        cells = [spread(found(runs, key), "{:.0%}") for found in (shares, spurious)]
        cells += [spread(f1s(runs, key), "{:.2f}"), spread(values(runs, key, MEDIAN), "{:.0f} ms")]
        cells += [spread(values(runs, key, measure), "{:.0%}") for measure in RIGHT]
        rows.append(
            f"| {title} | {' | '.join(cells)} | {'' if name == 'ccl' else margin(own, f1s(runs, key))} |"
        )
    chance = spread(values(report["runs"], key, "chance_62ms_share"), "{:.0%}")
    rows.append(f"| chance | {chance} | | {spread(chance_f1s(report['runs'], key), '{:.2f}')} | | | | | |")
    names = (
        "within 62.5 ms",
        "spurious onsets",
        "F1",
        "median error",
        "colour",
        "motion",
        "sound",
        "CCL's F1 ahead by",
    )
    return [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|", *rows]


def chance_f1s(runs: Sequence[Run], key: str) -> list[float]:
    """F1 of chance: it matches its share of the same contacts with the same number of onsets."""
    from ccl_pack.ccl_core.metrics.matching import f1

    totals = [run[key] for run in runs if run.get(key, {}).get("chance_62ms_share") is not None]
    matched = [round(total["chance_62ms_share"] * total["contacts"]) for total in totals]
    scores = [f1(n, total["contacts"], total["onsets"]) for n, total in zip(matched, totals, strict=True)]
    return [score for score in scores if score is not None]


def spurious(runs: Sequence[Run], key: str) -> list[float]:
    totals = [run[key] for run in runs if key in run]
    return [total["spurious_onsets"] / total["onsets"] for total in totals if total["onsets"]]


def spread(numbers: Sequence[float], form: str) -> str:
    """Mean (lowest to highest)."""
    if not numbers:
        return "-"
    mean, low, high = (form.format(x) for x in (statistics.fmean(numbers), min(numbers), max(numbers)))
    return f"{mean} ({low} to {high})" if len(numbers) > 1 else mean


def margin(own: Sequence[float], other: Sequence[float]) -> str:
    """Difference of the mean F1 in hundredths, and whether it exceeds the wider range over the seeds."""
    if not own or not other:
        return "-"
    points = 100 * (statistics.fmean(own) - statistics.fmean(other))
    noise = 100 * max(max(own) - min(own), max(other) - min(other))
    verdict = "more" if abs(points) > noise else "less"
    return f"{points:+.0f} points, {verdict} than the seeds' spread of {noise:.0f}"


def draw_losses(report: dict[str, Any], shown: dict[str, str], out: Path) -> None:
    """Losses of each task over the steps, mean and range over the seeds."""

    def plot(plt: Any) -> None:
        for axes, (task, title) in zip(
            plt.subplots(1, len(LOSSES), figsize=(14, 4.5))[1], LOSSES.items(), strict=True
        ):
            late = [0.0]
            for name, label in shown.items():
                curves = [run["losses"][task]["curve"] for run in runs_of(report, name)]
                late += draw_curve(axes, [curve for curve in curves if curve], label)
            axes.set(xlabel="step", title=f"{title}, of what is generated")
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.set_ylim(top=1.1 * max(late))
                axes.legend(fontsize=7)

    save(plot, out / "loss")


def draw_sync(report: dict[str, Any], shown: dict[str, str], out: Path) -> None:
    """Contacts with a sound within 62.5 ms, and F1: a bar per guidance, a dot per seed."""
    guidance = report["settings"]["guidance"]

    def plot(plt: Any) -> None:
        height = 0.5 * len(shown) * max(1, len(guidance)) + 2.5
        grid = plt.subplots(2, 2, figsize=(11, height), sharey=True)[1]
        for column, (task, title) in zip(
            grid.T, (("t2av", "joint sampling"), ("v2a", "video given")), strict=True
        ):
            for axes, (label, measure) in zip(column, DRAWN.items(), strict=True):
                for i, mode in enumerate(guidance):
                    found = [measure(runs_of(report, name), f"{task}/{mode}") for name in shown]
                    bars(axes, found, (i, len(guidance), mode))
                axes.set(title=title, xlabel=label)
                axes.set_yticks(range(len(shown)), list(shown.values()))
                axes.grid(alpha=0.3, axis="x")
        grid[0, 0].invert_yaxis()
        grid[0, 0].legend(fontsize=8)

    save(plot, out / "sync")
