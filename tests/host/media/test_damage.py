"""NaN that a decoder makes of a finite latent: told with its cause, and what is whole is given."""

from __future__ import annotations

import logging

import comfy.sd
import pytest
import torch

from ccl_pack.ccl_core.host.media.damage import Decoded, usable
from ccl_pack.nodes.decoding import CCLDecodeAV
from support.tiny import av_latent, latents
from support.tiny_vaes import audio_vae, release, video_vae

NAN = float("nan")


@pytest.fixture(autouse=True)
def vaes_of_their_own() -> None:
    release()


def broken_video() -> comfy.sd.VAE:
    vae = video_vae()
    vae.first_stage_model.decoder.conv1.weight.data[0] = NAN
    return vae


def broken_audio() -> comfy.sd.VAE:
    vae = audio_vae()
    vae.first_stage_model.head.out.bias.data[0] = NAN
    return vae


def decode(video: comfy.sd.VAE, audio: comfy.sd.VAE, latent: dict | None = None) -> tuple:
    return CCLDecodeAV.execute(latent or av_latent(), video, {"tiling": "off"}, audio, 16.0).result


def test_a_damaged_video_vae_leaves_the_sound(caplog: pytest.LogCaptureFixture) -> None:
    wanted = decode(video_vae(), audio_vae())[1]["waveform"]
    with caplog.at_level(logging.WARNING, "ccl"):
        images, audio, video = decode(broken_video(), audio_vae())
    assert torch.equal(audio["waveform"], wanted)
    assert torch.isfinite(images).all() and torch.isfinite(video.get_components().images).all()
    (record,) = [record for record in caplog.records if record.name == "ccl"]
    words = record.getMessage()
    assert "decoded picture holds NaN or infinity (100% of it): 1 weights of its VAE hold them" in words
    assert "decoder.conv1.weight" in words and "download it again" in words


def test_a_damaged_audio_vae_leaves_the_picture(caplog: pytest.LogCaptureFixture) -> None:
    wanted = decode(video_vae(), audio_vae())[0]
    with caplog.at_level(logging.WARNING, "ccl"):
        images, audio, _ = decode(video_vae(), broken_audio())
    assert torch.equal(images, wanted)
    assert torch.isfinite(audio["waveform"]).all()
    assert "decoded sound" in caplog.text and "head.out.bias" in caplog.text


def test_with_nothing_whole_the_decode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"The decoded picture .*conv1.*The decoded sound .*head\.out\.bias"):
        decode(broken_video(), broken_audio())
    with pytest.raises(ValueError, match="The decoded picture holds"):
        decode(broken_video(), None, {"samples": latents()[0]})


def part(result: torch.Tensor, latent: torch.Tensor | None = None) -> Decoded:
    return Decoded("picture", result, torch.ones(2) if latent is None else latent, video_vae())


def test_frames_that_are_whole_stay_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    frames = torch.rand(1, 4, 2, 2, 3)
    frames[0, 1] = NAN
    (given,) = usable(part(frames))
    assert torch.equal(given[:, [0, 2, 3]], frames[:, [0, 2, 3]]) and not given[:, 1].any()
    assert "(25% of it)" in caplog.text


@pytest.mark.parametrize(
    ("largest", "dtype", "words"),
    [
        (1e4, torch.float32, "the latent reaches 1e"),
        (2.0, torch.float16, "computes in fp16, whose range"),
        (2.0, torch.float32, "latent and weights are finite. Start ComfyUI with --fp32-vae"),
    ],
)
def test_the_likeliest_cause_is_named(largest: float, dtype: torch.dtype, words: str) -> None:
    broken = part(torch.full((3,), NAN), torch.tensor([largest]))
    broken.vae.vae_dtype = dtype
    with pytest.raises(ValueError, match=words):
        usable(broken)


def test_whole_results_are_given_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    frames = torch.rand(3)
    assert usable(part(frames))[0] is frames
    assert not caplog.records
