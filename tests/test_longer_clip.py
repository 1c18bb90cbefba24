"""The template that goes on with a clip, through the real server."""

from __future__ import annotations

import json

import pytest
from test_server import node, streams

from ccl_tools.environment import ROOT
from ccl_tools.server import ComfyServer
from ccl_tools.workflow import to_prompt

# By what is in it, whatever it is called.
(TEMPLATE,) = (path for path in (ROOT / "workflows").glob("*.json") if "CCLJoinAV" in path.read_text())
# 33 frames at 16 fps, and 20 more.
SECONDS = 53 / 16


def test_the_template_makes_a_clip_that_is_longer_by_what_is_new(server: ComfyServer) -> None:
    prompt = to_prompt(json.loads(TEMPLATE.read_text()), server.get("/object_info"))
    for entry in prompt.values():
        if entry["class_type"] == "CCLJointSampler":
            entry["inputs"]["steps"] = 2
    assert node(prompt, "CCLJoinAV")["overlap"] == node(prompt, "CCLSetTask")["task.kept_seconds"]
    run = server.run(prompt)
    assert run.status == "success", run.error
    lengths = streams(server.view(run.files(".mp4")[0]))
    assert lengths == {name: pytest.approx(SECONDS, abs=0.02) for name in ("video", "audio")}
