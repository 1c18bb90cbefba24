"""Images and sound into a latent: fitted, encoded, kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from comfy.sd import VAE

from ccl_pack.ccl_core.host.media.encode import Fit, add_audio, fit_images, write_audio, write_images
from ccl_pack.ccl_core.host.media.latents import AVLatent
from support.tiny_vaes import audio_vae, frames, image_vae, release, sound, video_vae

PAD, GENERATE, REFUSE = Fit("crop", "pad"), Fit("crop", "generate"), Fit("crop", "refuse")


@pytest.fixture(scope="module", autouse=True)
def vaes_of_this_file() -> Iterator[None]:
    yield
    release()


@pytest.fixture(autouse=True)
def as_the_host_runs_nodes() -> Iterator[None]:
    with torch.inference_mode():
        yield


def blank(batch: int = 1, latent_frames: int = 3, tokens: int = 18) -> AVLatent:
    return AVLatent(torch.zeros(batch, 16, latent_frames, 4, 4), torch.zeros(batch, 8, tokens), fps=16.0)


def test_images_of_the_latents_size_are_the_vaes_own_encoding_and_kept() -> None:
    images = frames(9)
    av = write_images(blank(2), video_vae(), images, REFUSE)
    assert torch.equal(av.video, video_vae().encode(images).expand(2, -1, -1, -1, -1))
    assert not av.video_mask.any()
    assert av.audio_mask is None


def test_the_latent_given_is_not_written_to() -> None:
    av = blank()
    write_images(av, video_vae(), frames(9), PAD)
    write_audio(av, audio_vae(), sound(9000), PAD)
    assert not av.video.any()
    assert not av.audio.any()


def test_too_many_images_are_trimmed_and_too_few_repeat_the_last() -> None:
    images = frames(12)
    assert torch.equal(
        write_images(blank(), video_vae(), images, PAD).video,
        write_images(blank(), video_vae(), images[:9], PAD).video,
    )
    repeated = torch.cat([images[:6], images[5:6].expand(3, -1, -1, -1)])
    padded = write_images(blank(), video_vae(), images[:6], PAD)
    assert torch.equal(padded.video, video_vae().encode(repeated))
    assert not padded.video_mask.any()


@pytest.mark.parametrize("count, kept", [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (30, 3)])
def test_generate_keeps_only_latent_frames_that_were_given_whole(count: int, kept: int) -> None:
    av = write_images(blank(), video_vae(), frames(count), GENERATE)
    assert av.video_mask.mean(dim=(0, 1, 3, 4)).tolist() == [0.0] * kept + [1.0] * (3 - kept)
    assert torch.equal(av.video[:, :, :kept], video_vae().encode(frames(count)[: 4 * kept - 3]))
    assert not av.video[:, :, kept:].any()


def test_an_earlier_mask_is_respected_outside_what_was_given() -> None:
    earlier = torch.full((1, 1, 3, 4, 4), 0.5)
    av = write_images(replace(blank(), video_mask=earlier), video_vae(), frames(1), GENERATE)
    assert av.video_mask.mean(dim=(0, 1, 3, 4)).tolist() == [0.0, 0.5, 0.5]


@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("height, width, channels", [(64, 64, 3), (33, 100, 3), (200, 70, 4), (64, 128, 1)])
def test_every_image_gets_the_size(how: str, height: int, width: int, channels: int) -> None:
    assert fit_images(frames(2, height, width, channels), 64, 48, how).shape == (2, 48, 64, 3)


def test_pad_is_a_letterbox_crop_the_middle_stretch_everything() -> None:
    white = torch.ones(1, 32, 64, 3)
    white[:, :, :16] = 0.5
    assert fit_images(white, 64, 64, "pad")[0, :, 40, 0].tolist() == [0.0] * 16 + [1.0] * 32 + [0.0] * 16
    assert fit_images(white, 32, 32, "crop").min() == 1
    assert fit_images(white, 64, 64, "stretch")[0, :, 4].unique().tolist() == [0.5]


def test_sound_of_the_latents_length_is_the_vaes_own_encoding_and_kept() -> None:
    audio = sound(9000)
    av = write_audio(blank(), audio_vae(), audio, REFUSE)
    assert torch.equal(av.audio, audio_vae().encode(audio["waveform"].movedim(1, -1)))
    assert not av.audio_mask.any()
    assert av.video_mask is None


def test_short_sound_is_padded_with_silence_and_long_sound_trimmed() -> None:
    audio = sound(20000)["waveform"]
    silent = torch.cat([audio[..., :4000], torch.zeros(1, 1, 5000)], dim=-1)
    for given, same in ((audio, audio[..., :9000]), (audio[..., :4000], silent)):
        av = write_audio(blank(), audio_vae(), {"waveform": given, "sample_rate": 16000}, PAD)
        assert torch.equal(av.audio, audio_vae().encode(same.movedim(1, -1)))
        assert not av.audio_mask.any()


def test_generate_keeps_only_audio_tokens_that_were_given_whole() -> None:
    av = write_audio(blank(), audio_vae(), sound(4700), GENERATE)
    assert av.audio_mask[0, 0].tolist() == [0.0] * 9 + [1.0] * 9
    assert not av.audio[..., 9:].any()


def test_stereo_is_mixed_down() -> None:
    stereo = torch.cat([sound(9000)["waveform"], sound(9000, seed=5)["waveform"]], dim=1)
    mono = write_audio(
        blank(), audio_vae(), {"waveform": stereo.mean(1, keepdim=True), "sample_rate": 16000}, PAD
    )
    mixed = write_audio(blank(), audio_vae(), {"waveform": stereo, "sample_rate": 16000}, PAD)
    assert torch.allclose(mixed.audio, mono.audio, atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_a_tone_sounds_the_same_at_every_sample_rate(rate: int) -> None:
    def encoded(rate: int) -> torch.Tensor:
        tone = torch.sin(2 * torch.pi * 440 * torch.arange(rate) / rate)[None, None]
        return write_audio(blank(), audio_vae(), {"waveform": tone, "sample_rate": rate}, PAD).audio

    here, there = encoded(16000), encoded(rate)
    assert (here - there)[:, 0, 2:-2].abs().max() < 0.05


def test_one_sound_serves_the_whole_batch() -> None:
    av = write_audio(blank(3), audio_vae(), sound(9000), PAD)
    assert torch.equal(av.audio[0], av.audio[2])


@pytest.mark.parametrize("fps, tokens", [(16, 18), (24, 12), (30, 10)])
def test_a_plain_video_latent_gets_audio_of_its_own_duration(fps: int, tokens: int) -> None:
    av = add_audio(AVLatent(torch.zeros(2, 16, 3, 4, 4)), audio_vae(), Fraction(fps))
    assert av.audio.shape == (2, 8, tokens)
    assert av.fps == fps
    assert av.audio_mask is None


@pytest.mark.parametrize(
    "images, message",
    [
        (torch.zeros(0, 64, 64, 3), "images has shape"),
        (torch.zeros(64, 64, 3), "images has shape"),
        (torch.full((1, 32, 32, 3), float("nan")), "images holds NaN"),
        (torch.zeros(5, 32, 32, 3), "5 frames at its rate, the latent 9"),
    ],
)
def test_bad_images_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_images(blank(), video_vae(), images, REFUSE)


@pytest.mark.parametrize(
    "audio, fit, message",
    [
        (sound(0), PAD, "may hold no sound"),
        ({"waveform": torch.zeros(9000), "sample_rate": 16000}, PAD, "audio has shape"),
        ({"waveform": torch.zeros(1, 1, 9000), "sample_rate": 0}, PAD, "sample rate of 0"),
        ({"waveform": torch.full((1, 1, 9000), float("inf")), "sample_rate": 16000}, PAD, "audio holds NaN"),
        (sound(9000, batch=2), PAD, "batch of 2"),
        (sound(400), GENERATE, "25.0 ms long"),
        (sound(8000), REFUSE, "0.500 s long, the latent 0.562"),
    ],
)
def test_bad_audio_is_refused(audio: dict[str, Any], fit: Fit, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_audio(blank(), audio_vae(), audio, fit)


@pytest.mark.parametrize("vae, message", [(audio_vae, "an audio VAE"), (image_vae, "an image VAE")])
def test_wrong_vae_in_the_video_slot(vae: Callable[[], VAE], message: str) -> None:
    with pytest.raises(ValueError, match=f"video_vae input holds {message}"):
        write_images(blank(), vae(), frames(9), PAD)


@pytest.mark.parametrize("vae, message", [(video_vae, "a video VAE"), (image_vae, "a VAE for images")])
def test_wrong_vae_in_the_audio_slot(vae: Callable[[], VAE], message: str) -> None:
    with pytest.raises(ValueError, match=f"audio_vae input holds {message}"):
        write_audio(blank(), vae(), sound(9000), PAD)


def test_a_video_vae_with_another_temporal_stride_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_vae(), "upscale_ratio", (lambda latent_frames: 8 * latent_frames - 7, 8, 8))
    with pytest.raises(ValueError, match="makes 89 frames of 12 latent frames, Wan's are 45"):
        write_images(blank(), video_vae(), frames(17), PAD)


def test_vaes_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="48 channels, the VAE in video_vae makes 16"):
        write_images(replace(blank(), video=torch.zeros(1, 48, 3, 4, 4)), video_vae(), frames(9), PAD)
    with pytest.raises(ValueError, match="8 channels, the VAE in audio_vae makes 12"):
        write_audio(blank(), audio_vae(mels=12), sound(9000), PAD)


@pytest.mark.parametrize(
    ("count", "length", "words"),
    [
        (9, "pad", None),
        (9, "generate", None),
        (5, "generate", None),
        (12, "pad", "12 frames for a latent of 9: the last 3 are left out"),
        (12, "generate", "12 frames for a latent of 9: the last 3 are left out"),
        (5, "pad", "5 frames for a latent of 9: the last one fills the rest"),
        (
            7,
            "generate",
            "7 frames fill 5, as a latent frame is whole or not there: the last 2 are left out. Give 5 or 9",
        ),
    ],
)
def test_images_that_are_left_out_or_repeated_are_told_of(
    count: int, length: str, words: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(blank(), video_vae(), frames(count), Fit("crop", length))
    assert [words in record.message for record in caplog.records] == ([] if words is None else [True])


@pytest.mark.parametrize(
    ("seconds", "length", "words"),
    [
        (18 / 32, "pad", None),
        (17.5 / 32, "pad", None),
        (18.5 / 32, "refuse", None),
        (0.3, "generate", None),
        (0.3, "pad", "audio is 0.300 s long, the latent 0.562 s: silence is added"),
        (2.0, "pad", "audio is 2.000 s long, the latent 0.562 s: the rest of the sound is cut off"),
        (2.0, "generate", "the rest of the sound is cut off"),
    ],
)
def test_a_sound_that_is_cut_or_filled_is_told_of(
    seconds: float, length: str, words: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    audio = sound(round(16000 * seconds))
    write_audio(blank(), audio_vae(), audio, Fit("crop", length))
    assert [words in record.message for record in caplog.records] == ([] if words is None else [True])


def given_sound(waveform: torch.Tensor, **more: str) -> torch.Tensor:
    """The audio latent of a waveform (ch, n)."""
    return write_audio(
        blank(), audio_vae(), {"waveform": waveform[None], "sample_rate": 16000, **more}, PAD
    ).audio


def test_a_voice_in_the_centre_of_a_film_is_encoded_at_its_level() -> None:
    voice = sound(9000)["waveform"][0]
    film = torch.zeros(6, 9000)
    film[2] = voice
    assert torch.allclose(given_sound(film), given_sound(voice), atol=1e-4)
    assert not torch.allclose(given_sound(film.mean(0, keepdim=True)), given_sound(voice), atol=0.1)


def test_a_layout_beside_the_sound_is_read() -> None:
    three = torch.cat([torch.zeros(2, 9000), sound(9000)["waveform"][0]])
    assert torch.allclose(given_sound(three), given_sound(three[2:]), atol=1e-4)
    assert torch.equal(given_sound(three, layout="2.1"), given_sound(0 * three[2:]))


def test_opposite_phase_is_no_silence(caplog: pytest.LogCaptureFixture) -> None:
    left = sound(9000)["waveform"][0]
    assert torch.equal(given_sound(torch.cat([left, -0.5 * left])), given_sound(left))
    assert "opposite phase" in caplog.text


def test_digital_silence_is_told(caplog: pytest.LogCaptureFixture) -> None:
    given_sound(torch.zeros(2, 8000))
    assert "all 0.50 s of audio are digital silence" in caplog.text


@pytest.mark.parametrize(("frames_given", "samples", "level"), [(8, 7000, "INFO"), (5, 4000, "WARNING")])
def test_the_rounding_of_a_latent_as_long_as_its_material_is_no_warning(
    frames_given: int, samples: int, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(blank(), video_vae(), frames(frames_given), PAD)
    write_audio(blank(), audio_vae(), sound(samples), PAD)
    assert [record.levelname for record in caplog.records if record.name == "ccl"] == [level] * 2
