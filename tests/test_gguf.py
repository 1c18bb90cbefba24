"""GGUF models: what is said without ComfyUI-GGUF, and a real file through a pack with its interface (gguf_pack.py)."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ccl_pack.ccl_core.host import checkpoint, gguf
from tiny import CONFIG, config, latents, state_dict

PACK = Path(__file__).parent / "gguf_pack.py"
F32, Q8_0, BF16 = 0, 8, 30
CHOSEN = config(
    video=replace(CONFIG.video, dim=64, ffn_dim=96, text_dim=32),
    audio=replace(CONFIG.audio, text_dim=32, ffn_dim=64),
)


def q8_0(value: torch.Tensor) -> tuple[bytes, torch.Tensor]:
    """Blocks of 32 numbers: a float16 scale and 32 int8; and what they stand for."""
    blocks = value.reshape(-1, 32)
    scale = (blocks.abs().amax(1, keepdim=True) / 127).half()
    numbers = (blocks / scale.float()).round().clamp(-127, 127).to(torch.int8)
    data = torch.cat([scale.view(torch.uint8), numbers.view(torch.uint8)], dim=1)
    return data.numpy().tobytes(), (scale.float() * numbers).reshape(value.shape)


def encoded(value: torch.Tensor) -> tuple[int, bytes, torch.Tensor]:
    """As converters choose: matrices quantised, other tensors of several axes bfloat16, vectors float32."""
    if value.ndim == 2:
        return Q8_0, *q8_0(value)
    if value.ndim > 2:
        half = value.bfloat16()
        return BF16, half.view(torch.uint8).numpy().tobytes(), half.float()
    return F32, value.numpy().tobytes(), value


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def write(path: Path, sd: dict[str, torch.Tensor], fields: dict[str, str]) -> dict[str, torch.Tensor]:
    """A GGUF file of version 3; returns the numbers that it holds."""
    infos, data, held = b"", b"", {}
    for name, value in sd.items():
        kind, raw, held[name] = encoded(value)
        data += b"\0" * (-len(data) % 32)
        infos += text(name) + struct.pack(f"<I{value.ndim}QIQ", value.ndim, *reversed(value.shape), kind, len(data))
        data += raw
    head = b"GGUF" + struct.pack("<IQQ", 3, len(sd), len(fields))
    head += b"".join(text(name) + struct.pack("<I", 8) + text(value) for name, value in fields.items()) + infos
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)
    return held


@pytest.fixture
def pack():
    """The stand-in, loaded by the host as any custom node."""
    import nodes

    before = dict(nodes.NODE_CLASS_MAPPINGS)
    assert asyncio.run(nodes.load_custom_node(str(PACK)))
    yield nodes.NODE_CLASS_MAPPINGS["UnetLoaderGGUF"]
    nodes.NODE_CLASS_MAPPINGS.clear()
    nodes.NODE_CLASS_MAPPINGS.update(before)


@pytest.mark.parametrize("ask", [gguf.read, lambda _: gguf.operations(), lambda _: gguf.patcher_class()])
def test_without_the_pack_it_is_named(tmp_path, ask):
    with pytest.raises(ValueError, match=r"ComfyUI-GGUF, which reads those, is not loaded: install ComfyUI-GGUF"):
        ask(str(tmp_path / "model.gguf"))


def test_loader_names_the_pack(tmp_path):
    write(tmp_path / "tiny.gguf", state_dict(CHOSEN), {"general.architecture": "wan"})
    with pytest.raises(ValueError, match="install ComfyUI-GGUF"):
        checkpoint.load_model(str(tmp_path / "tiny.gguf"))


def test_another_pack_with_such_a_node_is_told_apart(monkeypatch):
    import nodes

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "UnetLoaderGGUF", type("Other", (), {"__module__": __name__}))
    with pytest.raises(ValueError, match=r"has no gguf_sd_loader, GGMLOps, GGUFModelPatcher: wanted is the pack"):
        gguf.operations()


@pytest.mark.usefixtures("pack")
@pytest.mark.parametrize(
    ("content", "words"),
    [(b"not a model", "magic"), ("cut", "cut off"), ("flux", "Unexpected architecture type in GGUF file: 'flux'")],
)
def test_what_the_pack_refuses_is_said_with_a_remedy(tmp_path, content, words):
    path = tmp_path / "bad.gguf"
    write(path, state_dict(CHOSEN), {"general.architecture": "flux" if content == "flux" else "wan"})
    if content == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"cannot read bad\.gguf \(.*{words}.*\): .* use fp8 or int8 safetensors"):
        gguf.read(str(path))


@pytest.mark.usefixtures("pack")
def test_only_matrices_stay_quantised(tmp_path):
    held = write(tmp_path / "a.gguf", state_dict(CHOSEN), {"general.architecture": "wan"})
    sd, metadata = gguf.read(str(tmp_path / "a.gguf"))
    assert metadata == {}
    quantised = {key for key, value in sd.items() if type(value) is not torch.Tensor}
    assert quantised == {key for key, value in held.items() if value.ndim == 2 and key.endswith(".weight")}
    assert {key: tuple(value.shape) for key, value in sd.items()} == {
        key: tuple(value.shape) for key, value in held.items()
    }
    assert all(torch.equal(sd[key], held[key]) for key in set(sd) - quantised)


@pytest.mark.usefixtures("pack")
def test_model_computes_what_its_file_holds(tmp_path):
    path = str(tmp_path / "tiny.gguf")
    fields = {"general.architecture": "wan", "ccl_config": CHOSEN.to_json()}
    held = write(tmp_path / "tiny.gguf", state_dict(CHOSEN), fields)
    assert gguf.read(path)[1] == {"ccl_config": CHOSEN.to_json()}
    patcher = checkpoint.load_model(path)
    assert type(patcher) is gguf.patcher_class()
    assert type(patcher.clone()) is gguf.patcher_class()
    found = forward(patcher)
    for mine, wanted in zip(found, forward(plain(held)), strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=0)
    exact = forward(plain(state_dict(CHOSEN)))
    assert all((mine - other).abs().max() > 1e-3 for mine, other in zip(found, exact, strict=True))


def plain(sd: dict[str, torch.Tensor]):
    options = {"dtype": torch.float32}
    return checkpoint.build_model(sd, CHOSEN, "plain", {}, options, True)


def forward(patcher) -> list[torch.Tensor]:
    video, audio = latents()
    text = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return patcher.model.diffusion_model(
            [video, audio], torch.tensor([400.0]), context=text, transformer_options={}
        )
