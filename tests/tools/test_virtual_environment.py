"""How a virtual environment becomes whole, and when one that was cut short is started anew."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ccl_tools import lock, virtual_environment
from ccl_tools.console import ScriptError
from support.stand_in_packages import BASE_PYTHON, module, wheel_bytes


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A virtual environment with two packages, as pip leaves it when it is killed."""
    venv = tmp_path / "venv"
    subprocess.run([BASE_PYTHON, "-m", "venv", "--without-pip", venv], check=True)
    [packages] = venv.rglob("site-packages")
    for name in ("ccl_part", "ccl_tool"):
        with zipfile.ZipFile(io.BytesIO(wheel_bytes(name, "1.0", module(name, "1.0")))) as wheel:
            wheel.extractall(packages)
    for name in ("made", "installing"):
        (venv / f".ccl-{name}").touch()
    return venv


def build(venv: Path) -> None:
    virtual_environment.build(venv, (), venv.parent / "logs", "a test")


def known_to_pip(venv: Path) -> list[str]:
    """The packages that pip knows after a set-up went on."""
    build(venv)
    return sorted(path.name.partition("-")[0] for path in venv.rglob("*.dist-info"))


def test_a_set_up_goes_on_with_every_package_that_is_whole(interrupted: Path) -> None:
    assert known_to_pip(interrupted) == ["ccl_part", "ccl_tool"]


@pytest.mark.parametrize("file", ["ccl_part/late.py", "ccl_part/cacert.pem", "ccl_part-1.0.dist-info/RECORD"])
def test_a_package_with_a_missing_file_is_installed_again(interrupted: Path, file: str) -> None:
    [path] = interrupted.rglob(file)
    path.unlink()
    assert known_to_pip(interrupted) == ["ccl_tool"]


def test_a_package_with_a_file_cut_short_is_installed_again(interrupted: Path) -> None:
    [path] = interrupted.rglob("ccl_part/late.py")
    path.write_text("VER")
    assert known_to_pip(interrupted) == ["ccl_tool"]


def test_a_package_with_certificates_of_the_system_is_not_installed_again(interrupted: Path) -> None:
    [path] = interrupted.rglob("ccl_part/cacert.pem")
    path.write_text("the certificates of this company")
    assert known_to_pip(interrupted) == ["ccl_part", "ccl_tool"]


def test_a_virtual_environment_that_was_cut_short_while_it_was_made_is_started_anew(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / "half").touch()
    build(venv)
    assert not (venv / "half").exists()
    assert virtual_environment.has_venv(venv) and virtual_environment.purpose_of(venv) == "a test"
    assert subprocess.run([virtual_environment.python_of(venv), "-m", "pip", "--version"], check=True)
    assert virtual_environment.python_version(venv) == sys.version.split()[0]


def test_a_half_deleted_virtual_environment_is_not_taken_for_the_systems_python(tmp_path: Path) -> None:
    """Without pyvenv.cfg its Python is the one it was made from, whose pip works."""
    python = virtual_environment.python_of(tmp_path)
    python.parent.mkdir(parents=True)
    python.symlink_to(Path(BASE_PYTHON).resolve())
    (tmp_path / ".ccl-made").touch()
    assert not virtual_environment.can_go_on(tmp_path)


def test_a_damaged_environment_is_not_touched_while_something_runs_from_it(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    venv.mkdir()
    with (
        lock.share(virtual_environment.lock_of_users(venv), "waiting"),
        pytest.raises(ScriptError, match=r"damaged and in use[\s\S]*end the programs"),
    ):
        build(venv)
    assert venv.is_dir()


def test_what_is_removed_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    virtual_environment.remove(tmp_path / "venv")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_found_before_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([BASE_PYTHON, "-m", "venv", "--without-pip", tmp_path], check=True)
    monkeypatch.setattr(virtual_environment, "FREE_GIGABYTES", 10**6)
    with pytest.raises(ScriptError, match=r"GB free[\s\S]*--clean[\s\S]*CCL_ENV"):
        virtual_environment.need_space(tmp_path)


def test_pip_trouble_comes_with_its_remedy(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
    assert "CCL_ENV" in virtual_environment.pip_remedy(log)
    log.write_text("ERROR: No matching distribution found for torch==2.11.0")
    assert "network" in virtual_environment.pip_remedy(log)
