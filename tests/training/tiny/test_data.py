"""Training clips hold nothing that evaluation asks for, and their captions name what is in them."""

import random
import re
from itertools import islice

from ccl_pack.ccl_core.training.tiny.data import caption_of, trained_clips
from ccl_pack.ccl_core.training.world.captions import WORDS, held_out
from ccl_pack.ccl_core.training.world.shares import EASY, HARD


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
