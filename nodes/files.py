"""Files of the host's model folders."""

from __future__ import annotations

import os

import folder_paths

from ..ccl_core.host.files.read import SAFETENSORS


def safetensors_in(folder: str) -> list[str]:
    """The names of a list of files that a node offers."""
    return [name for name in folder_paths.get_filename_list(folder) if name.lower().endswith(SAFETENSORS)]


def path_of(folder: str, name: str) -> str:
    """Where a file of such a list lies; a broken link too, of which whoever reads it says more than the host.

    FileNotFoundError where there is none of this name.
    """
    # As the host does it: no name leads out of the folder.
    inside = os.path.relpath(os.path.join("/", name), "/")
    for place in folder_paths.get_folder_paths(folder):
        path = os.path.join(place, inside)
        if os.path.islink(path) and not os.path.exists(path):
            return path
    return folder_paths.get_full_path_or_raise(folder, name)
