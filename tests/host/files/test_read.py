"""Reading: shards, damage, other formats; each refusal says what to do."""

from __future__ import annotations

import json
import logging
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ccl_pack.ccl_core.host.files.build import load_model
from ccl_pack.ccl_core.host.files.identify import identify
from ccl_pack.ccl_core.host.files.read import (
    ModelPaths,
    read,
    read_files,
    read_tensors,
    shards,
    without_later_shards,
)
from ccl_pack.ccl_core.metadata import write_config
from support import tiny


def write(
    path: Path, tensors: dict[str, torch.Tensor] | None = None, metadata: dict[str, str] | None = None
) -> Path:
    save_file(tensors or {"x": torch.ones(2)}, path, metadata=metadata)
    return path


def test_first_shard_stands_for_all(tmp_path: Path) -> None:
    for i in range(1, 4):
        write(tmp_path / f"model-0000{i}-of-00003.safetensors", {f"x{i}": torch.full((1,), float(i))})
    for i in (1, 3):
        tensors, metadata = read_tensors(str(tmp_path / f"model-0000{i}-of-00003.safetensors"))
        assert tensors == {f"x{i}": torch.tensor([float(i)]) for i in (1, 2, 3)}
        assert metadata == {}


def test_missing_shards_are_named(tmp_path: Path) -> None:
    write(tmp_path / "model-00002-of-00003.safetensors")
    with pytest.raises(
        ValueError, match=r"model-00001-of-00003\.safetensors, model-00003-of-00003\.safetensors\. Down"
    ):
        read_tensors(str(tmp_path / "model-00002-of-00003.safetensors"))


@pytest.mark.parametrize("name", ["m-00001-of-99999", "m-1-of-9999999", "m-3-of-2", "m-0-of-0", "m-0-of-2"])
def test_a_name_that_counts_wrong_is_refused_at_once(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=rf"{name}\.safetensors has the name of shard \d+ of \d+, wanted"):
        read_tensors(str(path))


def test_of_many_missing_shards_the_first_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m-0002-of-1000.safetensors")
    with pytest.raises(
        ValueError, match=r"m-0001-of-1000\.s\w+, m-0003.*, m-0004.* and 996 more\. Down"
    ) as error:
        read_tensors(str(path))
    assert len(str(error.value)) < 300


def test_shards_of_two_sets_are_told_apart(tmp_path: Path) -> None:
    for i in (1, 2):
        write(tmp_path / f"model-{i}-of-2.safetensors")
    with pytest.raises(
        ValueError, match=r"model-2-of-2\.safetensors holds x, which a shard before it holds too"
    ):
        read_tensors(str(tmp_path / "model-1-of-2.safetensors"))


def test_quantised_layers_of_all_shards_are_kept(tmp_path: Path) -> None:
    for i in (1, 2):
        listed = {"format_version": "1.0", "layers": {f"layer{i}": {"format": "nvfp4"}}}
        write(
            tmp_path / f"m-{i}-of-2.safetensors",
            {f"layer{i}.weight": torch.ones(1)},
            {"_quantization_metadata": json.dumps(listed), f"entry{i}": "x"},
        )
    _, metadata = read_tensors(str(tmp_path / "m-1-of-2.safetensors"))
    assert json.loads(metadata["_quantization_metadata"])["layers"].keys() == {"layer1", "layer2"}
    assert metadata.keys() > {"entry1", "entry2"}


def test_a_file_that_is_no_shard_is_a_set_of_its_own() -> None:
    assert shards("a-1-of-b.safetensors") == ["a-1-of-b.safetensors"]


def test_lists_show_each_set_once() -> None:
    names = [
        "b/model-00002-of-00003.safetensors",
        "b/model-00001-of-00003.safetensors",
        "b/model-00003-of-00003.safetensors",
        "a.safetensors",
        "c/model-00002-of-00002.safetensors",
        "c/model-00001-of-00003.safetensors",
    ]
    assert without_later_shards(names) == [
        "a.safetensors",
        "b/model-00001-of-00003.safetensors",
        "c/model-00001-of-00003.safetensors",
        "c/model-00002-of-00002.safetensors",
    ]


@pytest.mark.parametrize("cut", [4, 30, -1])
def test_truncated_file(tmp_path: Path, cut: Any) -> None:
    path = write(tmp_path / "cut.safetensors")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(
        ValueError, match=r"cut\.safetensors cannot be read as safetensors .* download it again"
    ):
        read_tensors(str(path))


def test_empty_missing_and_tensorless_files(tmp_path: Path) -> None:
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(ValueError, match=r"empty\.safetensors is empty"):
        read_tensors(str(tmp_path / "empty.safetensors"))
    with pytest.raises(ValueError, match=r"gone\.safetensors is gone from"):
        read_tensors(str(tmp_path / "gone.safetensors"))
    save_file({}, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"none\.safetensors holds no tensors"):
        read_tensors(str(tmp_path / "none.safetensors"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.pt", r"model\.pt is not a safetensors file but a pickle.*weights_only=True"),
        ("Wan2.2_VAE.PTH", r"pickle.*weights_only=True"),
        ("v1-16.pth", r"run python scripts/convert_mmaudio\.py"),
        ("best_netG.pt", r"run python scripts/convert_mmaudio\.py"),
        ("model.onnx", r"model\.onnx is not a safetensors file, nor GGUF"),
        ("folder", "not a safetensors file"),
    ],
)
def test_other_formats_are_refused_unread(tmp_path: Path, name: Any, words: Any) -> None:
    with pytest.raises(ValueError, match=words):
        read_tensors(str(tmp_path / name))


def test_a_pickle_under_another_name_is_not_run(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "renamed.safetensors")
    with pytest.raises(
        ValueError, match=r"renamed\.safetensors is not a safetensors file but a pickle under the name of one"
    ):
        read_tensors(str(tmp_path / "renamed.safetensors"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("content", [{"x": [1.0, 2.0]}, OrderedDict(x=1), [1, 2, 3], {}], ids=repr)
def test_a_pickle_of_every_protocol_is_told(tmp_path: Path, protocol: int, content: Any) -> None:
    path = tmp_path / "p.safetensors"
    path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(
        ValueError, match=r"p\.safetensors is not a safetensors file but a pickle .*Convert it"
    ):
        read_tensors(str(path))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_torch_s_own_pickles_are_told(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "p.safetensors"
    torch.save({"x": torch.ones(3)}, path, _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    with pytest.raises(ValueError, match=r"p\.safetensors is not a safetensors file but a pickle"):
        read_tensors(str(path))


@pytest.mark.parametrize(
    "start", [b"<!DOCTYPE html>", b"version https://git-lfs", b"\0" * 64, b"(\0\0\0\0\0\0\0{}"]
)
def test_what_is_no_pickle_is_not_called_one(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "p.safetensors").write_bytes(start)
    with pytest.raises(ValueError, match=r"p\.safetensors cannot be read as safetensors"):
        read_tensors(str(tmp_path / "p.safetensors"))


def test_gguf_without_its_pack_names_it(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"ComfyUI-GGUF"):
        read_tensors(str(tmp_path / "model.gguf"))


def test_read_keeps_other_parts_of_an_all_in_one_file_apart(tmp_path: Path) -> None:
    tensors = {f"model.diffusion_model.{key}": value for key, value in tiny.state_dict(tiny.CONFIG).items()}
    tensors |= {"vae.x": tensors["model.diffusion_model.head.modulation"].clone()}
    save_file(tensors, tmp_path / "all.safetensors", metadata={"ccl_config": write_config(tiny.CONFIG)})
    found = read(str(tmp_path / "all.safetensors"))
    assert found.bundled["vae."].keys() == {"x"}
    assert (identify(found).family, identify(found).config) == ("ccl", tiny.CONFIG)
    with pytest.raises(ValueError, match=r"all\.safetensors holds no text encoder"):
        found.bundle("text_encoders.", "text encoder")


def test_roles_without_a_file_are_left_out(tmp_path: Path) -> None:
    path = str(tiny.write(tmp_path / "tiny.safetensors"))
    assert read_files(ModelPaths(path)).keys() == {"video"}


PREFERENCE = torch.tensor(list(b'[{"attention": "comfy_kitchen_int8"}]'), dtype=torch.uint8)


def test_preferences_of_attention_are_no_weights_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stated = {f"blocks.{i}.self_attn.comfy_attention.config": PREFERENCE.clone() for i in range(3)}
    lora = {"blocks.0.self_attn.q.config": PREFERENCE}
    path = write(tmp_path / "model.safetensors", {"x": torch.ones(2)} | stated | lora)
    with caplog.at_level(logging.INFO):
        tensors, _ = read_tensors(str(path))
    assert list(tensors) == ["x"]
    (record,) = caplog.records
    assert record.getMessage().startswith("model.safetensors states 4 preferences of attention")


def test_a_model_with_preferences_is_the_model_without(tmp_path: Path) -> None:
    tensors = tiny.state_dict(tiny.CONFIG)
    stated = {
        f"{key.removesuffix('.q.weight')}.comfy_attention.config": PREFERENCE.clone()
        for key in tensors
        if key.endswith("attn.q.weight")
    }
    assert len(stated) > 4
    path = write(tmp_path / "a.safetensors", tensors | stated, {"ccl_config": write_config(tiny.CONFIG)})
    model = load_model(str(path)).model.diffusion_model
    assert all(torch.equal(value, tensors[key]) for key, value in model.state_dict().items())


def test_a_file_of_preferences_alone_holds_no_tensors(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", {"a.comfy_attention.config": PREFERENCE})
    with pytest.raises(ValueError, match=r"model\.safetensors holds no tensors"):
        read_tensors(str(path))
