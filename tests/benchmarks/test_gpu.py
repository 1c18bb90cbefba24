"""The GPU benchmark without a GPU: real sizes on the meta device, a tiny model through its whole path,
the table.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from ccl_bench import gpu, gpu_tiny
from ccl_bench.gpu_cases import CASES, DTYPES, PROMISES, Case, Row, configuration, shapes
from ccl_bench.gpu_report import BEGIN, insert, table
from ccl_bench.plan import planned_on
from ccl_pack.ccl_core.host import given
from ccl_tools.console import ScriptError
from support import tiny
from support.commands import load

command = load("benchmarks/gpu.py")

CASE = Case("tiny", 64, 48, 5, 2.0, 3.0, "1")
ROW = Row("ovi", "fp8", 12, "a card", 3.25, 9.5, 11.25, 14.5, 11.75, 1.5, 11, 12.5)


def count(shapes: Any) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes)


def test_sizes_are_those_of_the_published_models() -> None:
    ovi, ccl = (shapes(configuration(case)) for case in ("ovi", "ccl"))
    assert count(ovi.values()) == 11_660_753_108
    video = [shape for name, shape in ccl.items() if not name.startswith(("audio.", "interaction."))]
    assert (
        count(video) == 14_288_901_184 - 20 * 5120 * 4
    )  # of Wan A14B image to video, without the 20 channels it adds
    layers = {name.split(".")[1] for name in ccl if name.startswith("interaction.")}
    assert layers == {str(i) for i in range(30)}


def test_clips_are_those_of_the_issue() -> None:
    sizes = {name: (case.width, case.height, case.frames) for name, case in CASES.items()}
    assert sizes == {
        "ovi": (960, 960, 121),
        "ccl": (640, 352, 81),
        "mova": (640, 352, 193),
        "prism": (848, 480, 49),
        "dub": (640, 352, 81),
    }
    assert {(case, weights, limit) for case, weights, limit in PROMISES} == {
        ("ovi", "fp8", 12),
        ("mova", "fp8", 16),
        ("prism", "int8", 16),
        ("ccl", "fp8", 16),
        ("dub", "fp8", 16),
    }


@pytest.mark.parametrize("weights", DTYPES)
def test_a_file_of_random_weights_loads_and_samples(tmp_path: Path, weights: str) -> None:
    path, config = tmp_path / "tiny.safetensors", tiny.config()
    gpu.write_checkpoint(path, config, weights)
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        types = {file.get_slice(name).get_dtype() for name in names}
        assert types == {"bf16": {"BF16"}, "fp8": {"F8_E4M3"}, "int8": {"BF16", "I8", "F32", "U8"}}[weights]
        assert all(file.get_tensor(name).float().abs().max() > 0 for name in names)
    figures = gpu.measure(path, CASE, steps=3, free_at_start=0)
    assert figures.keys() <= {field.name for field in fields(Row)}
    assert 0 < figures["seconds_per_step"] < 60 and figures["ram_gb"] > 0.1 and figures["vram_gb"] == 0
    assert 0 < figures["ram_start_gb"] <= figures["ram_gb"] + 0.01


def test_no_two_tensors_are_cut_from_the_same_place() -> None:
    pattern = torch.randn(gpu.PATTERN)
    one, other = (gpu.weight("blocks.0.q.weight", (64, 64), pattern, place) for place in (1, 2))
    assert not torch.equal(one, other)
    assert torch.equal(gpu.weight("norm_q.weight", (8,), pattern, 3), torch.ones(8))
    assert gpu.weight("a.weight", (gpu.PATTERN, 2), pattern, 5).shape == (gpu.PATTERN, 2)


def test_table_shows_figures_and_reasons() -> None:
    lines = table([ROW, replace(ROW, limit_gb=80, error="the card has 24 GB")]).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|") == lines[3].count("|") == 9
    assert (
        lines[2]
        == "| Ovi, 960 x 960, 121 frames | fp8 | 12 | 3.25 | 9.5 | 11.25 (11) | 14.5 (12.5) | 11.75 |"
    )
    assert "the card has 24 GB" in lines[3] and lines[-1].startswith("a card;")


def test_table_replaces_its_last_version_and_leaves_the_rest_of_the_page() -> None:
    once = insert("# Performance\n\nText.\n", "first")
    twice = insert(once + "\nMore text.\n", "second")
    assert once.startswith("# Performance\n\nText.\n\n")
    assert "first" not in twice and twice.count(BEGIN) == 1
    assert "second" in twice and twice.endswith("More text.\n")


def test_report_of_a_row_survives_json() -> None:
    assert Row(**json.loads(json.dumps(asdict(ROW)))) == ROW


def test_arguments() -> None:
    options = command.arguments([])
    assert gpu.wanted(options) == {(case, weights): [limit] for case, weights, limit in PROMISES}
    options = command.arguments(["--limits", "12", "--cases", "ovi"])
    assert gpu.wanted(options) == {("ovi", "bf16"): [12], ("ovi", "fp8"): [12]}


@pytest.mark.parametrize(
    "given", [["--steps", "1"], ["--cases", "sora"], ["--weights", "fp4"], ["--limits", "much"]]
)
def test_a_wrong_argument_stops(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.arguments(given)
    assert given[0] in capsys.readouterr().err


def test_a_limit_that_cannot_be_kept_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "COMMAND", "/dev/null")  # a holder that ends before it says what is free
    with pytest.raises(ScriptError, match="beyond 12 GB of the card cannot be taken"), gpu.limited(12):
        pass


def test_figures_that_are_far_off_the_plan_are_faults() -> None:
    assert ROW.faults == []
    assert replace(ROW, vram_gb=13.0).faults == ["VRAM"] and replace(ROW, vram_gb=9.0).faults == ["VRAM"]
    assert replace(ROW, ram_gb=18.0).faults == ["RAM"] and replace(ROW, plan_ram_gb=None).faults == []
    (line,) = [line for line in table([replace(ROW, vram_gb=13.0)]).splitlines() if "Ovi" in line]
    assert "3.25 FAULT: VRAM more than 15% off the plan" in line


@pytest.mark.parametrize(("name", "weights"), [(name, weights) for name, weights, _ in PROMISES])
def test_each_row_runs_at_tiny_size_with_every_weight_streamed(
    monkeypatch: pytest.MonkeyPatch, name: str, weights: str
) -> None:
    monkeypatch.setattr(given, "_memory_of", given._memory_of)  # put back behind the test
    models, runs, sample = [], [], gpu.sample

    def note(model: Any, *args: Any) -> list[float]:
        models.append(model)
        made = sample(model, *args)
        runs.extend(part.comfy_cast_weights for part in model.model.modules() if is_streamed(part))
        return made

    monkeypatch.setattr(gpu, "sample", note)
    figures = gpu_tiny.run(name, weights, steps=2)
    assert figures["seconds_per_step"] > 0 and len(runs) > 20 and all(runs)


def is_streamed(part: torch.nn.Module) -> bool:
    return getattr(getattr(part, "weight", None), "ndim", 0) == 2 and hasattr(part, "comfy_cast_weights")


def test_the_plan_of_a_model_that_is_not_there() -> None:
    """Ovi in fp8 on 12 GB: the card is full, and what it streams waits in RAM."""
    plan = planned_on(configuration("ovi"), "fp8", partial(gpu.latent_of, case=CASES["ovi"]), 12)
    assert plan["plan_vram_gb"] == 12 and 1 < plan["plan_ram_gb"] < 6
    roomy = planned_on(configuration("ovi"), "fp8", partial(gpu.latent_of, case=CASES["ovi"]), 80)
    assert 12 < roomy["plan_vram_gb"] < 18 and roomy["plan_ram_gb"] == 0


def test_what_is_kept_of_a_given_video_is_in_the_plan() -> None:
    both, dubbed = (
        planned_on(configuration(name), "fp8", partial(gpu.latent_of, case=CASES[name]), 16)
        for name in ("ccl", "dub")
    )
    # Two texts of 3.17 GiB.
    assert dubbed["plan_ram_gb"] - both["plan_ram_gb"] == pytest.approx(2 * 3.17 * 1.074, abs=0.1)


def test_without_cuda_nothing_is_measured_and_the_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_tiny, "run", lambda *_: {"seconds_per_step": 0.5})
    monkeypatch.setattr(gpu_tiny, "planned_on", lambda *_: {"plan_vram_gb": 11.0, "plan_ram_gb": 3.0})
    lines = table(command.rows_of(command.arguments([]))).splitlines()[2:-2]
    assert len(lines) == len(PROMISES)
    assert all("not measured" in line and "(11)" in line and "(3)" in line for line in lines)
