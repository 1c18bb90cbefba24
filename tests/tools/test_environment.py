"""Which virtual environment belongs to which requirements, and what is said where none can be made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ccl_tools import environment, lock, requirement_set
from ccl_tools.environment import ROOT, Environment
from ccl_tools.virtual_environment import lock_of_users
from support.stand_in_packages import BASE_PYTHON, snapshot, write_host


def run(**variables: str) -> subprocess.CompletedProcess[str]:
    """The set-up under the plain Python, outside the virtual environment."""
    env = {**os.environ, **variables}
    command = [BASE_PYTHON, "scripts/set_up.py"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for everything, with a host."""
    monkeypatch.setenv("CCL_ENV", str(tmp_path))
    monkeypatch.delenv("COMFYUI_PATH")
    write_host(tmp_path / "ComfyUI", "torch", "einops")
    return tmp_path


def write_venv(venv: Path, python: str = sys.version.split()[0]) -> None:
    """What the scripts look at of a virtual environment, with the stamps of the requirements that are
    wanted now.
    """
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(Path(BASE_PYTHON).resolve())
    (venv / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}\n"
    )
    for step in environment.locate().steps:
        (venv / f".ccl-{step.name}").write_text(step.stamp)


def test_each_set_of_requirements_has_an_environment_of_its_own(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = environment.locate().venv
    monkeypatch.setenv("COMFYUI_PATH", str(write_host(root / "same", "torch", "einops")))
    assert environment.locate().venv == mine
    monkeypatch.setenv("COMFYUI_PATH", str(write_host(root / "newer", "torch", "einops>=0.8")))
    assert environment.locate().venv.parent == mine.parent
    assert environment.locate().venv != mine


@pytest.mark.parametrize(("table", "change"), [("TORCH", {"torch": "2.12.0"}), ("TOOLS", ["pytest"])])
def test_other_versions_of_torch_or_the_tools_make_another_environment(
    root: Path, monkeypatch: pytest.MonkeyPatch, table: str, change: object
) -> None:
    mine = environment.locate().venv
    monkeypatch.setattr(requirement_set, table, change)
    assert environment.locate().venv not in (mine, root / "venv")


def test_the_environment_of_version_0_2_0_goes_on_where_it_holds_what_is_wanted(root: Path) -> None:
    write_venv(root / "venv")
    before = snapshot(root / "venv")
    env = environment.locate()
    assert env.venv == root / "venv"
    assert environment.use(env)
    with lock.if_unused(lock_of_users(env.venv)) as unused:
        assert unused is None
    environment.HELD.pop(env.venv).close()
    assert snapshot(root / "venv") == before


def test_the_environment_of_version_0_2_0_stays_behind_where_something_else_is_wanted(root: Path) -> None:
    write_venv(root / "venv")
    write_host(root / "newer", "torch", "einops>=0.8")
    (root / "ComfyUI" / "requirements.txt").write_text("torch\neinops>=0.8\n")
    assert environment.locate().venv.parent == environment.environments(root)


def test_the_environment_of_version_0_2_0_is_not_for_another_python(root: Path) -> None:
    write_venv(root / "venv", python="3.9.1")
    assert environment.locate().venv.parent == environment.environments(root)


def test_the_environment_of_version_0_2_0_is_not_taken_in_the_middle_of_an_installation(root: Path) -> None:
    write_venv(root / "venv")
    (root / "venv" / ".ccl-installing").touch()
    assert environment.locate().venv.parent == environment.environments(root)


def test_an_environment_whose_lock_cannot_be_written_is_used_without_one(tmp_path: Path) -> None:
    environment.hold(tmp_path / "missing" / "venv")
    assert tmp_path / "missing" / "venv" not in environment.HELD


def test_second_set_up_returns_at_once() -> None:
    """In processor time, as other programs may hold this one up."""
    before = os.times()
    ran = run()
    after = os.times()
    assert ran.returncode == 0, ran.stderr
    assert sum(after[2:4]) - sum(before[2:4]) < 2


def test_a_wrong_comfyui_path_is_found_before_anything_is_made(tmp_path: Path) -> None:
    ran = run(CCL_ENV=str(tmp_path / "env"), COMFYUI_PATH=str(tmp_path))
    assert ran.returncode == 1 and "has no ComfyUI" in ran.stderr and "Traceback" not in ran.stderr
    assert not (tmp_path / "env").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = run(CCL_ENV=str(tmp_path / "file" / "below"))
    assert ran.returncode == 1
    assert "cannot write" in ran.stderr and "CCL_ENV" in ran.stderr and "Traceback" not in ran.stderr


def test_an_environment_is_ready_only_with_its_host(root: Path) -> None:
    write_venv(root / "venv")
    env = environment.locate()
    assert environment.ready(env)
    assert not environment.ready(Environment(root, root / "nowhere", env.venv, env.steps))
