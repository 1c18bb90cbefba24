"""The registry's own packer, comfy-cli, in a virtual environment of its own; what it makes of this tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ccl_tools.console import ScriptError
from ccl_tools.environment import ROOT, default_root, environments
from ccl_tools.requirement_set import Step
from ccl_tools.virtual_environment import build, is_whole, python_of

VERSION = "1.23.0"
STEPS = (
    Step("packer", "comfy-cli, the registry's packer", (f"comfy-cli=={VERSION}",), "comfy_cli", VERSION),
)
ARCHIVE = "node.zip"
# The part of comfy-cli that publishing reads the project file with.
READ_PROJECT = """
import dataclasses, json
from comfy_cli.registry.config_parser import extract_node_configuration
print(json.dumps(dataclasses.asdict(extract_node_configuration("pyproject.toml"))))
"""


def packer_python() -> Path:
    """The Python that has comfy-cli; sets it up on the first call (.3 GB)."""
    root = default_root()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    venv = environments(root) / f"comfy-cli-{VERSION}-{version}"
    if not is_whole(venv, STEPS):
        venv.parent.mkdir(parents=True, exist_ok=True)
        build(venv, STEPS, root / "logs", "packing for the registry")
    return python_of(venv)


def project_files() -> list[str]:
    """What a commit of the working tree would hold: the files of git and new ones that it does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in sorted(set(listing.split("\0"))) if (ROOT / name).is_file()]


def commit_to(folder: Path) -> None:
    """A checkout of the working tree: the packer takes what git knows of, and writes beside it."""
    for name in project_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    for command in (("init", "--quiet"), ("add", "--all")):
        subprocess.run(["git", *command], cwd=folder, check=True)


def packed(target: Path) -> str:
    """Check the project as the registry does, write its archive, and return what the checks said."""
    with tempfile.TemporaryDirectory(prefix="ccl-pack-") as place:
        checkout = Path(place) / "checkout"
        checkout.mkdir()
        commit_to(checkout)
        said = _comfy(checkout, "node", "validate")
        _comfy(checkout, "node", "pack")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(checkout / ARCHIVE, target)
    return said


def project_as_published() -> dict[str, Any]:
    """What comfy-cli sends to the registry of pyproject.toml."""
    return json.loads(_run(ROOT, "-c", READ_PROJECT).splitlines()[-1])


def _comfy(folder: Path, *arguments: str) -> str:
    return _run(folder, "-m", "comfy_cli", "--skip-prompt", "--no-enable-telemetry", *arguments)


def _run(folder: Path, *arguments: str) -> str:
    """The output, with a home folder of its own: the user's settings of comfy-cli stay as they are."""
    python = str(packer_python())
    with tempfile.TemporaryDirectory(prefix="ccl-home-") as home:
        variables = {**os.environ, "HOME": home, "XDG_CONFIG_HOME": home, "NO_COLOR": "1"}
        ran = subprocess.run(
            [python, *arguments],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
    said = ran.stdout + ran.stderr
    if ran.returncode != 0:
        raise ScriptError(
            f"comfy-cli ended with {ran.returncode}:\n{said.strip()}", "mend what it names, and pack again"
        )
    return said
