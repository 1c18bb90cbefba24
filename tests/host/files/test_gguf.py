"""GGUF models: what is said without ComfyUI-GGUF, and a real file through a pack with its interface
(gguf_pack.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher

from ccl_pack.ccl_core.host.files import build, gguf
from ccl_pack.ccl_core.host.files.read import read_tensors
from ccl_pack.ccl_core.metadata import write_config
from support.gguf_files import write
from support.tiny import CONFIG, config, latents, state_dict

CHOSEN = config(
    video=replace(CONFIG.video, dim=64, ffn_dim=96, text_dim=32),
    audio=replace(CONFIG.audio, text_dim=32, ffn_dim=64),
)


@pytest.mark.parametrize("ask", [gguf.read, lambda _: gguf.operations(), lambda _: gguf.patcher_class()])
def test_without_the_pack_it_is_named(tmp_path: Path, ask: Callable[..., Any]) -> None:
    with pytest.raises(
        ValueError, match=r"ComfyUI-GGUF, which reads those, is not loaded: install ComfyUI-GGUF"
    ):
        ask(str(tmp_path / "model.gguf"))


def test_loader_names_the_pack(tmp_path: Path) -> None:
    write(tmp_path / "tiny.gguf", state_dict(CHOSEN), {"general.architecture": "wan"})
    with pytest.raises(ValueError, match=r"tiny\.gguf is a GGUF file.*install ComfyUI-GGUF"):
        build.load_model(str(tmp_path / "tiny.gguf"))


def test_another_pack_with_such_a_node_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    import nodes

    monkeypatch.setitem(
        nodes.NODE_CLASS_MAPPINGS, "UnetLoaderGGUF", type("Other", (), {"__module__": __name__})
    )
    with pytest.raises(
        ValueError, match=r"has no gguf_sd_loader, GGMLOps, GGUFModelPatcher: wanted is the pack"
    ):
        gguf.operations()


@pytest.mark.usefixtures("gguf_pack")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a model", "magic"),
        ("cut", "cut off"),
        ("flux", "Unexpected architecture type in GGUF file: 'flux'"),
    ],
)
def test_what_the_pack_refuses_is_said_with_a_remedy(
    tmp_path: Path, content: bytes | str, words: str
) -> None:
    path = tmp_path / "bad.gguf"
    write(path, state_dict(CHOSEN), {"general.architecture": "flux" if content == "flux" else "wan"})
    if content == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"cannot read bad\.gguf \(.*{words}.*\): .* use fp8 or int8 safetensors"
    ):
        gguf.read(str(path))


@pytest.mark.usefixtures("gguf_pack")
def test_only_matrices_stay_quantised(tmp_path: Path) -> None:
    held = write(tmp_path / "a.gguf", state_dict(CHOSEN), {"general.architecture": "wan"})
    sd, metadata = gguf.read(str(tmp_path / "a.gguf"))
    assert metadata == {}
    quantised = {key for key, value in sd.items() if type(value) is not torch.Tensor}
    assert quantised == {key for key, value in held.items() if value.ndim == 2 and key.endswith(".weight")}
    assert {key: tuple(value.shape) for key, value in sd.items()} == {
        key: tuple(value.shape) for key, value in held.items()
    }
    assert all(torch.equal(sd[key], held[key]) for key in set(sd) - quantised)


@pytest.mark.usefixtures("gguf_pack")
def test_preferences_of_attention_are_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stated = {"blocks.0.self_attn.comfy_attention.config": torch.zeros(36)}
    path = tmp_path / "a.gguf"
    write(path, state_dict(CHOSEN) | stated, {"general.architecture": "wan"})
    with caplog.at_level(logging.INFO):
        tensors, _ = read_tensors(str(path))
    assert tensors.keys() == state_dict(CHOSEN).keys()
    assert "a.gguf states 1 preferences of attention" in caplog.text


@pytest.mark.usefixtures("gguf_pack")
def test_model_computes_what_its_file_holds(tmp_path: Path) -> None:
    path = str(tmp_path / "tiny.gguf")
    fields = {"general.architecture": "wan", "ccl_config": write_config(CHOSEN)}
    held = write(tmp_path / "tiny.gguf", state_dict(CHOSEN), fields)
    assert gguf.read(path)[1] == {"ccl_config": write_config(CHOSEN)}
    patcher = build.load_model(path)
    assert type(patcher) is gguf.patcher_class()
    assert type(patcher.clone()) is gguf.patcher_class()
    found = forward(patcher)
    for mine, wanted in zip(found, forward(plain(held)), strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=0)
    exact = forward(plain(state_dict(CHOSEN)))
    assert all((mine - other).abs().max() > 1e-3 for mine, other in zip(found, exact, strict=True))


def plain(sd: dict[str, torch.Tensor]) -> ModelPatcher:
    options = {"dtype": torch.float32}
    return build.build_model(sd, CHOSEN, "plain", {}, options, True)


def forward(patcher: ModelPatcher) -> list[torch.Tensor]:
    video, audio = latents()
    text = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return patcher.model.diffusion_model(
            [video, audio], torch.tensor([400.0]), context=text, transformer_options={}
        )


@pytest.mark.usefixtures("gguf_pack")
def test_a_gguf_model_is_not_saved(tmp_path: Path) -> None:
    metadata = {"general.architecture": "wan", "ccl_config": write_config(CHOSEN)}
    write(tmp_path / "a.gguf", state_dict(CHOSEN), metadata)
    model = build.load_model(str(tmp_path / "a.gguf"))
    with pytest.raises(
        ValueError, match=r"from a GGUF file, whose weights ComfyUI cannot write.*safetensors"
    ):
        comfy.sd.save_checkpoint(str(tmp_path / "saved.safetensors"), model)
    assert not (tmp_path / "saved.safetensors").exists()
