"""The sound of written files at its own time stamps."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch

from ccl_pack.ccl_core.host.media.sound_file import read_sound
from support.media_files import clicks, tone, write_media

# Container, codec and rate; how far a click may lie from its place, in seconds.
FILES = [
    ("mp4", "aac", 44100, 0.0005),
    ("mkv", "aac", 44100, 0.001),
    ("mov", "pcm_s16le", 44100, 0),
    ("mov", "pcm_s24le", 22050, 0),
    ("wav", "pcm_u8", 11025, 0),
    ("wav", "pcm_f32le", 37800, 0),
    ("ogg", "libopus", 48000, 0.0005),
    ("webm", "libopus", 48000, 0.001),
    ("flac", "flac", 32000, 0),
]


def whole(path: Path | io.BytesIO, seconds: float) -> torch.Tensor:
    return read_sound(
        path if isinstance(path, io.BytesIO) else str(path), Fraction(0), Fraction(seconds)
    ).waveform


def clicks_in(waveform: torch.Tensor, rate: int) -> list[float]:
    """Times of the bursts in seconds."""
    loud = (waveform[0].abs() > 0.35).nonzero().flatten() / rate
    return [time for place, time in enumerate(loud.tolist()) if not place or time - loud[place - 1] > 0.1]


@pytest.mark.parametrize(("ending", "codec", "rate", "off"), FILES)
def test_every_click_is_in_its_place_in_every_container(
    ending: str, codec: str, rate: int, off: float, tmp_path: Path
) -> None:
    given = clicks(2.0, rate, channels=2)
    path = write_media(tmp_path / f"clip.{ending}", given, rate, codec=codec)
    sound = read_sound(str(path), Fraction(0), Fraction(2))
    assert sound.sample_rate == rate and sound.waveform.shape == (2, 2 * rate)
    assert clicks_in(sound.waveform, rate) == pytest.approx(clicks_in(given, rate), abs=off + 1e-6)
    if off == 0:
        assert torch.allclose(sound.waveform, given, atol=1 / 120)  # of 8 bits


@pytest.mark.parametrize(("ending", "codec", "rate"), [row[:3] for row in FILES])
def test_a_window_is_that_part_of_the_whole(ending: str, codec: str, rate: int, tmp_path: Path) -> None:
    path = write_media(tmp_path / f"clip.{ending}", clicks(4.0, rate, channels=2), rate, codec=codec)
    part = read_sound(str(path), Fraction(21, 10), Fraction(13, 10)).waveform
    expected = whole(path, 4)[:, round(2.1 * rate) : round(3.4 * rate)]
    assert part.shape == expected.shape
    assert torch.allclose(part, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("ending", "codec", "rate"), [("mp4", "aac", 44100), ("mkv", "aac", 44100), ("webm", "libopus", 48000)]
)
def test_windows_side_by_side_are_the_whole(ending: str, codec: str, rate: int, tmp_path: Path) -> None:
    """Also where time stamps are rounded to ms, 44 samples."""
    path = write_media(tmp_path / f"clip.{ending}", tone(3.0, rate), rate, codec=codec)
    parts = [read_sound(str(path), Fraction(k, 3), Fraction(1, 3)).waveform for k in range(9)]
    assert torch.allclose(torch.cat(parts, dim=1), whole(path, 3), atol=1e-3)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov"])
def test_a_sound_that_starts_late_keeps_its_time(ending: str, tmp_path: Path) -> None:
    given = clicks(1.5, 48000)
    path = write_media(tmp_path / f"late.{ending}", given, delay=2.43, picture_seconds=4.0)
    waveform = whole(path, 4)
    assert not waveform[:, : round(2.4 * 48000)].any()
    assert clicks_in(waveform, 48000) == pytest.approx(
        [time + 2.43 for time in clicks_in(given, 48000)], abs=0.002
    )


def test_before_and_behind_the_sound_is_silence(tmp_path: Path) -> None:
    path = write_media(tmp_path / "late.mov", tone(1, 8000), 8000, codec="pcm_s16le", delay=1)
    for start in (-2, -1, 0, 2, 5):
        piece = read_sound(str(path), Fraction(start), Fraction(1)).waveform
        assert piece.shape == (1, 8000) and not piece.any()
    assert read_sound(str(path), Fraction(-1), Fraction(4)).waveform[:, 16000:24000].std() > 0.3


def test_a_file_in_memory_is_read_too(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", clicks(2, 48000), picture_seconds=2)
    held = io.BytesIO(path.read_bytes())
    held.seek(100)
    assert torch.equal(whole(held, 2), whole(path, 2))
    part = read_sound(held, Fraction(1), Fraction(1)).waveform
    assert torch.allclose(part, whole(path, 2)[:, 48000:], atol=1e-3)


def test_the_layout_is_the_files_own(tmp_path: Path) -> None:
    six = torch.cat([level * tone(1, 48000, 100 + 1000 * level) for level in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)])
    for layout in ("5.1", "5.1(side)"):
        path = write_media(tmp_path / f"{layout}.mkv", six, codec="flac", layout=layout)
        sound = read_sound(str(path), Fraction(0), Fraction(1))
        assert sound.layout == layout
        assert torch.allclose(sound.waveform, six, atol=1e-4)


def test_a_file_without_sound_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = write_media(tmp_path / "silent film.mp4", None, picture_seconds=1)
    with pytest.raises(ValueError, match=r"silent film\.mp4 holds no sound stream: give a file with sound"):
        whole(path, 1)
    with pytest.raises(ValueError, match="the given video holds no sound stream"):
        whole(io.BytesIO(path.read_bytes()), 1)


def test_a_stream_without_samples_is_an_error_with_the_files_name(tmp_path: Path) -> None:
    path = write_media(tmp_path / "empty.mkv", torch.zeros(1, 0), codec="pcm_s16le", picture_seconds=2)
    for start in (0, 1):
        with pytest.raises(ValueError, match=r"empty\.mkv has a sound stream without samples"):
            read_sound(str(path), Fraction(start), Fraction(1))


def test_what_is_no_media_file_is_told_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_bytes(b"no media")
    for missing in (path, tmp_path / "gone.mp4"):
        with pytest.raises(ValueError, match=rf"{missing.name} cannot be opened as a video or sound"):
            whole(missing, 1)


def test_damaged_packets_are_silence_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_media(tmp_path / "clip.mp4", tone(2, 48000))
    held = bytearray(path.read_bytes())
    middle = held.index(b"mdat") + 12000
    held[middle : middle + 2000] = bytes(2000)
    path.write_bytes(held)
    waveform = whole(path, 2)
    assert "clip.mp4 could not be decoded: silence is in their place" in caplog.text
    assert waveform[:, :24000].std() > 0.3 and waveform.shape == (1, 96000)


def test_a_stream_that_changes_its_rate_and_channels_keeps_those_it_began_with(tmp_path: Path) -> None:
    first = write_media(tmp_path / "first.aac", tone(1, 44100).expand(2, -1), 44100)
    second = write_media(tmp_path / "second.aac", tone(1, 48000), 48000)
    both = tmp_path / "both.aac"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    sound = read_sound(str(both), Fraction(0), Fraction(2))
    assert (sound.sample_rate, sound.layout, sound.waveform.shape) == (44100, "stereo", (2, 88200))
    for begin in (20000, 60000):
        piece = sound.waveform[:, begin : begin + 22050]
        spectrum = torch.fft.rfft(piece * torch.hann_window(22050)).abs()
        assert spectrum.argmax(1).tolist() == [220, 220]  # half seconds: 440 Hz
        # One channel on two sides is 3 dB lower on each.
        assert piece.square().mean().sqrt().item() > 0.2


@pytest.mark.parametrize("start", [0, 2])
def test_a_hole_in_the_sound_is_silence(start: int, tmp_path: Path) -> None:
    """Packets behind the first second stand one second later, as where a recording lost its signal."""
    source = write_media(tmp_path / "whole.mkv", tone(3, 48000), codec="flac")
    holed = tmp_path / "holed.mkv"
    with av.open(str(source)) as read, av.open(str(holed), "w") as written:
        target = written.add_stream_from_template(read.streams.audio[0])
        for packet in read.demux():
            if packet.dts is None:
                continue
            if packet.pts * packet.time_base >= 1:
                packet.pts, packet.dts = packet.pts + 1000, packet.dts + 1000
            packet.stream = target
            written.mux(packet)
    waveform = read_sound(str(holed), Fraction(start), Fraction(4 - start)).waveform
    seconds = [part.square().mean().sqrt().item() for part in waveform.split(24000, dim=1)]
    loud = [level > 0.3 for level in seconds]
    # Half seconds; a packet of FLAC lasts 96 ms, so that the hole is from 1.06 to 2.06 s.
    assert loud == [True, True, False, False, True, True, True, True][2 * start :]
