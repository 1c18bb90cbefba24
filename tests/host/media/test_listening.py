"""What is wrong with a sound, by sounds whose fault is known."""

from __future__ import annotations

import math

import pytest
import torch

from ccl_pack.ccl_core.host.media.listening import faults, loudness, tell_of_sound
from ccl_pack.ccl_core.training.world.scene import clips
from support.media_files import tone

RATE = 16000


def noise(seconds: float, level: float, seed: int = 2) -> torch.Tensor:
    """(1, n) of this rms."""
    return level * torch.randn(1, round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def speech_like(pause: float = 0.0, seconds: float = 4.0) -> torch.Tensor:
    """Half a second of tones, half a second of pause that holds noise of this rms, and so on."""
    time = torch.arange(round(seconds * RATE)) / RATE
    voice = sum(torch.sin(2 * torch.pi * hertz * time) for hertz in (180, 360, 1240, 2510))
    return 0.1 * voice * (time % 1 < 0.5) + noise(seconds, pause)


@pytest.mark.parametrize("rate", [16000, 24000, 44100, 48000])
@pytest.mark.parametrize("level", [0.05, 0.5, 1.0])
def test_a_tone_has_the_loudness_of_the_standard(rate: int, level: float) -> None:
    # BS.1770: a full-scale sine of 997 Hz in one channel has -3.01 LKFS.
    expected = -3.01 + 20 * math.log10(level)
    assert loudness(tone(2, rate, 997, level), rate) == pytest.approx(expected, abs=0.1)
    assert loudness(tone(2, rate, 997, level).expand(2, -1), rate) == pytest.approx(expected + 3.01, abs=0.1)


def test_pauses_do_not_count_as_softer() -> None:
    quiet = torch.cat([tone(4, RATE), torch.zeros(1, 12 * RATE)], dim=1)
    assert loudness(quiet, RATE) == pytest.approx(loudness(tone(4, RATE), RATE), abs=0.3)


def test_the_loudness_of_silence_and_of_short_sounds() -> None:
    assert loudness(torch.zeros(1, RATE), RATE) == -math.inf
    assert loudness(torch.zeros(1, 0), RATE) == -math.inf
    assert loudness(tone(1, RATE, level=1e-4), RATE) == -math.inf
    assert -20 < loudness(tone(0.1, RATE), RATE) < -10


@pytest.mark.parametrize("given", [None, (torch.zeros(2, 1, RATE), RATE)])
def test_a_sound_that_is_right_is_not_told_of(
    given: tuple[torch.Tensor, int] | None, caplog: pytest.LogCaptureFixture
) -> None:
    if given is None:
        tell_of_sound(speech_like()[None], RATE)
        tell_of_sound(tone(3, 48000, 20)[None], 48000)
        tell_of_sound(torch.stack([noise(4, 0.1), noise(4, 0.01, seed=3)]), RATE)
    else:
        tell_of_sound(torch.zeros(2, 1, RATE), RATE, given)
    assert not caplog.text


def test_the_sounds_of_the_procedural_world_are_right() -> None:
    for _, clip in zip(range(12), clips(3, frames=33), strict=False):
        assert faults(torch.from_numpy(clip.waveform)[None], RATE) == []


@pytest.mark.parametrize("sound", [torch.zeros(1, RATE), tone(1, RATE, level=2e-4)])
def test_silence(sound: torch.Tensor) -> None:
    (told,) = faults(sound, RATE)
    assert told.startswith("is silent (nowhere above -70 LKFS)")


@pytest.mark.parametrize("limit", [0.3, 0.8, 1.0])
def test_clipping_is_found_at_every_level(limit: float) -> None:
    (told,) = faults((3 * limit * speech_like() / speech_like().abs().max()).clamp(-limit, limit), RATE)
    assert told.startswith("is clipped (")
    assert faults(limit * speech_like() / speech_like().abs().max(), RATE) == []


def test_a_blown_sound_is_told_where_no_sample_is_held() -> None:
    (told,) = faults(torch.tanh(5 * speech_like(0.5)) * (1 - 0.01 * noise(4, 1).abs()), RATE)
    assert told.startswith("is blown (1 LKFS")


@pytest.mark.parametrize("offset", [0.03, -0.2])
def test_an_offset(offset: float) -> None:
    (told,) = faults(speech_like() + offset, RATE)
    assert told.startswith(f"has an offset of {offset:.3f}")
    assert faults(speech_like() + 0.05 * offset, RATE) == []


@pytest.mark.parametrize(
    ("level", "told"), [(0.03, True), (0.01, True), (0.004, True), (0.0005, False), (0.2, False)]
)
def test_hiss_is_noise_that_stays_in_the_pauses(level: float, told: bool) -> None:
    found = faults(speech_like(level), RATE)
    assert [text.startswith("hisses at -") for text in found] == [True] * told


def test_the_level_of_hiss_is_that_of_the_noise() -> None:
    (told,) = faults(speech_like(0.01), RATE)
    # 6 of 8 kHz of white noise at -40 dB, less what the quietest tenth of the frames lies below the mean.
    assert -43 <= float(told.split()[2]) <= -41


@pytest.mark.parametrize(
    ("gain", "words"),
    [(-10, "is 10 dB softer than the given one"), (10, "is 10 dB louder than"), (-40, "is 40 dB softer")],
)
def test_another_loudness_than_what_was_given_is_told(gain: float, words: str) -> None:
    given = 0.5 * speech_like()
    (told,) = faults(given * 10 ** (gain / 20), RATE, (given, RATE))
    assert told.startswith(words)
    assert faults(given * 10 ** (gain / 20), RATE) == []


def test_the_given_sound_may_have_another_rate_length_and_channels() -> None:
    given = tone(1, 48000, 500, 0.05)
    decoded = torch.cat([tone(1, RATE, 500, 0.05), tone(2, RATE, 500, 0.5)], dim=1)
    assert faults(decoded, RATE, (given, 48000)) == []
    assert faults(decoded, RATE, (given.expand(2, -1), 48000)) == []
    assert faults(decoded[:, : RATE // 2], RATE, (given, 48000)) == []


def test_silence_where_a_sound_was_given_and_the_other_way_round() -> None:
    (told,) = faults(torch.zeros(1, RATE), RATE, (tone(1, RATE, 997, 0.1), RATE))
    assert told.startswith("is silent beside the -23 LKFS of the given one")
    (told,) = faults(tone(1, RATE, level=0.1), RATE, (torch.zeros(1, RATE), RATE))
    assert told.startswith("is not silent, unlike the given one")


def test_one_line_names_the_clip_of_a_batch(caplog: pytest.LogCaptureFixture) -> None:
    tell_of_sound(torch.stack([speech_like(), 0 * speech_like(), speech_like() + 0.1]), RATE)
    (record,) = caplog.records
    assert "The decoded sound clip 2: is silent" in record.message
    assert ". clip 3: has an offset of 0.100" in record.message


@pytest.mark.parametrize(
    "given", [speech_like(0.01), speech_like() + 0.05, (3 * speech_like()).clamp(-0.5, 0.5)]
)
def test_a_fault_of_the_given_sound_is_not_told_of_the_decoded_one(given: torch.Tensor) -> None:
    assert len(faults(given, RATE)) == 1
    assert faults(given, RATE, (given, RATE)) == []
    assert len(faults(given, RATE, (speech_like(), RATE))) >= 1


def test_a_sound_that_ends_long_before_its_clip_is_told_of() -> None:
    ended = torch.cat([speech_like(), torch.zeros(1, 6 * RATE)], dim=1)
    (found,) = faults(ended, RATE)
    assert found.startswith("is silent from 3.5 s on, of 10.0 s. Make a shorter clip")
    # Not of a pause before an end, of a short clip, or where the given sound ends so.
    assert faults(torch.cat([ended, speech_like()], dim=1), RATE) == []
    assert faults(torch.cat([tone(1, RATE), torch.zeros(1, RATE)], dim=1), RATE) == []
    assert faults(ended, RATE, (ended, RATE)) == []
