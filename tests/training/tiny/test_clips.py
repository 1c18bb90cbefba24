"""Training clips hold nothing that evaluation asks for, their captions name what is in them, and they are
written without loss.
"""

import json
import random
import re
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from ccl_pack.ccl_core.training.tiny.clips import caption_of, trained_clips, write_clips
from ccl_pack.ccl_core.training.world.captions import WORDS, held_out
from ccl_pack.ccl_core.training.world.shares import EASY, HARD, WORLDS, World


def test_no_trained_clip_has_a_held_out_object_alone_or_in_company() -> None:
    for world in (EASY, HARD):
        clips = list(islice(trained_clips(3, 17, world=world), 120))
        assert not any(held_out(thing) for clip in clips for thing in clip.objects)
        assert {len(clip.objects) for clip in clips} == {1, 2}


def test_captions_of_the_hard_world_say_what_is_around_the_objects() -> None:
    rng = random.Random(0)
    clips = [clip for clip in islice(trained_clips(3, 17, world=HARD), 120) if clip.offscreen and clip.bed]
    assert clips
    for clip in clips:
        caption = caption_of(rng, clip).lower()
        assert re.search("off.?screen|unseen", caption) and re.search("noise|rumbl", caption)
        assert any(word in caption for word in WORDS["sound"][clip.offscreen[0].sound])


def place_of(sound: str, caption: str) -> int:
    """Where a caption first names a sound."""
    return min(caption.find(word) for word in WORDS["sound"][sound] if word in caption)


def test_captions_name_every_object_in_either_order() -> None:
    rng = random.Random(0)
    firsts = set()
    for clip in islice(trained_clips(4, 17, objects=2), 8):
        assert len(clip.objects) == 2
        for _ in range(6):
            caption = caption_of(rng, clip).lower()
            places = [place_of(thing.sound, caption) for thing in clip.objects]
            firsts.add(places[0] < places[1])
    assert firsts == {True, False}


def test_a_written_clip_is_that_of_the_world_and_is_written_once(tmp_path: Path) -> None:
    drawn = list(islice(trained_clips(5, 17, 1), 3))
    written = list(write_clips(tmp_path, 3, 5, 17, 1))
    for clip, path in zip(drawn, written, strict=True):
        with av.open(str(path)) as file:
            frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
            file.seek(0)
            sound = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
            assert (file.streams.video[0].average_rate, file.streams.audio[0].rate) == (16, 16000)
        assert np.array_equal(np.stack(frames), clip.frames)
        assert sound[: len(clip.waveform)] / 32767 == pytest.approx(clip.waveform, abs=2e-5)
    before = [path.stat().st_mtime_ns for path in written]
    again = list(write_clips(tmp_path, 4, 5, 17, 1))
    assert again[:3] == written and [path.stat().st_mtime_ns for path in written] == before
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [path.name for path in again]


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_both_worlds_are_written(tmp_path: Path, world: World) -> None:
    assert len(list(write_clips(tmp_path, 6, 2, 17, world=world))) == 6


def test_clips_of_another_kind_under_the_same_names_are_refused(tmp_path: Path) -> None:
    list(write_clips(tmp_path, 3, 5, 17, 1))
    with pytest.raises(ValueError, match=r"is another clip, .* need another seed or another folder"):
        list(write_clips(tmp_path, 3, 5, 17, 2))
    assert len(list(write_clips(tmp_path, 3, 6, 17, 2))) == 3
