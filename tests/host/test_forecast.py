"""What the sampler says of a run as it starts."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import pytest
import torch

from ccl_pack.ccl_core.guidance import TermScale
from ccl_pack.ccl_core.host.forecast import forecast, tell_of_run
from ccl_pack.ccl_core.host.guider import AVGuider
from ccl_pack.ccl_core.memory import Machine
from support import tiny

model = cache(tiny.patcher)
UCG = {"text": TermScale(3.0, 3.0), "cross": TermScale(2.0, 2.0)}


def guider(mode: str = "cfg", settings: dict[str, TermScale] | None = None, patcher: Any = None) -> AVGuider:
    made = AVGuider(patcher or model())
    made.set_guidance(mode, {"text": TermScale(4.0, 3.0)} if settings is None else settings)
    return made


def card(vram: int) -> Machine:
    """A card with this much of its memory free."""
    return Machine("a card", ram_free=2**36, ram_total=2**36, vram_free=vram, vram_total=2**34)


@pytest.mark.parametrize(
    ("mode", "settings", "words"),
    [
        ("cfg", None, "2 passes per step, 2.0x the work."),
        ("cfg", {}, "1 pass per step, 1.0x the work."),
        ("ucg", UCG, "3 passes per step, 3.0x the work."),
    ],
)
def test_it_counts_the_passes_of_a_mode(mode: str, settings: dict[str, TermScale] | None, words: str) -> None:
    text, fits = forecast(guider(mode, settings), tiny.av_latent(), 30)
    assert text.splitlines() == [
        words,
        "Fits whole in RAM.",
        f"Guidance {mode}, 30 steps. 1x is a step without guidance.",
    ]
    assert fits


def test_guidance_of_a_part_of_the_run_is_said_to_be_one() -> None:
    text, _ = forecast(guider("ucg_joint", {"joint": TermScale(3.0, 3.0, end=0.5)}), tiny.av_latent(), 30)
    assert "Guidance ucg_joint, in the part of the run where it counts, 30 steps" in text


def test_guidance_of_the_sound_alone_costs_the_sound() -> None:
    """Of a pass of the tiny model the sound is two fifths, and in anchor passes nobody reads the video."""
    settings = {"text": TermScale(1.0, 3.0), "cross": TermScale(1.0, 2.0)}
    text, _ = forecast(guider("ucg", settings), tiny.av_latent(), 30)
    assert text.startswith("3 passes per step, 1.5x the work.\n")


def test_a_given_video_is_computed_once_and_not_guided() -> None:
    latent = tiny.av_latent(masks=tiny.given("video"))
    text, _ = forecast(guider("ucg", UCG), latent, 30)
    # Of what is left to compute, the sound, each pass computes all.
    assert text.startswith("3 passes per step, 3.0x the work.\n")
    assert "The given video is computed once." in text


def test_a_sound_alone_has_no_coupling_to_guide() -> None:
    latent = tiny.av_latent(masks=tiny.given("video"))
    latent["samples"].unbind()[0].zero_()
    text, _ = forecast(guider("ucg", UCG), latent, 30)
    assert text.startswith("2 passes per step, 2.0x the work.\n")


def test_a_plain_video_latent_is_one_stream() -> None:
    text, _ = forecast(guider("ucg", UCG), {"samples": torch.zeros(1, 16, 3, 4, 6)}, 30)
    assert text.startswith("2 passes per step, 2.0x the work.\n")


def test_it_says_whether_the_run_fits_the_card() -> None:
    text, fits = forecast(guider(), tiny.av_latent(), 30, card(2**30))
    assert text.splitlines()[1] == "Fits whole in VRAM." and fits
    text, fits = forecast(guider(), tiny.av_latent(), 30, card(2**10))
    assert text.splitlines()[1].startswith("Does not fit, VRAM is") and not fits
    assert text.splitlines()[2] == "Memory Plan (CCL) says what helps."


def test_another_model_is_told_its_passes_alone() -> None:
    text, fits = forecast(
        guider("ucg", UCG, tiny.other_model()), {"samples": torch.zeros(1, 16, 3, 4, 6)}, 20
    )
    assert text.splitlines()[0] == "2 passes per step." and fits


def test_it_ends_no_run(caplog: pytest.LogCaptureFixture) -> None:
    """The sampler refuses this latent by itself, and says why."""
    with caplog.at_level(logging.INFO):
        tell_of_run(guider(), {"samples": torch.ones(1, 5, 3, 4, 6)}, 30)
    assert caplog.text == ""


def test_what_fits_is_told_without_a_message_of_the_page(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        tell_of_run(guider(), tiny.av_latent(), 30)
    assert [record.levelname for record in caplog.records if "per step" in record.message] == ["INFO"]
