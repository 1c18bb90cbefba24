"""The template that goes on with a clip, through the real server."""

from __future__ import annotations

import json

import pytest
from test_server import node, streams

from ccl_tools.environment import ROOT
from ccl_tools.server import ComfyServer
from ccl_tools.workflow import to_prompt

TEMPLATE = "Continue a Video with Sound"
# 33 frames at 16 fps, and 16 more.
SECONDS = 49 / 16


def test_the_template_makes_a_clip_that_is_longer_by_what_is_new(server: ComfyServer) -> None:
    workflow = json.loads((ROOT / "workflows" / f"{TEMPLATE}.json").read_text())
    prompt = to_prompt(workflow, server.get("/object_info"))
    for entry in prompt.values():
        if entry["class_type"] == "CCLJointSampler":
            entry["inputs"]["steps"] = 2
    assert node(prompt, "CCLJoinAV")["overlap"] == node(prompt, "CCLSetTask")["task.kept_seconds"]
    run = server.run(prompt)
    assert run.status == "success", run.error
    lengths = streams(server.view(run.files(".mp4")[0]))
    assert lengths == {name: pytest.approx(SECONDS, abs=0.02) for name in ("video", "audio")}
