"""scripts/convert_mova.py: the file that it writes is the folder that it read, tensor for tensor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ccl_pack.ccl_core.config import CCLConfig
from ccl_pack.ccl_core.host.experts import low_noise_of
from ccl_pack.ccl_core.host.files.build import load_files, load_model
from ccl_pack.ccl_core.host.files.read import ModelPaths
from ccl_pack.ccl_core.metadata import read_config
from ccl_tools import convert_mova, tensor_file
from ccl_tools.console import ScriptError
from support import upstream
from support.tiny import state_dict

CONFIG = upstream.mova_config(128, 128, 128, layers=2, paired=2)
FIRST = "diffusion_pytorch_model.safetensors"
SHARD = "diffusion_pytorch_model-0000{}-of-00002.safetensors"


def folder(path: Path, config: CCLConfig = CONFIG) -> Path:
    """A published folder: two experts in two shards each with an index, the other parts in one file each."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for seed, names in ((1, None), (2, {"video_dit": "video_dit_2"})):
        for key, value in upstream.mova(state_dict(config, seed=seed)).items():
            part, _, own = key.partition(".")
            if names is None or part in names:
                parts.setdefault((names or {}).get(part, part), {})[own] = value.bfloat16()
    for part, sd in parts.items():
        (path / part).mkdir(parents=True)
        if not part.startswith("video"):
            save_file(sd, path / part / FIRST)
            continue
        half = len(sd) // 2
        weight_map = {key: SHARD.format(1 if i < half else 2) for i, key in enumerate(sd)}
        for name in set(weight_map.values()):
            save_file({key: sd[key] for key in sd if weight_map[key] == name}, path / part / name)
        (path / part / "diffusion_pytorch_model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": weight_map})
        )
    return path


def parts_of(path: Path) -> ModelPaths:
    return ModelPaths(
        video=str(path / "video_dit" / SHARD.format(1)),
        audio=str(path / "audio_dit" / FIRST),
        interaction=str(path / "dual_tower_bridge" / FIRST),
        low_noise=str(path / "video_dit_2" / SHARD.format(1)),
    )


def run(patcher: ModelPatcher) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    latents = [torch.randn(1, 36, 2, 4, 4, generator=generator), torch.randn(1, 128, 13, generator=generator)]
    text = torch.randn(1, 4, 24, generator=generator)
    with torch.no_grad():
        return patcher.model.diffusion_model(latents, torch.tensor([300.0]), text, transformer_options={})


def same(one: ModelPatcher, other: ModelPatcher) -> bool:
    found, wanted = one.model.diffusion_model.state_dict(), other.model.diffusion_model.state_dict()
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_one_file_is_the_folder(tmp_path: Path) -> None:
    source = folder(tmp_path / "MOVA-tiny")
    output = tmp_path / "out" / "mova.safetensors"
    convert_mova.convert(source, output)
    options = {"dtype": torch.float32}
    one, parts = load_model(str(output), options), load_files(parts_of(source), options)
    assert one.model.ccl_config == parts.model.ccl_config
    assert one.model.ccl_config.expert_boundary == 0.9
    assert same(one, parts)
    assert same(low_noise_of(one), low_noise_of(parts))
    assert not same(one, low_noise_of(one))
    assert all(torch.equal(a, b) for a, b in zip(run(one), run(parts), strict=True))


def test_keys_are_the_published_ones_behind_their_parts(tmp_path: Path) -> None:
    source, output = folder(tmp_path / "MOVA-tiny"), tmp_path / "mova.safetensors"
    convert_mova.convert(source, output)
    found = load_file(output)
    wanted = {
        f"{file.parent.name}.{key}": value
        for file in source.rglob("*.safetensors")
        for key, value in load_file(file).items()
    }
    assert found.keys() == wanted.keys()
    assert all(
        found[key].dtype == value.dtype and torch.equal(found[key], value) for key, value in wanted.items()
    )
    assert not list(tmp_path.glob("*.part"))


def test_only_high_leaves_the_other_expert_out(tmp_path: Path) -> None:
    source, output = folder(tmp_path / "MOVA-tiny"), tmp_path / "mova.safetensors"
    convert_mova.convert(source, output, only_high=True)
    one = load_model(str(output))
    assert low_noise_of(one) is None
    assert not any(key.startswith("video_dit_2.") for key in load_file(output))


def test_heads_come_from_config_json(tmp_path: Path) -> None:
    config = upstream.mova_config(64, 32, 16)
    source = folder(tmp_path / "MOVA-tiny", config)
    for part, stream in (("video_dit", config.video), ("audio_dit", config.audio)):
        (source / part / "config.json").write_text(json.dumps({"num_heads": stream.num_heads, "eps": 1e-6}))
    convert_mova.convert(source, tmp_path / "mova.safetensors")
    assert load_model(str(tmp_path / "mova.safetensors")).model.ccl_config == config


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_trained_bridge_strength_is_refused_and_a_neutral_one_kept(tmp_path: Path, strength: float) -> None:
    source, output = folder(tmp_path / "MOVA-tiny"), tmp_path / "mova.safetensors"
    bridge = source / "dual_tower_bridge" / FIRST
    key = "audio_to_video_conditioners.0.condition_scale"
    save_file(load_file(bridge) | {key: torch.tensor([strength])}, bridge)
    if strength != 1:
        with pytest.raises(ScriptError, match=r"condition_scale is \[0\.5\], wanted 1"):
            convert_mova.convert(source, output)
        return
    convert_mova.convert(source, output)
    assert same(load_model(str(output)), load_files(parts_of(source)))


def test_fp8_quantises_the_matrices_and_nothing_else(tmp_path: Path) -> None:
    source, plain, small = (
        folder(tmp_path / "MOVA-tiny"),
        tmp_path / "plain.safetensors",
        tmp_path / "fp8.safetensors",
    )
    convert_mova.convert(source, plain)
    convert_mova.convert(source, small, quantise=True)
    found, wanted = load_file(small), load_file(plain)
    matrices = {key for key, value in found.items() if value.dtype == torch.float8_e4m3fn}
    assert matrices == {
        key
        for key, value in wanted.items()
        if value.ndim == 2 and key.endswith(".weight") and (".blocks." in key or "_conditioners." in key)
    }
    for key in matrices:
        layer = key.removesuffix(".weight")
        assert json.loads(bytes(found[f"{layer}.comfy_quant"].tolist())) == {"format": "float8_e4m3fn"}
        restored = found[key].float() * found[f"{layer}.weight_scale"]
        assert (restored - wanted[key].float()).abs().max() <= wanted[key].float().abs().max() / 16
    assert all(torch.equal(found[key], wanted[key]) for key in wanted.keys() - matrices)
    options = {"dtype": torch.float32}
    for mine, exact in zip(
        run(load_model(str(small), options)), run(load_model(str(plain), options)), strict=True
    ):
        assert 0 < (mine.float() - exact).abs().max() < 0.15 * exact.abs().max()


def broken(tmp_path: Path, change: Callable[..., Any]) -> Path:
    source = folder(tmp_path / "MOVA-tiny")
    change(source)
    return source


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda path: (path / "dual_tower_bridge" / FIRST).unlink(),
            "dual_tower_bridge holds no safetensors",
        ),
        (
            lambda path: (path / "video_dit" / SHARD.format(2)).unlink(),
            "lacks .*00002-of-00002.*which .*index.json",
        ),
        (
            lambda path: save_file({"x": torch.zeros(1)}, path / "video_dit_2" / SHARD.format(2)),
            "video_dit_2 lacks ",
        ),
        (lambda path: (path / "audio_dit" / FIRST).write_bytes(b"<html>"), "cannot be read as safetensors"),
        (lambda path: (path / "audio_dit" / "config.json").write_text("{"), "config.json is no JSON"),
        (
            lambda path: save_file({"x": torch.zeros(1)}, path / "audio_dit" / FIRST),
            "not MOVA as it was published",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path, change: Callable[..., Any], words: str) -> None:
    with pytest.raises(ScriptError, match=words):
        convert_mova.convert(broken(tmp_path, change), tmp_path / "mova.safetensors")
    assert not list(tmp_path.glob("mova*"))


def test_the_settings_of_the_bridge_are_kept(tmp_path: Path) -> None:
    source, output = folder(tmp_path / "MOVA-tiny"), tmp_path / "mova.safetensors"
    settings = {"head_dim": 64, "apply_first_frame_bias_in_rope": True}
    (source / "dual_tower_bridge" / "config.json").write_text(json.dumps(settings))
    convert_mova.convert(source, output)
    with safe_open(output, "pt") as file:
        coupling = read_config(file.metadata()["ccl_config"]).interaction.options
    assert (coupling.head_width, coupling.first_frame_bias) == (64, True)


def test_output_is_never_overwritten_nor_left_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = folder(tmp_path / "MOVA-tiny"), tmp_path / "mova.safetensors"
    output.write_text("mine")
    with pytest.raises(ScriptError, match="is there already"):
        convert_mova.convert(source, output)
    assert output.read_text() == "mine"
    output.unlink()
    (source / "audio_dit" / FIRST).chmod(0o644)
    monkeypatch.setattr(tensor_file.Source, "read", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        convert_mova.convert(source, output)
    assert [path.name for path in tmp_path.iterdir()] == ["MOVA-tiny"]


def test_a_full_disk_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_file, "SPARE_BYTES", 1 << 60)
    with pytest.raises(ScriptError, match=r"GB free, mova\.safetensors needs .* GB"):
        convert_mova.convert(folder(tmp_path / "MOVA-tiny"), tmp_path / "mova.safetensors")
    assert not list(tmp_path.glob("mova*"))


def test_wrong_names_are_said(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="is no folder"):
        convert_mova.convert(tmp_path / "gone", tmp_path / "mova.safetensors")
    with pytest.raises(ScriptError, match=r"does not end in \.safetensors"):
        convert_mova.convert(tmp_path, tmp_path / "mova.gguf")


def test_memory_stays_that_of_one_tensor(tmp_path: Path) -> None:
    """160 tensors of 4 MB, 640 MB in all, in a process of its own that may grow by a tenth of that."""
    script = Path(__file__).parents[1] / "support" / "copy_tensors.py"
    variables = {**os.environ, "PYTHONPATH": str(Path(convert_mova.__file__).parents[1])}
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64_000_000
