"""The shares of the suite: which test is in which, and that nothing is left out in silence."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ccl_tools.environment import ROOT
from support import shares

BROWSER_TESTS = "tests/browser/test_page.py"


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """pytest on these arguments, which runs no test."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    env = {**os.environ, **variables}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("nodeid", "share"),
    [
        ("tests/test_server.py::test_x", shares.FIRST),
        ("tests/model/test_joint.py::test_x[browser/fuzz]", shares.FIRST),
        ("tests/browser/test_page.py::test_x", "browser"),
        ("tests/compat/test_patches.py::test_x", "compat"),
        ("tests/fuzz/test_files.py::test_x", "fuzz"),
    ],
)
def test_a_test_belongs_to_the_share_of_its_folder(nodeid: str, share: str) -> None:
    assert shares.share_of(nodeid) == share


def test_every_share_has_tests_and_all_take_fifteen_minutes() -> None:
    assert sum(shares.MINUTES.values()) == 15
    for share in set(shares.MINUTES) - {shares.FIRST}:
        assert list((ROOT / "tests" / share).glob("test_*.py"))


def test_what_was_left_out_and_what_took_too_long_is_said() -> None:
    account = shares.Account()
    account.tests.update({"fuzz": 2, shares.FIRST: 3})
    account.seconds.update({"fuzz": 121, shares.FIRST: 479})
    account.left_out["matrices"] = 4
    account.skipped["no gloo"] = 1
    first, fuzz, *rest = shares.lines(account, shares.MINUTES)
    assert "479 of 480 seconds" in first and "longer" not in first
    assert "121 of 120 seconds" in fuzz and "longer than its share" in fuzz
    assert rest == ["left out: 4 matrices", "skipped: 1, no gloo"]


def test_without_chromium_the_run_stops_with_the_line_that_installs_it() -> None:
    stopped = run(BROWSER_TESTS, PATH="")
    assert stopped.returncode == pytest.ExitCode.USAGE_ERROR
    assert shares.INSTALL in stopped.stderr and "--without-browser" in stopped.stderr
    left_out = run(BROWSER_TESTS, "--without-browser", PATH="")
    assert "because of --without-browser" in left_out.stdout
