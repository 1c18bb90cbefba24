"""Encode and Decode on latents of LTX-2 and MiniMax H3, with the host's own VAEs of these models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import folder_paths
import pytest
import torch
from comfy_extras.nodes_lt import EmptyLTXVLatentVideo, LTXVSeparateAVLatent
from comfy_extras.nodes_lt_audio import LTXVAudioVAEDecode, LTXVEmptyLatentAudio
from comfy_extras.nodes_minimax_h3 import EmptyMiniMaxH3LatentAV

from ccl_pack.nodes.decoding import CCLDecodeAV
from ccl_pack.nodes.encoding import CCLEncodeAV
from nodes import VAEDecode, VAEDecodeTiled
from support.av_models import LTX_FPS, empty_ltx, h3_latent, ltx_latent
from support.h3_vaes import h3_audio_vae, h3_video_vae
from support.ltx_vaes import ltx_audio_vae, ltx_video_vae
from support.tiny_vaes import audio_vae, video_vae

Latent = dict[str, Any]
WHOLE = {"tiling": "off"}
TILES = {"tiling": "on", "tile_size": 64, "overlap": 0, "temporal_size": 16, "temporal_overlap": 8}


@pytest.fixture(scope="module", autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    yield
    folder_paths.set_temp_directory(before)
    for made in (ltx_audio_vae, ltx_video_vae, h3_audio_vae, h3_video_vae, empty_ltx):
        made.cache_clear()


@pytest.fixture(autouse=True)
def as_the_host_runs_nodes() -> Iterator[None]:
    with torch.inference_mode():
        yield


def encode(latent: Latent, length: str = "pad", **given: Any) -> Latent:
    return CCLEncodeAV.execute(latent, "crop", length, **given)[0]


def tone(samples: int, rate: int) -> dict[str, Any]:
    """A tone that begins after a tenth of the time, on two channels."""
    time = torch.arange(samples) / rate
    waveform = torch.sin(2 * torch.pi * 440 * time) * (time > 0.1 * samples / rate)
    return {"waveform": waveform.expand(1, 2, -1), "sample_rate": rate}


def streams(latent: Latent) -> list[torch.Tensor]:
    return latent["samples"].unbind()


# ---- decode


def test_a_latent_of_ltx_2_decodes_as_by_the_nodes_of_the_host() -> None:
    latent = ltx_latent()
    images, audio, video = CCLDecodeAV.execute(latent, ltx_video_vae(), WHOLE, ltx_audio_vae(), LTX_FPS).args
    assert torch.equal(images, VAEDecode().decode(ltx_video_vae(), latent)[0]) and len(images) == 33
    host = LTXVAudioVAEDecode.execute(latent, ltx_audio_vae())[0]
    assert audio["sample_rate"] == host["sample_rate"] == 16000
    # 1.32 s exactly; the host's sound ends 30 ms before, since the first token is a quarter as long.
    made = host["waveform"].shape[-1]
    assert audio["waveform"].shape == (1, 2, 21120) and 20640 <= made < 20640 + 160
    torch.testing.assert_close(audio["waveform"][..., :made], host["waveform"])
    assert not audio["waveform"][..., made:].any()
    assert video.get_components().frame_rate == 25 and len(video.get_components().images) == 33


def test_a_latent_of_ltx_2_decodes_in_tiles_as_by_the_host() -> None:
    latent = LTXVSeparateAVLatent.execute(ltx_latent())[0]
    images = CCLDecodeAV.execute(latent, ltx_video_vae(), TILES, fps=LTX_FPS)[0]
    host = VAEDecodeTiled().decode(ltx_video_vae(), latent, 64, 0, 16, 8)[0]
    assert torch.equal(images, host)


def test_a_latent_of_h3_decodes_as_by_the_nodes_of_the_host() -> None:
    latent = h3_latent()
    images, audio, video = CCLDecodeAV.execute(latent, h3_video_vae(), WHOLE, h3_audio_vae()).args
    assert torch.equal(images, VAEDecode().decode(h3_video_vae(), latent)[0]) and len(images) == 39
    host = LTXVAudioVAEDecode.execute(latent, h3_audio_vae())[0]
    # 39 frames at 24 fps are 65 tokens of 800 samples.
    assert audio["sample_rate"] == 32000 and audio["waveform"].shape == (1, 2, 52000)
    torch.testing.assert_close(audio["waveform"], host["waveform"])
    assert video.get_components().frame_rate == 24


def test_decode_asks_for_the_rate_and_for_the_vaes_of_the_model() -> None:
    with pytest.raises(ValueError, match="does not say its frame rate"):
        CCLDecodeAV.execute(ltx_latent(), ltx_video_vae(), WHOLE, ltx_audio_vae())
    with pytest.raises(ValueError, match="the video latent has 128 channels, the VAE in video_vae makes 16"):
        CCLDecodeAV.execute(ltx_latent(), video_vae(), WHOLE, ltx_audio_vae(), LTX_FPS)
    with pytest.raises(ValueError, match=r"an audio VAE of another model .* LTX-2's latents \(b, 8, a, 16\)"):
        CCLDecodeAV.execute(ltx_latent(), ltx_video_vae(), WHOLE, audio_vae(), LTX_FPS)


def test_streams_of_ltx_2_that_differ_are_refused() -> None:
    video, audio = streams(ltx_latent())
    latent = {**ltx_latent(), "samples": type(ltx_latent()["samples"])([video, audio[:, :, :20]])}
    with pytest.raises(ValueError, match=r"1\.320 s long \(33 frames at 25 fps\), the sound 0\.800 s"):
        CCLDecodeAV.execute(latent, ltx_video_vae(), WHOLE, ltx_audio_vae(), LTX_FPS)


# ---- encode


def test_sound_is_added_to_a_plain_latent_of_ltx_2_as_by_the_host() -> None:
    plain = EmptyLTXVLatentVideo.execute(64, 64, 33, 1)[0]
    made = encode(plain, audio_vae=ltx_audio_vae(), fps=LTX_FPS)
    host = LTXVEmptyLatentAudio.execute(33, LTX_FPS, 1, ltx_audio_vae())[0]["samples"]
    assert streams(made)[1].shape == host.shape == (1, 8, 33, 16) and made["fps"] == LTX_FPS


def test_a_given_sound_is_encoded_from_its_first_sample_on() -> None:
    vae = ltx_audio_vae()
    # A length that the host's own node crops, 2032 samples at each end.
    sound = tone(58212 - 4, 44100)
    made = encode(empty_ltx(), audio=sound, audio_vae=vae, fps=LTX_FPS)
    wanted = vae.first_stage_model.encode(torch.nn.functional.pad(sound["waveform"], (0, 4)))
    torch.testing.assert_close(streams(made)[1][:, :, :32], wanted[:, :, :32])
    assert not made["noise_mask"].unbind()[1].any() and made["noise_mask"].unbind()[0].all()


def test_given_frames_of_ltx_2_are_kept_and_come_back(caplog: pytest.LogCaptureFixture) -> None:
    images = torch.rand(33, 64, 64, 3)
    made = encode(empty_ltx(), images=images, video_vae=ltx_video_vae(), fps=LTX_FPS)
    torch.testing.assert_close(streams(made)[0], ltx_video_vae().encode(images))
    assert not made["noise_mask"].unbind()[0].any() and made["noise_mask"].unbind()[1].all()
    assert "33 frames" not in caplog.text
    # The latent says the rate now.
    back = CCLDecodeAV.execute(made, ltx_video_vae(), WHOLE, ltx_audio_vae())[2].get_components()
    torch.testing.assert_close(back.images, images)


def test_ends_of_a_video_of_ltx_2_are_whole_latent_frames(caplog: pytest.LogCaptureFixture) -> None:
    image = torch.rand(1, 64, 64, 3)
    made = encode(empty_ltx(), start_image=image, end_image=image, video_vae=ltx_video_vae())
    assert made["noise_mask"].unbind()[0].flatten(3).amax(-1)[0, 0].tolist() == [0, 1, 1, 1, 0]
    torch.testing.assert_close(streams(made)[0][:, :, :1], ltx_video_vae().encode(image))
    encode(empty_ltx(), length="generate", images=torch.rand(12, 64, 64, 3), video_vae=ltx_video_vae())
    assert (
        "12 frames fill 9, as a latent frame is whole or not there: the last 3 are left out. Give 9 or 17"
        in caplog.text
    )


def test_given_material_of_h3_is_encoded_as_by_its_vaes() -> None:
    images, sound = torch.rand(39, 64, 64, 3), tone(52000, 32000)
    empty = EmptyMiniMaxH3LatentAV.execute(64, 64, 39)[0]
    vaes = {"video_vae": h3_video_vae(), "audio_vae": h3_audio_vae()}
    made = encode(empty, images=images, audio=sound, **vaes)
    torch.testing.assert_close(streams(made)[0], h3_video_vae().encode(images))
    torch.testing.assert_close(streams(made)[1], h3_audio_vae().encode(sound["waveform"].movedim(1, -1)))
    assert [tuple(mask.shape) for mask in made["noise_mask"].unbind()] == [(1, 1, 12, 4, 4), (1, 1, 2, 65)]
    assert not any(mask.any() for mask in made["noise_mask"].unbind())


def test_ends_of_a_video_of_h3_stand_where_its_vae_puts_them() -> None:
    empty = EmptyMiniMaxH3LatentAV.execute(64, 64, 39)[0]
    images = torch.rand(39, 64, 64, 3)
    made = encode(empty, images=images[:9], length="generate", video_vae=h3_video_vae())
    assert made["noise_mask"].unbind()[0].flatten(3).amax(-1)[0, 0].tolist() == [0] * 3 + [1] * 9
    # Frames 35 to 38, the last latent frame of 39 frames that stand still before.
    made = encode(empty, end_image=images[:1], video_vae=h3_video_vae())
    still = h3_video_vae().encode(images[:1].expand(39, -1, -1, -1))
    assert made["noise_mask"].unbind()[0].flatten(3).amax(-1)[0, 0].tolist() == [1] * 11 + [0]
    torch.testing.assert_close(streams(made)[0][:, :, -1:], still[:, :, -1:])
