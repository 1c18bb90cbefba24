"""A virtual environment that is built step by step where nobody uses it, and counts only when it is whole.

Each step leaves a stamp when it has finished, so that an interrupted set-up goes on with the next one.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ccl_tools.console import ScriptError, run_shown, say, tail
from ccl_tools.lock import for_children, if_unused, only_one
from ccl_tools.requirement_set import Step

# The installed packages have about 7 GB, and pip unpacks beside them.
FREE_GIGABYTES = 10
# What Python is called with, before the folder.
MAKE = ("-m", "venv")
CLEAN = "python scripts/set_up.py --clean"
NETWORK_SIGNS = (
    "No matching distribution",
    "NewConnectionError",
    "name resolution",
    "ConnectTimeout",
    "ReadTimeout",
)
# Files whose size tells nothing: systems put their own certificates in place of those that were installed.
ANY_SIZE = (".pem", ".crt")


def python_of(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def lock_of_users(venv: Path) -> Path:
    """The file that every program holds which runs from the environment."""
    return venv.with_name(f".{venv.name}.users")


def has_venv(venv: Path) -> bool:
    """A Python without its pyvenv.cfg would be the system's, and pip would install into that."""
    return python_of(venv).exists() and (venv / "pyvenv.cfg").is_file()


def is_whole(venv: Path, steps: tuple[Step, ...]) -> bool:
    """Whether every step has finished."""
    return has_venv(venv) and not _installing(venv).exists() and all(_finished(venv, step) for step in steps)


def purpose_of(venv: Path) -> str:
    """What the environment was made for, as its builder said."""
    stamp = _stamp(venv, "made")
    return stamp.read_text() if stamp.is_file() else ""


def python_version(venv: Path) -> str:
    """The version of the Python that made the environment, empty where its pyvenv.cfg does not say."""
    lines = (venv / "pyvenv.cfg").read_text().splitlines()
    return next((line.partition("=")[2].strip() for line in lines if line.startswith("version ")), "")


@contextmanager
def alone(venv: Path) -> Iterator[tuple[int, ...]]:
    """Wait for other set-ups of the environment and make sure that nobody uses it; gives the locks."""
    with (
        only_one(venv.parent, name=f".{venv.name}.lock") as building,
        if_unused(lock_of_users(venv)) as unused,
    ):
        if unused is None:
            raise ScriptError(
                f"{venv} is damaged and in use", "end the programs that run from it, then start again"
            )
        yield building, unused


def build(venv: Path, steps: tuple[Step, ...], logs: Path, purpose: str) -> None:
    """Make what is missing of the environment; the purpose is for people who wonder what it is for."""
    logs.mkdir(parents=True, exist_ok=True)
    with alone(venv) as locks:
        _mend(venv, steps)
        if not venv.exists():
            make_venv(venv, logs / f"{venv.name}.log", locks)
            _stamp(venv, "made").write_text(purpose)
        for step in steps:
            if not _finished(venv, step):
                _install(venv, step, logs, locks)
                _stamp(venv, step.name).write_text(step.stamp)


def _mend(venv: Path, steps: tuple[Step, ...]) -> None:
    """Bring what a set-up left that was cut short to where the next one can go on."""
    if venv.exists() and not can_go_on(venv):
        say(f"  {venv} is not whole: starting it anew")
        remove(venv)
    if _installing(venv).exists():
        forget_broken_packages(venv)
        # A forgotten package can belong to an earlier step, and pip is quick where nothing is missing.
        for step in steps:
            _stamp(venv, step.name).unlink(missing_ok=True)


def can_go_on(venv: Path) -> bool:
    """Whether an environment is there that pip can install into."""
    return has_venv(venv) and _stamp(venv, "made").exists()


def forget_broken_packages(venv: Path) -> None:
    """Make pip install again what it was killed in: it takes every package that it knows for whole."""
    scheme = "nt" if sys.platform == "win32" else "posix_prefix"
    packages = Path(sysconfig.get_path("purelib", scheme, {"base": str(venv)}))
    for known in packages.glob("*.dist-info"):
        if is_broken(known):
            shutil.rmtree(known)


def is_broken(known: Path) -> bool:
    """Whether files of an installed package are missing or cut short, by its own list of them."""
    record = known / "RECORD"
    if not record.is_file():
        return True
    with record.open(newline="", encoding="utf-8") as rows:
        # Python rewrites .pyc files when it likes, so their sizes in the list are old.
        sizes = {known.parent / path: size for path, _, size in csv.reader(rows) if not path.endswith(".pyc")}
    return any(_differs(file, size) for file, size in sizes.items())


def _differs(file: Path, size: str) -> bool:
    if not file.exists():
        return True
    return bool(size) and file.suffix not in ANY_SIZE and file.stat().st_size != int(size)


def remove(folder: Path) -> None:
    """Delete under another name, so that nothing takes the half that is left for the whole."""
    folder.rename(folder.with_name(f".old-{folder.name}-{os.getpid()}"))
    for old in folder.parent.glob(".old-*"):
        shutil.rmtree(old, ignore_errors=True)


def make_venv(venv: Path, log: Path, locks: tuple[int, ...] = ()) -> None:
    """An empty virtual environment with pip, of the Python that runs this."""
    # The Python behind this one: an environment made of another would break with that.
    base = getattr(sys, "_base_executable", None) or sys.executable
    command = [base, *MAKE, str(venv)]
    if run_shown("virtual environment", command, log, descriptors=for_children(*locks)) != 0:
        raise ScriptError(
            f"{base} cannot make a virtual environment:\n{tail(log)}",
            "install the venv package of your Python (Debian, Ubuntu: apt install python3-venv), "
            "or use another Python",
        )


def need_space(venv: Path) -> None:
    """Stop where torch is not there yet and would not fit."""
    if _succeeds(venv, "import torch"):
        return
    free = shutil.disk_usage(venv).free / 1e9
    if free < FREE_GIGABYTES:
        raise ScriptError(
            f"{venv} has {free:.1f} GB free, and torch needs {FREE_GIGABYTES} GB while it installs",
            f"free some space ({CLEAN} removes environments that nobody uses), "
            "or choose a folder on another disk with the environment variable CCL_ENV",
        )


def _install(venv: Path, step: Step, logs: Path, locks: tuple[int, ...]) -> None:
    if step.name == "torch":
        need_space(venv)
    log = logs / f"{venv.name}-{step.name}.log"
    # While this file is there, a package may be half installed.
    _installing(venv).touch()
    pip = [str(python_of(venv)), "-m", "pip", "install", "--disable-pip-version-check", *step.packages]
    # pip outlives a set-up that is killed: as a holder of the locks it keeps the next one waiting.
    if run_shown(step.title, pip, log, descriptors=for_children(*locks)) != 0:
        raise ScriptError(f"pip could not install {step.title}:\n{tail(log)}", pip_remedy(log))
    trial = [str(python_of(venv)), "-c", f"import {step.imports}"]
    if run_shown(f"{step.title}, first import", trial, log) != 0:
        raise ScriptError(
            f"{step.title} was installed into {venv} and cannot be imported:\n{tail(log)}",
            f"{CLEAN} {venv.name}, then start again",
        )
    _installing(venv).unlink()


def pip_remedy(log: Path) -> str:
    """What to do about the error at the end of pip's log."""
    text = log.read_text(errors="replace")
    if "No space left" in text:
        return (
            f"free 10 GB ({CLEAN}), or choose a folder on another disk with the environment variable CCL_ENV"
        )
    if any(sign in text for sign in NETWORK_SIGNS):
        return "check the network and pip's index and proxy settings (pip config list), then start again"
    return f"read {log}, then start again"


def _stamp(venv: Path, name: str) -> Path:
    return venv / f".ccl-{name}"


def _installing(venv: Path) -> Path:
    """The file that is there while pip works."""
    return _stamp(venv, "installing")


def _finished(venv: Path, step: Step) -> bool:
    stamp = _stamp(venv, step.name)
    return stamp.is_file() and stamp.read_text() == step.stamp


def _succeeds(venv: Path, program: str) -> bool:
    command = [str(python_of(venv)), "-c", program]
    return (
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
        == 0
    )
