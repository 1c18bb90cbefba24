"""Encoders go into an all-in-one file as they are: those of a checkpoint, and those named in their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ccl_pack.ccl_core.metadata import read_config
from ccl_pack.ccl_core.training.finetune.bundle import bundle
from ccl_pack.ccl_core.training.finetune.settings import EncoderSettings
from ccl_pack.ccl_core.training.tiny.export import metadata, unpack
from ccl_tools.environment import ROOT
from support.ccl_tiny import CCL_TINY

CHECKPOINT = ROOT / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"
# What each encoder's file says of itself in these tests, by the name of the setting.
SAID = {
    "audio_vae": {"vocos_config": json.dumps(json.loads(metadata(CHECKPOINT)["vocos_config"]) | {"gain": 3})},
    "text_encoder": {"text_encoder": json.dumps({"min_length": 7})},
    "video_vae": {},
}


def encoder(folder: Path, name: str, said: dict[str, str]) -> Path:
    """An encoder of the checkpoint in a file of its own, with one more tensor."""
    unpack(CHECKPOINT, folder)
    path = folder / f"{name}.safetensors"
    save_file(load_file(path) | {"own": torch.ones(2)}, path, metadata=said)
    return path


def test_encoders_of_a_checkpoint_are_taken_with_what_they_say() -> None:
    made = bundle(EncoderSettings(checkpoint=str(CHECKPOINT)), CCL_TINY)
    whole = load_file(CHECKPOINT)
    assert all(torch.equal(value, whole[key]) for key, value in made.tensors.items())
    assert made.metadata["vocos_config"] == metadata(CHECKPOINT)["vocos_config"]
    assert made.config.text_encoder == read_config(metadata(CHECKPOINT)["ccl_config"]).text_encoder


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("audio_vae", "audio_vae."), ("text_encoder", "text_encoders."), ("video_vae", "vae.")],
)
def test_a_file_in_the_place_of_an_encoder_brings_its_tensors_and_what_it_says(
    name: str, prefix: str, tmp_path: Path
) -> None:
    path = encoder(tmp_path, name, SAID[name])
    made = bundle(EncoderSettings(checkpoint=str(CHECKPOINT), **{name: str(path)}), CCL_TINY)
    own = {key.removeprefix(prefix) for key in made.tensors if key.startswith(prefix)}
    assert own == load_file(path).keys() and "own" in own
    said = json.loads(made.metadata["vocos_config"]).get("gain"), made.config.text_encoder["min_length"]
    before = read_config(metadata(CHECKPOINT)["ccl_config"]).text_encoder["min_length"]
    assert said == (3 if name == "audio_vae" else None, 7 if name == "text_encoder" else before)


def test_an_audio_vae_that_says_nothing_does_not_get_what_that_of_the_checkpoint_says(
    tmp_path: Path,
) -> None:
    silent = encoder(tmp_path, "audio_vae", {})
    made = bundle(EncoderSettings(checkpoint=str(CHECKPOINT), audio_vae=str(silent)), CCL_TINY)
    assert "vocos_config" not in made.metadata
