"""The loop sampler on the tiny model: windows that meet to the bit, given material, texts, stops."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from comfy_api.latest import InputImpl
from safetensors.torch import load_file, save_file

from ccl_bench import generate
from ccl_pack.ccl_core.host.media import unfinished
from ccl_pack.ccl_core.host.media.latents import AVLatent, join, split
from ccl_pack.ccl_core.host.media.long_clip import decode_long_sound, long_clip, window_of, write_pictures
from ccl_pack.ccl_core.host.media.picture import Frames
from ccl_pack.ccl_core.host.media.source import Source, remember
from ccl_pack.ccl_core.host.storyboard import timed
from ccl_pack.nodes.encoding import CCLEncodeAV
from ccl_pack.nodes.guidance import CCLJointSampler
from ccl_pack.nodes.looping import CCLLoopSampler
from support import films, tiny
from support.tiny_vaes import audio_vae, release, video_vae

FPS, LATENT_FRAMES, FRAMES, TOKENS = 16, 12, 45, 90
# Five latent frames, of which two are kept.
WINDOW, OVERLAP = 17 / FPS, 5 / FPS
Made = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    yield tmp_path / "output" / "ccl_loop"
    release()


class Halt:
    """A hook of guidance that cancels a run once the model was asked so many times."""

    def __init__(self) -> None:
        self.left = 10**6

    def __call__(self, hook: dict[str, Any]) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            comfy.model_management.interrupt_current_processing()
            comfy.model_management.throw_exception_if_processing_interrupted()
        return hook["denoised"]


def model_with(halt: Halt) -> Any:
    model = tiny.patcher().clone()
    model.set_model_sampler_post_cfg_function(halt)
    return model


def empty(latent_frames: int = LATENT_FRAMES, tokens: int = TOKENS, audio: bool = True) -> dict[str, Any]:
    video = torch.zeros(1, 16, latent_frames, 4, 6)
    return join(AVLatent(video, torch.zeros(1, 8, tokens) if audio else None, fps=float(FPS)))


def looped(latent: dict[str, Any], **changes: Any) -> str:
    """The path of the film."""
    settings = generate.defaults(CCLLoopSampler, "mode", "cfg")
    settings |= {"seed": 5, "steps": 2, "sampler_name": "euler", "scheduler": "simple"}
    settings |= {"window": WINDOW, "overlap": OVERLAP}
    settings |= {"positive": tiny.conditioning(1), "negative": tiny.conditioning(2)}
    settings |= {"video_vae": video_vae(), "audio_vae": audio_vae(), "latent_image": latent}
    if "model" not in changes:
        settings["model"] = tiny.patcher()
    with torch.inference_mode():
        made = CCLLoopSampler.execute(**{**settings, **changes}).result[0]
    return made.get_stream_source()


def halted(folders: Path, after: int, **changes: Any) -> Path:
    """The folder of a run that was cancelled, after so many passes of guidance."""
    halt = Halt()
    halt.left = after
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        looped(changes.pop("latent", empty()), model=model_with(halt), **changes)
    return next(folder for folder in folders.iterdir() if folder.is_dir())


def windows_of(folder: Path) -> list[Made]:
    return [load_file(path) for path in sorted(folder.glob("*.safetensors"))]


def packets(path: str, stream: str) -> list[bytes]:
    with av.open(path) as container:
        return [bytes(packet) for packet in container.demux(**{stream: 0}) if packet.size]


def length_of(path: str) -> tuple[int, Fraction]:
    """Frames, and seconds of the sound."""
    with av.open(path) as container:
        frames = sum(1 for _ in container.decode(video=0))
        sound = container.streams.audio[0]
        return frames, sound.duration * sound.time_base


def test_the_film_has_the_length_of_the_latent(folders: Path) -> None:
    frames, sound = length_of(looped(empty()))
    assert frames == FRAMES and abs(sound - Fraction(FRAMES, FPS)) < Fraction(1, 1000)
    # What was made on the way is gone.
    assert list(folders.iterdir()) == []


def test_a_clip_of_one_window_is_that_of_the_joint_sampler(folders: Path) -> None:
    latent = empty(5, 34)
    path = folders / "window.safetensors"
    clip = halted(folders, 2, latent=empty())
    settings = generate.defaults(CCLJointSampler, "mode", "cfg")
    settings |= {"seed": 5, "steps": 2, "sampler_name": "euler", "scheduler": "simple"}
    texts = {"positive": tiny.conditioning(1), "negative": tiny.conditioning(2)}
    with torch.inference_mode():
        one = CCLJointSampler.execute(
            model=model_with(Halt()), latent_image=latent, **texts, **settings
        ).result[0]
    made = windows_of(clip)[0]
    assert torch.equal(made["video"], split(one).video) and torch.equal(made["audio"], split(one).audio)
    assert not path.exists()


def test_a_window_begins_with_the_end_of_the_one_before_to_the_bit(folders: Path) -> None:
    # Windows of latent frames 0 to 5, 3 to 8, 6 to 11, 7 to 12.
    made = windows_of(halted(folders, 6))
    assert len(made) == 3
    for before, after in pairwise(made):
        assert torch.equal(after["video"][:, :, :2], before["video"][:, :, 3:])
        # 8 tokens a latent frame, and 2 for the short first one.
        assert torch.equal(after["audio"][:, :, :10], before["audio"][:, :, 24:])
        assert not torch.equal(after["video"][:, :, 2:], before["video"][:, :, 2:])


def test_what_was_cancelled_goes_on_and_becomes_the_same_bytes(
    folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Path(looped(empty(), model=model_with(Halt()))).read_bytes()
    work = halted(folders, 5)
    # The part of it that is done can be seen.
    so_far = folders / f"{work.name}_so_far.mp4"
    assert length_of(str(so_far))[0] == 29 and str(so_far) in caplog.text
    assert json.loads((work / "about.json").read_text())["windows"] == 4
    halt = Halt()
    again = looped(empty(), model=model_with(halt))
    # Two of four windows were left, of two steps each.
    assert 10**6 - halt.left == 4
    assert Path(again).read_bytes() == whole
    assert list(folders.iterdir()) == []


@pytest.mark.parametrize("change", [{"seed": 6}, {"steps": 3}, {"positive": tiny.conditioning(3)}])
def test_other_inputs_begin_anew(folders: Path, change: dict[str, Any]) -> None:
    halted(folders, 5)
    halt = Halt()
    looped(empty(), model=model_with(halt), **change)
    assert 10**6 - halt.left == 4 * change.get("steps", 2)
    assert len([folder for folder in folders.iterdir() if folder.is_dir()]) == 1


def test_a_window_that_was_cut_off_by_a_kill_is_made_again(folders: Path) -> None:
    whole = Path(looped(empty(), model=model_with(Halt()))).read_bytes()
    work = halted(folders, 5)
    (work / "window_0002.draft").write_bytes(b"half")
    (work / "window_0002.mp4").write_bytes(b"half")
    assert Path(looped(empty(), model=model_with(Halt()))).read_bytes() == whole


def test_work_that_nobody_goes_on_with_is_removed_after_a_week(folders: Path) -> None:
    old, mine = halted(folders, 5), folders / "mine"
    mine.mkdir()
    (mine / "film.mp4").write_bytes(b"")
    for file in (*old.iterdir(), mine / "film.mp4"):
        os.utime(file, (0, 0))
    looped(empty(), seed=9)
    # What no loop has made stays.
    assert not old.exists() and mine.exists()


def test_a_given_sound_is_read_window_by_window_and_returned_packet_by_packet(
    tmp_path: Path, folders: Path
) -> None:
    seconds = FRAMES / FPS
    recipe = films.Recipe(frames=round(seconds * 30), fps=Fraction(30), rate=44100)
    file = films.write(tmp_path / "music.mp4", recipe)
    film = InputImpl.VideoFromFile(str(file))
    fit = {"image_fit": "crop", "length_fit": "pad", "audio_vae": audio_vae(), "video": film, "keep": "sound"}
    with torch.inference_mode():
        latent = CCLEncodeAV.execute(latent=empty(), **fit).result[0]
    made = windows_of(halted(folders, 6, latent=latent))
    given = split(latent).audio
    starts = (0, 24, 48)
    for start, window in zip(starts, made, strict=True):
        assert torch.equal(window["audio"], given[:, :, start : start + 34])
    assert packets(looped(latent), "audio") == packets(str(file), "audio")


def test_a_given_film_is_returned_packet_by_packet_with_a_sound_made(tmp_path: Path) -> None:
    recipe = films.Recipe(frames=FRAMES, fps=Fraction(FPS), audio=None)
    file = films.write(tmp_path / "film.mp4", recipe)
    film = InputImpl.VideoFromFile(str(file))
    fit = {"image_fit": "crop", "length_fit": "pad", "video_vae": video_vae(), "video": film}
    with torch.inference_mode():
        latent = CCLEncodeAV.execute(latent=empty(), **fit).result[0]
    path = looped(latent)
    assert packets(path, "video") == packets(str(file), "video")
    assert length_of(path) == (FRAMES, pytest.approx(Fraction(FRAMES, FPS), abs=0.001))


def test_a_video_without_sound_is_made_too() -> None:
    frames, _ = length_of(looped(empty(audio=False), audio_vae=None))
    assert frames == FRAMES


def test_frames_in_memory_are_given_at_their_own_rate() -> None:
    latent = empty()
    av_latent = split(latent)
    masks = {"video_mask": torch.zeros(1, 1, LATENT_FRAMES, 4, 6), "audio_mask": torch.ones(1, 1, TOKENS)}
    kept = replace(av_latent, video=torch.rand(1, 16, LATENT_FRAMES, 4, 6), **masks)
    images = Frames(torch.rand(round(30 * FRAMES / FPS), 32, 48, 3), Fraction(30))
    path = looped(join(remember(kept, Source(picture=images))))
    assert length_of(path)[0] == len(images.images)


def test_each_window_has_the_text_that_holds_where_its_new_part_begins(folders: Path) -> None:
    # The latent frame nearest to 1.3 s begins with frame 21.
    story = [*timed(tiny.conditioning(1), Fraction(0)), *timed(tiny.conditioning(7), Fraction("1.3"))]
    made = windows_of(halted(folders, 7, positive=story))
    assert len(made) == 3
    # The first scene is what it is without a second one.
    (other,) = (folders.parent / "other",)
    folder_paths.output_directory = str(other)
    alone = windows_of(halted(other / "ccl_loop", 5))
    assert torch.equal(made[0]["video"], alone[0]["video"])
    clip = long_clip(
        split(empty()), Fraction(FPS), Fraction(WINDOW), Fraction(OVERLAP), [Fraction("1.3")], (None, None)
    )
    assert [(span.start, span.new, span.stop) for span in clip.windows] == [
        *((0, 0, 5), (1, 5, 6), (4, 6, 9), (7, 9, 12))
    ]


def test_pictures_at_a_seam_are_nearly_those_of_the_whole(tmp_path: Path) -> None:
    video = torch.randn(1, 16, LATENT_FRAMES, 4, 6)
    whole = AVLatent(video, None, fps=float(FPS))
    vaes = (video_vae(), None)
    clip = long_clip(whole, Fraction(FPS), Fraction(WINDOW), Fraction(OVERLAP), [], vaes)
    parts = [{"video": video[:, :, span.start : span.stop]} for span in clip.windows]
    frames = []
    with torch.inference_mode():
        for number, made in enumerate(parts):
            path = tmp_path / f"{number}.mp4"
            write_pictures(clip, number, made, parts[number - 1] if number else None, path)
            with av.open(str(path)) as container:
                frames += [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        wanted = video_vae().decode(video)[0]
    assert len(frames) == FRAMES
    found = torch.stack([torch.from_numpy(frame).float() / 255 for frame in frames])
    # Of lossy frames, which are no worse behind a seam than elsewhere.
    error = (found - wanted.cpu()).abs().mean((1, 2, 3))
    behind = [17, 29, 41]
    elsewhere = [k for k in range(FRAMES) if k not in behind]
    assert error[behind].max() <= 1.2 * error[elsewhere].max()


def test_a_sound_in_pieces_is_the_whole_sound() -> None:
    latent = torch.randn(1, 8, 900)
    with torch.inference_mode():
        pieces = decode_long_sound(audio_vae(), latent)
        whole = audio_vae().decode(latent).movedim(-1, 1).float()
    assert pieces.shape == whole.shape
    assert torch.allclose(pieces, whole, atol=1e-5)


def test_audio_tokens_stay_on_the_clock_over_ten_minutes() -> None:
    # MOVA's rates, of which no window has a whole number of tokens: 50 a second, 24 frames.
    latent_frames = 3601
    tokens = -(-(4 * (latent_frames - 1) + 1) * 50 // 24)
    whole = AVLatent(torch.zeros(1, 16, latent_frames, 1, 1), torch.zeros(1, 8, tokens), fps=24.0)
    clip = long_clip(whole, Fraction(24), Fraction(193, 24), Fraction(1), [], (None, None))
    for window, span in zip(clip.windows, clip.tokens, strict=True):
        assert abs(span.start - Fraction(4 * window.start * 50, 24)) <= Fraction(1, 2)
    assert clip.tokens[-1].stop == tokens
    assert all(one.stop == two.new for one, two in pairwise(clip.tokens))


def test_a_first_frame_that_is_kept_is_kept_in_the_first_window_alone() -> None:
    video, mask = torch.randn(1, 16, LATENT_FRAMES, 4, 6), torch.ones(1, 1, LATENT_FRAMES, 4, 6)
    mask[:, :, 0] = 0
    given = AVLatent(video, torch.zeros(1, 8, TOKENS), mask, fps=float(FPS))
    clip = long_clip(given, Fraction(FPS), Fraction(WINDOW), Fraction(OVERLAP), [], (None, None))
    first = window_of(clip, 0, None)
    assert first.video_mask[0, 0, :, 0, 0].tolist() == [0, 1, 1, 1, 1] and first.audio_mask is None
    second = window_of(clip, 1, {"video": first.video, "audio": first.audio})
    assert second.video_mask[0, 0, :, 0, 0].tolist() == [0, 0, 1, 1, 1]
    assert second.audio_mask[0, 0].tolist() == [0] * 10 + [1] * 24


def test_one_bar_runs_over_all_windows() -> None:
    shown: list[tuple[float, float]] = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *_, **__: shown.append((value, total)))
    try:
        looped(empty())
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    values = [value for value, _ in shown]
    assert {total for _, total in shown} == {1000}
    assert values == sorted(values) and values[0] < 250 and values[-1] >= 950


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"model": tiny.other_model()}, "cannot sample in windows"),
        ({"overlap": 2.0}, "a window makes nothing new"),
        ({"window": float("nan")}, "window is nan"),
        ({"audio_vae": None}, "audio_vae is not connected"),
        ({"positive": tiny.conditioning(1, concat_latent_image=torch.zeros(1))}, "concat_latent_image"),
        ({"latent_image": tiny.av_latent(batch=2)}, "2 clips"),
        ({"latent_image": {"samples": torch.zeros(1, 16, 3, 4, 6)}}, "does not say its frame rate"),
    ],
)
def test_what_cannot_be_looped_is_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        looped(changes.pop("latent_image", empty()), **changes)


def test_a_clip_that_is_given_whole_leaves_nothing_to_make() -> None:
    masks = (torch.zeros(1, 1, 3, 4, 6), torch.zeros(1, 1, 18))
    with pytest.raises(ValueError, match="nothing is left to make"):
        looped(tiny.av_latent(masks=masks))


def test_a_latent_on_disk_is_read_to_the_bit(tmp_path: Path) -> None:
    work = unfinished.Unfinished.of(tmp_path, "clip", {})
    streams = {"video": torch.randn(1, 4, 3).transpose(1, 2), "audio": torch.randn(2)}
    work.save(0, streams)
    assert work.done(3) == 1 and all(torch.equal(work.load(0)[name], streams[name]) for name in streams)
    save_file({}, work.latents(2))
    assert work.done(3) == 1
