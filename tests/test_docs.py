"""The pages say what is there: links and paths resolve, and every node, mode, kind and family is on its
page.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.guidance import MODES
from ccl_pack.ccl_core.model.interactions import INTERACTIONS
from ccl_pack.ccl_core.repository import REPOSITORY
from ccl_pack.ccl_core.tasks import TASKS
from ccl_pack.nodes import NODES
from ccl_tools.environment import ROOT

FOLDERS = ("ccl_core", "nodes", "js", "workflows", "scripts", "benchmarks", "tests", "docs")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("js/docs/*.md")),
    ROOT / "benchmarks/README.md",
    ROOT / "tests/cases/README.md",
]
CODE = [*ROOT.glob("*.py"), *(file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py")))]
ADDRESS = re.compile(re.escape(REPOSITORY) + r"/(?:blob|raw)/main/([^)#\s\"]+)(#[^)\s\"]*)?")
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]*)?\)")
TICKED = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"python (\S+\.py)")
CITED = re.compile(r"(?<![/\w])(?:docs|js)/[\w/.-]+\.md\b")


@cache
def files() -> tuple[str, ...]:
    """Every file of the repository's folders, from its root."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    return tuple(path.relative_to(ROOT).as_posix() for path in [*found, *ROOT.glob("*.*")])


def prose(text: str) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get on GitHub."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    broken = []
    for target, anchor in LINK.findall(prose(text)):
        file = page.parent / target if target else page
        if not leads(file, anchor):
            broken.append(target + anchor)
    return broken + [target for target, anchor in ADDRESS.findall(text) if not leads(ROOT / target, anchor)]


def leads(file: Path, anchor: str) -> bool:
    return file.exists() and (not anchor or anchor.removeprefix("#") in anchors(file))


def missing_paths(text: str) -> list[str]:
    """Paths in backticks, and scripts in commands, that name no file; a name alone may be anywhere."""
    named = [*TICKED.findall(prose(text)), *COMMAND.findall(text)]
    return [path for path in named if is_path(path) and not there(path)]


def is_path(name: str) -> bool:
    """Whether a text in backticks means a file or folder of the repository."""
    return bool(re.fullmatch(r"[\w./-]+", name)) and (
        (name.partition("/")[0] in FOLDERS and "/" in name) or name.endswith(".py")
    )


def there(path: str) -> bool:
    if path.partition("/")[0] in FOLDERS and "/" in path:
        return (ROOT / path).exists()
    return any(file == path or file.endswith(f"/{path}") for file in files())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_path_is_there(page: Path) -> None:
    assert missing_paths(page.read_text(encoding="utf-8")) == []


def test_a_broken_link_and_a_missing_path_are_found() -> None:
    page = ROOT / "README.md"
    assert broken_links(page, "[a](docs/none.md) [b](docs/models.md#none) [c](https://a.b)") == [
        "docs/none.md",
        "docs/models.md#none",
    ]
    address = f"[a]({REPOSITORY}/blob/main/docs/none.md) [b]({REPOSITORY}/blob/main/docs/models.md#none)"
    assert broken_links(page, address) == ["docs/none.md", "docs/models.md"]
    text = "`ccl_core/none.py` `nowhere.py` `host/run.py` `times.py` `ccl_core/host/` `a/t`\n"
    text += "python scripts/none.py"
    assert missing_paths(text) == ["ccl_core/none.py", "nowhere.py", "scripts/none.py"]


def test_code_cites_pages_that_are_there() -> None:
    sources = [file.read_text(encoding="utf-8") for file in CODE if file != Path(__file__)]
    cited = set(CITED.findall("\n".join(sources)))
    assert len(cited) > 3
    assert [page for page in sorted(cited) if not (ROOT / page).exists()] == []


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/design.md", [node.GET_SCHEMA().node_id for node in NODES]),
        ("docs/design.md", [f"`{name}`" for name in MODES]),
        ("docs/design.md", [f"| {name} |" for name in TASKS]),
        ("docs/design.md", [f"| `{name}` |" for name in INTERACTIONS]),
        ("docs/design.md", [family.title for family in FAMILIES.values()]),
        ("README.md", [f"`{name}`" for name in MODES]),
        ("README.md", [family.title for family in FAMILIES.values()]),
    ],
)
def test_a_page_names_all_that_there_is(page: str, names: list[str]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert names and [name for name in names if name not in text] == []
