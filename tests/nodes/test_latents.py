"""CCLEmptyAVLatent, CCLEncodeAV and CCLDecodeAV as the host calls them, from an empty latent to a
playable file.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import av as pyav
import comfy.model_management
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest._io import NodeOutput
from comfy_extras.nodes_audio import VAEDecodeAudio
from comfy_extras.nodes_lt import LTXVSeparateAVLatent

from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.host.media.latents import split
from ccl_pack.nodes.decoding import CCLDecodeAV
from ccl_pack.nodes.encoding import CCLEncodeAV
from ccl_pack.nodes.latents import CCLEmptyAVLatent
from nodes import EmptyLatentImage, VAEDecode, common_ksampler
from support import tiny
from support.tiny_vaes import audio_vae, frames, release, sound, video_vae

model = cache(tiny.patcher)
TWO_SECONDS = {"length": "seconds", "seconds": 2.0}
FIVE_FRAMES = {"length": "frames", "frames": 5}
OFF = {"tiling": "off"}


@pytest.fixture(scope="module", autouse=True)
def vaes_of_this_file() -> Iterator[None]:
    yield
    release()
    model.cache_clear()


@pytest.fixture(autouse=True)
def as_the_host_runs_nodes() -> Iterator[None]:
    with torch.inference_mode():
        yield


def made(given: dict) -> dict:
    """Parameters of tests name VAEs by the function that makes them, so that none outlives its file."""
    return {name: value() if callable(value) else value for name, value in given.items()}


def empty(
    model: ModelPatcher = model,
    width: int = 64,
    height: int = 64,
    length: dict[str, Any] = TWO_SECONDS,
    fps: float = 0.0,
    batch_size: int = 1,
) -> dict:
    size = {"size": "custom", "width": width, "height": height}
    return CCLEmptyAVLatent.execute(model(), size, length, batch_size, fps)[0]


def encode(
    latent: dict, image_fit: str = "crop", length_fit: str = "pad", fps: float = 0.0, **given: Any
) -> dict:
    return CCLEncodeAV.execute(latent, image_fit, length_fit, fps=fps, **made(given))[0]


def decode(latent: dict, **given: Any) -> NodeOutput:
    usual = {"video_vae": video_vae, "tiling": OFF, "fps": 0.0, "audio_vae": audio_vae}
    return CCLDecodeAV.execute(latent, **made({**usual, **given}))


def plain_wan(latent_frames: int = 2) -> dict:
    return {"samples": torch.zeros(1, 16, latent_frames, 4, 4)}


@pytest.mark.parametrize("node", [CCLEmptyAVLatent, CCLEncodeAV, CCLDecodeAV])
def test_schema_names_the_parameters_of_execute_and_explains_them(node: type) -> None:
    schema = node.GET_SCHEMA()
    parameters = node.execute.__func__.__code__.co_varnames[1 : node.execute.__func__.__code__.co_argcount]
    assert sorted(part.id for part in schema.inputs) == sorted(parameters)
    assert all(part.tooltip for part in [*schema.inputs, *schema.outputs])
    assert schema.description
    assert schema.search_aliases


def test_empty_two_seconds_of_the_tiny_model() -> None:
    av = split(empty())
    assert av.video.shape == (1, 16, 9, 8, 8)
    assert av.audio.shape == (1, 8, 66)
    assert av.fps == 16.0
    assert not av.video.any()
    assert not av.audio.any()
    assert av.video.device == av.audio.device == comfy.model_management.intermediate_device()


def test_empty_in_frames_with_another_frame_rate_and_batch() -> None:
    av = split(empty(length={"length": "frames", "frames": 10}, fps=24.0, width=90, height=33, batch_size=2))
    assert av.video.shape == (2, 16, 4, 4, 10)
    assert av.audio.shape == (2, 8, 18)
    assert av.fps == 24.0


@pytest.mark.parametrize(
    ("choice", "video", "length"),
    [
        ("from model", (21, 60, 104), "from model"),
        ("ccl-tiny", (9, 8, 8), "from model"),
        ("ccl-tiny", (2, 8, 8), "frames"),
    ],
)
def test_a_size_of_a_family_brings_its_length(choice: str, video: tuple[int, int, int], length: str) -> None:
    """A CCL model that is not ccl-tiny was published in no size: it has that of Wan."""
    amount = {"length": length, "frames": 5}
    latent = CCLEmptyAVLatent.execute(model(), {"size": choice}, amount, 1)[0]
    assert split(latent).video.shape[2:] == video


def test_every_trained_size_can_be_chosen() -> None:
    (size,) = (entry for entry in CCLEmptyAVLatent.define_schema().inputs if entry.id == "size")
    presets = [preset for family in FAMILIES.values() for preset in family.presets]
    assert [option.key for option in size.options] == [
        "from model",
        "from material",
        "custom",
        *(preset.title for preset in presets),
    ]


def test_empty_for_the_paper_clock_has_c_tokens_in_every_latent_frame() -> None:
    assert split(empty(model=partial(tiny.patcher, clock="uniform"))).audio.shape[2] == 8 * 9


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"length": {"length": "seconds", "seconds": -2.0}}, "-2.0 seconds"),
        ({"length": {"length": "seconds", "seconds": 1e9}}, "at most 600"),
        ({"length": {"length": "frames", "frames": 0}}, "0 frames"),
        ({"fps": -16.0}, "fps is -16"),
        ({"width": 8}, "width is 8"),
        ({"height": 10**7}, "height is"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_empty_refuses_absurd_sizes(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        empty(**wrong)


def test_empty_refuses_a_model_without_audio_stream() -> None:
    class Plain:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(
        ValueError, match="a Linear, which has no audio stream: load a joint model with CCLCheckpointLoader"
    ):
        empty(model=Plain)


def test_encode_without_material_changes_nothing() -> None:
    latent = empty(length=FIVE_FRAMES)
    again = encode(latent, video_vae=video_vae, audio_vae=audio_vae)
    assert again.keys() == latent.keys()
    assert torch.equal(split(again).audio, split(latent).audio)


def test_sound_for_a_video_keeps_the_video_and_generates_the_sound() -> None:
    av = split(encode(empty(length=FIVE_FRAMES, width=32, height=32), video_vae=video_vae, images=frames(5)))
    assert torch.equal(av.video, video_vae().encode(frames(5)))
    assert not av.video_mask.any()
    assert av.audio_mask.all()


def test_video_for_a_sound_keeps_the_sound_and_generates_the_video() -> None:
    latent = encode(empty(length=FIVE_FRAMES), audio_vae=audio_vae, audio=sound(5000))
    av = split(latent)
    assert av.audio.any()
    assert not av.audio_mask.any()
    assert av.video_mask.all()
    assert not av.video.any()


def test_a_start_image_of_any_size_keeps_the_first_latent_frame() -> None:
    latent = empty(length=FIVE_FRAMES, width=32, height=32)
    av = split(encode(latent, video_vae=video_vae, start_image=frames(1, 100, 37, 4), length_fit="refuse"))
    assert av.video_mask.mean(dim=(0, 1, 3, 4)).tolist() == [0.0, 1.0]
    assert av.video[:, :, 0].any()
    assert not av.video[:, :, 1].any()


def test_two_encodes_in_a_row_keep_both() -> None:
    first = encode(empty(length=FIVE_FRAMES, width=32, height=32), video_vae=video_vae, start_image=frames(1))
    av = split(encode(first, audio_vae=audio_vae, audio=sound(5000)))
    assert av.video_mask.mean(dim=(0, 1, 3, 4)).tolist() == [0.0, 1.0]
    assert not av.audio_mask.any()


def test_a_plain_wan_latent_gets_its_sound_in_this_one_node() -> None:
    av = split(encode(plain_wan(9), audio_vae=audio_vae, fps=16.0))
    assert av.audio.shape == (1, 8, 66)
    assert (av.fps, av.audio_mask) == (16.0, None)
    with_sound = split(encode(plain_wan(9), audio_vae=audio_vae, fps=16.0, audio=sound(33000)))
    assert not with_sound.audio_mask.any()
    assert with_sound.video_mask.all()


@pytest.mark.parametrize(
    "latent, given, message",
    [
        (plain_wan(), {"audio_vae": audio_vae}, "type it into the fps input"),
        (plain_wan(), {"audio_vae": audio_vae, "fps": -1.0}, "fps is -1"),
        (plain_wan(), {"audio": sound(5000)}, "audio_vae is not connected, but audio needs it"),
        (plain_wan(), {"images": frames(5)}, "video_vae is not connected, but images needs it"),
        (plain_wan(), {"start_image": frames(1)}, "video_vae is not connected, but start_image needs it"),
        (
            plain_wan(),
            {"video_vae": video_vae, "images": frames(5), "start_image": frames(1)},
            "images and start_image both hold frames of one place: disconnect",
        ),
        (plain_wan(), {"video_vae": audio_vae, "images": frames(5)}, "video_vae input holds an audio VAE"),
        (plain_wan(), {"audio_vae": video_vae, "fps": 16.0}, "audio_vae input holds a video VAE"),
        ({"samples": torch.full((1, 16, 2, 4, 4), float("nan"))}, {}, "the video part of latent holds NaN"),
        ({"samples": torch.zeros(1, 4, 8, 8)}, {}, "wanted a video latent"),
    ],
)
def test_encode_refuses_with_the_inputs_name(
    latent: dict[str, torch.Tensor], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encode(latent, **given)


def test_decode_gives_frames_sound_and_video_of_one_duration() -> None:
    images, audio, video = decode(empty(width=16, height=32)).args
    assert images.shape == (33, 32, 16, 3)
    assert audio["waveform"].shape == (1, 1, 33000)
    components = video.get_components()
    assert components.frame_rate == 16
    assert torch.equal(components.images, images)
    assert torch.equal(components.audio["waveform"], audio["waveform"])


def test_decode_agrees_with_the_hosts_own_nodes() -> None:
    latent = tiny.av_latent(frames=2, height=4, width=4, tokens=10)
    images, audio, _ = decode(latent).args
    assert torch.equal(images, VAEDecode().decode(video_vae(), latent)[0])
    host = VAEDecodeAudio.execute(audio_vae(), LTXVSeparateAVLatent.execute(latent)[1])[0]["waveform"]
    scale = audio["waveform"].std() / host.std()
    assert torch.allclose(audio["waveform"], host[..., :5000] * scale, atol=1e-5)


def test_a_batch_is_played_one_clip_after_another() -> None:
    latent = tiny.av_latent(batch=2, frames=2, height=4, width=4, tokens=10)
    images, audio, video = decode(latent).args
    assert images.shape == (10, 32, 32, 3)
    assert audio["waveform"].shape == (2, 1, 5000)
    assert torch.equal(video.get_components().audio["waveform"][0, :, 5000:], audio["waveform"][1])


def test_a_plain_wan_latent_gives_a_silent_video() -> None:
    images, audio, video = decode(plain_wan(), fps=16.0, audio_vae=None).args
    assert images.shape == (5, 32, 32, 3)
    assert audio["waveform"].shape == (1, 1, round(5 / 16 * audio["sample_rate"]))
    assert not audio["waveform"].any()
    assert video.get_components().frame_rate == 16


def test_decode_in_tiles_has_the_same_size() -> None:
    tiles = {"tiling": "on", "tile_size": 64, "overlap": 16, "temporal_size": 8, "temporal_overlap": 4}
    latent = tiny.av_latent(frames=3, height=4, width=10, tokens=18)
    assert decode(latent, tiling=tiles)[0].shape == decode(latent)[0].shape == (9, 32, 80, 3)


@pytest.mark.parametrize("rate", [16.0, 23.976])
def test_the_saved_files_streams_are_equally_long(tmp_path: Path, rate: float) -> None:
    latent = empty(width=32, height=32, fps=rate)
    images, _, video = decode(latent).args
    video.save_to(str(tmp_path / "clip.mp4"))
    with pyav.open(str(tmp_path / "clip.mp4")) as file:
        seconds = [
            float(stream.duration * stream.time_base)
            for stream in (file.streams.video[0], file.streams.audio[0])
        ]
        assert file.streams.video[0].frames == images.shape[0]
    assert seconds[0] == pytest.approx(images.shape[0] / rate, abs=0.001)
    assert abs(seconds[0] - seconds[1]) < 0.02


def spoilt(stream: int) -> dict:
    latent = tiny.av_latent(frames=2, height=4, width=4, tokens=10)
    latent["samples"].unbind()[stream][0, 0, 0] = float("nan")
    return latent


@pytest.mark.parametrize(
    "latent, given, message",
    [
        (plain_wan(), {}, "type it into the fps input"),
        (plain_wan(), {"fps": -3.0}, "fps is -3"),
        ({**plain_wan(), "fps": 0.0}, {}, "fps is 0"),
        (tiny.av_latent(), {"audio_vae": None}, "audio_vae is not connected"),
        (tiny.av_latent(), {"video_vae": audio_vae}, "video_vae input holds an audio VAE"),
        (tiny.av_latent(), {"audio_vae": video_vae}, "audio_vae input holds a video VAE"),
        (tiny.av_latent(channels=48), {}, "48 channels, the VAE in video_vae makes 16"),
        (
            tiny.av_latent(),
            {"audio_vae": partial(audio_vae, mels=12)},
            "8 channels, the VAE in audio_vae makes 12",
        ),
        (spoilt(0), {}, "the video part of latent holds NaN"),
        (spoilt(1), {}, "the audio part of latent holds NaN"),
        (EmptyLatentImage().generate(64, 64)[0], {"fps": 16.0}, "wanted a video latent"),
    ],
)
def test_decode_refuses_with_the_inputs_name(
    latent: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        decode(latent, **given)


def test_what_was_decoded_lasts_as_long_as_what_was_encoded() -> None:
    latent = encode(
        empty(length=FIVE_FRAMES, width=32, height=32),
        video_vae=video_vae,
        audio_vae=audio_vae,
        images=frames(5),
        audio=sound(5000),
    )
    images, audio, _ = decode(latent).args
    assert Fraction(audio["waveform"].shape[-1], audio["sample_rate"]) == Fraction(images.shape[0], 16)


def test_from_given_sound_through_the_hosts_ksampler_the_sound_comes_back_bit_exact() -> None:
    latent = encode(
        empty(length=FIVE_FRAMES, width=32, height=32),
        video_vae=video_vae,
        audio_vae=audio_vae,
        start_image=frames(1),
        audio=sound(5000),
    )
    text = tiny.conditioning()
    sampled = common_ksampler(model(), 1, 2, 1.0, "euler", "simple", text, text, latent)[0]
    assert torch.equal(split(sampled).audio, split(latent).audio)
    assert torch.equal(split(sampled).video[:, :, 0], split(latent).video[:, :, 0])
    assert not torch.equal(split(sampled).video[:, :, 1], split(latent).video[:, :, 1])
    assert decode(sampled)[0].shape == (5, 32, 32, 3)


def test_sizes_beyond_the_machine_are_refused_by_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest that the widgets allow: 16384 x 16384, 10 minutes at 240 fps, 64 clips."""
    largest = {"width": 16384, "height": 16384, "batch_size": 64, "fps": 240.0}
    with pytest.raises(ValueError, match=r"64 x 144001 frames of 16384 x 16384 pixels take \d+ GiB"):
        empty(length={"length": "frames", "frames": 144000}, **largest)
    latent = empty()
    # In MiB: less than nine frames of 48 x 32.
    monkeypatch.setattr(comfy.model_management, "total_ram", 0.1)
    with pytest.raises(ValueError, match=r"1 x \d+ frames of .* pixels take .* decode fewer"):
        decode(latent)


@pytest.mark.parametrize(
    ("size", "length", "words"),
    [
        (
            {"size": "custom", "width": 70, "height": 50},
            {"length": "seconds", "seconds": 2.7},
            "70x50 became",
        ),
        ({"size": "from model"}, {"length": "frames", "frames": 30}, "30 frames became 33"),
        ({"size": "from model"}, {"length": "from model"}, ""),
    ],
)
def test_a_size_that_became_another_one_is_told(
    size: dict[str, Any], length: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    CCLEmptyAVLatent.execute(model(), size, length, 1)
    assert words in caplog.text and ("became" in caplog.text) is bool(words)


def test_a_length_beyond_the_training_is_told_however_it_was_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    CCLEmptyAVLatent.execute(model(), {"size": "from model"}, {"length": "seconds", "seconds": 10}, 1)
    assert "the clip has 161 frames at 16 fps, the model was trained with 81 (5.1 s)" in caplog.text


def test_the_longest_clip_of_a_family_counts(caplog: pytest.LogCaptureFixture) -> None:
    """Ovi makes 5 s, and with the same weights' other release 10 s."""
    ovi, small = tiny.patcher(family="ovi"), {"size": "custom", "width": 64, "height": 64}
    for count, told in ((241, False), (481, True)):
        caplog.clear()
        CCLEmptyAVLatent.execute(ovi, small, {"length": "frames", "frames": count}, 1)
        assert ("was trained with 241" in caplog.text) is told
