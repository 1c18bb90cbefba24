"""The loader nodes: what they list, and what reaches the loaders from their widgets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

import nodes as host_nodes
from ccl_pack import nodes
from ccl_pack.ccl_core.host.experts import low_noise_of
from ccl_pack.nodes import loaders
from ccl_tools import published as p
from support.tiny import write


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of diffusion models that the host and the nodes see."""
    folders = folder_paths.folder_names_and_paths[loaders.MODELS][0]
    before = folders[:]
    folders[:] = [str(tmp_path)]
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    yield tmp_path
    folders[:] = before


def options(node: type, name: str) -> list[str]:
    return next(item for item in node.define_schema().inputs if item.id == name).options


def test_lists_hold_safetensors_gguf_and_each_set_of_shards_once(models: Path) -> None:
    (models / "mova").mkdir()
    for name in ("a.safetensors", "b.GGUF", "c.gguf", "d.pt", "e.sft", "f.txt"):
        (models / name).touch()
    for i in (1, 2, 3):
        (models / "mova" / f"m-0000{i}-of-00003.safetensors").touch()
    wanted = {"a.safetensors", "b.GGUF", "c.gguf", "e.sft", "mova/m-00001-of-00003.safetensors"}
    found = {name.replace("\\", "/") for name in options(loaders.CCLModelLoader, "unet_name")}
    assert found == wanted
    assert options(loaders.CCLModelAssembler, "video_model") == options(loaders.CCLModelLoader, "unet_name")
    for part in ("audio_stream", "interaction", "low_noise_model"):
        assert options(loaders.CCLModelAssembler, part) == [
            "none",
            *options(loaders.CCLModelLoader, "unet_name"),
        ]


def test_models_of_the_pack_stand_beside_those_of_a_person_and_give_way_to_them(
    models: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path_factory.mktemp("pack") / "diffusion_models"
    inside.mkdir()
    monkeypatch.setattr(nodes, "DIFFUSION_MODELS", inside)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([], set()))
    asyncio.run(nodes.CCLExtension().on_load())
    write(inside / "ours.safetensors")
    for folder in (models, inside):
        write(folder / "both.safetensors")
    wanted = ["both.safetensors", "ours.safetensors"]
    assert options(loaders.CCLModelLoader, "unet_name") == wanted
    assert host_nodes.UNETLoader.INPUT_TYPES()["required"]["unet_name"][0] == wanted
    assert folder_paths.get_full_path("diffusion_models", wanted[0]) == str(models / wanted[0])
    assert loaders.CCLModelLoader.execute(unet_name=wanted[1]).result[0].model.ccl_config
    assert folder_paths.get_folder_paths("checkpoints") == [str(nodes.CHECKPOINTS)]


def test_the_hosts_own_list_of_models_stays_as_it_is(models: Path) -> None:
    (models / "c.gguf").touch()
    options(loaders.CCLModelLoader, "unet_name")
    assert "c.gguf" not in folder_paths.get_filename_list("diffusion_models")


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_model_loader_keeps_weights_in_the_chosen_type(models: Path, name: str, dtype: torch.dtype) -> None:
    write(models / "tiny.safetensors")
    (model,) = loaders.CCLModelLoader.execute(unet_name="tiny.safetensors", weight_dtype=name).result
    assert model.model.get_dtype() is dtype


def test_assembler_puts_mova_together(models: Path) -> None:
    shapes = {
        "video": p.wan(p.TINY_MOVA_VIDEO),
        "audio": p.audio_tower(p.TINY_MOVA_AUDIO),
        "bridge": p.bridge(*p.TINY_MOVA),
        "low": p.wan(p.TINY_MOVA_VIDEO),
    }
    for seed, (name, table) in enumerate(shapes.items()):
        save_file(p.weights(table, seed), models / f"{name}.safetensors")
    (model,) = loaders.CCLModelAssembler.execute(
        video_model="video.safetensors",
        audio_stream="audio.safetensors",
        interaction="bridge.safetensors",
        low_noise_model="low.safetensors",
    ).result
    wanted = p.weights(shapes["low"], 3)["head.modulation"]
    assert torch.equal(low_noise_of(model).model.diffusion_model.head.modulation.float(), wanted)


def test_assembler_takes_a_part_from_the_video_file(models: Path) -> None:
    save_file(p.weights(p.ovi(*p.TINY_OVI)), models / "ovi.safetensors")
    (model,) = loaders.CCLModelAssembler.execute(video_model="ovi.safetensors").result
    assert model.model.ccl_config.interaction.kind == "fusion"
    assert low_noise_of(model) is None


def test_faults_reach_the_user_as_they_are_worded(models: Path) -> None:
    save_file(p.weights(p.wan(p.TINY_WAN)), models / "wan.safetensors")
    with pytest.raises(
        ValueError, match=r"wan\.safetensors is a Wan model without an audio stream: use Load Diffusion"
    ):
        loaders.CCLModelLoader.execute(unet_name="wan.safetensors")
    with pytest.raises(ValueError, match="the files hold no audio and no interaction"):
        loaders.CCLModelAssembler.execute(video_model="wan.safetensors")
    with pytest.raises(FileNotFoundError, match="gone"):
        loaders.CCLModelLoader.execute(unet_name="gone.safetensors")


def test_gguf_without_its_pack_names_the_pack(models: Path) -> None:
    (models / "wan.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="install ComfyUI-GGUF"):
        loaders.CCLModelAssembler.execute(video_model="wan.gguf")
