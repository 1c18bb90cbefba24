"""A film with one stream made anew: the other one packet by packet, both at their times."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from comfy_api.latest import InputImpl

from ccl_pack.ccl_core.host.media.picture import first_seconds, open_film
from ccl_pack.ccl_core.host.media.remux import save_with_picture, save_with_sound, written
from ccl_pack.ccl_core.host.media.sound_file import read_sound
from support.films import Recipe, grey, packets, turned, write

CLICKS = (0.25, 1.0, 1.5)


def clicks(rate: int = 16000, seconds: float = 2.0, channels: int = 1) -> dict[str, Any]:
    """An AUDIO with a short burst at each time of CLICKS."""
    waveform = torch.zeros(1, channels, int(rate * seconds))
    for time in CLICKS:
        start = int(time * rate)
        waveform[..., start : start + rate // 100] = torch.linspace(0.8, 0, rate // 100)
    return {"waveform": waveform, "sample_rate": rate}


def onsets(path: Path) -> list[float]:
    """Times at which a sound begins, read by the time stamps of the file."""
    sound = read_sound(str(path), Fraction(0), Fraction(2))
    loud = sound.waveform[0].abs() > 0.25
    starts = [n for n in loud.nonzero()[:, 0].tolist() if not loud[max(0, n - 800) : n].any()]
    return [n / sound.sample_rate for n in starts]


@pytest.mark.parametrize(
    ("name", "codec", "sound"),
    [
        ("a.mp4", "h264", "aac"),
        ("a.mkv", "h264", "flac"),
        ("a.mov", "h264", "pcm_s16le"),
        ("a.webm", "vp9", "libopus"),
        ("a.webm", "libsvtav1", "libopus"),
        ("a.avi", "mpeg4", "mp3"),
        ("a.mpg", "mpeg2video", "mp2"),
    ],
)
def test_the_picture_of_every_container_is_copied(tmp_path: Path, name: str, codec: str, sound: str) -> None:
    path = write(tmp_path / name, Recipe(video=codec, audio=sound, rate=48000))
    film = open_film(str(path))
    save_with_sound(film, clicks(), str(tmp_path / "made.mp4"))
    assert packets(tmp_path / "made.mp4", "video") == packets(path, "video")
    assert onsets(tmp_path / "made.mp4") == pytest.approx(CLICKS, abs=0.01)
    # As the host reads and saves it.
    made = InputImpl.VideoFromFile(str(tmp_path / "made.mp4"))
    assert made.get_components().images.shape == (60, 48, 64, 3)
    made.save_to(str(tmp_path / "saved.mp4"))
    assert packets(tmp_path / "saved.mp4", "video") == packets(path, "video")


@pytest.mark.parametrize(
    ("name", "codec", "sound"),
    [
        ("a.mp4", "h264", "aac"),
        ("a.mkv", "h264", "flac"),
        ("a.webm", "vp9", "libopus"),
        ("a.avi", "mpeg4", "mp3"),
    ],
)
def test_the_sound_of_every_container_is_copied(tmp_path: Path, name: str, codec: str, sound: str) -> None:
    path = write(tmp_path / name, Recipe(video=codec, audio=sound, rate=48000))
    images = torch.arange(33.0).view(33, 1, 1, 1).expand(33, 48, 64, 3) * 4 / 255
    save_with_picture(images, Fraction(16), open_film(str(path)), str(tmp_path / "made.mp4"))
    assert packets(tmp_path / "made.mp4", "audio") == packets(path, "audio")
    before, after = (
        read_sound(str(p), Fraction(0), Fraction(2)).waveform for p in (path, tmp_path / "made.mp4")
    )
    shift = np.correlate(after[0, 4000:8000].numpy(), before[0, 3900:8100].numpy(), "valid").argmax()
    assert abs(shift - 100) <= 100 and float(after.abs().mean()) == pytest.approx(
        float(before.abs().mean()), rel=0.05
    )
    made = InputImpl.VideoFromFile(str(tmp_path / "made.mp4")).get_components()
    assert made.frame_rate == 16
    assert grey((made.images * 255).numpy()) == pytest.approx(range(33), abs=0.6)


def test_what_mp4_does_not_take_is_encoded_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.mkv", Recipe(video="libvpx", audio=None))
    save_with_sound(open_film(str(path)), clicks(), str(tmp_path / "made.mp4"))
    assert "mp4 takes no vp8: the picture of a.mkv is encoded again as h264" in caplog.text
    images = InputImpl.VideoFromFile(str(tmp_path / "made.mp4")).get_components().images
    assert grey((images * 255).numpy()) == pytest.approx(range(60), abs=1.2)


def test_a_window_from_the_middle_is_encoded_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    film = open_film(str(write(tmp_path / "a.mp4")), start=0.5, seconds=1.0)
    save_with_sound(film, clicks(), str(tmp_path / "made.mp4"))
    assert "a.mp4 is used from 0.5 s on: its picture is encoded again" in caplog.text
    images = InputImpl.VideoFromFile(str(tmp_path / "made.mp4")).get_components().images
    assert grey((images * 255).numpy()) == pytest.approx(range(15, 45), abs=1.2)


def test_the_first_seconds_are_copied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.mp4")
    save_with_sound(first_seconds(open_film(str(path)), Fraction(1)), clicks(), str(tmp_path / "made.mp4"))
    made = packets(tmp_path / "made.mp4", "video")
    # Frames behind the end stay where an earlier frame is packed by them.
    assert 30 <= len(made) <= 33 and made == packets(path, "video")[: len(made)]
    assert not caplog.text


def test_uneven_frames_keep_their_times(tmp_path: Path) -> None:
    times = tuple(0.02 * n if n < 10 else 0.2 + 0.1 * (n - 10) for n in range(20))
    path = write(tmp_path / "a.mkv", Recipe(frames=20, times=times, audio=None))
    save_with_sound(open_film(str(path)), clicks(), str(tmp_path / "made.mp4"))
    with av.open(str(tmp_path / "made.mp4")) as container:
        found = [frame.time for frame in container.decode(video=0)]
    assert found == pytest.approx(times, abs=0.001)


@pytest.mark.parametrize(("channels", "layout"), [(1, "mono"), (2, "stereo"), (6, "5.1"), (3, "stereo")])
def test_channels_and_odd_rates_are_written(tmp_path: Path, channels: int, layout: str) -> None:
    film = open_film(str(write(tmp_path / "a.mp4")))
    save_with_sound(film, clicks(18000, channels=channels), str(tmp_path / "made.mp4"))
    with av.open(str(tmp_path / "made.mp4")) as container:
        stream = container.streams.audio[0]
        assert (stream.rate, stream.layout.name) == (22050, layout)
    assert onsets(tmp_path / "made.mp4") == pytest.approx(CLICKS, abs=0.01)


def test_a_turned_film_stays_turned(tmp_path: Path) -> None:
    path = turned(write(tmp_path / "a.mp4", Recipe(audio=None)), tmp_path / "b.mp4", 90)
    save_with_sound(open_film(str(path)), clicks(), str(tmp_path / "made.mp4"))
    made = open_film(str(tmp_path / "made.mp4"))
    assert made.sides == (48, 64)
    first, wanted = (next(film.at(Fraction(30), 1)) for film in (made, open_film(str(path))))
    assert torch.equal(first, wanted)


def test_a_part_of_a_turned_film_is_encoded_as_it_is_shown(tmp_path: Path) -> None:
    path = turned(write(tmp_path / "a.mp4", Recipe(audio=None)), tmp_path / "b.mp4", 90)
    save_with_sound(open_film(str(path), start=0.5, seconds=1.0), clicks(), str(tmp_path / "made.mp4"))
    assert open_film(str(tmp_path / "made.mp4")).sides == (48, 64)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    film = open_film(str(write(tmp_path / "a.mp4")))
    assert written(partial(save_with_sound, film, clicks()), str(tmp_path / "made.mp4"))
    assert not written(partial(save_with_sound, film, clicks()), str(tmp_path / "not there" / "made.mp4"))
    assert "the original could not be put back" in caplog.text


def test_the_frames_of_a_transport_stream_stay_what_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ts", Recipe(rate=48000))
    save_with_sound(open_film(str(path)), clicks(), str(tmp_path / "made.mp4"))
    with av.open(str(path)) as before, av.open(str(tmp_path / "made.mp4")) as after:
        pairs = zip(before.decode(video=0), after.decode(video=0), strict=True)
        assert all(np.array_equal(one.to_ndarray(), other.to_ndarray()) for one, other in pairs)


def test_a_part_of_uneven_frames_begins_with_the_one_that_is_shown(tmp_path: Path) -> None:
    times = (0.0, 0.1, 0.2, 1.0, 1.1, 1.2, 1.3, 1.4)
    path = write(tmp_path / "a.mkv", Recipe(frames=8, times=times, audio=None))
    save_with_sound(open_film(str(path), start=0.5, seconds=0.8), clicks(), str(tmp_path / "made.mp4"))
    with av.open(str(tmp_path / "made.mp4")) as container:
        shown = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert [time for time, _ in shown] == pytest.approx([0.0, 0.5, 0.6, 0.7], abs=0.002)
    assert grey([image for _, image in shown]) == pytest.approx([2, 3, 4, 5], abs=1.2)
