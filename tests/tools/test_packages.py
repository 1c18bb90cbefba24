"""The packages of scripts, benchmarks and tests: no import in a circle, and ComfyUI's nodes.py in
nobody's way.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from ccl_tools.environment import ROOT

FOLDERS = {"ccl_tools": "scripts", "ccl_bench": "benchmarks", "support": "tests"}
# Each with its reason: the scripts' package for benchmarks and tests, and the host.
PATH_LINES = {
    "benchmarks/ccl_bench/__init__.py": 1,
    "scripts/ccl_tools/environment.py": 3,
    "tests/conftest.py": 1,
}


def modules() -> dict[str, Path]:
    """The file of every module of the three packages."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder / package).glob("*.py")):
            found[f"{package}.{path.stem}".removesuffix(".__init__")] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Every name that a file may import as a module, inside functions and for types too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def test_no_import_runs_in_a_circle() -> None:
    known = modules()
    graph = {name: known.keys() & imported(path) for name, path in known.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(known)


@pytest.mark.parametrize(
    "package, lower", [("ccl_tools", ()), ("ccl_bench", ("ccl_tools",)), ("support", ("ccl_tools",))]
)
def test_packages_import_downwards(package: str, lower: tuple[str, ...]) -> None:
    above = set(FOLDERS) - {package, *lower}
    for name, path in modules().items():
        if name.split(".")[0] == package:
            assert not above & {other.split(".")[0] for other in imported(path)}, path


def test_commands_do_not_import_each_other() -> None:
    for folder in ("scripts", "benchmarks"):
        commands = sorted((ROOT / folder).glob("*.py"))
        names = {command.stem for command in commands}
        for command in commands:
            assert not names & {name for name in imported(command) if not name.startswith("ccl_")}, command


def test_the_search_path_changes_in_three_places_and_never_gets_the_repository() -> None:
    found = {}
    for folder in ("scripts", "benchmarks", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            lines = [
                line for line in path.read_text(encoding="utf-8").splitlines() if "sys." + "path" in line
            ]
            if lines:
                found[path.relative_to(ROOT).as_posix()] = len(lines)
    assert found == PATH_LINES
