"""The ccl_config metadata entry: read, written, and every field of it checked."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from ccl_pack.ccl_core.config import BridgeOptions, CCAOptions, FusionOptions, InteractionConfig
from ccl_pack.ccl_core.metadata import read_config, write_config
from support.tiny import CONFIG

CHECKPOINT = Path(__file__).parents[1] / "ccl_core" / "checkpoints" / "ccl-tiny.safetensors"
# An entry that version 0.2.0 wrote, of the coupling of Ovi.
SCHEMA_1 = {
    "fps": "24",
    "video": asdict(CONFIG.video),
    "audio": asdict(CONFIG.audio),
    "interaction": {
        "kind": "fusion",
        "layers": [0, 1],
        "context_tokens": 0,
        "head_width": None,
        "first_frame_bias": False,
    },
    "audio_latent": {"vae": "mmaudio", "channels": 8, "rate": "125/4", "sample_rate": 16000},
    "clock": "linear",
    "clock_scale": 0.2,
    "schema": 1,
}


def changed(path: str, value: Any, entry: str | None = None) -> str:
    """The entry with another value at a path such as video.dim."""
    data = json.loads(entry or write_config(CONFIG))
    *folders, name = path.split(".")
    inner = data
    for folder in folders:
        inner = inner[folder]
    inner[name] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    "interaction",
    [
        CONFIG.interaction,
        InteractionConfig("fusion", (0,), FusionOptions()),
        InteractionConfig("bridge", (1,), BridgeOptions(12, True)),
    ],
)
def test_round_trip(interaction: InteractionConfig) -> None:
    config = replace(CONFIG, interaction=interaction, family="ovi", expert_boundary=0.9)
    assert read_config(write_config(config)) == config


def test_schema_1_gets_the_options_of_its_kind_and_the_family_of_its_coupling() -> None:
    config = read_config(json.dumps(SCHEMA_1))
    assert config.interaction == InteractionConfig("fusion", (0, 1), FusionOptions())
    assert (config.family, config.audio_latent.rate) == ("ovi", Fraction(125, 4))


def test_schema_1_of_a_bridge_keeps_its_numbers() -> None:
    flat = SCHEMA_1["interaction"] | {"kind": "bridge", "head_width": 12, "first_frame_bias": True}
    config = read_config(json.dumps(SCHEMA_1 | {"interaction": flat}))
    assert config.interaction.options == BridgeOptions(12, True) and config.family == "mova"


def test_the_shipped_checkpoint_is_read() -> None:
    with safe_open(CHECKPOINT, "pt") as file:
        config = read_config(file.metadata()["ccl_config"])
    assert config.family == "ccl" and config.interaction.options == CCAOptions(16)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", 3, "schema 3, this version of the pack reads 1 to 2"),
        ("schema", None, "schema None"),
        ("family", "sonata", "the family 'sonata', known are ccl"),
        ("clock", "sidereal", "clock 'sidereal'"),
        ("clock", "linear", "the clock 'linear' needs a scale"),
        ("clock_scale", 0.2, "the others have none"),
        ("audio.rope", "spiral", "the rope 'spiral'"),
        ("colour", "red", r"unknown entries \['colour'\]"),
        (
            "interaction.options.colour",
            "red",
            r"ccl_config.interaction.options has the unknown entries \['colour'\]",
        ),
        ("interaction.kind", "telepathy", "the kind 'telepathy', known are cca"),
        ("video", {"dim": 8}, "ccl_config.video is incomplete"),
        ("audio_latent.channels", 9, "takes 8 channels, its latent has 9"),
    ],
)
def test_bad_configuration_is_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("video.num_heads", 0),
        ("video.num_heads", -1),
        ("video.num_heads", True),
        ("video.num_layers", 10**9),
        ("video.num_layers", "7"),
        ("video.num_layers", None),
        ("video.patch_size", 2),
        ("video.patch_size", [1, 2]),
        ("video.dim", 10**9),
        ("video.text_len", 10**9),
        ("video.model_type", 7),
        ("interaction.layers", 3),
        ("interaction.layers", [-1]),
        ("interaction.options.context_tokens", -1),
        ("interaction.options", []),
        ("interaction.kind", []),
        ("audio", []),
        ("fps", float("inf")),
        ("fps", "16/0"),
        ("fps", 0),
        ("fps", "-16"),
        ("audio_latent.rate", -1),
        ("audio_latent.rate", 10**9),
        ("audio_latent.sample_rate", "junk"),
        ("shift", "junk"),
        ("shift", float("nan")),
        ("audio_shift", "x"),
        ("expert_boundary", "x"),
        ("text_encoder", "umt5"),
        ("latent_rgb_factors", [[1.0, 2.0]]),
    ],
)
def test_a_value_of_the_wrong_type_or_size_is_refused_by_its_name(path: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"ccl_config.{path} (is|has)"):
        read_config(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("video.model_type", "s2v", "model_type 's2v', known are t2v, i2v"),
        ("latent_rgb_factors", [], "has 0 latent_rgb_factors, wanted 17"),
        ("latent_rgb_factors", [[1.0, 2.0, 3.0]] * 16, "has 16 latent_rgb_factors, wanted 17"),
    ],
)
def test_a_value_that_no_model_has_is_refused(path: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_config(changed(path, value))


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_text_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ccl_config"):
        read_config(text)
