"""Stand-ins for a set-up: small packages in a folder for pip, hosts, and programs that set up with them."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccl_tools.environment import ROOT

BASE_PYTHON = getattr(sys, "_base_executable", None) or sys.executable
METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
# Builds a wheel that lies ready, but only once the gate is gone.
BACKEND = """
import os, pathlib, shutil, time

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    folder = pathlib.Path(os.environ["STAND_IN_GATE"])
    (folder / "started").touch()
    while (folder / "gate").exists():
        time.sleep(0.05)
    name = "ccl_slow-1.0-py3-none-any.whl"
    shutil.copy(pathlib.Path(__file__).with_name(name), wheel_directory)
    return name
"""
BUILD_SYSTEM = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
PIP = Path(importlib.util.find_spec("pip").origin).parent
# A virtual environment with a copy of pip, which takes a tenth of the time of an installation of pip.
MAKE_VENV = f"""
import pathlib, shutil, sys, venv
venv.create(sys.argv[1], symlinks=True)
[packages] = pathlib.Path(sys.argv[1]).rglob("site-packages")
shutil.copytree({str(PIP)!r}, packages / "pip")
"""
# What every program begins with: the scripts, with small packages instead of torch and the tools.
PREAMBLE = f"""
import sys
from ccl_tools import requirement_set
requirement_set.TORCH = {{"ccl-engine": "1.0"}}
requirement_set.TOOLS = ["ccl-tool==1.0"]
requirement_set.IMPORTS = {{"torch": "ccl_engine", "requirements": "ccl_engine", "tools": "ccl_tool"}}
from ccl_tools import virtual_environment
virtual_environment.MAKE = ("-c", {MAKE_VENV!r})
from ccl_tools.environment import ensure, hold, reexec
"""
SET_UP = "print(ensure().venv)"
# Imports what each line asks for, as a server imports late what it did not need at its start.
SERVER = """
import importlib
env = reexec()
print(env.venv, flush=True)
for line in sys.stdin:
    print(importlib.import_module(line.strip()).VERSION, flush=True)
"""


def wheel_bytes(name: str, version: str, files: dict[str, str]) -> bytes:
    """A wheel of pure Python."""
    info = f"{name}-{version}.dist-info"
    files = {**files, f"{info}/METADATA": METADATA.format(name=name, version=version), f"{info}/WHEEL": WHEEL}
    rows = [f"{path},{_hash(text)},{len(text)}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return packed.getvalue()


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def module(name: str, version: str) -> dict[str, str]:
    """A package with a module that nothing imports at first, and a bundle of certificates."""
    text = f'VERSION = "{version}"\n'
    return {f"{name}/__init__.py": text, f"{name}/late.py": text, f"{name}/cacert.pem": "certificates\n"}


def write_packages(folder: Path) -> None:
    """Wheels of everything, and ccl-slow as a source that stops in the middle of its installation."""
    folder.mkdir()
    for name, version in (
        ("ccl_engine", "1.0"),
        ("ccl_tool", "1.0"),
        ("ccl_part", "1.0"),
        ("ccl_part", "2.0"),
    ):
        wheel = folder / f"{name}-{version}-py3-none-any.whl"
        wheel.write_bytes(wheel_bytes(name, version, module(name, version)))
    slow = wheel_bytes("ccl_slow", "1.0", module("ccl_slow", "1.0"))
    files = {
        "pyproject.toml": BUILD_SYSTEM.encode(),
        "backend.py": BACKEND.encode(),
        "PKG-INFO": METADATA.format(name="ccl_slow", version="1.0").encode(),
        "ccl_slow-1.0-py3-none-any.whl": slow,
    }
    with tarfile.open(folder / "ccl_slow-1.0.tar.gz", "w:gz") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(f"ccl_slow-1.0/{path}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_host(folder: Path, *requirements: str) -> Path:
    """What the set-up looks at of a ComfyUI."""
    folder.mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text('__version__ = "0.30.0"\n')
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n")
    return folder


@dataclass(frozen=True)
class Place:
    """A folder with the packages, the hosts, the gate of ccl-slow and the environments that are made of
    them.
    """

    folder: Path

    @property
    def gate(self) -> Path:
        return self.folder / "gate"

    def start(self, program: str, host: Path, **options: Any) -> subprocess.Popen[str]:
        """A program of its own under the plain Python; it may be stopped with everything that it starts."""
        script = self.folder / f"{hashlib.sha256(program.encode()).hexdigest()[:8]}.py"
        script.write_text(PREAMBLE + program)
        variables = {
            "CCL_ENV": str(self.folder / "environment"),
            "COMFYUI_PATH": str(host),
            "PYTHONPATH": str(ROOT / "scripts"),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.folder / "packages"),
            "PIP_NO_CACHE_DIR": "1",
            "STAND_IN_GATE": str(self.folder),
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **options}
        command = [BASE_PYTHON, str(script)]
        return subprocess.Popen(command, env={**os.environ, **variables}, start_new_session=True, **pipes)


def ask(server: subprocess.Popen[str], name: str) -> str:
    """The version of a module that the server imports now."""
    server.stdin.write(f"{name}\n")
    server.stdin.flush()
    return server.stdout.readline().strip()


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Size, time and number of every file, but for what Python keeps of its imports."""
    files = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    facts = {str(path.relative_to(folder)): path.lstat() for path in files}
    return {name: (fact.st_size, fact.st_mtime_ns, fact.st_ino) for name, fact in facts.items()}
