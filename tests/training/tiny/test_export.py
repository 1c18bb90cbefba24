"""The all-in-one file comes apart into its encoders, and a trained one becomes the file to ship."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ccl_pack.ccl_core.host.files.build import load_model
from ccl_pack.ccl_core.host.vae.audio import load_audio_vae
from ccl_pack.ccl_core.host.vae.text_encoder import load_text_encoder
from ccl_pack.ccl_core.metadata import read_config
from ccl_pack.ccl_core.training.tiny.export import (
    ENCODERS,
    metadata,
    publish,
    publish_model,
    unpack,
)
from ccl_pack.ccl_core.training.world.evaluate import lesson
from ccl_tools.environment import ROOT

CHECKPOINT = ROOT / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"


def test_a_published_file_has_its_tensors_the_colours_and_the_lesson(tmp_path: Path) -> None:
    rgb = torch.tensor(read_config(metadata(CHECKPOINT)["ccl_config"]).latent_rgb_factors)
    shipped = load_file(CHECKPOINT)
    single = tmp_path / "single.safetensors"
    wide = {key: value.float() if value.is_floating_point() else value for key, value in shipped.items()}
    save_file(wide, single, metadata=metadata(CHECKPOINT))
    again = publish(single, rgb, tmp_path / "again.safetensors")
    first, second = shipped, load_file(again)
    assert first.keys() == second.keys()
    assert all(
        first[key].dtype == second[key].dtype and torch.equal(first[key], second[key]) for key in first
    )
    said, found = metadata(CHECKPOINT), metadata(again)
    assert read_config(found.pop("ccl_config")) == read_config(said.pop("ccl_config"))
    assert found.pop("lesson") == lesson().to_json()
    assert found == {key: value for key, value in said.items() if key != "lesson"}


def test_a_model_alone_is_in_half_precision_and_loads_without_its_encoders(tmp_path: Path) -> None:
    colours = torch.arange(51.0).reshape(17, 3)
    save = tmp_path / "save.safetensors"
    wide = {key: value.float() for key, value in load_file(CHECKPOINT).items() if value.is_floating_point()}
    save_file(wide, save, metadata=metadata(CHECKPOINT))
    alone = publish_model(save, colours, tmp_path / "alone.safetensors")
    found = load_file(alone)
    assert {value.dtype for value in found.values()} == {torch.float16}
    assert found.keys() == {key for key in wide if not key.startswith(tuple(ENCODERS))}
    assert metadata(alone).keys() == {"ccl_config", "format"}
    config = load_model(str(alone), {}).model.ccl_config
    assert config.latent_rgb_factors == tuple(map(tuple, colours.tolist())) and config.text_encoder is None


def test_the_host_loads_unpacked_encoders(tmp_path: Path) -> None:
    unpack(CHECKPOINT, tmp_path)
    audio, text = tmp_path / ENCODERS["audio_vae."], tmp_path / ENCODERS["text_encoders."]
    vae = load_audio_vae(load_file(audio), metadata(audio))
    config = read_config(metadata(CHECKPOINT)["ccl_config"])
    channels = config.audio_latent.channels
    assert vae.first_stage_model.encode(torch.zeros(1, 1, 8000)).shape[:2] == (1, channels)
    clip = load_text_encoder(load_file(text), json.loads(metadata(text)["text_encoder"]))
    ((cond, _),) = clip.encode_from_tokens_scheduled(clip.tokenize("a red ball bounces, drum"))
    assert cond.shape == (1, config.text_encoder["min_length"], config.video.text_dim)


def test_encoders_that_are_there_are_kept(tmp_path: Path) -> None:
    own = tmp_path / ENCODERS["vae."]
    save_file({"mine": torch.zeros(1)}, own)
    unpack(CHECKPOINT, tmp_path)
    assert list(load_file(own)) == ["mine"]
    assert all((tmp_path / name).exists() for name in ENCODERS.values())
