"""The one cached environment of demo, tests and benchmarks: a ComfyUI, a virtual environment, and the pack as a module.

Every step is recorded when it has finished, so a second call returns at once and an interrupted step is done again.
CCL_ENV names another folder than the user's cache, COMFYUI_PATH an existing ComfyUI (its code; not its packages).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from console import ScriptError, exit_on_script_error, run_shown, say, tail
from host_source import HOST_VERSION, host_version, need_host, provide_host
from lock import only_one

ROOT = Path(__file__).resolve().parents[1]
PACK_NAME = "ccl_pack"
OLDEST_PYTHON = (3, 10)
FREE_GIGABYTES = 10
TORCH = {"torch": "2.11.0", "torchvision": "0.26.0", "torchaudio": "2.11.0"}
TOOLS = ["pytest>=8.3,<10", "ruff==0.17.5", "matplotlib>=3.9,<4"]
IMPORTS = {
    "torch": "torch, torchvision, torchaudio",
    "requirements": "aiohttp, av, safetensors, sentencepiece, transformers, torchsde, comfy_kitchen",
    "tools": "pytest, ruff, matplotlib",
}
NETWORK_SIGNS = ("No matching distribution", "NewConnectionError", "name resolution", "ConnectTimeout", "ReadTimeout")
WHOLE = """
import importlib.metadata as metadata, sys
for package in metadata.distributions():
    for file in package.files or sys.exit(f"{package.name}: no list of files"):
        size = getattr(file, "size", None)
        path = file.locate()
        if file.suffix != ".pyc" and not (path.exists() and size in (None, path.stat().st_size)):
            sys.exit(f"{package.name}: {file} is missing or cut short")
"""


def default_root() -> Path:
    """The folder of the environment: CCL_ENV, or comfyui-ccl in the user's cache."""
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
    """Where everything is."""

    root: Path
    comfyui: Path

    @property
    def venv(self) -> Path:
        return self.root / "venv"

    @property
    def python(self) -> Path:
        return self.venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

    @property
    def installing(self) -> Path:
        return self.venv / ".ccl-installing"

    def has_venv(self) -> bool:
        """A Python without its pyvenv.cfg would be the system's, and pip would install into that."""
        return self.python.exists() and (self.venv / "pyvenv.cfg").is_file()

    def stamp(self, step: str) -> Path:
        return self.venv / f".ccl-{step}"

    def finished(self, step: str, key: str) -> bool:
        stamp = self.stamp(step)
        return stamp.is_file() and stamp.read_text() == key


def locate() -> Environment:
    """The environment as the variables name it, whether it is there or not."""
    root = default_root()
    chosen = os.environ.get("COMFYUI_PATH")
    return Environment(root, Path(chosen).expanduser().absolute() if chosen else root / "ComfyUI")


def step_keys(env: Environment) -> dict[str, str]:
    """What each step installs, as the text its stamp must hold."""
    requirements = [env.comfyui / "requirements.txt", ROOT / "requirements.txt"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in requirements if path.is_file())).hexdigest()
    return {"torch": json.dumps(TORCH), "requirements": digest, "tools": json.dumps(TOOLS)}


def ready(env: Environment) -> bool:
    """Whether every step has finished."""
    return (
        env.has_venv()
        and not env.installing.exists()
        and host_version(env.comfyui) is not None
        and all(env.finished(step, key) for step, key in step_keys(env).items())
    )


def ensure() -> Environment:
    """Set up what is missing and return the environment."""
    if sys.version_info < OLDEST_PYTHON:
        raise ScriptError(
            f"this is Python {sys.version.split()[0]}, and ComfyUI needs 3.10 or newer",
            "start the script with a newer Python, such as python3.12 scripts/demo.py",
        )
    env = locate()
    if ready(env):
        return env
    if os.environ.get("COMFYUI_PATH"):
        need_host(env.comfyui)
    say(f"Setting up {env.root} (about 7 GB; once)")
    try:
        env.root.mkdir(parents=True, exist_ok=True)
        with only_one(env.root):
            _set_up(env)
    except OSError as error:
        raise ScriptError(
            f"cannot write to {env.root}: {error}",
            "free some space there, or choose another folder with the environment variable CCL_ENV",
        ) from error
    return env


def _set_up(env: Environment) -> None:
    _discard_broken_venv(env)
    if not env.has_venv():
        _make_venv(env)
    provide_host(env.comfyui, env.python, env.root / "setup.log")
    keys = step_keys(env)
    pins = [f"{name}=={version}" for name, version in TORCH.items()]
    requirements = ["-r", str(env.comfyui / "requirements.txt")]
    if (ROOT / "requirements.txt").is_file():
        requirements += ["-r", str(ROOT / "requirements.txt")]
    wanted = {"torch": pins, "requirements": [*pins, *requirements], "tools": TOOLS}
    for step, arguments in wanted.items():
        if not env.finished(step, keys[step]):
            if step == "torch":
                _need_space(env)
            _install(env, step, arguments)
            env.stamp(step).write_text(keys[step])
    say(f"Ready: ComfyUI {host_version(env.comfyui)} with torch {TORCH['torch']}")


def _discard_broken_venv(env: Environment) -> None:
    """An installation that was cut short can leave packages that pip takes for whole."""
    if not env.venv.exists():
        return
    pip_runs = env.has_venv() and _quiet([str(env.python), "-m", "pip", "--version"]) == 0
    if pip_runs and not (env.installing.exists() and _quiet([str(env.python), "-c", WHOLE]) != 0):
        return
    say("  the last installation was cut short: starting the virtual environment anew")
    _remove(env.venv)


def _remove(folder: Path) -> None:
    """Under another name first, so that nothing takes the half that is left for the whole."""
    doomed = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".old-"))
    folder.rename(doomed / folder.name)
    for old in folder.parent.glob(".old-*"):
        shutil.rmtree(old)


def _quiet(command: list[str]) -> int:
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode


def _make_venv(env: Environment) -> None:
    base = getattr(sys, "_base_executable", None) or sys.executable
    log = env.root / "setup.log"
    if run_shown("virtual environment", [base, "-m", "venv", str(env.venv)], log) != 0:
        shutil.rmtree(env.venv, ignore_errors=True)
        raise ScriptError(
            f"{base} cannot make a virtual environment:\n{tail(log)}",
            "install the venv package of your Python (Debian, Ubuntu: apt install python3-venv), or use another Python",
        )


def _need_space(env: Environment) -> None:
    """Only where torch is not there yet."""
    if _quiet([str(env.python), "-c", "import torch"]) == 0:
        return
    free = shutil.disk_usage(env.root).free / 1e9
    if free < FREE_GIGABYTES:
        raise ScriptError(
            f"{env.root} has {free:.1f} GB free, and torch needs {FREE_GIGABYTES} GB while it installs",
            "free some space, or choose a folder on another disk with the environment variable CCL_ENV",
        )


def _install(env: Environment, step: str, arguments: list[str]) -> None:
    title = {"torch": "torch", "requirements": "what ComfyUI needs", "tools": "pytest, ruff and matplotlib"}[step]
    log = env.root / f"pip-{step}.log"
    env.installing.touch()
    command = [str(env.python), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    if run_shown(title, command, log) != 0:
        raise ScriptError(f"pip could not install {title}:\n{tail(log)}", _pip_remedy(log))
    import_log = env.root / f"import-{step}.log"
    if run_shown(f"{title}, first import", [str(env.python), "-c", f"import {IMPORTS[step]}"], import_log) != 0:
        raise ScriptError(
            f"{title} was installed and cannot be imported:\n{tail(import_log)}",
            f"delete {env.venv} and start again",
        )
    env.installing.unlink()


def _pip_remedy(log: Path) -> str:
    text = log.read_text(errors="replace")
    if "No space left" in text:
        return "free 10 GB, or choose a folder on another disk with the environment variable CCL_ENV"
    if any(sign in text for sign in NETWORK_SIGNS):
        return "check the network and pip's index and proxy settings (pip config list), then start again"
    return f"read {log}, then start again"


def reexec() -> Environment:
    """Set up, and run the script that called this again inside the environment; returns there."""
    env = locate()
    inside = env.venv.exists() and Path(sys.prefix).resolve() == env.venv.resolve()
    if not ready(env):
        if {"-h", "--help"} & set(sys.argv[1:]):
            say((sys.modules["__main__"].__doc__ or "").strip())
            sys.exit(0)
        exit_on_script_error(ensure)
    os.environ["COMFYUI_PATH"] = str(env.comfyui)
    if inside:
        return env
    command = [str(env.python), *sys.argv]
    if sys.platform == "win32":
        sys.exit(subprocess.run(command, check=False).returncode)
    sys.stdout.flush()
    os.execv(command[0], command)


def load_pack(*, cpu: bool = True, pytorch_attention: bool = False) -> ModuleType:
    """The pack as ComfyUI loads it: one package, here always named ccl_pack, with ComfyUI on the path.

    pytorch_attention: as the host's --use-pytorch-cross-attention, which trains faster than its default on a CPU.
    """
    if PACK_NAME in sys.modules:
        return sys.modules[PACK_NAME]
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


if __name__ == "__main__":
    exit_on_script_error(lambda: say(f"{ensure().python}\nComfyUI {HOST_VERSION} or newer: {locate().comfyui}"))
