"""The page of the served frontend, opened once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ccl_tools.server import ComfyServer
from support.page import Page
from support.shares import chromium


@pytest.fixture(scope="module")
def page(server: ComfyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A tab with the frontend, past the greeting of a first visit."""
    server.post("/settings", {"Comfy.TutorialCompleted": True})
    with Page(chromium(), tmp_path_factory.mktemp("chromium")) as opened:
        opened.open(server.address)
        # The default workflow comes last, after the nodes of all packs.
        opened.wait_for("window.app?.graph?.nodes.length > 0 && document.readyState === 'complete'")
        opened.ask("app.graph.clear()")
        yield opened
