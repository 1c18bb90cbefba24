"""Outside ccl_core/families nothing is named after a family that was published elsewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "ccl_core" / "families"
FOLDERS = ("ccl_core", "nodes")
FAMILIES = ("ovi", "mova", "prism", "uniavgen")
FILES = [
    file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py")) if ROWS not in file.parents
]


def words(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every identifier and every string constant, docstrings among them."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        for field in ("id", "attr", "name", "arg", "asname", "module"):
            if isinstance(getattr(node, field, None), str):
                yield line, getattr(node, field)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield line, node.value


def named_after_a_family(source: str) -> list[tuple[int, str]]:
    found = words(ast.parse(source))
    return [(line, word[:60]) for line, word in found if word.strip(" \n_").lower().startswith(FAMILIES)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_nothing_is_named_after_a_family(file: Path) -> None:
    assert named_after_a_family(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "OVI = 1",
        "def _mova_names(): ...",
        "def f(prism_scale): ...",
        "x.ovi_tags",
        "f(mova=1)",
        "from .families import OVI",
        "class UniAVGen: ...",
        '"""Ovi\'s stem."""',
        "kind == 'mova'",
        "f'{x} MOVA model'",
    ],
)
def test_every_place_of_a_name_is_seen(source: str) -> None:
    assert named_after_a_family(source)


def test_a_name_within_a_sentence_is_prose() -> None:
    assert not named_after_a_family('"""The coupling of Ovi."""\nmovement = "provision of MOVA"')
