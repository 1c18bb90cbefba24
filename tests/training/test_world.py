"""The procedural world: contacts are exact, sounds begin on them, captions say what is shown."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from ccl_pack.ccl_core.metrics import detect_contacts, detect_onsets, match_events
from ccl_pack.ccl_core.training.world import (
    COLOURS,
    MOTIONS,
    PALETTE,
    SOUNDS,
    TEMPLATES,
    clips,
    read_caption,
    sample_clip,
    sample_scene,
)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("frames", [33, 45])
def test_contacts_are_spaced_and_inside_the_clip(rng, motion, frames):
    for _ in range(20):
        contacts = sample_clip(rng, frames=frames, motion=motion).contacts
        assert contacts and contacts[0] >= 0.1 - 1e-4 and contacts[-1] <= frames / 16 - 0.1
        assert all(later - earlier >= 0.3 for earlier, later in pairwise(contacts))


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("sound", SOUNDS)
def test_contacts_can_be_seen_and_heard(rng, motion, sound):
    for _ in range(2):
        clip = sample_clip(rng, frames=33, motion=motion, sound=sound)
        seen = detect_contacts(torch.from_numpy(clip.frames) / 255, 16)
        heard = detect_onsets(torch.from_numpy(clip.waveform), 16000)
        assert seen == pytest.approx(clip.contacts, abs=0.0625)
        assert heard == pytest.approx(clip.contacts, abs=0.005)


def test_contacts_are_free_given_the_caption(rng):
    firsts = [sample_clip(rng, frames=33, caption="a red ball bounces, drum").contacts[0] for _ in range(60)]
    assert np.ptp(firsts) > 0.5
    other = sample_clip(rng, frames=33, caption="a red ball bounces, drum").contacts
    pairs = [match_events(other, [first], 0.0625).pairs for first in firsts]
    assert sum(map(bool, pairs)) < 40


def test_silence_before_the_first_contact(rng):
    clip = sample_clip(rng, motion="falls", sound="bell")
    begin = round(clip.contacts[0] * 16000)
    assert not clip.waveform[:begin].any()
    assert clip.waveform[begin] > 0.5
    assert len(clip.waveform) == 45000


def test_the_shape_has_its_colour_and_stays_in_the_room(rng):
    for colour in COLOURS:
        clip = sample_clip(rng, frames=33, colour=colour, motion="bounces")
        brightest = clip.frames[8].reshape(-1, 3)[clip.frames[8].sum(-1).argmax()]
        assert tuple(brightest) == PALETTE[colour]
        assert clip.frames[:, :, 0].max() < 80 and clip.frames[:, 60:].max() < 80


def test_size_scales_the_picture(rng):
    clip = sample_clip(rng, frames=17, size=96, motion="slides")
    assert clip.frames.shape == (17, 96, 96, 3)
    assert clip.frames[:, 90:].max() < 80


def test_captions_round_trip(rng):
    for _ in range(100):
        scene = sample_scene(rng)
        assert read_caption(scene.caption) == (scene.colour, scene.shape, scene.motion, scene.sound)
    assert read_caption("A red ball bounces, drum.") == ("red", "ball", "bounces", "drum")
    assert read_caption("something else") == (None, None, None, None)
    assert len(TEMPLATES) >= 5


def test_what_the_world_lacks_is_refused(rng):
    with pytest.raises(ValueError, match="colour 'pink' is not part of the world; use one of red"):
        sample_scene(rng, colour="pink")
    with pytest.raises(ValueError, match="4k\\+1 frames and at least 17"):
        sample_clip(rng, frames=32)


def test_same_seed_same_clips():
    one, two = next(clips(5, frames=17)), next(clips(5, frames=17))
    assert one.caption == two.caption and one.contacts == two.contacts
    assert np.array_equal(one.frames, two.frames) and np.array_equal(one.waveform, two.waveform)
    assert next(clips(6, frames=17)).contacts != one.contacts
