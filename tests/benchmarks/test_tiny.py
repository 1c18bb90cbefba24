"""benchmarks/tiny.py: what it is told, and what it asks of the nodes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ccl_bench import generate
from ccl_bench import tiny_options as told
from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.guidance import MODES
from ccl_pack.ccl_core.training.world.clip import Clip
from ccl_pack.ccl_core.training.world.evaluate import Lesson, Result, draw_clips, find
from ccl_pack.ccl_core.training.world.report import make_rows, tabulate
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
        (["--seed", "1", "--repeats", "1"], "at least 2 to be compared, got 1"),
        (["--seed", "1", "--against", "nothing.json"], "nothing.json is not there"),
        (["--seed", "1", "--unseen-by", "none.safetensors"], "none.safetensors is not there"),
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


def test_only_what_no_checkpoint_was_taught_is_asked(tmp_path: Path) -> None:
    command = ["--seed", "1", "--report", str(tmp_path / "report.json")]
    unseen = told.lesson_of(tiny.parse(command)).held_out
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other, metadata={"lesson": Lesson(2, unseen[6::-1]).to_json()})
    options = tiny.parse([*command, "--unseen-by", str(other)])
    common = told.unseen_by_all(options)
    assert set(common) == set(unseen[:7]) and len(common) == 7
    turned = tiny.parse([*command, "--checkpoint", str(other), "--unseen-by", str(options.checkpoint)])
    assert told.unseen_by_all(turned) == common
    save_file({"x": torch.zeros(1)}, other, metadata={"lesson": Lesson(2, ()).to_json()})
    with pytest.raises(ScriptError, match="no unseen combination in common"):
        told.unseen_by_all(options)


def test_a_report_says_what_was_asked_and_two_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = draw_clips(1, 6, 33, 16, "2")
    right = [find(clip, truth(clip), 16) for clip in clips]
    silent = [replace(found, onsets=()) for found in right]
    good, bad = (make_rows("v2a", clips, found, right, right) for found in (right, silent))
    options = tiny.parse(["--seed", "1", "--report", str(tmp_path / "report.json"), "--task", "v2a"])
    tiny.write(options, 16.0, {"total": tabulate(good), "per_clip": good})
    report = json.loads(options.report.read_text())
    assert (report["task"], report["world"], report["checkpoint"]) == ("v2a", "easy", "ccl-tiny.safetensors")
    tiny.show(report["total"])
    assert re.search(r"f1_62ms +1.000 +1.000 +1.000 +\d+ +1.000 +1.000", capsys.readouterr().out)
    tiny.show_comparison(report["per_clip"], bad)
    assert "better in every column that was not perfect: yes" in capsys.readouterr().out
    tiny.show_comparison(bad, report["per_clip"])
    assert "better in every column that was not perfect: no" in capsys.readouterr().out
    with pytest.raises(ScriptError, match="6 clips here and 5 there"):
        tiny.show_comparison(bad, bad[:5])


def test_a_ceiling_is_decoded_and_not_put_back() -> None:
    """Decode puts given frames back by default, which no VAE has touched."""
    (clip,) = draw_clips(1, 1, 17, 16)
    with torch.inference_mode():
        loaded = generate.load(told.CHECKPOINT)
        found = generate.ceilings(loaded, [clip])
        (again,) = generate.decode(loaded, generate.encode(loaded, clip, video=True, audio=True), 1)
    assert [len(some) for some in found.values()] == [1, 1] and list(found) == ["world", "vae"]
    assert not torch.equal(again.frames, truth(clip).frames)


def truth(clip: Clip) -> Result:
    return Result(torch.from_numpy(clip.frames).float() / 255, torch.from_numpy(clip.waveform), 16000)
