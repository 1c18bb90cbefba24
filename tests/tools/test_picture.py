"""The picture of a clip: marks stand at their times, in every row of one time axis."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy
import pytest

from ccl_pack.ccl_core.training.world.scene import Clip, sample_clip
from ccl_tools import picture, report
from ccl_tools.console import ScriptError
from ccl_tools.sample_clips import write
from support.commands import load

command = load("scripts/picture.py")

ONE, TWO = "a red ball bounces, drum", "a white ball blinks, beep, and a blue square slides, bell"
FPS, RATE = 16, 16000


def world_clip(folder: Path, prompt: str) -> tuple[Path, Clip]:
    """A clip whose contacts are known, as a file with its report beside it."""
    clip = sample_clip(numpy.random.default_rng(4), frames=33, caption=prompt)
    video = write(folder / "video.mp4", clip.frames, clip.waveform, FPS, RATE)
    facts = {"prompt": prompt, **report.measure(report.read_clip(video), prompt)}
    facts["contacts_s"] = clip.contacts
    (folder / "report.json").write_text(json.dumps(facts))
    return video, clip


def drawn(video: Path) -> tuple[Any, dict[str, Any]]:
    """The figure and its axes by name."""
    facts, clip = picture.read_report(video), report.read_clip(video)
    curves = picture.motion_curves(clip, facts["prompt"])
    figure = picture.draw(clip, picture.compare(facts), curves, facts["prompt"])
    return figure, {axes.get_label(): axes for axes in figure.axes}


def contact_lines(axes: Any) -> list[float]:
    return [float(line.get_xdata()[0]) for line in axes.lines if line.get_gid() == "contact"]


@pytest.mark.parametrize("prompt", [ONE, TWO])
def test_marks_stand_at_their_times(tmp_path: Path, prompt: str) -> None:
    video, clip = world_clip(tmp_path, prompt)
    rows = drawn(video)[1]
    names = ("frames", "motion", "waveform", "spectrogram")
    assert clip.contacts and set(rows) == {*names, "loudness"}
    for name in names:
        assert contact_lines(rows[name]) == pytest.approx(clip.contacts)
        assert rows[name].get_xlim() == rows["frames"].get_xlim()
    (onsets,) = [line.get_xdata() for line in rows["waveform"].lines if line.get_gid() == "onset"]
    assert list(onsets) == pytest.approx(clip.contacts, abs=0.03)
    errors = [text for text in rows["waveform"].texts if text.get_gid() == "error"]
    assert [text.xy[0] for text in errors] == pytest.approx(list(onsets), abs=0.01)
    wanted = [1000 * (onset - contact) for contact, onset in zip(clip.contacts, onsets, strict=True)]
    assert [float(text.get_text().removesuffix(" ms")) for text in errors] == pytest.approx(wanted, abs=0.51)


def test_frames_and_sound_lie_at_their_times(tmp_path: Path) -> None:
    rows = drawn(world_clip(tmp_path, ONE)[0])[1]
    middles = [sum(image.get_extent()[:2]) / 2 for image in rows["frames"].images]
    assert middles == pytest.approx([i / FPS for i in range(0, 33, 2)])
    begin, end = rows["spectrogram"].images[0].get_extent()[:2]
    assert (begin, end) == pytest.approx((0, 33 / FPS), abs=0.01)


def test_the_title_says_how_well_they_meet(tmp_path: Path) -> None:
    video, clip = world_clip(tmp_path, ONE)
    figure, rows = drawn(video)
    title, numbers = (text.get_text() for text in figure.texts)
    count = len(clip.contacts)
    assert title == ONE
    assert numbers.startswith(
        f"contacts {count}, within 62.5 ms {count}, median error "
    ) and numbers.endswith(" ms")
    assert [line.get_label() for line in rows["motion"].lines if line.get_gid() is None] == [
        "red ball: height"
    ]


def test_without_contacts_or_known_words_there_is_still_a_picture(tmp_path: Path) -> None:
    silent = {"frames": report.read_clip(world_clip(tmp_path, ONE)[0])["frames"], "fps": FPS}
    clip = {**silent, "waveform": silence(), "sample_rate": RATE}
    facts = {"prompt": "a dog sleeps", "contacts_s": [], "onsets_s": [], "sounds_heard": []}
    sync = picture.compare(facts)
    curves = picture.motion_curves(clip, facts["prompt"])
    rows = {axes.get_label(): axes for axes in picture.draw(clip, sync, curves, "").axes}
    assert sync.summary() == "contacts 0, within 62.5 ms 0, median error none"
    assert curves == [] and set(rows) == {"frames", "waveform", "spectrogram", "loudness"}
    assert float(rows["spectrogram"].images[0].get_array().max()) == -picture.LOUD


def silence() -> Any:
    import torch

    return torch.zeros(2 * RATE)


def test_the_program_writes_a_small_png(tmp_path: Path) -> None:
    video = world_clip(tmp_path, TWO)[0]
    target = tmp_path / "docs" / "demo.png"
    command.main(command.arguments([str(video), str(target), "--prompt", "two things"]))
    data = target.read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) <= 300_000
    assert struct.unpack(">I", data[16:20]) == (1200,)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    with pytest.raises(ScriptError, match=r"video\.mp4 is not there[\s\S]*what to do: .*scripts/demo\.py"):
        picture.read_report(video)
    video.touch()
    with pytest.raises(ScriptError, match=r"no report\.json[\s\S]*what to do: .*scripts/demo\.py --output"):
        picture.read_report(video)
    facts = tmp_path / "report.json"
    facts.write_text("{")
    with pytest.raises(ScriptError, match="no JSON"):
        picture.read_report(video)
    facts.write_text('{"prompt": "", "contacts_s": []}')
    with pytest.raises(ScriptError, match="lacks onsets_s"):
        picture.read_report(video)
