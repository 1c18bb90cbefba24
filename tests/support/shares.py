"""The shares of the suite: how long each may take on two idle cores, what it took, and what a run left out.

A test belongs to the share of its folder (tests/browser, tests/compat, tests/fuzz), else to the first. A test
marked `long` is a cell of a matrix: it runs under --long, and one that is like it runs always.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable

import pytest

FIRST = "units and server"
MINUTES = {FIRST: 8, "compat": 2, "browser": 3, "fuzz": 2}
LONG_MINUTES = 60
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
INSTALL = "apt-get install chromium"


def chromium() -> str | None:
    """The program, where it is installed."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def share_of(nodeid: str) -> str:
    """The share of a test by its path, such as tests/fuzz/test_files.py::test_x."""
    folder = nodeid.split("/")[1] if nodeid.startswith("tests/") else ""
    return folder if folder in MINUTES else FIRST


def reason_to_leave_out(item: pytest.Item) -> str | None:
    """The option that decides against a test in this run."""
    if item.get_closest_marker("long") and not item.config.getoption("--long"):
        return "matrices, which --long runs"
    if share_of(item.nodeid) == "browser" and item.config.getoption("--without-browser"):
        return "tests in a browser, because of --without-browser"
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("shares of the suite")
    group.addoption("--long", action="store_true", help=f"the matrices too ({LONG_MINUTES} minutes)")
    group.addoption("--without-browser", action="store_true", help="no test that needs Chromium")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: a cell of a matrix, run with --long")
    config.pluginmanager.register(Account(), "account of the shares")


class Account:
    """What a run took and left out, for its last lines."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.tests: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        reasons = {item: reason_to_leave_out(item) for item in items}
        left_out = [item for item in items if reasons[item]]
        self.left_out.update(reasons[item] for item in left_out)
        items[:] = [item for item in items if not reasons[item]]
        config.hook.pytest_deselected(items=left_out)
        if chromium() is None and any(share_of(item.nodeid) == "browser" for item in items):
            raise pytest.UsageError(
                f"some of these tests need Chromium: install it with {INSTALL}, or add --without-browser"
            )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        share = share_of(report.nodeid)
        self.seconds[share] += report.duration
        self.tests[share] += report.when == "call"
        if report.skipped:
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.skipped[why.removeprefix("Skipped: ")] += 1

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        terminalreporter.section("shares")
        minutes = {} if config.getoption("--long") else MINUTES
        for line in lines(self, minutes):
            terminalreporter.write_line(line)


def lines(account: Account, minutes: dict[str, int]) -> Iterable[str]:
    """A line for each share that ran, and one for each reason why tests did not."""
    for share in sorted(account.tests, key=list(MINUTES).index):
        spent = account.seconds[share]
        limit = f" of {60 * minutes[share]}" if share in minutes else ""
        over = "   longer than its share" if share in minutes and spent > 60 * minutes[share] else ""
        yield f"{share:<17} {account.tests[share]:>5} tests {spent:>6.0f}{limit} seconds{over}"
    for reason, count in account.left_out.items():
        yield f"left out: {count} {reason}"
    for reason, count in account.skipped.items():
        yield f"skipped: {count}, {reason}"
