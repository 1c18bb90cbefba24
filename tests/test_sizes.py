"""Files of at most 350 lines, functions of at most 50, half of them within 12, and no comprehension inside
another: what a reader holds in mind at once.
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
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def files_of(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py"))


def functions_of(source: str) -> Iterator[tuple[str, int]]:
    """Name and length in lines of every function, those inside others included; decorators do not count."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.end_lineno - node.lineno + 1


def nested_comprehensions(source: str) -> list[int]:
    """The line of every comprehension that holds another."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if holds_comprehension(node)]


def holds_comprehension(node: ast.AST) -> bool:
    if not isinstance(node, COMPREHENSIONS):
        return False
    return sum(isinstance(part, COMPREHENSIONS) for part in ast.walk(node)) > 1  # the node itself is one


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


def test_no_file_holds_a_comprehension_inside_another() -> None:
    folders = [path for part in (*PARTS, "tests") for path in files_of(part)]
    found = {}
    for path in (*ROOT.glob("*.py"), *folders):
        if lines := nested_comprehensions(path.read_text(encoding="utf-8")):
            found[path.relative_to(ROOT).as_posix()] = lines
    assert len(folders) > 100 and found == {}


def test_comprehensions_inside_others_are_found_and_two_loops_of_one_are_not() -> None:
    nested = "table = [\n    [x for x in row] for row in rows]\nkeys = {k for k in (f(x) for x in y)}\n"
    flat = "cells = [x for row in rows for x in row]\n"
    assert nested_comprehensions(nested) == [1, 3]
    assert nested_comprehensions(flat) == []
