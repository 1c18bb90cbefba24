"""The GPU benchmark without a GPU: real sizes on the meta device, a tiny model through its whole path,
the table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from ccl_bench import gpu
from ccl_tools.console import ScriptError
from support import tiny
from support.commands import load

command = load("benchmarks/gpu.py")

CASE = gpu.Case("tiny", 64, 48, 5, 2.0, 3.0, "1")
ROW = gpu.Row("ovi", "fp8", 12, "a card", 3.25, 9.5, 11.25, 14.5, 11.75)


def count(shapes: Any) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes)


def test_sizes_are_those_of_the_published_models() -> None:
    ovi, ccl = (gpu.shapes(gpu.configuration(case)) for case in gpu.CASES)
    assert count(ovi.values()) == 11_660_753_108
    video = [shape for name, shape in ccl.items() if not name.startswith(("audio.", "interaction."))]
    assert (
        count(video) == 14_288_901_184 - 20 * 5120 * 4
    )  # of Wan A14B image to video, without the 20 channels it adds
    layers = {name.split(".")[1] for name in ccl if name.startswith("interaction.")}
    assert layers == {str(i) for i in range(30)}


def test_clips_are_those_of_the_issue() -> None:
    sizes = {name: (case.width, case.height, case.frames) for name, case in gpu.CASES.items()}
    assert sizes == {"ovi": (960, 960, 121), "ccl": (640, 352, 81)}


@pytest.mark.parametrize("weights", gpu.DTYPES)
def test_a_file_of_random_weights_loads_and_samples(tmp_path: Path, weights: str) -> None:
    path, config = tmp_path / "tiny.safetensors", tiny.config()
    gpu.write_checkpoint(path, config, weights)
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        assert {file.get_slice(name).get_dtype() for name in names} == {
            "BF16" if weights == "bf16" else "F8_E4M3"
        }
        assert all(file.get_tensor(name).float().abs().max() > 0 for name in names)
    figures = gpu.measure(path, CASE, steps=3, free_at_start=0)
    assert set(figures) == {"seconds_per_step", "first_step_seconds", "vram_gb", "ram_gb", "file_gb"}
    assert 0 < figures["seconds_per_step"] < 60 and figures["ram_gb"] > 0.1 and figures["vram_gb"] == 0


def test_no_two_tensors_are_cut_from_the_same_place() -> None:
    pattern = torch.randn(gpu.PATTERN)
    one, other = (gpu.weight("blocks.0.q.weight", (64, 64), pattern, place) for place in (1, 2))
    assert not torch.equal(one, other)
    assert torch.equal(gpu.weight("norm_q.weight", (8,), pattern, 3), torch.ones(8))
    assert gpu.weight("a.weight", (gpu.PATTERN, 2), pattern, 5).shape == (gpu.PATTERN, 2)


def test_table_shows_figures_and_reasons() -> None:
    lines = gpu.table([ROW, replace(ROW, limit_gb=80, error="the card has 24 GB")]).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|") == lines[3].count("|") == 9
    assert lines[2] == "| Ovi, 960 x 960, 121 frames | fp8 | 12 | 3.25 | 9.5 | 11.25 | 14.5 | 11.75 |"
    assert "the card has 24 GB" in lines[3] and lines[-1].startswith("a card;")


def test_table_replaces_its_last_version_and_leaves_the_rest_of_the_page() -> None:
    once = gpu.insert("# Performance\n\nText.\n", "first")
    twice = gpu.insert(once + "\nMore text.\n", "second")
    assert once.startswith("# Performance\n\nText.\n\n")
    assert "first" not in twice and twice.count(gpu.BEGIN) == 1
    assert "second" in twice and twice.endswith("More text.\n")


def test_report_of_a_row_survives_json() -> None:
    assert gpu.Row(**json.loads(json.dumps(asdict(ROW)))) == ROW


def test_arguments() -> None:
    options = command.arguments([])
    assert (options.cases, options.weights, options.limits) == (
        ["ovi", "ccl"],
        ["bf16", "fp8"],
        [80, 24, 16, 12],
    )
    assert command.arguments(["--limits", "12", "--cases", "ovi"]).limits == [12]


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


def test_without_cuda_it_says_so_and_ends_with_2() -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(
        [sys.executable, str(gpu.COMMAND)], capture_output=True, text=True, check=False, env=environment
    )
    assert ran.returncode == 2
    assert "no CUDA device" in ran.stdout
