"""Reading of video files: the clock of both streams, sizes, captions, and files that are refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from ccl_pack.ccl_core.training.finetune.media import Shape, read_media
from ccl_pack.ccl_core.training.finetune.sources import SOUNDS, Refused, find_clips
from ccl_tools.sample_clips import write
from support.media_files import tone, write_media

SHAPE = Shape(Fraction(16), 16000, 2, ((64, 32), (32, 64)), (9, 17, 33))
RATE = 44100


def flashing(
    path: Path,
    at: float = 0.75,
    seconds: float = 2.0,
    size: tuple[int, int] = (96, 48),
    fps: int = 24,
    delay: float = 0.0,
) -> Path:
    """A dark clip that is bright, and sounds, from the moment `at` on; the sound stream begins `delay`
    late.
    """
    width, height = size
    frames = np.zeros((round(seconds * fps), height, width, 3), np.uint8)
    frames[round(at * fps) :] = 255
    time = np.arange(round(seconds * RATE)) / RATE
    sound = np.where(time >= at, 0.5 * np.sin(2 * np.pi * 700 * time), 0)
    write(path, frames, sound[round(delay * RATE) :], fps, RATE)
    return path if delay == 0 else delayed(path, delay)


def delayed(path: Path, delay: float) -> Path:
    """The same packets with the sound moved to where it belongs."""
    moved = path.with_name(f"late-{path.name}")
    with av.open(str(path)) as source, av.open(str(moved), "w") as target:
        streams = {stream: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "audio":
                packet.pts += round(delay / packet.time_base)
                packet.dts += round(delay / packet.time_base)
            packet.stream = streams[packet.stream]
            target.mux(packet)
    return moved


@pytest.mark.parametrize(("fps", "delay"), [(24, 0.0), (16, 0.0), (30, 0.0), (24, 0.5)])
def test_picture_and_sound_stay_together(tmp_path: Path, fps: int, delay: float) -> None:
    media = read_media(flashing(tmp_path / "clip.mp4", fps=fps, delay=delay), SHAPE)
    assert media.frames.shape == (17, 32, 64, 3) and media.waveform.shape == (2, 17000)
    bright = next(i for i, frame in enumerate(media.frames) if frame.mean() > 0.5) / 16
    loud = (media.waveform.abs() > 0.1).any(0).nonzero()[0].item() / 16000
    assert bright == pytest.approx(0.75, abs=1 / 16 + 1e-6)
    assert loud == pytest.approx(0.75, abs=0.01)


def test_each_clip_takes_the_nearest_size_and_the_longest_length(tmp_path: Path) -> None:
    tall = read_media(flashing(tmp_path / "tall.mp4", size=(48, 96), seconds=0.7), SHAPE)
    assert tall.frames.shape == (9, 64, 32, 3)
    assert tall.frames.min() >= 0 and tall.frames.max() <= 1


@pytest.mark.parametrize(("layout", "loud"), [("mono", (0,)), ("stereo", (0, 1)), ("5.1", (2,))])
def test_a_voice_of_any_layout_keeps_its_level(layout: str, loud: tuple[int, ...], tmp_path: Path) -> None:
    """As the nodes read it: the same on both sides, or in the centre of a film."""
    sound = torch.zeros({"mono": 1, "stereo": 2, "5.1": 6}[layout], 40000)
    sound[list(loud)] = tone(2.5, 16000, level=0.4)
    path = write_media(tmp_path / "film.mkv", sound, 16000, codec="flac", picture_seconds=2.5)
    media = read_media(path, replace(SHAPE, channels=1))
    assert media.waveform.abs().max().item() == pytest.approx(0.4, abs=0.01)


def test_a_slow_clip_holds_its_pictures(tmp_path: Path) -> None:
    media = read_media(flashing(tmp_path / "slow.mp4", fps=8, at=0.5), SHAPE)
    bright = [frame.mean().item() > 0.5 for frame in media.frames]
    assert bright == [False] * 8 + [True] * 9


def test_clips_that_cannot_be_used_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    with pytest.raises(ValueError, match=r"broken\.mp4 cannot be decoded"):
        read_media(tmp_path / "broken.mp4", SHAPE)
    whole = flashing(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.mp4"):
        read_media(tmp_path / "cut.mp4", SHAPE)
    with pytest.raises(ValueError, match=r"short\.mp4 fills 5 frames at 16 fps"):
        read_media(flashing(tmp_path / "short.mp4", seconds=0.3, at=0.1), SHAPE)


def test_a_silent_film_and_a_sound_alone_have_one_stream(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "silent.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=24)
        stream.width = stream.height = 64
        for _ in range(30):
            file.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24"))
            )
        file.mux(stream.encode(None))
    silent = read_media(tmp_path / "silent.mp4", SHAPE)
    assert silent.waveform is None and len(silent.frames) == silent.length
    for kind in SOUNDS:
        path = sine(tmp_path / f"sound{kind}", seconds=1.2)
        heard = read_media(path, SHAPE)
        wanted = round(heard.length / SHAPE.fps * SHAPE.sample_rate)
        assert heard.frames is None and heard.waveform.shape == (SHAPE.channels, wanted)
        middle = heard.waveform[0, 2000:-2000]
        assert middle.square().mean().sqrt() == pytest.approx(0.5 / 2**0.5, rel=0.1)
    with pytest.raises(ValueError, match=r"short\.wav fills 1 frames"):
        read_media(sine(tmp_path / "short.wav", seconds=0.01), SHAPE)


def test_a_sound_beside_a_film_of_its_name_is_no_clip(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.wav", "b.flac"):
        (tmp_path / name).touch()
        (tmp_path / name).with_suffix(".txt").write_text("a bell")
    assert [source.name for source in find_clips(tmp_path)[0]] == ["a.mp4", "b.flac"]


CODECS = {".wav": "pcm_s16le", ".flac": "flac", ".mp3": "libmp3lame", ".ogg": "libopus", ".m4a": "aac"}


def sine(path: Path, seconds: float) -> Path:
    """A sound file of 440 Hz at half of full scale."""
    rate = 48000
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(CODECS[path.suffix], rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(
            np.stack([wave, wave]).astype(np.float32), format="fltp", layout="stereo"
        )
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(format=stream.format, layout="stereo", rate=rate, frame_size=1024)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return path


def test_captions_stand_beside_the_clips(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").touch()
    (tmp_path / "a.txt").write_text(" a ball falls\n")
    sources, refused = find_clips(tmp_path)
    assert [(source.name, source.caption) for source in sources] == [("a.mp4", "a ball falls")]
    assert [entry.name for entry in refused] == ["b.mp4"] and "no caption" in refused[0].reason


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "captions.jsonl",
            '{"file": "a.mp4", "caption": "one"}\n\n{"file_name": "gone.mp4", "text": "two"}\n',
        ),
        (
            "metadata.json",
            json.dumps([{"video": "a.mp4", "prompt": "one"}, {"path": "gone.mp4", "caption": "two"}]),
        ),
        ("metadata.json", json.dumps({"a.mp4": "one", "gone.mp4": "two"})),
    ],
)
def test_captions_come_from_a_list(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "unlisted.mp4").touch()
    (tmp_path / file).write_text(text)
    sources, refused = find_clips(tmp_path)
    assert [(source.name, source.caption) for source in sources] == [("a.mp4", "one")]
    assert refused == [Refused("gone.mp4", f"{file} names gone.mp4, which is not in {tmp_path}")]


def test_what_is_no_folder_of_clips_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no videos"):
        find_clips(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        find_clips(tmp_path / "gone")
    (tmp_path / "captions.jsonl").write_text('{"file": 3}')
    with pytest.raises(ValueError, match=r"captions\.jsonl has the entry"):
        find_clips(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_captions_in_other_encodings_are_read_or_named(tmp_path: Path, encoding: str) -> None:
    caption = "eine Tür fällt zu"
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").touch()
    (tmp_path / "a.txt").write_bytes(caption.encode(encoding))
    (tmp_path / "b.txt").write_text("a ball falls")
    sources, refused = find_clips(tmp_path)
    read = {source.name: source.caption for source in sources}
    assert read["b.mp4"] == "a ball falls"
    if encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert read["a.mp4"] == caption and not refused
    else:
        assert [entry.name for entry in refused] == ["a.mp4"]
        assert "a.txt" in refused[0].reason and "save it as UTF-8" in refused[0].reason


def test_a_list_in_utf_16_is_read_and_one_in_latin_1_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    text = '{"file": "a.mp4", "caption": "Tür"}'
    (tmp_path / "captions.jsonl").write_text(text, encoding="utf-16")
    assert find_clips(tmp_path)[0][0].caption == "Tür"
    (tmp_path / "captions.jsonl").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"captions\.jsonl .*save it as UTF-8"):
        find_clips(tmp_path)


@pytest.mark.parametrize(
    "place", ["../outside.mp4", "in/../../outside.mp4", "{}/outside.mp4", "..\\outside.mp4"]
)
def test_a_list_stays_in_its_folder(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "clips"
    (folder / "in").mkdir(parents=True)
    (tmp_path / "outside.mp4").touch()
    name = place.format(tmp_path)
    (folder / "captions.jsonl").write_text(json.dumps({"file": name, "caption": "x"}))
    sources, refused = find_clips(folder)
    assert sources == []
    (entry,) = refused
    assert entry.reason.startswith("captions.jsonl names a file outside ")
