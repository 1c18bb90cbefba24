"""The template that goes on with a clip of a person, through the real server."""

from __future__ import annotations

import pytest
from test_server import node, streams

from ccl_tools.server import ComfyServer
from ccl_tools.workflow import to_prompt
from support import templates

TEMPLATE = "Extend Video with Sound (tiny)"
# 33 frames at 16 fps, and 20 more.
SECONDS = 53 / 16


def test_the_template_makes_a_clip_that_is_longer_by_what_is_new(server: ComfyServer) -> None:
    templates.give(server.base / "input")
    prompt = to_prompt(templates.read(TEMPLATE), server.get("/object_info"))
    node(prompt, "CCLJointSampler")["steps"] = 2
    assert node(prompt, "CCLJoinAV")["overlap"] == node(prompt, "CCLSetTask")["task.kept_seconds"]
    run = server.run(prompt)
    assert run.status == "success", run.error
    lengths = streams(server.view(run.files(".mp4")[0]))
    assert lengths == {name: pytest.approx(SECONDS, abs=0.02) for name in ("video", "audio")}
