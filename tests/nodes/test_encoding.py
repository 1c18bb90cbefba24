"""A person's own film through the nodes: given, resampled, kept, and given back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from comfy_api.latest import Input, InputImpl, Types

from ccl_pack.ccl_core.host.media.latents import split
from ccl_pack.ccl_core.host.media.picture import open_film
from ccl_pack.ccl_core.host.media.remux import save_both
from ccl_pack.ccl_core.host.media.sound_file import read_sound
from ccl_pack.nodes import decoding
from ccl_pack.nodes.decoding import CCLDecodeAV
from ccl_pack.nodes.encoding import CCLEncodeAV
from ccl_pack.nodes.latents import CCLEmptyAVLatent
from support import tiny
from support.films import NTSC, Recipe, packets, write
from support.tiny_vaes import audio_vae, frames, release, sound, video_vae

model = cache(tiny.patcher)
FIVE_FRAMES = {"length": "frames", "frames": 5}


@pytest.fixture(scope="module", autouse=True)
def vaes_of_this_file() -> Iterator[None]:
    yield
    release()
    model.cache_clear()


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path) -> Iterator[None]:
    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path / "temp"))
    with torch.inference_mode():
        yield
    folder_paths.set_temp_directory(before)


def film(path: Path, **recipe: Any) -> Input.Video:
    return InputImpl.VideoFromFile(str(write(path, Recipe(**recipe))))


def empty(length: dict[str, Any] | None = None, width: int = 64, height: int = 48) -> dict[str, Any]:
    sides = {"size": "custom", "width": width, "height": height}
    return CCLEmptyAVLatent.execute(model(), sides, length or {"length": "frames", "frames": 33}, 1)[0]


def like(size: tuple[int, int] = (64, 48), **material: Any) -> dict[str, Any]:
    """An empty latent of the length of the material."""
    sides = {"size": "custom", "width": size[0], "height": size[1]}
    return CCLEmptyAVLatent.execute(model(), sides, {"length": "from material"}, 1, **material)[0]


def encode(latent: dict[str, Any], length_fit: str = "pad", **given: Any) -> tuple[dict[str, Any], str]:
    vaes = {"video_vae": video_vae(), "audio_vae": audio_vae()}
    return CCLEncodeAV.execute(latent, "crop", length_fit, **vaes, **given).args


def decode(latent: dict[str, Any], **choices: Any) -> tuple[torch.Tensor, dict[str, Any], Input.Video]:
    return CCLDecodeAV.execute(latent, video_vae(), {"tiling": "off"}, audio_vae(), **choices).args


def saved(video: Input.Video, path: Path) -> Path:
    """As SaveVideo does by default."""
    video.save_to(str(path), format=Types.VideoContainer.AUTO, codec=Types.VideoCodec.AUTO)
    return path


def test_size_and_length_come_from_the_material(tmp_path: Path) -> None:
    video = film(tmp_path / "a.mp4", size=(640, 360), frames=120, fps=Fraction(30))
    choice = {"size": "from material"}, {"length": "from material"}
    av = split(CCLEmptyAVLatent.execute(model(), *choice, 1, video=video)[0])
    # 4 s at 16 fps are 64 frames, 65 with the next whole latent frame; 16:9 in the pixels of Wan's 480p.
    assert av.video.shape == (1, 16, 17, 480 // 8, 848 // 8)
    by_sound = CCLEmptyAVLatent.execute(model(), {"size": "from model"}, choice[1], 1, audio=sound(32000))
    assert split(by_sound[0]).video.shape[2] == 9  # 2 s, 33 frames
    by_images = CCLEmptyAVLatent.execute(model(), *choice, 1, images=frames(20, 90, 160), fps=24.0)
    assert split(by_images[0]).video.shape[2:] == (6, 480 // 8, 848 // 8) and split(by_images[0]).fps == 24


@pytest.mark.parametrize(
    ("choice", "given", "message"),
    [
        (("from material", "from model"), {}, "size is from material, and no picture is connected"),
        (("from model", "from material"), {}, "length is from material, and nothing is connected"),
        (("from material", "from model"), {"audio": True}, "no picture is connected"),
    ],
)
def test_material_that_is_not_there_is_asked_for(
    choice: tuple[str, str], given: dict[str, Any], message: str
) -> None:
    material = {name: sound(100) for name in given}
    with pytest.raises(ValueError, match=message):
        CCLEmptyAVLatent.execute(model(), {"size": choice[0]}, {"length": choice[1]}, 1, **material)


def test_material_that_no_choice_uses_and_material_that_is_long_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    CCLEmptyAVLatent.execute(model(), {"size": "from model"}, {"length": "from model"}, 1, audio=sound(100))
    assert "audio is not used here: choose from material in size or length" in caplog.text
    caplog.clear()
    like(video=film(tmp_path / "a.mp4", frames=270, fps=Fraction(30)))
    assert "the clip has 145 frames at 16 fps, the model was trained with 81 (5.1 s)" in caplog.text


def test_sound_for_a_film_gives_the_film_back_with_a_sound(tmp_path: Path) -> None:
    video = film(tmp_path / "a.mp4")
    latent, report = encode(like(video=video), video=video)
    assert report == ("Picture kept: a.mp4, 2.00 s, 64x48 -> 64x48, 29.97 -> 16 fps\nTo be made: sound")
    av = split(latent)
    assert not av.video_mask.any() and av.audio_mask.all()
    images, audio, made = decode(latent)
    assert images.shape == (33, 48, 64, 3) and audio["waveform"].shape[-1] == 33000
    path = saved(made, tmp_path / "made.mp4")
    assert packets(path, "video") == packets(tmp_path / "a.mp4", "video")
    assert made.get_frame_rate() == pytest.approx(float(NTSC), rel=1e-4)
    heard = read_sound(str(path), Fraction(0), Fraction(3))
    assert heard.sample_rate == 16000
    # As long as the film.
    assert float(made.get_duration()) == pytest.approx(2.002, abs=0.01)


def test_the_frames_that_are_encoded_are_those_at_their_times(tmp_path: Path) -> None:
    video = film(tmp_path / "a.mp4")
    images = video.get_components().images
    nearest = [min(59, round(k / 16 * NTSC)) for k in range(33)]
    by_hand, _ = encode(like(video=video), images=images[nearest])
    latent, _ = encode(like(video=video), video=video)
    # The host keeps float, a film is read in 8 bits.
    torch.testing.assert_close(split(latent).video, split(by_hand).video, atol=0.05, rtol=0)


def test_a_picture_for_a_film_s_sound_gives_the_sound_back(tmp_path: Path) -> None:
    video = film(tmp_path / "a.mp4", rate=48000)
    latent, report = encode(like(video=video), video=video, keep="sound")
    assert report == "Sound kept: a.mp4, 2.00 s -> 16000 Hz\nTo be made: picture"
    av = split(latent)
    assert av.video_mask.all() and not av.audio_mask.any()
    images, audio, made = decode(latent)
    assert (audio["sample_rate"], audio["waveform"].shape) == (48000, (1, 2, 99000))
    path = saved(made, tmp_path / "made.mp4")
    assert packets(path, "audio") == packets(tmp_path / "a.mp4", "audio")
    assert made.get_components().images.shape == images.shape == (33, 48, 64, 3)


def test_both_of_a_film_are_the_film(tmp_path: Path) -> None:
    video = film(tmp_path / "a.mp4")
    latent, report = encode(like(video=video), video=video, keep="picture and sound")
    assert report.endswith("Nothing is to be made: all of it is given")
    path = saved(decode(latent)[2], tmp_path / "made.mp4")
    for kind in ("video", "audio"):
        assert packets(path, kind) == packets(tmp_path / "a.mp4", kind)


@pytest.mark.parametrize(("name", "sound_codec"), [("a.mkv", "flac"), ("a.avi", "mp3"), ("a.flv", "aac")])
def test_both_of_another_container_are_copied(tmp_path: Path, name: str, sound_codec: str) -> None:
    """Matroska leaves out times of decoding that the host's own copy needs."""
    codec = "mpeg4" if name == "a.avi" else "h264"
    video = film(tmp_path / name, video=codec, audio=sound_codec)
    latent, _ = encode(like(video=video), video=video, keep="picture and sound")
    path = saved(decode(latent)[2], tmp_path / "made.mp4")
    for kind in ("video", "audio"):
        assert packets(path, kind) == packets(tmp_path / name, kind)
    assert InputImpl.VideoFromFile(str(path)).get_components().images.shape[0] == 60


def test_channels_without_names_are_encoded_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video = film(tmp_path / "a.avi", video="mpeg4", audio="pcm_s16le")
    latent, _ = encode(like(video=video), video=video, keep="sound")
    path = saved(decode(latent)[2], tmp_path / "made.mp4")
    assert "mp4 takes no pcm_s16le of 2 channels: the sound of a.avi is encoded again as aac" in caplog.text
    assert read_sound(str(path), Fraction(0), Fraction(2)).waveform.abs().max() > 0.2


def test_a_sound_longer_than_its_picture_is_heard_to_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "long.mp4", Recipe(frames=60))
    write(tmp_path / "short.mp4", Recipe(frames=15, audio=None))
    picture, voice = (open_film(str(tmp_path / name)) for name in ("short.mp4", "long.mp4"))
    save_both(picture, voice, str(tmp_path / "a.mp4"))
    video = InputImpl.VideoFromFile(str(tmp_path / "a.mp4"))
    latent, report = encode(empty(), video=video, keep="sound")
    assert "a.mp4, 2.00 s" in report and not [r for r in caplog.records if r.levelname == "WARNING"]
    path = saved(decode(latent)[2], tmp_path / "made.mp4")
    assert packets(path, "audio") == packets(tmp_path / "a.mp4", "audio")
    encode(like(video=video), video=video, keep="sound")
    assert "a.mp4 is 2.002 s long" in caplog.text and "the rest of the sound is cut off" in caplog.text


def test_a_sound_shorter_than_its_picture_can_be_gone_on_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "long.mp4", Recipe(frames=60, audio=None))
    write(tmp_path / "short.mp4", Recipe(frames=15))
    picture, voice = (open_film(str(tmp_path / name)) for name in ("long.mp4", "short.mp4"))
    save_both(picture, voice, str(tmp_path / "a.mp4"))
    video = InputImpl.VideoFromFile(str(tmp_path / "a.mp4"))
    encode(like(video=video), video=video, keep="sound")
    assert "silence is added" in caplog.text
    latent, _ = encode(like(video=video), "generate", video=video, keep="sound")
    kept = (split(latent).audio_mask == 0).float().mean()
    assert 0.2 < kept < 0.3


def test_a_changed_latent_gives_no_original_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    video = film(tmp_path / "a.mp4")
    latent, _ = encode(like(video=video), video=video)
    again, report = encode(latent, start_image=frames(1))
    assert "Picture kept" not in report and decode(again)[2].get_components().frame_rate == 16
    parts = latent["samples"].unbind()
    flipped = {**latent, "samples": type(latent["samples"])([parts[0].flip(-1), parts[1]])}
    assert decode(flipped)[2].get_components().frame_rate == 16
    assert "The original picture is not put back: the latent was cut, joined or changed" in caplog.text


def test_one_clip_of_a_batch_has_its_original(tmp_path: Path) -> None:
    video = film(tmp_path / "a.mp4", frames=10)
    sides = {"size": "custom", "width": 64, "height": 48}
    blank = CCLEmptyAVLatent.execute(model(), sides, {"length": "from material"}, 2, video=video)[0]
    latent, _ = encode(blank, video=video)
    one = {**latent, "samples": latent["samples"][1:], "noise_mask": latent["noise_mask"][1:]}
    path = saved(decode(one)[2], tmp_path / "made.mp4")
    assert packets(path, "video") == packets(tmp_path / "a.mp4", "video")


def test_frames_of_a_typed_rate_and_odd_sides_become_a_file(tmp_path: Path) -> None:
    made = Types.VideoComponents(images=frames(33, 47, 65), audio=None, frame_rate=Fraction(29.97))
    video = InputImpl.VideoFromComponents(made)
    voice = film(tmp_path / "a.mp4")
    first, _ = encode(empty(), video=video)
    both, _ = encode(first, video=voice, keep="sound")
    path = saved(decode(both)[2], tmp_path / "made.mp4")
    assert packets(path, "audio")[:5] == packets(tmp_path / "a.mp4", "audio")[:5]
    assert saved(decode(first)[2], tmp_path / "silent.mp4").stat().st_size > 1000


def test_a_sound_of_the_host_comes_back_at_its_own_rate() -> None:
    given = sound(96000, rate=48000, channels=2)
    latent, _ = encode(like(audio=given), audio=given)
    _, audio, made = decode(latent)
    assert audio["sample_rate"] == 48000
    assert torch.equal(audio["waveform"][..., :96000], given["waveform"])
    assert torch.equal(made.get_components().audio["waveform"][..., :96000], given["waveform"])


def test_images_come_back_at_their_own_rate_and_size() -> None:
    images = frames(33, 96, 128)
    latent, report = encode(empty(length={"length": "frames", "frames": 17}), images=images, fps=32.0)
    assert "images, 1.03 s, 128x96 -> 64x48, 32 -> 16 fps" in report
    made = decode(latent)[2].get_components()
    assert made.frame_rate == 32 and torch.equal(made.images, images)


def test_a_clip_whose_original_cannot_be_written_is_given_as_it_was_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = film(tmp_path / "a.mp4")
    latent, _ = encode(like(video=video), video=video)
    monkeypatch.setattr(decoding, "temporary_file", lambda: str(tmp_path / "not there" / "made.mp4"))
    images, _, made = decode(latent)
    parts = made.get_components()
    assert torch.equal(parts.images, images) and parts.frame_rate == 16
    assert "the original could not be put back" in caplog.text


def test_a_film_in_a_latent_without_a_rate_asks_for_it(tmp_path: Path) -> None:
    plain = {"samples": torch.zeros(1, 16, 9, 6, 8)}
    video = film(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="the latent does not say its frame rate"):
        CCLEncodeAV.execute(plain, "crop", "pad", video_vae=video_vae(), video=video)
    _, report = CCLEncodeAV.execute(plain, "crop", "pad", video_vae=video_vae(), video=video, fps=16.0).args
    assert "29.97 -> 16 fps" in report


def test_decoded_is_what_the_vae_makes(tmp_path: Path) -> None:
    video = film(tmp_path / "a.mp4")
    latent, _ = encode(like(video=video), video=video)
    images, _, made = decode(latent, given="decoded")
    assert torch.equal(images, video_vae().decode(split(latent).video)[0])
    assert made.get_components().frame_rate == 16


def test_a_latent_that_was_cut_or_is_to_be_made_again_gives_no_original(tmp_path: Path) -> None:
    video = film(tmp_path / "a.mp4")
    latent, _ = encode(like(video=video), video=video)
    masks = latent["noise_mask"].unbind()
    again = {**latent, "noise_mask": type(latent["noise_mask"])([torch.ones_like(masks[0]), masks[1]])}
    assert decode(again)[2].get_components().frame_rate == 16


def test_a_batch_is_decoded_and_that_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video = film(tmp_path / "a.mp4", frames=10)
    size = {"size": "custom", "width": 64, "height": 48}
    blank = CCLEmptyAVLatent.execute(model(), size, {"length": "from material"}, 2, video=video)[0]
    latent, _ = encode(blank, video=video)
    assert decode(latent)[2].get_components().frame_rate == 16
    assert "2 clips follow one another" in caplog.text


def test_a_second_encode_keeps_the_original_of_the_first(tmp_path: Path) -> None:
    video, voice = film(tmp_path / "a.mp4"), sound(96000, rate=48000)
    first, _ = encode(like(video=video), video=video)
    # Only what this node encodes needs a VAE.
    both, report = CCLEncodeAV.execute(first, "crop", "pad", audio_vae=audio_vae(), audio=voice).args
    assert report == "Sound kept: audio, 2.00 s, 48000 -> 16000 Hz\nNothing is to be made: all of it is given"
    path = saved(decode(both)[2], tmp_path / "made.mp4")
    assert packets(path, "video") == packets(tmp_path / "a.mp4", "video")


def test_a_film_longer_than_the_latent_is_cut_and_that_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    video = film(tmp_path / "a.mp4")
    latent, report = encode(
        empty(length=FIVE_FRAMES, width=64, height=48), video=video, keep="picture and sound"
    )
    assert "first 0.31 of 2.00 s" in report
    assert "the last 27 are left out" in caplog.text and "the rest of the sound is cut off" in caplog.text
    made = decode(latent)[2]
    assert float(made.get_duration()) == pytest.approx(5 / 16, abs=0.1)
    with pytest.raises(ValueError, match="32 frames at its rate, the latent 5"):
        encode(empty(length=FIVE_FRAMES), "refuse", video=video)


@pytest.mark.parametrize(
    ("recipe", "given", "message"),
    [
        ({"audio": None}, {"keep": "sound"}, "a.mp4 holds no sound: connect a video with sound"),
        (
            {"video": None},
            {},
            "a.mp4 holds no picture, wanted a film: choose another file. A sound alone goes into audio",
        ),
        ({}, {"images": True}, "video and images both hold frames of one place"),
        ({}, {"start_image": True}, "video and start_image both hold frames of one place.*set keep to sound"),
        ({}, {"keep": "sound", "audio": True}, "video and audio both hold a sound"),
        ({}, {"fps": 24.0}, "fps is 24, and the latent was made for 16 fps"),
    ],
)
def test_what_contradicts_itself_is_refused(
    tmp_path: Path, recipe: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    video = film(tmp_path / "a.mp4", **recipe)
    material = {"images": frames(5), "start_image": frames(1), "audio": sound(1000)}
    chosen = {name: material.get(name, value) for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        encode(empty(length=FIVE_FRAMES), video=video, **chosen)


def test_an_image_at_each_end_keeps_the_first_and_the_last_latent_frame() -> None:
    first, last = frames(1, seed=1), frames(1, seed=2)
    blank = empty(length={"length": "frames", "frames": 17}, width=32, height=32)
    latent, report = encode(blank, start_image=first, end_image=last)
    av = split(latent)
    assert av.video_mask.mean(dim=(0, 1, 3, 4)).tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert torch.equal(av.video[:, :, :1], video_vae().encode(first))
    still = video_vae().encode(last.expand(9, -1, -1, -1))
    assert torch.equal(av.video[:, :, -1:], still[:, :, -1:])
    assert report == "To be made: picture and sound"
    several, _ = encode(blank, end_image=frames(5))
    assert split(several).video_mask.mean(dim=(0, 1, 3, 4)).tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="end_image holds 17 frames and the latent 17: give fewer"):
        encode(blank, end_image=frames(17))


def test_streams_of_other_seconds_are_refused_by_both_nodes() -> None:
    long, short = split(empty()), split(empty(length=FIVE_FRAMES))
    pair = type(empty()["samples"])([long.video, short.audio])
    for node in (encode, decode):
        with pytest.raises(ValueError, match=r"the video is 2\.062 s long .* the sound 0\.312 s"):
            node({"samples": pair, "fps": 16.0})


def test_a_connected_file_without_sound_is_an_error() -> None:
    """GetVideoComponents of a silent file hands on None, an input without a link is left out."""
    with pytest.raises(ValueError, match="audio is connected to a node that gives no sound"):
        encode(empty(), audio=None)
    assert encode(empty(), images=frames(33, 48, 64))[0] is not None
