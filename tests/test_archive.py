"""What people get from the registry: what they need and no more, all that it names, no text that its
scanner objects to.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from ccl_pack import WEB_DIRECTORY
from ccl_pack.ccl_core.repository import REPOSITORY
from ccl_pack.nodes import NODES
from support.archive import Archive

AT_ROOT = {
    "LICENSE",
    "README.md",
    "__init__.py",
    "node_list.json",
    "pyproject.toml",
    "requirements.txt",
}
FOLDERS = {"ccl_core", "docs", "js", "nodes", "subgraphs", "workflows"}
PRIVATE = {"training", "encoders", "tests", "scripts", "benchmarks", "method", "__pycache__"}
LARGEST_MEGABYTES = 40
# Read as text by the registry's scanner; pictures and weights beside them.
TEXTS = {".py", ".js", ".md", ".json", ".toml", ".txt", ""}
DATA = {".safetensors", ".jpg", ".png", ".webp"}
# The rules of the scanner that the registry runs on every file, as publishers report them.
SCANNED = (
    r"\.connect\(",
    r"\.bind\(",
    r"\.send(all)?\(",
    r"aiohttp\.ClientSession",
    r"urllib\.request",
    r"\b(requests|httpx)\.(get|post|put|request)\(",
    r"os\.environ",
    r"os\.(getenv|putenv)",
    r"os\.(system|popen|exec|spawn)",
    r"subprocess",
    r"\beval\(",
    r"\bexec\(",
    r"\bnew Function\(",
    r"__import__\(",
    r"raw\.githubusercontent\.com",
    r"auth_token_comfy_org",
    r"pip install",
    r"pickle\.loads?",
    r"torch\.load\(",
)
PAGES = (".md", ".js", ".json")
# A file of the repository, as pages and messages name it.
NAMED = re.compile(
    r"(?<![\w/.-])((?:docs|scripts|benchmarks|tests|workflows|subgraphs|ccl_core|nodes|js)/[\w/.-]*\w)"
)
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]*)(?:#[^)\s]*)?\)")


def test_the_packer_finds_nothing_to_object_to(archive: Archive) -> None:
    assert "All validation checks passed" in archive.said
    assert "arning" not in archive.said


def test_only_what_users_need_ships(archive: Archive) -> None:
    paths = [PurePosixPath(name) for name in archive.files]
    assert {path.name for path in paths if len(path.parts) == 1} == AT_ROOT
    assert {path.parts[0] for path in paths if len(path.parts) > 1} <= FOLDERS
    assert [path for path in paths if PRIVATE & set(path.parts)] == []
    assert {path.suffix for path in paths} <= TEXTS | DATA


def test_every_module_help_page_template_and_weight_ships(archive: Archive) -> None:
    """A pattern that is not anchored to the root, such as docs/, would take js/docs along."""
    folder = WEB_DIRECTORY.removeprefix("./")
    names = [node.GET_SCHEMA().node_id for node in NODES]
    pages = {f"{folder}/docs/{name}.{kind}" for name in names for kind in ("md", "webp")}
    weights = {"ccl_core/checkpoints/ccl-tiny.safetensors"}
    assert pages | weights | set(imported(archive)) <= archive.files.keys()


def imported(archive: Archive) -> Iterator[str]:
    """The files of every module that a shipped module imports relatively."""
    for name, text in archive.texts(".py").items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level and node.module:
                yield module_file(archive, name, node)


def module_file(archive: Archive, name: str, node: ast.ImportFrom) -> str:
    above = PurePosixPath(name).parents[node.level - 1]
    module = (above / node.module.replace(".", "/")).as_posix()
    package = f"{module}/__init__.py"
    return package if package in archive.files else f"{module}.py"


def test_archive_is_small(archive: Archive) -> None:
    assert archive.path.stat().st_size < LARGEST_MEGABYTES * 1e6


def test_no_text_for_the_scanner(archive: Archive) -> None:
    found = [
        f"{name}: {match.group(0)}"
        for name, text in archive.texts(*TEXTS - {""}, "LICENSE").items()
        for match in re.finditer("|".join(SCANNED), text)
    ]
    assert found == []


def test_the_scanner_words_match_what_they_mean() -> None:
    words = ["sock.connect(x)", "os.environ['A']", "subprocess.run", "model.eval()", "import urllib.request"]
    assert all(re.search("|".join(SCANNED), word) for word in words)


def test_links_of_shipped_pages_lead_to_shipped_files(archive: Archive) -> None:
    broken = [
        f"{name}: {target}"
        for name, text in archive.texts(".md").items()
        for target in LINK.findall(text)
        if posixpath.normpath(posixpath.join(posixpath.dirname(name), target)) not in archive.files
    ]
    assert broken == []


def absent(archive: Archive, text: str) -> list[str]:
    """What a text names of the repository that is not in the archive."""
    return [path for path in NAMED.findall(text) if not ships(archive, path)]


def ships(archive: Archive, path: str) -> bool:
    return any(f"{file}/".startswith(f"{path}/") for file in archive.files)


def test_a_page_that_names_what_does_not_ship_has_the_address_of_the_repository(archive: Archive) -> None:
    without = {name: text for name, text in archive.texts(*PAGES).items() if REPOSITORY not in text}
    missing = {name: absent(archive, text) for name, text in without.items()}
    assert {name: paths for name, paths in missing.items() if paths} == {}


def test_a_message_that_names_what_does_not_ship_has_the_address_of_the_repository(archive: Archive) -> None:
    found = [
        f"{name}: {text}"
        for name, source in archive.texts(".py").items()
        for text in messages(source)
        if absent(archive, text)
    ]
    assert found == []


def messages(source: str) -> Iterator[str]:
    """Texts of a module without those that say the repository's address: no docstrings, no comments."""
    nodes = list(ast.walk(ast.parse(source)))
    pieces = {id(piece) for node in nodes if isinstance(node, ast.JoinedStr) for piece in node.values}
    for node in nodes:
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in pieces:
            text = ast.get_source_segment(source, node)
            if not is_addressed(text) and not text.startswith('"""'):
                yield text


def is_addressed(text: str) -> bool:
    return "REPOSITORY" in text or "page(" in text


def test_a_named_file_that_does_not_ship_is_found(archive: Archive) -> None:
    assert absent(archive, "see docs/models.md, `js/docs` and nodes/lora.py") == []
    assert absent(archive, "run python scripts/train.py, read docs/design.md.") == [
        "scripts/train.py",
        "docs/design.md",
    ]
    source = '"""docs/design.md"""\nx = "scripts/a.py"  # scripts/b.py\n'
    assert [*messages(source)] == ['"scripts/a.py"']
