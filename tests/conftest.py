"""Loads the pack as ComfyUI does, under the name ccl_pack, and starts one real server for the tests that
need it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
sys.path += [str(TESTS), *(str(TESTS.parent / folder) for folder in ("scripts", "benchmarks"))]
pytest_plugins = ["support.shares"]

from ccl_tools.environment import load_pack  # noqa: E402

load_pack()

from ccl_tools.server import ComfyServer  # noqa: E402
from support.archive import Archive, make  # noqa: E402


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """What people get from the registry."""
    return make(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A running ComfyUI with the pack linked into its custom nodes, shared by the whole session."""
    arguments = ("--preview-method", "latent2rgb")
    with ComfyServer(tmp_path_factory.mktemp("comfyui"), arguments=arguments) as running:
        yield running
