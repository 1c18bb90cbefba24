"""Files that are there and cannot be read, or were there a moment ago: one sentence with what to do."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from ccl_pack.ccl_core.host.files.lora import read_lora
from ccl_pack.ccl_core.host.files.read import read_tensors
from ccl_pack.nodes.files import path_of

NAME = "model.safetensors"
# Of the user nobody on Linux, whom no permission of ours reaches.
NOBODY = 65534
PERMISSIONS = pytest.mark.skipif(sys.platform == "win32", reason="permissions of another kind")
READERS = pytest.mark.parametrize("read", [read_tensors, read_lora])
Read = Callable[[str], Any]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a file, which another user can reach: those of pytest are its user's alone."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    save_file({"x": torch.ones(2)}, made / NAME)
    yield made
    shutil.rmtree(made)


@contextmanager
def powerless() -> Iterator[None]:
    """As a user who is bound to permissions, which root is not."""
    as_root = os.geteuid() == 0
    if as_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if as_root:
            os.seteuid(0)


@pytest.fixture
def closed_file(folder: Path) -> Path:
    (folder / NAME).chmod(0)
    return folder / NAME


@pytest.fixture
def closed_folder(folder: Path) -> Iterator[Path]:
    inner = folder / "inner"
    inner.mkdir()
    (folder / NAME).rename(inner / NAME)
    inner.chmod(0)
    yield inner / NAME
    inner.chmod(0o755)


@PERMISSIONS
@READERS
def test_a_file_without_permission_is_told(closed_file: Path, read: Read) -> None:
    words = rf"^model\.safetensors may not be read by the user .*: change the permissions of {closed_file}$"
    with powerless(), pytest.raises(ValueError, match=words):
        read(str(closed_file))


@PERMISSIONS
@READERS
def test_a_folder_without_permission_is_told(closed_folder: Path, read: Read) -> None:
    words = rf"^model\.safetensors may not be read .*: change the permissions of {closed_folder.parent}$"
    with powerless(), pytest.raises(ValueError, match=words):
        read(str(closed_folder))


@READERS
def test_a_broken_link_is_told_with_its_target(folder: Path, read: Read) -> None:
    link = folder / "link.safetensors"
    link.symlink_to(folder / "moved.safetensors")
    with pytest.raises(
        ValueError, match=r"^link\.safetensors is a link in .* to .*moved\.safetensors, which is"
    ):
        read(str(link))
    link.unlink()
    link.symlink_to(folder / NAME)
    assert read(str(link))


@READERS
@pytest.mark.parametrize("make", ["mkdir", "mkfifo"])
def test_what_is_no_plain_file_is_told(folder: Path, read: Read, make: str) -> None:
    if not hasattr(os, make):
        pytest.skip("Windows has no pipes with a name")
    getattr(os, make)(folder / "other.safetensors")
    with pytest.raises(ValueError, match=r"^other\.safetensors in .* is a folder or no plain file: choose"):
        read(str(folder / "other.safetensors"))


@READERS
def test_a_file_that_was_in_the_list_and_is_gone_is_told(folder: Path, read: Read) -> None:
    (folder / NAME).unlink()
    with pytest.raises(ValueError, match=r"^model\.safetensors is gone from .*choose the file again"):
        read(str(folder / NAME))


@READERS
def test_a_file_that_goes_while_it_is_read_is_told(
    folder: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = comfy.utils.load_torch_file

    def too_late(path: str, **options: Any) -> Any:
        os.unlink(path)
        return load(path, **options)

    monkeypatch.setattr(comfy.utils, "load_torch_file", too_late)
    with pytest.raises(ValueError, match=r"^model\.safetensors is gone from"):
        read(str(folder / NAME))


@pytest.fixture
def listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder as the host's models/loras."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(folder)], {".safetensors"}))
    return folder


def test_a_node_finds_files_and_broken_links_and_nothing_outside(listed: Path) -> None:
    (listed / "link.safetensors").symlink_to(listed / "moved.safetensors")
    assert path_of("loras", NAME) == str(listed / NAME)
    assert path_of("loras", "link.safetensors") == str(listed / "link.safetensors")
    outside = listed.parent / f"{listed.name}.safetensors"
    outside.symlink_to(listed / "moved.safetensors")
    try:
        for name in (f"../{outside.name}", "absent.safetensors"):
            with pytest.raises(FileNotFoundError, match="not found"):
                path_of("loras", name)
    finally:
        outside.unlink()
