"""CCLLoraLoader: its schema, and files from the host's folder on a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from safetensors.torch import save_file

from ccl_pack.nodes.lora import CCLLoraLoader
from support import tiny

VIDEO, AUDIO, COUPLING = "blocks.0.ffn.0", "audio.blocks.0.ffn.0", "interaction.0.a2v.v"
pytestmark = pytest.mark.usefixtures("loras")
SIZES = {VIDEO: (64, 48), AUDIO: (48, 32), COUPLING: (48, 32)}


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return tiny.patcher()


@pytest.fixture
def loras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """models/loras of the host, with a LoRA of ones for one weight of each part, and a pickle."""
    tensors = {}
    for key, (rows, columns) in SIZES.items():
        tensors[f"diffusion_model.{key}.lora_A.weight"] = torch.ones(1, columns)
        tensors[f"diffusion_model.{key}.lora_B.weight"] = torch.ones(rows, 1)
    save_file(tensors, tmp_path / "ones.safetensors")
    torch.save({"lora_state_dict": {}}, tmp_path / "pickle.pt")
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors", ".pt"})
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def run(model: ModelPatcher, **inputs: Any) -> ModelPatcher:
    """As the host calls it: on a clone of the class that refuses changes."""
    return CCLLoraLoader.PREPARE_CLASS_CLONE({"hidden_inputs": {}}).execute(model, **inputs)[0]


def change(patched: ModelPatcher, model: ModelPatcher, key: str) -> torch.Tensor:
    name = f"diffusion_model.{key}.weight"
    return patched.patch_weight_to_device(name, return_weight=True) - model.model.state_dict()[name]


def test_schema() -> None:
    schema = CCLLoraLoader.GET_SCHEMA()
    inputs = {entry.id: entry for entry in schema.inputs}
    assert list(inputs) == [
        "model",
        "lora_name",
        "strength_video",
        "strength_audio",
        "strength_coupling",
        "expert",
    ]
    assert all(part.tooltip for part in [*schema.inputs, *schema.outputs])
    for name in ("strength_video", "strength_audio", "strength_coupling"):
        entry = inputs[name]
        assert (entry.default, entry.min, entry.max, entry.step) == (1.0, -100.0, 100.0, 0.01)
    assert inputs["expert"].options == ["both", "high noise", "low noise"]
    assert inputs["expert"].default == "both" and inputs["expert"].advanced


def test_only_safetensors_are_offered() -> None:
    assert next(
        entry for entry in CCLLoraLoader.define_schema().inputs if entry.id == "lora_name"
    ).options == ["ones.safetensors"]


def test_each_strength_reaches_its_part(model: ModelPatcher) -> None:
    patched = run(
        model, lora_name="ones.safetensors", strength_video=0.5, strength_audio=-2.0, strength_coupling=3.0
    )
    for key, strength in ((VIDEO, 0.5), (AUDIO, -2.0), (COUPLING, 3.0)):
        torch.testing.assert_close(change(patched, model, key), torch.full(SIZES[key], strength))
    assert not model.patches


def test_without_further_inputs_every_part_counts_in_full(model: ModelPatcher) -> None:
    patched = run(model, lora_name="ones.safetensors")
    for key, size in SIZES.items():
        torch.testing.assert_close(change(patched, model, key), torch.ones(size))


def test_all_strengths_zero_give_the_model_itself(model: ModelPatcher) -> None:
    zero = dict.fromkeys(("strength_video", "strength_audio", "strength_coupling"), 0.0)
    assert run(model, lora_name="ones.safetensors", **zero) is model


def test_a_second_run_reads_no_file_and_the_class_keeps_none(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.utils

    read, load = [], comfy.utils.load_torch_file
    monkeypatch.setattr(
        comfy.utils, "load_torch_file", lambda path, **more: read.append(path) or load(path, **more)
    )
    before = set(vars(CCLLoraLoader))
    run(model, lora_name="ones.safetensors", strength_video=0.5)
    run(model, lora_name="ones.safetensors", strength_video=0.6)
    assert len(read) == 1 and set(vars(CCLLoraLoader)) == before


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        ({"lora_name": "absent.safetensors"}, FileNotFoundError, "absent"),
        ({"lora_name": "pickle.pt"}, ValueError, r"pickle\.pt is not a safetensors file"),
        (
            {"lora_name": "ones.safetensors", "expert": "low noise"},
            ValueError,
            "this model has one video expert",
        ),
    ],
)
def test_refusals(model: ModelPatcher, inputs: dict[str, str], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        run(model, **inputs)
