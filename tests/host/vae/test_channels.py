"""The downmix of every layout, by known answers."""

from __future__ import annotations

import math

import pytest
import torch

from ccl_pack.ccl_core.host.vae.channels import names_of, to_channels
from support.media_files import tone

HALF_POWER = math.sqrt(0.5)
# What each channel gives to left, right and mono (ITU-R BS.775-4, table 2).
FRONT = {"FL": (1, 0, HALF_POWER), "FR": (0, 1, HALF_POWER), "FC": (HALF_POWER, HALF_POWER, 1)}
SIDES = {"left": (HALF_POWER, 0, 0.5), "right": (0, HALF_POWER, 0.5), "one": (0.5, 0.5, HALF_POWER)}
LEFT, RIGHT, ONE = SIDES["left"], SIDES["right"], SIDES["one"]
L, R, C, NONE = FRONT["FL"], FRONT["FR"], FRONT["FC"], (0, 0, 0)
LAYOUTS = {
    "2.1": [L, R, NONE],
    "3.0": [L, R, C],
    "4.0": [L, R, C, ONE],
    "quad": [L, R, LEFT, RIGHT],
    "5.0": [L, R, C, LEFT, RIGHT],
    "5.1": [L, R, C, NONE, LEFT, RIGHT],
    "5.1(side)": [L, R, C, NONE, LEFT, RIGHT],
    "6.1": [L, R, C, NONE, ONE, LEFT, RIGHT],
    "7.1": [L, R, C, NONE, LEFT, RIGHT, LEFT, RIGHT],
}


def level(waveform: torch.Tensor) -> float:
    """rms in dB of full scale."""
    return 20 * math.log10(waveform.square().mean().sqrt().item())


def stereo(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return torch.stack([left[0], right[0]])[None]


def alone(channels: int, place: int) -> torch.Tensor:
    """A sine in one of so many channels."""
    waveform = torch.zeros(1, channels, 4800)
    waveform[:, place] = tone(0.1, 48000)
    return waveform


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_channel_goes_where_the_standard_says(layout: str, caplog: pytest.LogCaptureFixture) -> None:
    weights = LAYOUTS[layout]
    for place, (left, right, mono) in enumerate(weights):
        given = alone(len(weights), place)
        expected = given[:, place : place + 1]
        pair = to_channels(given, 2, layout)
        assert torch.allclose(pair, torch.cat([left * expected, right * expected], dim=1), atol=1e-6)
        assert torch.allclose(to_channels(given, 1, layout), mono * expected, atol=1e-6)
    assert not caplog.text


@pytest.mark.parametrize(
    ("count", "layout"), [(3, "3.0"), (4, "4.0"), (5, "5.0"), (6, "5.1"), (7, "6.1"), (8, "7.1")]
)
def test_without_a_layout_the_count_says_it(count: int, layout: str) -> None:
    given = torch.rand(1, count, 100, generator=torch.Generator().manual_seed(1)) * 0.1
    for stated in (None, f"{count} channels", "no layout"):
        assert torch.equal(to_channels(given, 1, stated), to_channels(given, 1, layout))


def test_a_layout_that_is_known_wins_over_the_count() -> None:
    assert names_of(3, "2.1") == ["FL", "FR", "LFE"]
    assert names_of(3, None) == ["FL", "FR", "FC"]
    # Of another number of channels than there are.
    assert names_of(6, "stereo")[3] == "LFE"


@pytest.mark.parametrize("layout", ["3.0", "4.0", "5.0", "5.1", "6.1", "7.1"])
def test_a_centre_voice_keeps_its_level(layout: str) -> None:
    given = alone(len(LAYOUTS[layout]), 2)
    voice = level(given[:, 2])
    assert level(to_channels(given, 1, layout)) == pytest.approx(voice, abs=0.01)
    # From two loudspeakers together.
    both = to_channels(given, 2, layout).square().sum(1).sqrt()
    assert level(both) == pytest.approx(voice, abs=0.01)


def test_bass_effects_are_left_out() -> None:
    assert not to_channels(alone(6, 3), 1, "5.1").any()
    assert not to_channels(alone(8, 3), 2, "7.1").any()


def test_full_scale_everywhere_is_lowered_as_a_whole_and_told(caplog: pytest.LogCaptureFixture) -> None:
    quiet = torch.linspace(0, 1, 100).expand(1, 6, -1)
    mono = to_channels(quiet, 1, "5.1")
    assert mono.max().item() == pytest.approx(1)
    assert torch.allclose(mono[0, 0], torch.linspace(0, 1, 100), atol=1e-6)
    assert "6 channels of audio mixed to 1 reach 3.41 of full scale" in caplog.text
    assert "lowered by 10.7 dB as a whole" in caplog.text


def test_only_the_sound_of_the_batch_that_is_too_loud_is_lowered() -> None:
    batch = torch.cat([0.1 * torch.ones(1, 6, 10), torch.ones(1, 6, 10)])
    mono = to_channels(batch, 1, "5.1")
    assert mono[0].max().item() == pytest.approx(0.1 * (2 + 2 * HALF_POWER), rel=1e-5)
    assert mono[1].max().item() == pytest.approx(1)


def test_stereo_becomes_its_mean_and_mono_goes_to_both_sides() -> None:
    given = torch.rand(2, 2, 50) - 0.3
    assert torch.equal(to_channels(given, 1), given.mean(1, keepdim=True))
    one = given[:, :1]
    assert torch.equal(to_channels(one, 2), one.expand(-1, 2, -1))
    assert to_channels(given, 2) is given


def test_opposite_phase_is_told_and_the_louder_channel_taken(caplog: pytest.LogCaptureFixture) -> None:
    left = tone(1, 16000)
    given = stereo(left, -0.8 * left)
    assert torch.equal(to_channels(given, 1), left[None])
    assert "left and right of audio are in opposite phase: together they would lose 19 dB" in caplog.text
    caplog.clear()
    assert torch.equal(to_channels(stereo(left, -left), 1).abs(), left[None].abs())
    assert "would lose all of it" in caplog.text


def test_opposite_phase_of_a_surround_sound_is_noticed_too(caplog: pytest.LogCaptureFixture) -> None:
    given = torch.zeros(1, 6, 16000)
    given[:, 0], given[:, 1] = tone(1, 16000), -tone(1, 16000)
    assert level(to_channels(given, 1, "5.1")) == pytest.approx(level(given[:, 0]), abs=0.01)
    assert "opposite phase" in caplog.text


@pytest.mark.parametrize("kind", ["unlike", "one silent", "wide", "silent", "delayed"])
def test_usual_stereo_is_not_taken_for_opposite_phase(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    noise = torch.randn(2, 16000, generator=torch.Generator().manual_seed(3)) / 10
    given = {
        "unlike": noise,
        "one silent": torch.stack([noise[0], 0 * noise[1]]),
        # The sides 3 dB above the middle: correlation -1/3.
        "wide": torch.stack([noise[0] + 1.4 * noise[1], noise[0] - 1.4 * noise[1]]),
        "silent": 0 * noise,
        "delayed": torch.stack([noise[0], noise[0].roll(7)]),
    }[kind][None]
    assert torch.equal(to_channels(given, 1), given.sum(1, keepdim=True) / 2)
    assert not caplog.text


def test_channels_that_nobody_names_are_averaged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    given = torch.rand(1, 11, 20)
    assert torch.allclose(to_channels(given, 2)[:, 0], given.mean(1))
    assert "audio has 11 channels and does not say which: their mean is taken" in caplog.text
