"""Set up what the other scripts run in, list the virtual environments that are there, and remove old ones.

Every set of requirements has a virtual environment of its own (about 7 GB). None is changed once it is whole:
new requirements, such as those of another COMFYUI_PATH, get a new one. Old ones stay until you remove them.

python scripts/set_up.py                 set up what is missing, and say where it is
python scripts/set_up.py --list          every environment: size, whether a script runs from it, purpose
python scripts/set_up.py --clean         remove those that no script runs from, but for this command's
python scripts/set_up.py --clean NAME    remove this one, if no script runs from it

The environment named venv is that of version 0.2.0, whose scripts do not show that they run from it:
--clean removes it only by its name.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from ccl_tools.console import ScriptError, exit_on_script_error, say
from ccl_tools.environment import Environment, ensure, environments, installed, locate, shared_venv
from ccl_tools.host_source import host_version
from ccl_tools.lock import if_unused
from ccl_tools.virtual_environment import lock_of_users, purpose_of, remove


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--list", action="store_true", help="list the virtual environments")
    wanted.add_argument(
        "--clean", nargs="*", metavar="NAME", help="remove virtual environments that no script uses"
    )
    return parser.parse_args()


def gigabytes(folder: Path) -> float:
    files = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return sum(file.lstat().st_size for file in files) / 1e9


def show_list(env: Environment) -> None:
    """A line for each environment."""
    say(str(env.root))
    for venv in installed(env.root):
        unheld = "not in use, but for scripts of 0.2.0" if venv == shared_venv(env.root) else "not in use"
        with if_unused(lock_of_users(venv)) as unused:
            state = "in use" if unused is None else unheld
        wanted = "  (of this command)" if venv == env.venv else ""
        say(f"  {venv.name}  {gigabytes(venv):.1f} GB  {state}  {purpose_of(venv)}{wanted}".rstrip())


def named(env: Environment, names: list[str]) -> list[Path]:
    """The environments of these names; without names all but this command's and that of version 0.2.0."""
    there = {venv.name: venv for venv in installed(env.root)}
    if unknown := [name for name in names if name not in there]:
        raise ScriptError(
            f"{env.root} has no environment {', '.join(unknown)}",
            f"choose from: {', '.join(there) or 'nothing'}",
        )
    if names:
        return [there[name] for name in names]
    return [venv for venv in there.values() if venv.parent == environments(env.root) and venv != env.venv]


def clean(venvs: Iterable[Path]) -> None:
    """Remove the environments that no script runs from."""
    for venv in venvs:
        with if_unused(lock_of_users(venv)) as unused:
            if unused is None:
                say(f"{venv} stays: a script runs from it")
                continue
            size = gigabytes(venv)
            remove(venv)
            say(f"{venv} is removed: {size:.1f} GB")


def set_up() -> None:
    env = ensure()
    say(f"{env.python}\nComfyUI {host_version(env.comfyui)}: {env.comfyui}")


def main(options: argparse.Namespace) -> None:
    if not options.list and options.clean is None:
        return set_up()
    env = locate()
    try:
        return show_list(env) if options.list else clean(named(env, options.clean))
    except OSError as error:
        raise ScriptError(f"cannot write below {env.root}: {error}", "ask whoever may write there") from error


if __name__ == "__main__":
    chosen = arguments()
    exit_on_script_error(lambda: main(chosen))
