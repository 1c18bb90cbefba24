"""scripts/parity.py: passes on every golden fixture, and on no file in which anything differs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ccl_tools import golden_fixture
from ccl_tools.environment import ROOT
from ccl_tools.parity_cases import CASES as FUNCTIONS
from ccl_tools.published import prism_key
from support import commands, upstream
from support.golden import FIXTURES
from support.tiny import state_dict

parity = commands.load("scripts/parity.py")
CASES = {"ovi": 8, "mova": 16, "prism": 24, "dac": 5, "vocos": 3, "mmaudio_fold": 13}


def load(case: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with safe_open(FIXTURES / f"{case}_dev.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        return tensors, json.loads(file.metadata()["info"])


def save(path: Path, tensors: dict[str, torch.Tensor], info: dict[str, Any]) -> Path:
    tensors = {key: value.clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    save_file(tensors, path, metadata={"info": json.dumps(info)})
    return path


@pytest.mark.parametrize("case", CASES)
def test_fixture_is_within_its_bounds(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parity.main([FIXTURES / f"{case}_dev.safetensors"]) == 0
    assert f"{CASES[case]} of {CASES[case]} outputs within their bounds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("case", "weight"),
    [
        ("ovi", "weights/audio_model.blocks.2.cross_attn.v_fusion.weight"),
        ("mova", "weights/dual_tower_bridge/video_to_audio_conditioners.0.y_norm.bias"),
        ("prism", "weights/remaining_video_blocks.1.self_attn.v.weight"),
        ("prism", "weights/video_dit_2.blocks.3.modulation"),
        ("dac", "weights/encoder.block.3.block.3.alpha"),
        ("vocos", "weights/backbone.convnext.1.gamma"),
        ("mmaudio_fold", "weights/vocoder/ups.0.0.parametrizations.weight.original0"),
    ],
)
def test_another_weight_is_outside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, weight: str
) -> None:
    tensors, info = load(case)
    tensors[weight] = 1.25 * tensors[weight]
    assert parity.main([save(tmp_path / "other.safetensors", tensors, info)]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("case", "path", "value"),
    [
        ("ovi", ("video_model", "num_heads"), 4),
        ("ovi", ("audio_model", "text_len"), 12),
        ("ovi", ("audio_model", "temporal_rope_scaling_factor"), 0.25),
        ("ovi", ("slg_layer",), 0),
        ("mova", ("audio_dit", "num_heads"), 1),
        ("mova", ("dual_tower_bridge", "audio_fps"), 25.0),
        ("mova", ("video_fps",), 16.0),
        ("mova", ("bridge_scaled", "video_to_audio"), 1.0),
        ("prism", ("video_dit", "num_heads"), 1),
        ("prism", ("dual_tower_bridge", "apply_first_frame_bias_in_rope"), True),
        ("vocos", ("feature_extractor", "hop_length"), 128),
    ],
)
def test_settings_come_from_the_file(tmp_path: Path, case: str, path: tuple[str, ...], value: float) -> None:
    tensors, info = load(case)
    *outer, last = path
    target = info["config"]
    for name in outer:
        target = target[name]
    target[last] = value
    assert parity.main([save(tmp_path / "other.safetensors", tensors, info)]) == 1


def test_a_bridge_that_counts_a_short_first_frame() -> None:
    """Made from the same reference as mova_dev, with the one published switch that no published model
    turns on.
    """
    assert parity.main([FIXTURES / "mova_first_frame_bias.safetensors"]) == 0


@pytest.mark.parametrize("case", CASES)
def test_unknown_and_misshapen_outputs_are_never_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    tensors, info = load(case)
    info["tolerance"]["max_abs"]["outputs/{*}"] = 10.0
    known = next(key for key in tensors if key.startswith("outputs/"))
    path = save(
        tmp_path / "unknown.safetensors", tensors | {"outputs/joint/block99_video": torch.zeros(2)}, info
    )
    assert parity.main([path]) == 1
    assert "this script does not know how to compute it" in capsys.readouterr().out
    path = save(tmp_path / "shape.safetensors", tensors | {known: torch.zeros(7)}, info)
    assert parity.main([path]) == 1
    assert "ours has shape" in capsys.readouterr().out


def test_numbers_that_are_none_are_outside(tmp_path: Path) -> None:
    tensors, info = load("vocos")
    tensors["weights/backbone.embed.bias"] = torch.full_like(
        tensors["weights/backbone.embed.bias"], torch.nan
    )
    info["tolerance"]["max_abs"] = {"outputs/{*}": 1e9}
    assert parity.main([save(tmp_path / "nan.safetensors", tensors, info)]) == 1


def test_weights_that_the_loader_refuses_are_outside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, info = load("mova")
    del tensors["weights/video_dit/blocks.1.norm3.bias"]
    assert parity.main([save(tmp_path / "cut.safetensors", tensors, info)]) == 1
    assert "cut.safetensors lacks blocks.1.norm3.bias" in capsys.readouterr().out


def test_the_longest_pattern_gives_the_bound() -> None:
    bounds = {"outputs/{*}": 1.0, "outputs/block{N}_video": 2.0, "outputs/block{N}_{*}": 3.0}
    fixture = golden_fixture.Fixture("x", "ovi", {}, bounds, {}, {}, {})
    assert [fixture.bound(name) for name in ("block12_video", "block1_audio", "a/b")] == [2.0, 3.0, 1.0]
    assert not golden_fixture.matches("outputs/a.c", "outputs/abc")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _, info: info.pop("tolerance"), "is no golden fixture"),
        (lambda _, info: info.update(case="telepathy"), "of the case 'telepathy', known are ovi"),
        (lambda _, info: info["tolerance"].update(max_abs={"outputs/x": 1.0}), "states no bound"),
        (lambda tensors, _: tensors.pop("inputs/timestep"), "lacks the entry 'timestep'"),
        (lambda _, info: info["config"].pop("slg_layer"), "lacks the entry 'slg_layer'"),
        (
            lambda tensors, _: [tensors.pop(key) for key in list(tensors) if "outputs/" in key],
            "holds no outputs",
        ),
    ],
)
def test_files_that_are_no_fixture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[..., Any], words: str
) -> None:
    tensors, info = load("ovi")
    change(tensors, info)
    assert parity.main([save(tmp_path / "bad.safetensors", tensors, info)]) == 2
    assert words in capsys.readouterr().out


def test_worst_of_several_files_counts(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes((FIXTURES / "vocos_dev.safetensors").read_bytes()[:-100])
    good = FIXTURES / "mmaudio_fold_dev.safetensors"
    assert parity.main([tmp_path / "cut.safetensors", good]) == 2
    assert parity.main([good, tmp_path / "gone.safetensors"]) == 2
    assert parity.main([good, good]) == 0


@pytest.mark.parametrize(
    ("layers", "width", "heads", "tokens"), [(1, 48, 4, 5), (4, 36, 3, 40)], ids=["one layer", "four layers"]
)
def test_other_sizes_of_ovi(tmp_path: Path, layers: int, width: int, heads: int, tokens: int) -> None:
    """Outputs as the script itself computes them: every name of the layout is known at other sizes."""
    config = upstream.ovi_config(width, heads, layers, text_len=7)
    generator = torch.Generator().manual_seed(layers)
    tower = {"num_heads": heads, "text_len": 7, "in_dim": 20, "temporal_rope_scaling_factor": 0.3}
    inputs = {
        "video_latent": torch.randn(2, 48, 3, 2, 4, generator=generator),
        "audio_latent": torch.randn(2, tokens, 20, generator=generator),
        "timestep": torch.tensor([900.0, 20.0]),
        "video_context": torch.randn(2, 5, 24, generator=generator),
        "audio_context": torch.randn(2, 7, 24, generator=generator),
    }
    weights = upstream.ovi(state_dict(config, seed=layers))
    info = {
        "case": "ovi",
        "config": {"video_model": tower | {"in_dim": 48}, "audio_model": tower, "slg_layer": layers - 1},
        "tolerance": {"max_abs": {"outputs/{*}": 1e-5}},
    }
    roundtrip(tmp_path, info, weights, inputs, 6 + 4 * layers)


def test_other_sizes_of_mova(tmp_path: Path) -> None:
    config = upstream.mova_config(48, 24, 12, layers=2, paired=1)
    generator = torch.Generator().manual_seed(5)
    inputs = {
        "video_latent": torch.randn(1, 16, 2, 4, 2, generator=generator),
        "video_condition": torch.randn(1, 20, 2, 4, 2, generator=generator),
        "audio_latent": torch.randn(1, 128, 31, generator=generator),
        "context": torch.randn(1, 8, 24, generator=generator),
        "timestep": torch.tensor([600.0]),
        "audio_timestep": torch.tensor([100.0]),
    }
    weights = {
        key.replace(".", "/", 1): value for key, value in upstream.mova(state_dict(config, seed=5)).items()
    }
    info = {
        "case": "mova",
        "config": {
            "video_dit": {"num_heads": 4, "in_dim": 36},
            "audio_dit": {"num_heads": 2, "in_dim": 128},
            "dual_tower_bridge": {"audio_fps": 40.0},
            "video_fps": 12.5,
            "bridge_scaled": {"audio_to_video": 2.0, "video_to_audio": 0.0},
        },
        "tolerance": {"max_abs": {"outputs/{*}": 1e-5}},
    }
    roundtrip(tmp_path, info, weights, inputs, 8 + 4 + 6)


@pytest.mark.parametrize(
    "layers, paired, seed", [(2, 2, 3), (4, 1, 11)], ids=["no layer behind", "three behind"]
)
def test_prism_of_other_sizes_is_mova_with_each_expert(
    tmp_path: Path, layers: int, paired: int, seed: int
) -> None:
    """The outputs are those of MOVA, whose video tower is one expert and then the other."""
    config = upstream.mova_config(48, 24, 12, layers=layers, paired=paired)
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(1, 8, 24, generator=generator)
    inputs = {
        "video_latent": torch.randn(1, 16, 2, 4, 2, generator=generator),
        "video_condition": torch.randn(1, 20, 2, 4, 2, generator=generator),
        "audio_latent": torch.randn(1, 128, 31, generator=generator),
        "context": context,
        "audio_context": context,
        "timestep": torch.tensor([960.0]),
        "audio_timestep": torch.tensor([940.0]),
    }
    low_times = {"low_timestep": torch.tensor([300.0]), "low_audio_timestep": torch.tensor([150.0])}
    info = {
        "case": "prism",
        "config": {
            "video_dit": {"num_heads": 4, "in_dim": 36},
            "audio_dit": {"num_heads": 2, "in_dim": 128},
            "dual_tower_bridge": {
                "audio_fps": 40.0,
                "head_dim": 12,
                "apply_first_frame_bias_in_rope": False,
            },
            "video_fps": 12.5,
            "bridge_scaled": {"audio_to_video": 2.0, "video_to_audio": 0.0},
        },
        "tolerance": {"max_abs": {"outputs/{*}": 1e-5}},
    }
    high = upstream.mova(state_dict(config, seed=seed))
    second = upstream.mova(state_dict(config, seed=seed + 1))
    low = high | {key: value for key, value in second.items() if key.startswith("video_dit.")}
    outputs = mova_outputs(tmp_path, info, high, inputs)
    below = {"timestep": low_times["low_timestep"], "audio_timestep": low_times["low_audio_timestep"]}
    of_low = mova_outputs(tmp_path, info, low, inputs | below)
    outputs |= {f"dual_prompt/{stream}": outputs[f"joint/{stream}"] for stream in ("video", "audio")}
    outputs |= {f"low_noise/{stream}": of_low[f"split_timesteps/{stream}"] for stream in ("video", "audio")}
    both = high | {
        key.replace("video_dit.", "video_dit_2."): value
        for key, value in low.items()
        if key.startswith("video_dit.")
    }
    tensors = {f"weights/{prism_key(key, paired)}": value for key, value in both.items()}
    tensors |= {f"inputs/{key}": value for key, value in (inputs | low_times).items()}
    tensors |= {f"outputs/{key}": value for key, value in outputs.items()}
    assert parity.main([save(tmp_path / "prism.safetensors", tensors, info)]) == 0
    wrong = {f"outputs/low_noise/{stream}": of_low[f"joint/{stream}"] for stream in ("video", "audio")}
    assert parity.main([save(tmp_path / "wrong.safetensors", tensors | wrong, info)]) == 1


def mova_outputs(
    tmp_path: Path,
    info: dict[str, Any],
    weights: dict[str, torch.Tensor],
    inputs: dict[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """What the case of MOVA computes of these."""
    tensors = {f"weights/{key.replace('.', '/', 1)}": value for key, value in weights.items()}
    tensors |= {f"inputs/{key}": value for key, value in inputs.items()}
    path = save(tmp_path / "mova.safetensors", tensors | {"outputs/none": torch.zeros(1)}, info)
    with torch.no_grad():
        return FUNCTIONS["mova"](golden_fixture.read(path))


def roundtrip(
    tmp_path: Path,
    info: dict[str, Any],
    weights: dict[str, torch.Tensor],
    inputs: dict[str, torch.Tensor],
    least: int,
) -> None:
    tensors = {f"weights/{key}": value for key, value in weights.items()}
    tensors |= {f"inputs/{key}": value for key, value in inputs.items()}
    path = save(tmp_path / "probe.safetensors", tensors | {"outputs/none": torch.zeros(1)}, info)
    with torch.no_grad():
        outputs = FUNCTIONS[info["case"]](golden_fixture.read(path))
    assert len(outputs) >= least
    path = save(path, tensors | {f"outputs/{key}": value for key, value in outputs.items()}, info)
    assert parity.main([path]) == 0
    seen = tensors | {f"outputs/{key}": value + 1e-3 for key, value in outputs.items()}
    assert parity.main([save(path, seen, info)]) == 1


def test_command_line(tmp_path: Path) -> None:
    """Under the Python that runs the tests, as a reader starts it: from anywhere, several files."""
    good = str(FIXTURES / "vocos_dev.safetensors")
    for files, code in (([good], 0), ([good, str(tmp_path / "gone.safetensors")], 2)):
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "parity.py"), *files],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert "3 of 3 outputs within their bounds" in done.stdout
