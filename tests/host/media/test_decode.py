"""Latents to frames and sound: equal lengths, honest loudness, tiles, progress and cancel."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import comfy.model_management
import comfy.utils
import pytest
import torch

from ccl_pack.ccl_core.host.media.decode import (
    Tiling,
    decode_audio,
    decode_video,
    fit_samples,
    limit_peak,
    silence,
)
from support.tiny_vaes import audio_vae, release, video_vae


@pytest.fixture(scope="module", autouse=True)
def vaes_of_this_file() -> Iterator[None]:
    yield
    release()


@pytest.fixture(autouse=True)
def as_the_host_runs_nodes() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def reports() -> Iterator[list[Any]]:
    """What the progress bar told the host."""
    seen = []
    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *_, **__: seen.append((value, total)))
    yield seen
    comfy.utils.set_progress_bar_global_hook(before)


def test_video_is_the_vaes_own_decoding() -> None:
    latent = torch.randn(2, 16, 2, 2, 3)
    video = decode_video(video_vae(), latent)
    assert video.shape == (2, 5, 16, 24, 3)
    assert torch.equal(video, video_vae().decode(latent))


def test_tiles_that_hold_everything_change_nothing() -> None:
    latent = torch.randn(1, 16, 3, 4, 4)
    tiling = Tiling.from_pixels(video_vae(), 64, 16, 64, 8)
    assert torch.allclose(
        decode_video(video_vae(), latent, tiling), decode_video(video_vae(), latent), atol=1e-5
    )


@pytest.mark.parametrize(
    "size, overlap, frames, frames_overlap", [(64, 4096, 8, 4096), (64, 0, 8, 4), (64, 16, 4096, 8)]
)
def test_any_tiling_decodes_to_the_full_size(
    size: int, overlap: int, frames: int, frames_overlap: int
) -> None:
    tiling = Tiling.from_pixels(video_vae(), size, overlap, frames, frames_overlap)
    assert decode_video(video_vae(), torch.randn(1, 16, 3, 4, 9), tiling).shape == (1, 9, 32, 72, 3)


@pytest.mark.parametrize("tiling", [None, Tiling(3, 1, 2, 1), Tiling(4, 0, 3, 1)])
def test_progress_ends_exactly_when_the_decoder_does(
    reports: list[Any], tiling: Tiling | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_PERCENT", 0)
    decode_video(video_vae(), torch.randn(1, 16, 4, 4, 6), tiling)
    values = [value for value, _ in reports]
    total = reports[0][1]
    assert len(values) > 2
    assert values == sorted(values)
    assert values.index(total) >= len(values) - 2


def test_cancel_stops_inside_the_decoder_and_the_next_decode_runs() -> None:
    calls = []

    def cancel_in_the_second_chunk(*_: Any) -> None:
        calls.append(None)
        if len(calls) == 2:
            comfy.model_management.interrupt_current_processing(True)

    decoder = video_vae().first_stage_model.decoder
    handle = decoder.register_forward_hook(cancel_in_the_second_chunk)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        decode_video(video_vae(), torch.randn(1, 16, 9, 4, 4))
    handle.remove()
    assert len(calls) == 2
    assert not decoder._forward_pre_hooks
    assert decode_video(video_vae(), torch.randn(1, 16, 2, 4, 4)).shape == (1, 5, 32, 32, 3)


@pytest.mark.parametrize("tokens", [60, 66, 70])
def test_sound_has_exactly_the_videos_duration(tokens: int) -> None:
    audio = decode_audio(audio_vae(), torch.randn(2, 8, tokens), Fraction(33, 16))
    assert audio["waveform"].shape == (2, 1, 33000)
    assert audio["sample_rate"] == 16000


def test_loudness_is_left_alone_unless_it_would_clip() -> None:
    quiet, loud = torch.rand(1, 2, 50) - 0.5, 3 * torch.rand(1, 2, 50) + 0.1
    both = limit_peak(torch.cat([quiet, loud]))
    assert torch.equal(both[:1], quiet)
    assert both[1].abs().max() == 1
    assert torch.allclose(both[1] * loud.max(), loud[0])


def test_fit_samples_trims_or_pads_with_silence() -> None:
    wave = torch.ones(1, 1, 5)
    assert fit_samples(wave, 3).tolist() == [[[1, 1, 1]]]
    assert fit_samples(wave, 7).tolist() == [[[1, 1, 1, 1, 1, 0, 0]]]


def test_silence_is_as_long_as_the_video() -> None:
    audio = silence(2, Fraction(33, 16))
    assert audio["waveform"].shape == (2, 1, round(33 / 16 * 44100))
    assert not audio["waveform"].any()


def test_a_sound_that_was_lowered_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    limit_peak(torch.tensor([[[0.5, 1.05]]]))
    assert not caplog.text
    limit_peak(torch.tensor([[[0.5, -2.0]]]))
    assert "reaches 2.00 of full scale: it is lowered by 6.0 dB as a whole" in caplog.text
