"""The ccl_config metadata entry."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from ccl_pack.ccl_core.config import CCLConfig
from tiny import CONFIG


def test_round_trip():
    assert CCLConfig.from_json(CONFIG.to_json()) == CONFIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2"),
        ({"clock": "sidereal"}, "clock 'sidereal'"),
        ({"clock": "linear"}, "the clock 'linear' needs a scale"),
        ({"clock_scale": 0.2}, "the others have none"),
        ({"audio": asdict(CONFIG.audio) | {"rope": "spiral"}}, "the rope 'spiral'"),
        ({"colour": "red"}, r"unknown entries \['colour'\]"),
        ({"video": {"dim": 8}}, "ccl_config.video is incomplete"),
        (
            {"audio_latent": {"vae": "vocos", "channels": 9, "rate": "32", "sample_rate": 16000}},
            "takes 8 channels, its latent has 9",
        ),
    ],
)
def test_bad_configuration_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        CCLConfig.from_json(json.dumps(json.loads(CONFIG.to_json()) | change))


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_text_that_is_no_object_is_refused(text):
    with pytest.raises(ValueError, match="ccl_config"):
        CCLConfig.from_json(text)
