"""The table of the GPU benchmark, and its place in a page."""

from __future__ import annotations

from collections.abc import Sequence

from ccl_bench.gpu_cases import CASES, OFF, Row

BEGIN, END = "<!-- gpu.py begin -->", "<!-- gpu.py end -->"


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line for each measurement, the plan's figures beside it."""
    names = ("s/step", "first step s", "VRAM GB (plan)", "RAM GB (plan)", "mapped file GB")
    lines = [f"| model | weights | limit GB | {' | '.join(names)} |", "|" + "---|" * (3 + len(names))]
    for row in rows:
        vram, ram = beside(row.vram_gb, row.plan_vram_gb), beside(row.ram_gb, row.plan_ram_gb)
        cells = [shown(row.seconds_per_step), shown(row.first_step_seconds), vram, ram, shown(row.file_gb)]
        if row.error:
            cells[0] = row.error.replace("|", "/")[:80]
        if row.faults:
            cells[0] += f" FAULT: {' and '.join(row.faults)} more than {OFF:.0%} off the plan"
        lines.append(f"| {CASES[row.case].title} | {row.weights} | {row.limit_gb:g} | {' | '.join(cells)} |")
    gpus = ", ".join(sorted({row.gpu for row in rows if row.gpu})) or "no GPU"
    return "\n".join([*lines, "", f"{gpus}; two passes a step; euler; random weights."])


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def beside(value: float | None, plan: float | None) -> str:
    """A figure with the plan's in brackets."""
    expected = "" if plan is None else f"({plan:g})"
    return f"{shown(value)} {expected}".strip()


def insert(text: str, block: str) -> str:
    """The page with this block in the place of the one the script wrote before, or at the end."""
    block = f"{BEGIN}\n{block}\n{END}\n"
    if BEGIN not in text:
        return f"{text.rstrip()}\n\n{block}".lstrip()
    before, rest = text.split(BEGIN, 1)
    return before + block + rest.split(END, 1)[1].lstrip("\n")
