"""What the pack warns of stands on the node that runs, and goes when the node runs again without it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from comfy_execution.utils import CurrentNodeContext
from server import PromptServer

from ccl_pack.ccl_core.notices import notice
from ccl_pack.nodes import notices
from ccl_pack.nodes.node import CCLNode
from ccl_pack.nodes.shift import CCLStreamShift


class Listener:
    """Takes what the server would send to the page."""

    client_id = "page"

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []
        self.events: list[tuple[str, dict[str, Any], str]] = []

    def send_progress_text(self, text: str, node_id: str) -> None:
        self.texts.append((text, node_id))

    def send_sync(self, event: str, data: dict[str, Any], client: str) -> None:
        self.events.append((event, data, client))


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    made = Listener()
    monkeypatch.setattr(PromptServer, "instance", made, raising=False)
    yield made
    notices.shown.clear()


def test_a_notice_is_in_the_log_and_on_the_node(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    with CurrentNodeContext("run", "7", 0), caplog.at_level(logging.WARNING):
        notice("the sound was cut")
        notice("one image of two is used")
        notice("the sound was cut")
    assert [record.message for record in caplog.records].count("the sound was cut") == 2
    assert listener.texts == [
        ("the sound was cut", "7"),
        ("the sound was cut\n\none image of two is used", "7"),
    ]
    told = [data["text"] for _, data, _ in listener.events]
    assert told == ["the sound was cut", "one image of two is used"]
    assert listener.events[0] == (
        "ccl_notice",
        {"node": "7", "prompt_id": "run", "text": "the sound was cut"},
        "page",
    )


def test_a_notice_outside_of_a_node_is_in_the_log_alone(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    notice("nobody runs")
    assert "nobody runs" in caplog.text
    assert listener.texts == listener.events == []


def test_a_node_begins_without_the_notices_of_its_last_run(listener: Listener) -> None:
    assert issubclass(CCLStreamShift, CCLNode)
    with CurrentNodeContext("first", "7", 0):
        notice("old")
    inputs = {"model": object(), "video_shift": 1.0, "audio_shift": 1.0}
    for _ in range(2):
        with CurrentNodeContext("second", "7", 0):
            assert CCLStreamShift.check_lazy_status(**inputs) == []
    # The page takes no empty text.
    assert listener.texts == [("old", "7"), (" ", "7")]
