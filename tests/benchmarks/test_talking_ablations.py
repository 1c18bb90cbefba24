"""benchmarks/talking_ablations.py: its cells, its probes, that a killed run goes on exactly, its page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ccl_bench import cells as harness
from ccl_bench import talking_cells_report as page
from ccl_bench.cell_probe import Probe, losses, strangers, times
from ccl_bench.charts import AS_MEASURED, smoothed
from ccl_bench.talking_cells import CELLS, INTERACTIONS, REFERENCE, MaskProbe, masks, regions_on_tokens
from ccl_bench.talking_ranges import RANGES
from ccl_pack.ccl_core.host.face_mask import on_tokens
from ccl_pack.ccl_core.metadata import write_config
from ccl_pack.ccl_core.training.finetune.cache import NO_TEXT, Cache
from ccl_pack.ccl_core.training.finetune.load import part_of
from ccl_pack.ccl_core.training.finetune.trainer import FineTuner
from ccl_pack.ccl_core.training.tiny.face_clips import drawn_again
from ccl_pack.ccl_core.training.world.face_regions import FACE, REGIONS, regions_of
from ccl_tools.console import ScriptError
from support import faces, tiny
from support.commands import load

command = load("benchmarks/talking_ablations.py")
CPU = torch.device("cpu")
CLIPS, HELD_OUT = 7, 3
CONFIG = {
    "model": {"video": "unused.safetensors"},
    "encoders": {"checkpoint": "unused.safetensors"},
    "data": {"clips": "clips", "cache": "cache", "sizes": [[64, 64]], "frames": [33]},
    "train": {
        "out": "out",
        "steps": 1,
        "audio": "full",
        "video": "full",
        "rates": {"interaction": 3e-3, "audio": 1e-3, "video": 1e-3},
        "warmup": 1,
        "precision": "fp32",
        "checkpointing": False,
    },
}


@pytest.fixture(autouse=True)
def in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfy.model_management, "in_training", True)


def face_of(name: str) -> Tensor:
    """On tokens of 16 pixels, (9, 4, 4)."""
    cover = regions_of(drawn_again(name, 33))[FACE]
    return on_tokens(torch.from_numpy(cover), 4, 4)


def tensors_of(number: int, name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    said = torch.full((2 + number % 3, 1), 97.0 + number)
    sizes = {"video": (16, 9, 8, 8), "audio": (128, 66), "text": (3, 96), "reference": (16, 8, 8)}
    made = {part: torch.randn(size, generator=generator) for part, size in sizes.items()}
    return made | {"speech": said, "face": face_of(name)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a cache of faces and a recipe."""
    path = tmp_path_factory.mktemp("cells")
    save_file(
        tiny.state_dict(faces.CONFIG),
        path / "base.safetensors",
        metadata={"ccl_config": write_config(faces.CONFIG)},
    )
    (path / "cache").mkdir()
    cache = Cache(path / "cache")
    names = [f"5-{number:05}.mkv" for number in range(CLIPS)]
    files = [cache.write(name, tensors_of(number, name), {}) for number, name in enumerate(names)]
    cache._write(NO_TEXT, {"text": torch.zeros(3, 96)}, "", {})
    cache.index(files)
    (path / "train.json").write_text(json.dumps(CONFIG))
    return path


def options(folder: Path, work: Path, *words: str) -> Any:
    told = ["cells", "--base", str(folder / "base.safetensors"), "--cache", str(folder / "cache")]
    told += ["--config", str(folder / "train.json"), "--work", str(work), "--steps", "4", "--every", "2"]
    return command.parse([*told, "--batch", "2", "--probe-clips", str(HELD_OUT), *words])


def trainer_of(folder: Path, work: Path, name: str) -> FineTuner:
    plan = command.plan_of(options(folder, work))
    settings = harness.settings_of(plan, harness.Run(CELLS[name], 0, work))
    return FineTuner(settings, *harness.assembled(settings, CELLS[name]), CPU)


def test_the_six_interactions_differ_in_form_and_clock_alone() -> None:
    assert len(INTERACTIONS) == 6 and REFERENCE is INTERACTIONS[0]
    assert len({json.dumps(dict(cell.options), sort_keys=True) for cell in INTERACTIONS}) == 6
    for with_clock, without in zip(INTERACTIONS[:3], INTERACTIONS[3:], strict=True):
        assert with_clock.options == {**without.options, "clock_inside": True}
        assert not without.options["clock_inside"]
    assert {str(cell.train) for cell in INTERACTIONS} == {str(REFERENCE.train)}


def test_a_cell_starts_from_the_towers_of_the_base_with_a_fresh_interaction(
    folder: Path, tmp_path: Path
) -> None:
    base = tiny.state_dict(faces.CONFIG)
    for name in ("asymmetric", "global-no-clock", "mask-none"):
        own = trainer_of(folder, tmp_path, name).model.state_dict()
        for key, value in own.items():
            if part_of(key) != "interaction":
                assert torch.equal(value, base[key]), key
            elif ".o." in key:
                assert not value.any(), key
        assert any(".face." in key for key in own) is (name != "mask-none")


def test_a_stranger_lends_the_given_stream_and_its_words_alone(folder: Path) -> None:
    clips = [entry.load() for entry in Cache(folder / "cache").entries()][:3]
    for task, taken in {"a2v": {"audio", "speech"}, "v2a": {"video"}}.items():
        for i, clip in enumerate(strangers(clips, task)):
            other = clips[(i + 1) % 3]
            parts = {name: getattr(clip, name) for name in ("video", "audio", "text")} | dict(clip.beside)
            for name, value in parts.items():
                source = other if name in taken else clips[i]
                wanted = source.beside[name] if name in source.beside else getattr(source, name)
                assert torch.equal(value, wanted), (task, name)


def test_probe_times_are_the_middles_of_equal_parts() -> None:
    assert times(4).sort().values.tolist() == [0.125, 0.375, 0.625, 0.875]


def test_a_fresh_interaction_has_no_gap_and_one_that_reads_has(folder: Path, tmp_path: Path) -> None:
    trainer = trainer_of(folder, tmp_path, "asymmetric")
    clips = [entry.load() for entry in trainer.held_out]
    # Heads of random weights: the base's are not zero, so that what is read reaches the losses.
    found = Probe(clips)(trainer)
    assert set(found["validation"]) == {"a2v/video", "v2a/audio", "joint/video", "joint/audio"}
    assert page.gap("a2v/video")(found) == page.gap("v2a/audio")(found) == 0
    for layer in trainer.model.interaction.values():
        for way in (layer.a2v, layer.v2a):
            torch.nn.init.normal_(way.o.weight)
    found = Probe(clips)(trainer)
    for task, name in (("a2v", "a2v/video"), ("v2a", "v2a/audio")):
        other = losses(trainer, strangers(clips, task), task)[name]
        assert page.gap(name)(found) == pytest.approx(other - found["validation"][name])
        assert page.gap(name)(found) != 0


def test_a_probe_is_the_same_at_every_step_of_a_run(folder: Path, tmp_path: Path) -> None:
    trainer = trainer_of(folder, tmp_path, "asymmetric")
    probe = Probe([entry.load() for entry in trainer.held_out])
    before = probe(trainer)
    trainer.step += 50
    torch.rand(7)
    assert probe(trainer) == before


def test_regions_of_a_cached_clip_are_where_the_world_draws_them(folder: Path) -> None:
    clip = Cache(folder / "cache").entries()[0].load()
    found = regions_on_tokens(clip)
    assert set(found) == set(REGIONS) and all(cover.shape == (9, 4, 4) for cover in found.values())
    assert torch.allclose(torch.from_numpy(found[FACE]), clip.beside["face"], atol=1e-3)
    moved = replace(clip, beside={"face": clip.beside["face"].roll(2, dims=-1)})
    with pytest.raises(ScriptError, match="is not where it is drawn"):
        regions_on_tokens(moved)
    with pytest.raises(ScriptError, match="no film of the talking face"):
        regions_on_tokens(replace(clip, name="holiday.mp4"))


def test_a_mask_that_is_the_face_overlaps_it_whole(folder: Path) -> None:
    clips = [entry.load() for entry in Cache(folder / "cache").entries()]
    probe = MaskProbe(clips)
    right = probe.compare(probe.faces)
    assert right["iou"] == 1 and right["share"][FACE] > right["share"]["mouth"] > 0
    everywhere = probe.compare([torch.ones_like(face) for face in probe.faces])
    inside = torch.cat(probe.faces) >= 0.5
    assert everywhere["iou"] == round(float(inside.float().mean()), 4) <= everywhere["constant_iou"] < 1
    assert set(everywhere["mean"].values()) <= {1.0, None}


def test_masks_are_those_of_the_layers(folder: Path, tmp_path: Path) -> None:
    trainer = trainer_of(folder, tmp_path, "asymmetric")
    clips = [entry.load() for entry in trainer.held_out]
    for number, layer in enumerate(trainer.model.interaction.values()):
        torch.nn.init.zeros_(layer.a2v.face.project.weight)
        torch.nn.init.constant_(layer.a2v.face.project.bias, 2.0 * number)
    found = masks(trainer, clips)
    mean = torch.sigmoid(torch.tensor([0.0, 2.0])).mean()
    assert len(found) == HELD_OUT
    assert all(torch.allclose(mask, mean.expand(9, 4, 4)) for mask in found)
    assert not any(module._forward_hooks for module in trainer.model.modules())
    assert MaskProbe(clips)(trainer_of(folder, tmp_path, "mask-none")) == {}


class Killed(Exception):
    """What stops a run in the test."""


def test_a_killed_run_goes_on_to_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    reports = []
    for name in ("whole", "killed"):
        work = tmp_path / name
        work.mkdir()
        plan = command.plan_of(options(folder, work))
        run = harness.Run(REFERENCE, 1, work)
        measure = command.probe_of(plan)

        def dying(trainer: FineTuner, measure: Any = measure) -> Any:
            if trainer.step == 4:
                raise Killed
            return measure(trainer)

        if name == "killed":
            with pytest.raises(Killed):
                harness.train(plan, run, dying)
            assert not run.result.exists() and run.folder.exists()
        harness.train(plan, run, measure)
        assert run.model.exists() and not run.folder.exists()
        reports.append(json.loads(run.result.read_text()))
        assert harness.is_finished(plan, run)
    for report in reports:
        assert report.pop("seconds_per_step") > 0
        assert [probe["step"] for probe in report["probes"]] == [0, 2, 4]
        assert all("mask" in probe and "other" in probe for probe in report["probes"])
    assert reports[0] == reports[1]


def test_cells_of_one_seed_see_the_same_at_their_first_step(folder: Path, tmp_path: Path) -> None:
    """Their fresh interactions add nothing yet."""
    first = [trainer_of(folder, tmp_path, name).update()["loss"] for name in ("asymmetric", "global")]
    for name in ("joint/video", "joint/audio"):
        assert first[0].get(name) == pytest.approx(first[1].get(name))


def test_a_run_with_other_settings_is_refused(folder: Path, tmp_path: Path) -> None:
    plan = command.plan_of(options(folder, tmp_path))
    run = harness.Run(REFERENCE, 0, tmp_path)
    assert not harness.is_finished(plan, run)
    harness.write_result(run, {"settings": plan.shared()})
    assert harness.is_finished(plan, run)
    other = command.plan_of(options(folder, tmp_path, "--steps", "6"))
    with pytest.raises(ScriptError, match="steps was 4 and is 6"):
        harness.is_finished(other, run)


def test_what_it_takes_is_said_beforehand() -> None:
    said = harness.forecast(27, 350, 50, step_seconds=0.6, probe_seconds=2.0)
    assert said == ("27 runs of 350 steps at 0.60 s: 94 min; 8 probes of each at 2.0 s: 7 min")


def fake(cell: str, seed: int, end: float) -> dict[str, Any]:
    """The report of a run whose losses fall to `end`."""
    lying = {"share": dict.fromkeys(REGIONS, 0.25), "constant_iou": 0.4}
    names = ("a2v/video", "v2a/audio", "joint/video", "joint/audio")
    probes = [
        {
            "step": step,
            "validation": dict.fromkeys(names, loss),
            "other": {"a2v/video": 1.0, "v2a/audio": 1.0},
            "mask": {"iou": 1 - loss, **lying},
        }
        for step, loss in ((0, 1.0), (50, end))
    ]
    settings = {"steps": 50, "batch": 2, "held_out": 3}
    return {"cell": cell, "seed": seed, "settings": settings, "probes": probes, "losses": []}


def test_the_page_has_values_thresholds_differences_and_masks(tmp_path: Path) -> None:
    for cell, ends in {"asymmetric": (0.1, 0.2, 0.3), "global": (0.6, 0.7, 0.8)}.items():
        for seed, end in enumerate(ends):
            report = json.dumps(fake(cell, seed, end))
            (tmp_path / f"{cell}-{seed}.json").write_text(report)
    out = tmp_path / "out"
    page.write(tmp_path, out)
    text = (out / page.PAGE).read_text()
    assert "| asymmetric, clock | 0.200 (0.100 to 0.300) |" in text
    # Half of the way from 1 to .1; of .1, .2 and .3 it is reached at 31, 34 and 39.
    assert "driven to 0.550" in text and "gap driven from 0.450" in text
    assert "| asymmetric, clock | 28 (25 to 32) |" in text
    assert "| global, clock | never in 3 of 3 |" in text
    assert "| global, clock | **+0.500 (+0.500 to +0.500)** |" in text
    assert "| asymmetric, clock | 0.00 → 0.80 | 0.40 (0.40 to 0.40) | met in 2 of 3 | 0.25 → 0.25 |" in text
    assert (out / "talking.png").stat().st_size > 1000
    (out / page.PAGE).write_text(text.replace("# A talking face, measured", "# Mine"))
    page.write(tmp_path, out)
    assert (out / page.PAGE).read_text().startswith("# Mine")


def test_a_chart_of_probes_is_not_smoothed() -> None:
    points = [(0, 1.0), (50, 0.2), (100, 0.6)]
    assert smoothed(points, AS_MEASURED) == [1.0, 0.2, 0.6] != smoothed(points)


def guided(verdict: str) -> dict[str, Any]:
    values = {name: {"lag_right": 0.5 + i / 10, "pitch_right": None} for i, name in enumerate(RANGES)}
    ahead = {name: {"lag_right": {"verdict": verdict}} for name in list(RANGES)[1:]}
    return {"task": "driven", "clips": 4, "columns": ["lag_right", "pitch_right"], "values": values} | {
        "ahead": ahead
    }


def test_ranges_of_guidance_stand_beside_each_other() -> None:
    lines = page.guidance_section([guided("better"), guided("undecided")])
    assert "### driven, 8 clips" in lines
    assert lines[-5:] == [
        "|  | lag_right |",
        "|---|---|",
        "| sigma from .5 | 0.500, 0.500 |",
        "| all noise levels | 0.600 ↑, 0.600 |",
        "| none | 0.700 ↑, 0.700 |",
    ]


@pytest.mark.parametrize(
    "words", [("--steps", "0"), ("--probe-clips", "1"), ("--cells", "nobody"), ("--base", "nowhere")]
)
def test_what_makes_no_sense_is_refused(words: tuple[str, str], folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        options(folder, tmp_path, *words)
