"""Set-ups beside a program that runs, with small stand-ins for the packages: nothing that runs is ever
touched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccl_tools import lock
from ccl_tools.console import ScriptError
from ccl_tools.environment import Environment
from ccl_tools.virtual_environment import lock_of_users
from support.commands import load
from support.stand_in_packages import SERVER, SET_UP, Place, ask, snapshot, write_host, write_packages

COMMAND = load("scripts/set_up.py")
SECONDS = 120


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place")
    write_packages(folder / "packages")
    return Place(folder)


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[subprocess.Popen[str]]:
    """A program that runs from the environment of the first host, which it sets up."""
    host = write_host(place.folder / "first", "ccl-part==1.0")
    running = place.start(SERVER, host, stdin=subprocess.PIPE)
    yield running
    running.stdin.close()
    running.wait(SECONDS)


@pytest.fixture(scope="module")
def served(server: subprocess.Popen[str]) -> Path:
    """The environment that the server runs from."""
    lines = iter(server.stdout.readline, "")
    path = next(line for line in lines if line.startswith("/"))
    return Path(path.strip())


def finished(call: subprocess.Popen[str]) -> Path:
    """The environment that a set-up says at its end."""
    output, _ = call.communicate(timeout=SECONDS)
    assert call.returncode == 0, output
    return Path(output.splitlines()[-1])


def wait_for(path: Path) -> None:
    end = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.05)


def version_in(venv: Path, name: str) -> str:
    program = f"import {name}; print({name}.VERSION)"
    return subprocess.run(
        [venv / "bin" / "python", "-c", program], capture_output=True, text=True
    ).stdout.strip()


def test_two_set_ups_at_once_for_two_hosts_leave_a_running_server_untouched(
    place: Place, server: subprocess.Popen[str], served: Path
) -> None:
    before = snapshot(served)
    hosts = [
        write_host(place.folder / name, "ccl-part==2.0", extra)
        for name, extra in (("b", ""), ("c", "ccl-tool"))
    ]
    calls = [place.start(SET_UP, host) for host in hosts]
    made = [finished(call) for call in calls]
    assert len({served, *made}) == 3
    assert [version_in(venv, "ccl_part") for venv in made] == ["2.0", "2.0"]
    assert snapshot(served) == before
    assert ask(server, "ccl_part.late") == "1.0"


def test_a_kill_in_the_middle_of_an_installation_leaves_a_running_server_untouched_and_the_next_call_goes_on(
    place: Place, server: subprocess.Popen[str], served: Path
) -> None:
    before = snapshot(served)
    host = write_host(place.folder / "slow", "ccl-slow==1.0")
    place.gate.touch()
    killed = place.start(SET_UP, host)
    wait_for(place.folder / "started")
    [half] = [path for path in served.parent.iterdir() if (path / ".ccl-installing").exists()]
    made = (half / ".ccl-made").stat().st_mtime_ns

    # The script alone dies: its pip works on, and the next call waits for it.
    killed.kill()
    killed.wait()
    next_call = place.start(SET_UP, host)
    with pytest.raises(subprocess.TimeoutExpired):
        next_call.wait(1)
    assert not lock.try_lock(half.with_name(f".{half.name}.lock").open("a+b").fileno())

    os.killpg(killed.pid, signal.SIGKILL)
    place.gate.unlink()
    assert finished(next_call) == half
    assert (half / ".ccl-made").stat().st_mtime_ns == made
    assert version_in(half, "ccl_slow") == "1.0"
    assert snapshot(served) == before
    assert ask(server, "ccl_engine.late") == "1.0"


def test_a_second_set_up_changes_nothing(place: Place, served: Path) -> None:
    before = snapshot(served)
    assert finished(place.start(SET_UP, place.folder / "first")) == served
    assert snapshot(served) == before


def test_a_bundle_of_certificates_that_the_system_changed_is_no_reason_to_set_up_again(
    place: Place, served: Path
) -> None:
    [bundle] = served.rglob("ccl_part/cacert.pem")
    bundle.write_text("certificates of this company\n")
    before = snapshot(served)
    assert finished(place.start(SET_UP, place.folder / "first")) == served
    assert snapshot(served) == before


def test_a_running_script_holds_its_environment(served: Path) -> None:
    with lock.if_unused(lock_of_users(served)) as unused:
        assert unused is None


def test_a_child_that_outlives_its_script_holds_the_environment(place: Place, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    program = f"""
import pathlib, subprocess
from ccl_tools.environment import held_locks
hold(pathlib.Path({str(venv)!r}))
waiting = [sys.executable, "-c", "input()"]
print(subprocess.Popen(waiting, stdin=sys.stdin, stdout=2, pass_fds=held_locks()).pid)
"""
    parent = place.start(program, place.folder / "first", stdin=subprocess.PIPE)
    parent.wait(SECONDS)
    with lock.if_unused(lock_of_users(venv)) as unused:
        assert unused is None
    parent.stdin.close()
    lock.share(lock_of_users(venv), "waiting for the child").close()


def environment_at(root: Path, name: str) -> Environment:
    """The environments "mine" and "other", and that of version 0.2.0."""
    for folder in ("environments/mine", "environments/other", "venv"):
        (root / folder).mkdir(parents=True)
        (root / folder / "file").write_text("x")
    return Environment(root, root / "ComfyUI", root / "environments" / name, ())


def names(root: Path) -> list[str]:
    return [path.name for path in [*sorted((root / "environments").glob("[!.]*")), *root.glob("venv")]]


def test_clean_removes_what_no_script_uses_but_for_the_own_environment_and_the_one_without_a_lock(
    tmp_path: Path,
) -> None:
    env = environment_at(tmp_path, "mine")
    COMMAND.clean(COMMAND.named(env, []))
    assert names(tmp_path) == ["mine", "venv"]


def test_clean_leaves_what_a_script_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = environment_at(tmp_path, "mine")
    with lock.share(lock_of_users(tmp_path / "environments" / "other"), "waiting"):
        COMMAND.clean(COMMAND.named(env, []))
        COMMAND.show_list(env)
    assert names(tmp_path) == ["mine", "other", "venv"]
    assert "other stays: a script runs from it" in capsys.readouterr().out


def test_clean_removes_any_environment_by_its_name(tmp_path: Path) -> None:
    env = environment_at(tmp_path, "mine")
    COMMAND.clean(COMMAND.named(env, ["mine", "venv"]))
    assert names(tmp_path) == ["other"]
    with pytest.raises(ScriptError, match=r"no environment mine[\s\S]*other"):
        COMMAND.named(env, ["mine"])


@pytest.mark.parametrize("option", ["--list", "--clean"])
def test_a_list_or_a_clean_without_environments_makes_none(tmp_path: Path, option: str) -> None:
    variables = {**os.environ, "CCL_ENV": str(tmp_path / "nothing")}
    script = Path(COMMAND.__file__)
    assert subprocess.run([sys.executable, str(script), option], env=variables, check=False).returncode == 0
    assert not (tmp_path / "nothing").exists()
