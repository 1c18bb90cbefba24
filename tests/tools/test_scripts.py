"""Conversion of workflows, and the demo, started the way a reader of the README starts them."""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ccl_tools import console, report
from ccl_tools.console import ScriptError
from ccl_tools.environment import ROOT
from ccl_tools.server import ComfyServer, free_port, need_free_port
from ccl_tools.workflow import WorkflowError, to_prompt
from support.commands import load

demo = load("scripts/demo.py")
BASE_PYTHON = getattr(sys, "_base_executable", None) or sys.executable
PROGRAMS = [*sorted((ROOT / "scripts").glob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]
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
INFO: dict[str, Any] = {
    "Loader": {"input": {"required": {"file": ["COMBO", {"options": ["a", "b"]}]}}},
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "mode": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "off", "inputs": {"required": {}}},
                            {
                                "key": "on",
                                "inputs": {
                                    "required": {"scale": ["FLOAT", {"default": 1.0}]},
                                    "optional": {"end": ["FLOAT", {"default": 1.0}]},
                                },
                            },
                        ]
                    },
                ],
            },
            "optional": {
                "skip": ["STRING", {"default": ""}],
                "hidden_by_link": ["FLOAT", {"forceInput": True}],
            },
        }
    },
    "Patch": {"input": {"required": {"model": ["MODEL"], "strength": ["FLOAT", {"default": 1.0}]}}},
}


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A program of ours under the plain Python, outside the virtual environment."""
    env = {**os.environ, **variables}
    return subprocess.run(
        [BASE_PYTHON, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def graph_node(
    key: int, kind: str, links: list[int | None], values: list[Any], mode: int = 0
) -> dict[str, Any]:
    """A node whose inputs and only output are models."""
    inputs = [{"name": "model", "type": "MODEL", "link": link} for link in links]
    outputs = [{"name": "model", "type": "MODEL"}]
    return {
        "id": key,
        "type": kind,
        "mode": mode,
        "inputs": inputs,
        "outputs": outputs,
        "widgets_values": values,
    }


def graph(middle: dict[str, Any] | None, values: list[Any]) -> dict[str, Any]:
    """Loader 1, then the node in the middle (2) if there is one, then Sampler 3."""
    nodes = [graph_node(1, "Loader", [], ["b"]), graph_node(3, "Sampler", [11], values)]
    links = [[11, 1 if middle is None else 2, 0, 3, 0, "MODEL"]]
    if middle is not None:
        nodes.append(middle)
        links.append([10, 1, 0, 2, 0, "MODEL"])
    return {"nodes": nodes, "links": links, "version": 0.4}


def test_widgets_take_their_slots() -> None:
    prompt = to_prompt(graph(None, [5, "randomize", "on", 3.5, 0.9, "7, 8"]), INFO)
    assert prompt["3"]["inputs"] == {
        "seed": 5,
        "mode": "on",
        "mode.scale": 3.5,
        "mode.end": 0.9,
        "skip": "7, 8",
        "model": ["1", 0],
    }
    assert prompt["1"]["inputs"] == {"file": "b"}
    assert to_prompt(graph(None, [5, "fixed", "off", "x"]), INFO)["3"]["inputs"]["skip"] == "x"


@pytest.mark.parametrize(
    ("kind", "mode", "link"),
    [("Patch", 0, ["2", 0]), ("Patch", 4, ["1", 0]), ("Reroute", 0, ["1", 0]), ("Patch", 2, None)],
)
def test_links_see_through_nodes_that_do_nothing(kind: str, mode: int, link: list[Any] | None) -> None:
    middle = graph_node(2, kind, [10], [1.0] if kind == "Patch" else [], mode)
    prompt = to_prompt(graph(middle, [5, "fixed", "off", ""]), INFO)
    assert prompt["3"]["inputs"].get("model") == link
    assert ("2" in prompt) == (kind == "Patch" and mode == 0)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([5, "on", 3.5, 0.9, "x"], "seed"),
        ([5, "fixed", "sideways", ""], "sideways"),
        ([5, "fixed", "off", "", "left over"], "left over"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: list[Any], word: str) -> None:
    with pytest.raises(WorkflowError, match=word):
        to_prompt(graph(None, values), INFO)


@pytest.mark.parametrize("saved", [[], ["mp4"]])
def test_a_hidden_widget_has_a_value_where_the_file_holds_one(saved: list[str]) -> None:
    """As the codec of SaveVideo, which a newer host has moved into its format and keeps, hidden."""
    hidden = ["COMFY_DYNAMICCOMBO_V3", {"hidden": True, "options": [{"key": "mp4", "inputs": {}}]}]
    info = {"Save": {"input": {"required": {"name": ["STRING", {}]}, "optional": {"codec": hidden}}}}
    workflow = {"nodes": [graph_node(1, "Save", [], ["clip", *saved])], "links": []}
    prompt = to_prompt(workflow, info)
    assert list(prompt["1"]["inputs"].values()) == ["clip", *saved]


def test_unknown_nodes_in_the_way_are_refused() -> None:
    with pytest.raises(WorkflowError, match="Teleport"):
        to_prompt(graph(graph_node(2, "Teleport", [], []), [5, "fixed", "off", ""]), INFO)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_help_needs_no_set_up_and_no_place_of_its_own(program: Path, tmp_path: Path) -> None:
    """Under the plain Python, from another folder."""
    variables = {**os.environ, "CCL_ENV": str(tmp_path / "nothing")}
    command = [BASE_PYTHON, str(program), "--help"]
    ran = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert program.name in ran.stdout
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_programs_explain_themselves_and_start_with_plain_python(program: Path) -> None:
    tree = ast.parse(program.read_text(), feature_version=(3, 10))
    assert ast.get_docstring(tree)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert names & {"reexec", "ensure"}


@pytest.mark.parametrize("stages", [[], ["data"], ["data", "joint"]])
def test_only_the_joint_stage_goes_to_a_gpu(stages: list[str]) -> None:
    refused = run("scripts/train_tiny.py", *stages, "--gpu")
    assert refused.returncode == 2
    assert "--gpu is for the joint stage alone" in refused.stderr


def test_training_on_a_gpu_that_is_not_there_says_so(tmp_path: Path) -> None:
    refused = run("scripts/train_tiny.py", "joint", "--gpu", "--work", str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert refused.returncode == 1
    assert "no CUDA device" in refused.stderr and "leave --gpu out" in refused.stderr


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ScriptError, match="--port"):
            need_free_port(taken.getsockname()[1])
    need_free_port(free_port())


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert console.run_shown("sleeping", sleep, tmp_path / "log", timeout=0.5) == 124


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


def test_the_test_program_hands_its_arguments_to_pytest() -> None:
    ran = run("scripts/test.py", "--version")
    assert ran.returncode == 0 and ran.stdout.startswith("pytest")
    assert run("scripts/test.py", "tests/no_such_file.py").returncode == 4


def test_ci_runs_the_command_of_the_readme() -> None:
    text = (ROOT / ".ci" / "run").read_text()
    assert "scripts/test.py" in text and os.access(ROOT / ".ci" / "run", os.X_OK)
    readme = (ROOT / "README.md").read_text()
    assert "python scripts/test.py" in readme and "python scripts/demo.py" in readme
    assert shutil.which("bash")
