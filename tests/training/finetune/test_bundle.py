"""Encoders go into an all-in-one file as they are: those of a checkpoint, and those named in their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ccl_pack.ccl_core.training.finetune.bundle import bundle
from ccl_pack.ccl_core.training.finetune.settings import EncoderSettings
from ccl_pack.ccl_core.training.tiny.export import metadata
from ccl_tools.environment import ROOT
from support.ccl_tiny import CCL_TINY

CHECKPOINT = ROOT / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"
NEXT = ROOT / "ccl_core" / "checkpoints" / "encoders"


def test_encoders_of_a_checkpoint_are_taken_with_what_they_say() -> None:
    made = bundle(EncoderSettings(checkpoint=str(CHECKPOINT)), CCL_TINY)
    whole = load_file(CHECKPOINT)
    assert all(torch.equal(value, whole[key]) for key, value in made.tensors.items())
    assert json.loads(made.metadata["vocos_config"])["hop_length"] == 500
    assert made.config.text_encoder["min_length"] == 40


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("audio_vae", "audio_vae."), ("text_encoder", "text_encoders."), ("video_vae", "vae.")],
)
def test_a_file_in_the_place_of_an_encoder_brings_its_tensors_and_what_it_says(
    name: str, prefix: str
) -> None:
    path = NEXT / f"{name}.safetensors"
    made = bundle(EncoderSettings(checkpoint=str(CHECKPOINT), **{name: str(path)}), CCL_TINY)
    own = {key.removeprefix(prefix) for key in made.tensors if key.startswith(prefix)}
    assert own == load_file(path).keys()
    hop = json.loads(made.metadata["vocos_config"])["hop_length"]
    assert hop == (250 if name == "audio_vae" else 500)
    assert made.config.text_encoder["min_length"] == (48 if name == "text_encoder" else 40)


def test_an_audio_vae_that_says_nothing_does_not_get_what_that_of_the_checkpoint_says(
    tmp_path: Path,
) -> None:
    silent = tmp_path / "silent.safetensors"
    save_file(load_file(NEXT / "audio_vae.safetensors"), silent)
    assert "vocos_config" in metadata(NEXT / "audio_vae.safetensors")
    made = bundle(EncoderSettings(checkpoint=str(CHECKPOINT), audio_vae=str(silent)), CCL_TINY)
    assert "vocos_config" not in made.metadata
