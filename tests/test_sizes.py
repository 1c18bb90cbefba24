"""Files of at most 350 lines, functions of at most 50, half of them within 12: what a reader holds in
mind at once.
"""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("ccl_core", "nodes", "scripts", "benchmarks")
FILE, MEDIAN, LONGEST = 350, 12, 50  # lines


def files_of(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py"))


def functions_of(source: str) -> Iterator[tuple[str, int]]:
    """Name and length in lines of every function, those inside others included; decorators do not count."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.end_lineno - node.lineno + 1


def lengths_of(part: str) -> dict[str, int]:
    """Lines of each function of a part, by file, place in the file and name."""
    lengths = {}
    for path in files_of(part):
        for number, (name, lines) in enumerate(functions_of(path.read_text(encoding="utf-8"))):
            lengths[f"{path.relative_to(ROOT).as_posix()} #{number} {name}"] = lines
    return lengths


@pytest.mark.parametrize("part", PARTS)
def test_no_file_is_longer_than_the_limit(part: str) -> None:
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in files_of(part)}
    assert lines and {name: count for name, count in lines.items() if count > FILE} == {}


@pytest.mark.parametrize("part", PARTS)
def test_no_function_is_longer_than_the_limit(part: str) -> None:
    assert [name for name, lines in lengths_of(part).items() if lines > LONGEST] == []


@pytest.mark.parametrize("part", PARTS)
def test_half_of_the_functions_are_short(part: str) -> None:
    assert statistics.median(lengths_of(part).values()) <= MEDIAN


def test_functions_inside_others_are_counted() -> None:
    source = "@decorated\ndef outer():\n    async def inner():\n        pass\n    return inner\n"
    assert dict(functions_of(source)) == {"outer": 4, "inner": 2}
