"""scripts/demo.py, started the way a reader of the README starts it, and the report of a clip."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ccl_tools import report
from ccl_tools.console import ScriptError
from ccl_tools.environment import ROOT
from ccl_tools.server import ComfyServer
from support.commands import load

demo = load("scripts/demo.py")
BASE_PYTHON = getattr(sys, "_base_executable", None) or sys.executable
REPORT = {
    "comfyui_version",
    "frames",
    "fps",
    "video_seconds",
    "audio_seconds",
    "contacts_s",
    "onsets_s",
    "sync_error_ms_median",
    "seconds_sample",
    "seconds_decode",
    "passes_per_step",
}


def test_the_demo_writes_a_clip_and_its_report(tmp_path: Path) -> None:
    pytest_free = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [
        BASE_PYTHON,
        "scripts/demo.py",
        "--output",
        str(tmp_path),
        "--steps",
        "2",
        "--seconds",
        "1",
        "--seed",
        "3",
    ]
    ran = subprocess.run(command, cwd=ROOT, env=pytest_free, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    facts = json.loads((tmp_path / "report.json").read_text())
    assert set(facts) >= REPORT
    assert [path.name for path in tmp_path.glob("*.mp4")] == [facts["file"]]
    assert facts["frames"] == 17 and facts["fps"] == 16
    assert abs(facts["video_seconds"] - facts["audio_seconds"]) < 0.02
    assert facts["seconds_sample"] > 0 and facts["seconds_decode"] > 0


def test_the_demo_measures_every_object_that_the_prompt_names() -> None:
    import numpy
    import torch

    from ccl_pack.ccl_core.training.world.scene import sample_clip

    prompt = "a red ball bounces, drum, and a blue square slides, bell"
    clip = sample_clip(numpy.random.default_rng(4), frames=33, caption=prompt)
    seen = {
        "frames": torch.from_numpy(clip.frames).float() / 255,
        "fps": 16.0,
        "waveform": torch.from_numpy(clip.waveform),
        "sample_rate": 16000,
    }
    facts = report.measure(seen, prompt)
    assert facts["contacts_s"] == pytest.approx(clip.contacts, abs=0.03)
    assert facts["matched_125ms"] == len(clip.contacts) and facts["sync_error_ms_median"] < 10
    for thing, found in zip(clip.objects, facts["objects"], strict=True):
        assert (found["colour"], found["motion"], found["sound"]) == (thing.colour, thing.motion, thing.sound)
        assert found["contacts_s"] == pytest.approx(thing.contacts, abs=0.03)
    assert "objects" not in report.measure(seen, "a dog barks, a red bell and a blue one")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"steps": -1}, r"CCLJointSampler[\s\S]*steps"),
        ({"seconds": -1.0}, r"CCLEmptyAVLatent[\s\S]*seconds"),
        ({"workflow": Path("nowhere.json")}, "nowhere.json"),
        ({"workflow": ROOT / "README.md"}, "no workflow"),
    ],
    ids=["steps", "seconds", "missing workflow", "not a workflow"],
)
def test_the_demo_names_what_it_cannot_do(
    server: ComfyServer, tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    wanted = {
        "prompt": "a ball",
        "seed": 1,
        "output": tmp_path,
        "steps": None,
        "seconds": None,
        "workflow": None,
    }
    with pytest.raises(ScriptError, match=word):
        demo.generate(argparse.Namespace(**{**wanted, **changes}), server)
    assert list(tmp_path.iterdir()) == []
