"""The environment of demo, tests and benchmarks: a ComfyUI, a virtual environment, and the pack as a module.

Each set of requirements has a virtual environment of its own: none is changed while something runs from it.
CCL_ENV names another folder than the user's cache, COMFYUI_PATH an existing ComfyUI (its code, not its
packages).
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from ccl_tools.console import ScriptError, exit_on_script_error, say
from ccl_tools.host_source import host_version, need_host, provide_host
from ccl_tools.lock import for_children, only_one, share
from ccl_tools.requirement_set import Step, name_of, steps_for
from ccl_tools.virtual_environment import CLEAN, build, is_whole, lock_of_users, python_of, python_version

ROOT = Path(__file__).resolve().parents[2]
PACK_NAME = "ccl_pack"
OLDEST_PYTHON = (3, 10)
# Locks of the environments that this process uses; they end with it.
HELD: dict[Path, BinaryIO] = {}


def default_root() -> Path:
    """The folder of everything that is set up: CCL_ENV, or comfyui-ccl in the user's cache."""
    if chosen := os.environ.get("CCL_ENV"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "comfyui-ccl"


@dataclass(frozen=True)
class Environment:
    """Where everything is, and what the virtual environment holds."""

    root: Path
    comfyui: Path
    venv: Path
    steps: tuple[Step, ...]

    @property
    def python(self) -> Path:
        return python_of(self.venv)

    @property
    def logs(self) -> Path:
        return self.root / "logs"


def environments(root: Path) -> Path:
    """The folder that holds a virtual environment for each set of requirements."""
    return root / "environments"


def shared_venv(root: Path) -> Path:
    """The one environment of versions up to 0.2.0, which they change in place and use without a lock."""
    return root / "venv"


def locate() -> Environment:
    """The environment as the variables name it, whether it is there or not."""
    root = default_root()
    chosen = os.environ.get("COMFYUI_PATH")
    comfyui = Path(chosen).expanduser().absolute() if chosen else root / "ComfyUI"
    steps = steps_for(comfyui)
    return Environment(root, comfyui, _venv_for(root, steps), steps)


def _venv_for(root: Path, steps: tuple[Step, ...]) -> Path:
    """The folder of these requirements; the one of versions up to 0.2.0 where that holds them already."""
    own = environments(root) / name_of(steps)
    old = shared_venv(root)
    if not is_whole(own, steps) and is_whole(old, steps):
        python = f"{sys.version_info.major}.{sys.version_info.minor}."
        return old if python_version(old).startswith(python) else own
    return own


def ready(env: Environment) -> bool:
    """Whether everything is there."""
    return host_version(env.comfyui) is not None and is_whole(env.venv, env.steps)


def hold(venv: Path) -> None:
    """Keep others from removing an environment until this process ends."""
    if venv in HELD:
        return
    try:
        HELD[venv] = share(lock_of_users(venv), f"waiting until {venv} is free")
    except OSError:
        # A folder that only an administrator can write to is not ours to guard.
        return


def use(env: Environment) -> bool:
    """Hold the environment if it is whole."""
    if not ready(env):
        return False
    hold(env.venv)
    # Once more: another set-up may have removed the environment before the lock was held.
    if ready(env):
        return True
    if lock := HELD.pop(env.venv, None):
        lock.close()
    return False


def held_locks() -> tuple[int, ...]:
    """For subprocess's pass_fds: a child that outlives this process, such as a server, holds them too."""
    return for_children(*(lock.fileno() for lock in HELD.values()))


def ensure() -> Environment:
    """Set up what is missing and return the environment, which this process holds from now on."""
    if sys.version_info < OLDEST_PYTHON:
        raise ScriptError(
            f"this is Python {sys.version.split()[0]}, and ComfyUI needs 3.10 or newer",
            "start the script with a newer Python, such as python3.12 scripts/demo.py",
        )
    env = locate()
    if use(env):
        return env
    if os.environ.get("COMFYUI_PATH"):
        need_host(env.comfyui)
    try:
        return _set_up(env)
    except OSError as error:
        raise ScriptError(
            f"cannot write to {env.root}: {error}",
            "free some space there, or choose another folder with the environment variable CCL_ENV",
        ) from error


def _set_up(env: Environment) -> Environment:
    """The host first, as its list of requirements names the virtual environment."""
    env.logs.mkdir(parents=True, exist_ok=True)
    with only_one(env.root):
        provide_host(env.comfyui, env.logs / "host.log")
    env = locate()
    if use(env):
        return env
    host = f"ComfyUI {host_version(env.comfyui)}"
    say(f"Setting up {env.venv} (about 7 GB; once)")
    if others := [path.name for path in installed(env.root) if path != env.venv]:
        say(
            f"  beside {', '.join(others)}, which stay as they are "
            f"({CLEAN} removes those that no script uses)"
        )
    env.venv.parent.mkdir(exist_ok=True)
    build(env.venv, env.steps, env.logs, f"{host} in {env.comfyui}")
    if not use(env):
        raise ScriptError(f"{env.venv} was removed as soon as it was whole", "start again")
    say(f"Ready: {host} with {env.steps[0].packages[0]}")
    return env


def installed(root: Path) -> list[Path]:
    """Every virtual environment below the folder, whole or not."""
    folders = [shared_venv(root), *sorted(environments(root).glob("[!.]*"))]
    return [folder for folder in folders if folder.is_dir()]


def reexec() -> Environment:
    """Set up, and run the script that called this again inside the environment; returns there."""
    env = locate()
    if not use(env):
        if {"-h", "--help"} & set(sys.argv[1:]):
            say((sys.modules["__main__"].__doc__ or "").strip())
            sys.exit(0)
        exit_on_script_error(ensure)
        env = locate()
    os.environ["COMFYUI_PATH"] = str(env.comfyui)
    if Path(sys.prefix).resolve() == env.venv.resolve():
        return env
    command = [str(env.python), *sys.argv]
    if sys.platform == "win32":
        sys.exit(subprocess.run(command, check=False).returncode)
    sys.stdout.flush()
    for descriptor in held_locks():
        os.set_inheritable(descriptor, True)
    os.execv(command[0], command)


def hold_own() -> None:
    """Hold the environment that this process runs from, also where no script of ours started it."""
    prefix = Path(sys.prefix)
    if any(prefix.glob(".ccl-*")):
        hold(prefix)


def with_tests_on_path() -> None:
    """Let what the tests share (`support`) be imported, for scripts that measure with it."""
    sys.path.insert(0, str(ROOT / "tests"))


def load_pack(*, cpu: bool = True, pytorch_attention: bool = False) -> ModuleType:
    """The pack as ComfyUI loads it: one package, here always named ccl_pack, with ComfyUI on the path.

    pytorch_attention: as the host's --use-pytorch-cross-attention, which trains faster than its default on a
    CPU.
    """
    if PACK_NAME in sys.modules:
        return sys.modules[PACK_NAME]
    hold_own()
    comfyui = str(locate().comfyui)
    if comfyui not in sys.path:
        sys.path.insert(0, comfyui)
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import comfy.cli_args

    comfy.cli_args.args.cpu = cpu
    comfy.cli_args.args.use_pytorch_cross_attention = pytorch_attention
    spec = importlib.util.spec_from_file_location(
        PACK_NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    pack = importlib.util.module_from_spec(spec)
    sys.modules[PACK_NAME] = pack
    spec.loader.exec_module(pack)
    return pack
