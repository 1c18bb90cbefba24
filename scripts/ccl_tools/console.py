"""What the scripts show while something takes long, and how they say what failed and what to do."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Seconds between two lines of a ticker.
TERMINAL_EVERY = 0.5
LOG_EVERY = 15.0
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class ScriptError(RuntimeError):
    """A step that cannot go on: what happened, and what the reader can do about it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}\n  what to do: {remedy}")


def say(text: str) -> None:
    """One line on the console, at once."""
    print(text, flush=True)


class Ticker:
    """A line that is rewritten on a terminal and repeated now and then in a log."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.start = time.monotonic()
        self.terminal = sys.stdout.isatty()
        self.next = self.start + (TERMINAL_EVERY if self.terminal else 2.0)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start

    def tick(self, detail: str = "") -> None:
        """Show the title, the time so far and a detail, if it is time to."""
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + (TERMINAL_EVERY if self.terminal else LOG_EVERY)
        line = f"  {self.title} ... {self.seconds:.0f} s  {detail}"[:118]
        print(f"\r{line:<118}" if self.terminal else line, end="" if self.terminal else "\n", flush=True)

    def done(self, detail: str = "done") -> None:
        """The last line, which stays."""
        line = f"  {self.title}: {detail} ({self.seconds:.1f} s)"
        print(f"\r{line:<118}" if self.terminal else line, flush=True)


def last_line(path: Path) -> str:
    """The newest line of a log file, for the ticker."""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - 4000))
        text = COLOURS.sub("", log.read().decode(errors="replace"))
    lines = [line.strip() for line in text.split("\n")[1:]]
    return next((line for line in reversed(lines) if line and not line.startswith("WARNING")), "")


def tail(path: Path, lines: int = 12) -> str:
    """The end of a log file, indented, for an error."""
    return "\n".join("    " + line for line in path.read_text(errors="replace").splitlines()[-lines:])


def run_shown(
    title: str,
    command: list[str],
    log: Path,
    *,
    timeout: float | None = None,
    env: dict[str, str] | None = None,
    descriptors: tuple[int, ...] = (),
) -> int:
    """Run a command with its output in a log file and a ticker on the console; 124 when it ran out of time.

    descriptors: open files that the command keeps, such as locks.
    """
    ticker = Ticker(title)
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=env,
            pass_fds=descriptors,
        )
        try:
            while process.poll() is None:
                if timeout is not None and ticker.seconds > timeout:
                    process.kill()
                    process.wait()
                    # As the command timeout ends.
                    return 124
                time.sleep(0.1)
                ticker.tick(last_line(log))
        except BaseException:
            process.kill()
            process.wait()
            raise
    ticker.done("done" if process.returncode == 0 else f"ended with code {process.returncode}")
    return process.returncode


def exit_on_script_error(action: Callable[[], object]) -> None:
    """Run an action; a ScriptError becomes its text and exit code 1, Ctrl-C becomes 130."""
    try:
        action()
    except ScriptError as error:
        print(f"\nStopped: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nStopped. Start the same command again to go on.", file=sys.stderr, flush=True)
        sys.exit(130)
