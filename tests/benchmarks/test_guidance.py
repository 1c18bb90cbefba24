"""benchmarks/guidance.py: scales and passes of a point, the recommendation by hand, tables and chart, one
toy run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ccl_bench import generate, guidance
from ccl_bench import guidance_report as report
from ccl_bench import tiny_options as told
from ccl_pack.ccl_core.guidance import MODES, branch_weights, default_settings
from ccl_pack.nodes.guidance import CCLJointSampler
from ccl_tools.console import ScriptError
from support.commands import load

command = load("benchmarks/guidance.py")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def widgets(mode: str) -> dict[str, Any]:
    return generate.defaults(CCLJointSampler, "mode", mode)["mode"]


@pytest.mark.parametrize("mode", MODES)
def test_strength_goes_from_no_guidance_to_the_defaults(mode: str) -> None:
    assert generate.scaled(widgets(mode), 1.0) == widgets(mode)
    none, default = (guidance.scales_of(guidance.Point("t2av", mode, strength)) for strength in (0.0, 1.0))
    assert default and set(none.values()) == {1.0}
    assert guidance.passes(mode, none) == 1
    assert guidance.passes(mode, default) == len(branch_weights(mode, default_settings(mode)))


def test_strength_leaves_ranges_alone() -> None:
    half = generate.scaled(widgets("cfg"), 0.5)
    assert half == {
        "mode": "cfg",
        "video_cfg": 2.5,
        "audio_cfg": 2.0,
        "cfg_start_percent": 0.0,
        "cfg_end_percent": 1.0,
    }
    assert guidance.scales_of(guidance.Point("a2v", "none", 0.0)) == {} and guidance.passes("none", {}) == 1


def test_no_guidance_is_one_point_per_task_and_comes_last() -> None:
    options = command.parse(
        ["--tasks", "t2av", "v2a", "--modes", "cfg", "dual", "--strengths", "1", "0", "0.5", "1"]
    )
    names = [point.file(Path()).stem for point in guidance.points(options)]
    expected = [
        f"{task}-{mode}-{s}" for task in ("t2av", "v2a") for mode in ("cfg", "dual") for s in ("0.5", "1")
    ]
    assert names == [*expected, "t2av-none-0", "v2a-none-0"]


def test_the_audio_gets_a_shift_of_its_own_only_if_asked() -> None:
    loaded = generate.load(told.CHECKPOINT)
    config = loaded.model.model.ccl_config
    assert generate.shifted(loaded, None) is loaded.model
    shifted = generate.shifted(loaded, 3.0)
    assert shifted.get_model_object("audio_shift") == 3.0
    assert shifted.get_model_object("model_sampling").shift == config.shift
    assert loaded.model.get_model_object("audio_shift") == config.audio_shift


def row_of(
    mode: str = "cfg",
    matched: int = 40,
    spurious: int = 0,
    scale: float = 4.0,
    right: float = 1.0,
    task: str = "t2av",
) -> dict[str, Any]:
    """A point with 50 contacts and 50 onsets."""
    terms = {"none": [], "dual": ["text", "cross"], "cfg": ["text"]}.get(mode, ["joint"])
    scales = {f"{stream}_{term}": scale for term in terms for stream in ("video", "audio")}
    counts = {"contacts": 50, "onsets": 50, "matched_62ms": matched, "matched_125ms": 50 - spurious}
    shares = dict.fromkeys(report.RIGHT, right) | {"sync_error_ms_median": 20.0, "chance_62ms_share": 0.2}
    passes = {"none": 1, "dual": 3}.get(mode, 2)
    place = {"task": task, "mode": mode, "strength": (scale - 1) / 3 if terms else 0.0}
    return {**place, "scales": scales, "passes": passes, **counts, **shares}


@pytest.mark.parametrize(
    ("best", "other"),
    [
        (row_of(matched=42, scale=7), row_of(matched=40)),  # two contacts more
        (row_of(matched=42, spurious=1, scale=7), row_of(matched=42, spurious=3)),  # two spurious onsets less
        (row_of(matched=40), row_of("dual", matched=41, scale=2)),  # one contact: fewer passes
        (row_of("none", matched=40), row_of(matched=41)),
        (row_of(matched=40, scale=2.5), row_of("ma_cfg", matched=41, scale=3)),  # one contact: lower scales
        (row_of("ucg_joint"), row_of("ma_cfg")),  # nothing differs: the first
        (row_of(matched=20), row_of(matched=50, right=0.94)),  # captions below their bars
        (row_of(matched=20, right=0.9), row_of(matched=50, right=0.8)),  # all below: the best captions
    ],
)
def test_recommended_is_the_best_sync_with_right_captions(
    best: dict[str, Any], other: dict[str, Any]
) -> None:
    assert report.recommended([best, other]) is best
    if best["mode"] != "ucg_joint":
        assert report.recommended([other, best]) is best


def test_captions_count_only_for_what_is_generated() -> None:
    best, other = row_of(task="v2a", matched=45), row_of(task="v2a", matched=40)
    best |= {"colour_right": 0.0, "motion_right": 0.0}
    assert report.recommended([best, other]) is best and report.accuracy(best) == 1.0
    weak, strong = row_of(task="v2a", scale=3), row_of(task="v2a", scale=4)
    weak["scales"]["video_text"] = 9.0
    assert report.recommended([strong, weak]) is weak


def test_a_point_without_contacts_or_onsets_is_counted_as_nothing() -> None:
    silent = row_of(matched=0) | {"contacts": 0, "onsets": 0, "matched_125ms": 0}
    assert report.sync_score(silent) == 0.0
    assert report.recommended([silent]) is silent


def test_a_video_for_a_given_sound_is_counted_against_the_sounds_onsets() -> None:
    row = row_of(task="a2v", matched=40, spurious=8) | {"onsets": 80, "matched_125ms": 42}
    assert (report.met(row), report.spurious(row)) == (pytest.approx(0.5), pytest.approx(0.16))
    assert report.met(row | {"task": "t2av"}) == pytest.approx(0.8)


def test_chance_stands_for_each_number_of_objects_where_it_is_known() -> None:
    rows = [row_of(), row_of()]
    assert report.chance_lines(rows) == ["| | chance, one and two objects mixed | | | 20% | | | | | | |"]
    for row, share in zip(rows, (0.3, 0.4), strict=True):
        row["objects_2"] = {"contacts": 20, "onsets": 40, "chance": {"matched_62ms_share": share}}
    assert report.chance_lines(rows) == ["| | chance, two objects | | | 35% | | | | | | |"]
    given_sound = [row | {"task": "a2v"} for row in rows]
    assert report.chance_lines(given_sound) == ["| | chance, two objects | | | 18% | | | | | | |"]


def test_points_become_tables_and_a_chart(tmp_path: Path) -> None:
    options = command.parse([])
    options.work, options.out = tmp_path / "work", tmp_path / "out"
    for folder in (options.work, options.out):
        folder.mkdir()
    settings = {
        "clips": 16,
        "seed": 1,
        "objects": "1",
        "frames": 33,
        "sampling_steps": 30,
        "sampler": "euler",
        "audio_shift": 3.0,
    }
    guidance.write(options.work / "settings.json", settings)
    rows = [row_of("dual", 45, 2, 3.5), row_of("cfg", 46, 2), row_of("none", 30), row_of("cfg", 41, 2, 2.5)]
    still = {"sync_error_ms_median": None, "contacts": 0, "matched_125ms": 0}
    rows += [row_of("none", 0, task="a2v", right=0.5) | still]
    for row in rows:
        point = guidance.Point(row["task"], row["mode"], row["strength"])
        guidance.write(point.file(options.work), row)
    (options.out / "README.md").write_text(f"Before\n{report.BEGIN}\nold\n{report.END}\nAfter\n")
    report.collect(options)
    report.summarise(options.out)

    found = json.loads((options.out / "guidance.json").read_text())
    assert found["settings"] == settings
    assert [row["mode"] for row in found["points"]] == ["none", "cfg", "cfg", "dual", "none"]
    page = (options.out / "README.md").read_text()
    assert page.startswith("Before\n") and page.endswith("After\n") and "old" not in page
    measured = "| `cfg` | text 4 / 4 | 2 | 92% | 4% | 0.92 | 20 ms | 100% | 100% | 100% |"
    assert f"| Video and sound from text {measured}" in page and f"| **recommended** {measured}" in page
    assert "|  | `dual` | text 3.5 / 3.5, cross 3.5 / 3.5 | 3 | 90% |" in page
    assert (
        "| Video for a given sound (no setting reaches the captions' bars) | `none` |  | 1 | 0% | - "
        "| 0.00 | - | 50% |" in page
    )
    assert "audio shift 3" in page and "Sound for a given video" not in page
    assert (options.out / "guidance.png").read_bytes().startswith(b"\x89PNG")
    drawn = (options.out / "guidance.svg").read_bytes()
    report.summarise(options.out)
    assert (options.out / "README.md").read_text() == page and (
        options.out / "guidance.svg"
    ).read_bytes() == drawn
    (options.out / "README.md").write_text("another page")
    with pytest.raises(ScriptError, match="has no place for the tables"):
        report.summarise(options.out)


def test_a_toy_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        "--tasks v2a --modes cfg --strengths 1 --clips 1 --frames 17 --sampling-steps 1 --audio-shift 4"
    )
    options = command.parse([*arguments.split(), "--threads", "1"])
    options.work, options.out = tmp_path / "work", tmp_path / "out"
    options.out.mkdir()
    guidance.run(options)
    report.collect(options)
    report.summarise(options.out)
    none, cfg = json.loads((options.out / "guidance.json").read_text())["points"]
    assert (none["mode"], none["passes"], none["scales"]) == ("none", 1, {})
    assert (cfg["mode"], cfg["passes"], cfg["scales"]) == ("cfg", 2, {"video_text": 4.0, "audio_text": 3.0})
    assert none["clips"] == cfg["clips"] == 1 and none["contacts"] == cfg["contacts"]
    assert "`cfg`" in (options.out / "README.md").read_text() and not list(options.work.glob("*.part"))

    def refuse(*_: Any) -> None:
        raise AssertionError("a finished point was measured again")

    monkeypatch.setattr(guidance, "measure", refuse)
    guidance.run(options)
    assert "2 of 2 points are done: v2a-none-0" in capsys.readouterr().out
    options.audio_shift = None
    with pytest.raises(ScriptError, match="holds points with other settings"):
        guidance.run(options)


@pytest.mark.parametrize(
    "arguments", ["--clips 0", "--sampling-steps 0", "--strengths -1", "--strengths nan"]
)
def test_wrong_options_are_refused(arguments: str) -> None:
    with pytest.raises(SystemExit):
        command.parse(arguments.split())


def test_an_unknown_mode_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ScriptError, match=r"none: no guidance mode\s+what to do: choose of ucg_joint, cfg"):
        told.guidance_modes(["cfg", "none"])
    assert told.guidance_modes() == list(MODES)
