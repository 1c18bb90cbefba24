"""scripts/convert_mmaudio.py: real pickles of the published structure, small, into a file that the loader
reads.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ccl_pack.ccl_core.host.vae.audio import load_audio_vae_file
from ccl_pack.ccl_core.host.vae.mmaudio import MMAudioVAE
from ccl_tools import convert_mmaudio
from ccl_tools.console import ScriptError
from ccl_tools.environment import ROOT
from support.tiny_audio_vaes import mmaudio_folded, mmaudio_published, small_mmaudio


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with small_mmaudio():
        yield


@pytest.fixture
def pickles(tmp_path: Path) -> tuple[Path, Path]:
    mel_vae, vocoder = mmaudio_published()
    paths = tmp_path / "v1-16.pth", tmp_path / "best_netG.pt"
    torch.save(mel_vae, paths[0])
    torch.save({"generator": vocoder}, paths[1])
    return paths


def test_the_pickles_become_one_file(
    pickles: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mmaudio.safetensors"
    convert_mmaudio.convert(*pickles, out)
    made, wanted = load_file(out), mmaudio_folded()
    assert set(made) == set(wanted)
    for key, value in wanted.items():
        torch.testing.assert_close(made[key], value, atol=1e-6, rtol=1e-6)
    with safe_open(out, "pt") as file:
        assert file.metadata()["license"] == "CC-BY-NC-4.0"
    vae = load_audio_vae_file(str(out))
    assert isinstance(vae, MMAudioVAE)
    assert torch.isfinite(vae.decode(torch.randn(1, 20, 4))).all()
    shown = capsys.readouterr().out
    assert "reading v1-16.pth and best_netG.pt" in shown
    assert "writing mmaudio.safetensors" in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best_netG.pt",
        "mmaudio.safetensors",
        "v1-16.pth",
    ]


def test_a_converted_file_converted_again_stays_the_same(pickles: tuple[Path, Path], tmp_path: Path) -> None:
    convert_mmaudio.convert(*pickles, tmp_path / "once.safetensors")
    empty = tmp_path / "empty.pt"
    torch.save({"generator": {}}, empty)
    convert_mmaudio.convert(tmp_path / "once.safetensors", empty, tmp_path / "twice.safetensors")
    once, twice = load_file(tmp_path / "once.safetensors"), load_file(tmp_path / "twice.safetensors")
    assert all(torch.equal(once[key], twice[key]) for key in once)


class Dangerous:
    """Unpickled without care, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_pickle_does_not_run(pickles: tuple[Path, Path], tmp_path: Path) -> None:
    torch.save({"weight": Dangerous(tmp_path / "made")}, pickles[0])
    with pytest.raises(ScriptError, match=r"v1-16\.pth cannot be read as tensors"):
        convert_mmaudio.convert(*pickles, tmp_path / "out.safetensors")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"v1-16\.pth is not there[\s\S]*ext_weights"),
        (b"", r"v1-16\.pth cannot be read as tensors[\s\S]*download it again"),
        (b"not a model at all", r"v1-16\.pth cannot be read as tensors[\s\S]*download it again"),
        ([torch.zeros(1)], r"v1-16\.pth holds a list, not named tensors"),
        ({"encoder.conv_in.weight": "text"}, r"v1-16\.pth holds a dict, not named tensors"),
        ({"encoder.conv_in.weight": torch.zeros(8, 80, 3)}, r"lacks the key vae\.data_mean"),
        ({"blocks.0.weight": torch.zeros(2, 2)}, "vocoder of MMAudio without its VAE"),
    ],
)
def test_a_wrong_file_is_named(
    pickles: tuple[Path, Path], tmp_path: Path, content: Any, message: str
) -> None:
    pickles[0].unlink()
    if isinstance(content, bytes):
        pickles[0].write_bytes(content)
    elif content is not None:
        torch.save(content, pickles[0])
    with pytest.raises(ScriptError, match=message):
        convert_mmaudio.convert(*pickles, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_cut_off_file_is_named(pickles: tuple[Path, Path], tmp_path: Path) -> None:
    whole = pickles[1].read_bytes()
    pickles[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScriptError, match=r"best_netG\.pt cannot be read as tensors"):
        convert_mmaudio.convert(*pickles, tmp_path / "out.safetensors")


def test_the_same_file_twice_and_odd_outputs_are_named(pickles: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(
        ScriptError, match=r"both files hold [\s\S]*v1-16\.pth first and best_netG\.pt second"
    ):
        convert_mmaudio.convert(pickles[0], pickles[0], tmp_path / "out.safetensors")
    with pytest.raises(ScriptError, match=r"out\.pth does not end in \.safetensors"):
        convert_mmaudio.convert(*pickles, tmp_path / "out.pth")
    with pytest.raises(ScriptError, match=r"out\.safetensors cannot be written"):
        convert_mmaudio.convert(*pickles, tmp_path / "missing" / "out.safetensors")


def test_the_order_of_the_files_does_not_matter(pickles: tuple[Path, Path], tmp_path: Path) -> None:
    convert_mmaudio.convert(*pickles[::-1], tmp_path / "out.safetensors")
    assert set(load_file(tmp_path / "out.safetensors")) == set(mmaudio_folded())


def test_from_the_command_line_a_fault_is_a_sentence(tmp_path: Path) -> None:
    program = ROOT / "scripts" / "convert_mmaudio.py"
    command = [sys.executable, str(program), "a.pth", "b.pt", str(tmp_path / "out.safetensors")]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Stopped: a.pth is not there" in ended.stderr
    assert "Traceback" not in ended.stderr
