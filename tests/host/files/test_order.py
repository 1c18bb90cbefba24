"""The way of a file through the loaders goes one way: each module imports only those before it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FILES = Path(__file__).parents[3] / "ccl_core" / "host" / "files"
ORDER = (
    "gguf",
    "read",
    "translate",
    "resemblance",
    "identify",
    "shapes",
    "assemble",
    "configure",
    "quantised",
    "values",
    "check",
    "build",
    "lora",
)


def neighbours(source: str) -> set[str]:
    """The modules of this folder that a module of it imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
    return found


def test_every_module_has_its_place() -> None:
    assert {path.stem for path in FILES.glob("*.py")} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_those_before_it(name: str) -> None:
    before = set(ORDER[: ORDER.index(name)])
    assert neighbours((FILES / f"{name}.py").read_text(encoding="utf-8")) <= before


def test_an_import_inside_a_function_is_seen() -> None:
    source = "def f() -> None:\n    from .build import load_model\n    from . import gguf\n"
    assert neighbours(source) == {"build", "gguf"}
