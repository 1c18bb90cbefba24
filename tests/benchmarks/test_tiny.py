"""benchmarks/tiny.py: what it is told, and what it asks of the nodes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ccl_bench import generate
from ccl_bench import tiny_options as told
from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.guidance import MODES
from ccl_pack.ccl_core.training.world.evaluate import Lesson
from ccl_tools.console import ScriptError
from support.commands import load

tiny = load("benchmarks/tiny.py")


def test_what_is_left_out_comes_from_the_model() -> None:
    from ccl_pack.nodes.guidance import CCLJointSampler

    first = generate.defaults(CCLJointSampler, "mode")
    assert (first["steps"], first["mode"]) == (0, {"mode": "from model"})
    for mode in MODES:
        assert generate.defaults(CCLJointSampler, "mode", mode)["mode"]["mode"] == mode


def test_sampler_and_guidance_are_those_of_the_model() -> None:
    published = FAMILIES["ccl"].sampling
    assert (published.sampler_name, published.mode) == (told.SAMPLER, told.GUIDANCE)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--seed", "1", "--clips", "0"], "at least 1"),
        (["--seed", "1", "-1"], "--seed at least 0"),
        (["--seed", "1", "--objects", "3"], "invalid choice"),
        (["--seed", "1", "--checkpoint", "nowhere"], "nowhere is not there"),
        (["--seed", "1", "--strength", "-1"], "--strength must be at least 0"),
        (["--seed", "1", "--audio-shift", "0"], "--audio-shift must be above 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tiny.parse(["--report", "r.json", *arguments])
    assert re.search(word, capsys.readouterr().err)


def test_a_length_that_no_clip_has_is_refused() -> None:
    with pytest.raises(ScriptError, match=r"4k[+]1 frames and at least 17 .*, got 32"):
        told.check_frames(32)


def test_several_seeds_and_objects_can_be_asked() -> None:
    options = tiny.parse(["--report", "r.json", "--seed", "1", "2", "--objects", "both"])
    assert (options.seed, options.objects, options.task, options.guidance) == (
        [1, 2],
        "both",
        "t2av",
        told.GUIDANCE,
    )


def test_a_checkpoint_is_asked_only_what_it_was_taught(tmp_path: Path) -> None:
    """ccl-tiny's file says how many objects a clip of its training had, and what was held out."""
    command = ["--seed", "1", "--report", str(tmp_path / "report.json")]
    lesson = told.lesson_of(tiny.parse(command))
    assert lesson.held_out
    save_file({"x": torch.zeros(1)}, tmp_path / "bare.safetensors")
    bare = ["--checkpoint", str(tmp_path / "bare.safetensors")]
    with pytest.raises(ScriptError, match="does not say what it was taught"):
        told.lesson_of(tiny.parse([*command, *bare]))
    single = {"lesson": Lesson(1, lesson.held_out).to_json()}
    save_file({"x": torch.zeros(1)}, tmp_path / "single.safetensors", metadata=single)
    chosen = ["--checkpoint", str(tmp_path / "single.safetensors"), "--objects", "both"]
    with pytest.raises(ScriptError, match="taught clips of one object"):
        told.lesson_of(tiny.parse([*command, *chosen]))
