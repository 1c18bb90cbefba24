"""Frames of a file at another rate: by their times, as they are shown, a few at a time."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from ccl_pack.ccl_core.host.media.picture import Frames, first_seconds, open_film
from support.films import NTSC, Recipe, grey, packets, turned, write


def numbers(chunks: list[torch.Tensor]) -> list[int]:
    """Which frames of the file these are."""
    images = (torch.cat(chunks) * 255).round().byte().numpy()
    return [round(number) for number in grey(images)]


@pytest.mark.parametrize(
    ("name", "codec", "sound"),
    [
        ("a.mp4", "h264", "aac"),
        ("a.mkv", "h264", "aac"),
        ("a.mov", "h264", "pcm_s16le"),
        ("a.webm", "vp9", "libopus"),
        ("a.ts", "h264", "aac"),
        ("a.mpg", "mpeg2video", "mp2"),
        ("a.avi", "mpeg4", "mp3"),
    ],
)
def test_of_every_container_the_nearest_frame_is_taken(
    tmp_path: Path, name: str, codec: str, sound: str
) -> None:
    recipe = Recipe(video=codec, audio=sound, rate=48000)
    film = open_film(str(write(tmp_path / name, recipe)))
    assert (film.sides, film.picture, film.sound, film.whole) == ((64, 48), True, True, True)
    assert film.fps == pytest.approx(float(NTSC), rel=1e-3)
    assert float(film.seconds) == pytest.approx(60 / NTSC, abs=0.05)
    found = grey((torch.cat(list(film.at(Fraction(16), 32))) * 255).byte().numpy())
    late = [k / 16 * NTSC - number for k, number in zip(range(31), found, strict=False)]
    # The clock begins with the first stream, which may be the sound, up to two frames before the picture.
    offset = sorted(late)[15]
    assert -0.5 <= offset <= 2
    # Half a frame, and what the codec rounds of the brightness.
    assert max(abs(value - offset) for value in late) <= 1.3


def test_the_same_rate_is_the_same_frames(tmp_path: Path) -> None:
    film = open_film(str(write(tmp_path / "a.mp4")))
    assert numbers(list(film.at(NTSC, 60))) == list(range(60))


def test_uneven_times_are_obeyed(tmp_path: Path) -> None:
    times = tuple(0.02 * n if n < 10 else 0.2 + 0.1 * (n - 10) for n in range(20))
    film = open_film(str(write(tmp_path / "a.mkv", Recipe(frames=20, times=times, audio=None))))
    found = numbers(list(film.at(Fraction(50), 50)))
    nearest = [min(range(20), key=lambda n: abs(times[n] - k / 50)) for k in range(50)]
    assert max(abs(a - b) for a, b in zip(found, nearest, strict=True)) <= 1
    assert found[:10] == list(range(10)) and found[49] == nearest[49]


def test_a_window_is_read_from_its_start(tmp_path: Path) -> None:
    film = open_film(str(write(tmp_path / "a.mp4")), start=0.5, seconds=1.0)
    assert (film.start, film.seconds, film.whole) == (Fraction(1, 2), 1, False)
    found = numbers(list(film.at(NTSC, 30)))
    assert found == [min(n + 15, 44) for n in range(30)]


def test_a_short_film_ends_with_its_last_frame(tmp_path: Path) -> None:
    film = open_film(str(write(tmp_path / "a.mp4", Recipe(frames=10))))
    assert numbers(list(film.at(NTSC, 40))) == [*range(10), *[9] * 30]


def test_bytes_are_read_as_a_file(tmp_path: Path) -> None:
    data = io.BytesIO(write(tmp_path / "a.mp4").read_bytes())
    film = open_film(data)
    assert numbers(list(film.at(NTSC, 60))) == list(range(60))
    assert film.name == "the given video"


def test_a_turned_film_is_read_as_it_is_shown(tmp_path: Path) -> None:
    upright = turned(write(tmp_path / "a.mp4", Recipe(audio=None)), tmp_path / "b.mp4", 90)
    film = open_film(str(upright))
    assert film.sides == (48, 64)
    (chunk,) = film.at(NTSC, 1)
    assert chunk.shape == (1, 64, 48, 3)
    from comfy_api.latest import InputImpl

    shown = InputImpl.VideoFromFile(str(upright)).get_components().images[:1]
    assert shown.shape == chunk.shape
    torch.testing.assert_close(chunk, shown, atol=0.01, rtol=0)


def test_frames_in_memory_are_taken_by_their_times() -> None:
    frames = Frames(torch.arange(33.0).view(33, 1, 1, 1).expand(33, 4, 4, 3), Fraction(32))
    assert frames.seconds == Fraction(33, 32) and frames.sides == (4, 4)
    half = torch.cat(list(frames.at(Fraction(16), 18)))
    assert half[:, 0, 0, 0].tolist() == [*range(0, 33, 2), 32]
    assert torch.equal(torch.cat(list(frames.at(Fraction(32), 33))), frames.images)


def test_a_cut_film_says_so(tmp_path: Path) -> None:
    film = open_film(str(write(tmp_path / "a.mp4")))
    assert first_seconds(film, Fraction(10)) is film
    assert first_seconds(film, Fraction(1)) == replace(film, seconds=Fraction(1), whole=False)


@pytest.mark.parametrize("content", [b"", b"no film" * 100])
def test_what_is_no_film_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be opened as a video or sound"):
        open_film(str(tmp_path / "a.mp4"))


def test_a_film_without_frames_or_beyond_its_end_is_refused(tmp_path: Path) -> None:
    sound = open_film(str(write(tmp_path / "a.m4a", Recipe(video=None))))
    assert (sound.picture, sound.sound, sound.sides) == (False, True, (0, 0))
    with pytest.raises(
        ValueError, match=r"a\.mp4 lasts from 0 to 2\.002 s, and the part from 3 s on holds nothing"
    ):
        open_film(str(write(tmp_path / "a.mp4")), start=3.0)


def test_a_damaged_film_is_read_as_far_as_it_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.mkv", Recipe(audio=None))
    broken = packets(path, "video")[30]
    path.write_bytes(path.read_bytes().replace(broken, b"\xff" * len(broken)))
    film = open_film(str(path))
    assert torch.cat(list(film.at(NTSC, 60))).shape == (60, 48, 64, 3)
    assert "a.mkv is damaged: packets of its picture left out as unreadable: 1" in caplog.text
