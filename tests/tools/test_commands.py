"""The commands under the plain Python: they explain themselves, and say what cannot be."""

from __future__ import annotations

import ast
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ccl_tools import console
from ccl_tools.console import ScriptError
from ccl_tools.environment import ROOT
from ccl_tools.server import free_port, need_free_port

BASE_PYTHON = getattr(sys, "_base_executable", None) or sys.executable
PROGRAMS = [*sorted((ROOT / "scripts").glob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A program of ours under the plain Python, outside the virtual environment."""
    env = {**os.environ, **variables}
    return subprocess.run(
        [BASE_PYTHON, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_help_needs_no_set_up_and_no_place_of_its_own(program: Path, tmp_path: Path) -> None:
    """Under the plain Python, from another folder."""
    variables = {**os.environ, "CCL_ENV": str(tmp_path / "nothing")}
    command = [BASE_PYTHON, str(program), "--help"]
    ran = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert program.name in ran.stdout
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_programs_explain_themselves_and_start_with_plain_python(program: Path) -> None:
    tree = ast.parse(program.read_text(), feature_version=(3, 10))
    assert ast.get_docstring(tree)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert names & {"reexec", "ensure"}


def test_an_export_needs_the_weights_of_a_training() -> None:
    refused = run("scripts/train_tiny.py", "clips", "export")
    assert refused.returncode == 2 and "export needs --weights" in refused.stderr


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ScriptError, match="--port"):
            need_free_port(taken.getsockname()[1])
    need_free_port(free_port())


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert console.run_shown("sleeping", sleep, tmp_path / "log", timeout=0.5) == 124


def test_the_test_program_hands_its_arguments_to_pytest() -> None:
    ran = run("scripts/test.py", "--version")
    assert ran.returncode == 0 and ran.stdout.startswith("pytest")
    assert run("scripts/test.py", "tests/no_such_file.py").returncode == 4


def test_ci_runs_the_command_of_the_readme() -> None:
    text = (ROOT / ".ci" / "run").read_text()
    assert "scripts/test.py" in text and os.access(ROOT / ".ci" / "run", os.X_OK)
    readme = (ROOT / "README.md").read_text()
    assert "python scripts/test.py" in readme and "python scripts/demo.py" in readme
    assert shutil.which("bash")
