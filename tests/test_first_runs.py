"""The first run of each template of ccl-tiny, as it is saved: the page warns of nothing."""

from __future__ import annotations

from typing import Any

import pytest

from ccl_pack.nodes.notices import EVENT
from ccl_tools.prompt import set_everywhere, set_text
from ccl_tools.server import ComfyServer, Prompt
from ccl_tools.workflow import to_prompt
from support import templates


@pytest.fixture(scope="module")
def object_info(server: ComfyServer) -> dict[str, Any]:
    templates.give(server.base / "input")
    return server.get("/object_info")


def warnings_of(server: ComfyServer, prompt: Prompt) -> list[str]:
    run = server.run(prompt)
    assert run.status == "success", run.error
    return [event.data["text"] for event in run.events if event.kind == EVENT]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] * (name != templates.FIRST)) for name in templates.TINY],
)
def test_the_first_run_of_a_template_warns_of_nothing(
    server: ComfyServer, object_info: dict[str, Any], name: str
) -> None:
    assert warnings_of(server, to_prompt(templates.read(name), object_info)) == []


def test_a_word_that_the_model_was_never_taught_is_heard_of(
    server: ComfyServer, object_info: dict[str, Any]
) -> None:
    prompt = to_prompt(templates.read(templates.FIRST), object_info)
    set_text(prompt, "a red cat bounces, drum")
    set_everywhere(prompt, "steps", 1)
    assert any("cat" in text for text in warnings_of(server, prompt))
