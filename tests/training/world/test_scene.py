"""The procedural world: contacts are exact, sounds begin on them, captions say what is shown."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch

from ccl_pack.ccl_core.metrics.matching import match_events
from ccl_pack.ccl_core.metrics.onsets import detect_onsets
from ccl_pack.ccl_core.training.world import scene as scene_module
from ccl_pack.ccl_core.training.world.clip import COLOURS, KINDS, PALETTE, SHAPES, Attributes, Clip, Object
from ccl_pack.ccl_core.training.world.judge import judge_video
from ccl_pack.ccl_core.training.world.motions import MOTIONS
from ccl_pack.ccl_core.training.world.scene import APART, clips, sample_clip, sample_scene
from ccl_pack.ccl_core.training.world.sounds import SOUNDS

PAIR = "a red ball bounces, drum, and a blue square slides, bell"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_the_world_is_as_large_as_promised() -> None:
    assert len(COLOURS) == 8 and len(SOUNDS) >= 5 and len(MOTIONS) >= 4 and len(SHAPES) >= 2


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("frames", [33, 45])
def test_contacts_are_spaced_and_inside_the_clip(rng: np.random.Generator, motion: str, frames: int) -> None:
    for _ in range(20):
        clip = sample_clip(rng, Attributes(motion=motion), frames=frames)
        (thing,) = clip.objects
        assert clip.contacts == list(thing.contacts)
        assert thing.contacts[0] >= 0.1 - 1e-4 and thing.contacts[-1] <= frames / 16 - 0.1
        assert all(later - earlier >= 0.3 for earlier, later in pairwise(thing.contacts))


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("sound", SOUNDS)
def test_contacts_can_be_seen_and_heard(rng: np.random.Generator, motion: str, sound: str) -> None:
    for shape in SHAPES:
        clip = sample_clip(rng, Attributes(shape=shape, motion=motion, sound=sound), frames=33)
        (seen,) = judge_video(torch.from_numpy(clip.frames) / 255, 16)
        heard = detect_onsets(torch.from_numpy(clip.waveform), 16000)
        assert seen.contacts == pytest.approx(clip.contacts, abs=0.0625)
        assert heard == pytest.approx(clip.contacts, abs=0.005)


@pytest.mark.parametrize("motions", list(product(MOTIONS, MOTIONS)), ids=" and ".join)
def test_two_objects_never_meet_in_space_or_time(rng: np.random.Generator, motions: tuple[str, str]) -> None:
    for _ in range(2):
        clip = sample_clip(rng, *(Attributes(motion=motion) for motion in motions), frames=33)
        assert [thing.motion for thing in clip.objects] == list(motions)
        one, two = clip.objects
        assert one.contacts and two.contacts and one.colour != two.colour and one.sound != two.sound
        assert clip.contacts == sorted(one.contacts + two.contacts)
        assert all(later - earlier >= APART for earlier, later in pairwise(clip.contacts))
        hidden = [covers(clip, thing) for thing in clip.objects]
        assert not (near(hidden[0]) & hidden[1]).any()


def covers(clip: Clip, thing: Object) -> np.ndarray:
    """Where an object's pure colour is seen, (f, h, w)."""
    return (np.abs(clip.frames.astype(int) - PALETTE[thing.colour]) <= 1).all(-1)


def near(mask: np.ndarray) -> np.ndarray:
    """Everything within one pixel."""
    grown = torch.nn.functional.max_pool2d(torch.from_numpy(mask).float()[:, None], 3, 1, 1)
    return grown[:, 0].numpy() > 0


def test_each_of_two_objects_sounds_at_its_own_contacts(rng: np.random.Generator) -> None:
    words = (Attributes(sound="drum", motion="falls"), Attributes(sound="click", motion="blinks"))
    clip = sample_clip(rng, *words, frames=33)
    for thing in clip.objects:
        for contact in thing.contacts:
            begin = round(contact * 16000)
            spectrum = np.abs(np.fft.rfft(clip.waveform[begin : begin + 800]))  # 20 Hz a bin
            low, high = spectrum[:15].sum(), spectrum[150:].sum()
            assert (low > high) == (thing.sound == "drum")
    assert detect_onsets(torch.from_numpy(clip.waveform), 16000) == pytest.approx(clip.contacts, abs=0.01)


def test_a_stream_has_clips_of_one_and_of_two_objects() -> None:
    counts = [len(clip.objects) for clip, _ in zip(clips(1, frames=17, size=32), range(150), strict=False)]
    assert set(counts) == {1, 2} and 0.25 < counts.count(2) / 150 < 0.55
    assert {len(next(clips(seed, frames=17, objects=2)).objects) for seed in range(5)} == {2}


def test_contacts_are_free_given_the_caption(rng: np.random.Generator) -> None:
    for caption in ("a red ball bounces, drum", PAIR):
        drawn = [sample_clip(rng, frames=33, caption=caption).objects[0].contacts for _ in range(40)]
        assert np.ptp([contacts[0] for contacts in drawn]) > 0.5
        pairs = [match_events(list(drawn[0]), [contacts[0]], 0.0625).pairs for contacts in drawn[1:]]
        assert sum(map(bool, pairs)) < 25


def test_silence_before_the_first_contact(rng: np.random.Generator) -> None:
    clip = sample_clip(rng, Attributes(motion="falls", sound="bell"))
    begin = round(clip.contacts[0] * 16000)
    assert not clip.waveform[:begin].any()
    assert clip.waveform[begin] > 0.3
    assert len(clip.waveform) == 45000


def test_the_shape_has_its_colour_and_stays_in_the_room(rng: np.random.Generator) -> None:
    for colour, shape in product(COLOURS, SHAPES):
        clip = sample_clip(rng, Attributes(colour=colour, shape=shape, motion="bounces"), frames=33)
        brightest = clip.frames[8].reshape(-1, 3)[clip.frames[8].sum(-1).argmax()]
        assert tuple(brightest) == PALETTE[colour]
        assert clip.frames[:, :, 0].max() < 80 and clip.frames[:, 60:].max() < 80


def test_size_scales_the_picture(rng: np.random.Generator) -> None:
    clip = sample_clip(rng, Attributes(motion="slides"), frames=17, size=96)
    assert clip.frames.shape == (17, 96, 96, 3)
    assert clip.frames[:, 90:].max() < 80


def test_a_caption_decides_what_it_says(rng: np.random.Generator) -> None:
    scene = sample_scene(rng, caption="an orange triangle while a big cyan ball slides")
    first, second = scene.words
    assert (first.colour, first.shape, first.size) == ("orange", "triangle", None)
    assert (second.colour, second.shape, second.motion, second.size) == ("cyan", "ball", "slides", "big")
    assert all(getattr(words, kind) in options for words in scene.words for kind, options in KINDS.items())


def test_what_the_world_lacks_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="colour 'pink' is not part of the world; use one of red"):
        sample_scene(rng, Attributes(colour="pink"))
    with pytest.raises(ValueError, match="two objects need two colours, got red for both"):
        sample_scene(rng, Attributes(colour="red"), Attributes(colour="red"))
    with pytest.raises(ValueError, match="one or two objects, got 3"):
        sample_scene(rng, objects=3)
    with pytest.raises(ValueError, match="4k\\+1 frames and at least 17"):
        sample_clip(rng, frames=32)


def test_an_irregular_rhythm_can_be_asked_for_alone(rng: np.random.Generator) -> None:
    for motion in MOTIONS:
        clip = sample_clip(rng, Attributes(motion=motion), frames=81, size=16, rhythm="irregular")
        assert (np.abs(np.diff(np.diff(clip.contacts))) > 0.0625).all()
    assert np.ptp(np.diff(next(clips(1, frames=81, size=16, objects=1)).contacts)) < 0.001
    with pytest.raises(ValueError, match="rhythm 'swing' is not part of the world; use one of regular"):
        sample_clip(rng, rhythm="swing")


def test_clips_too_long_for_two_objects_are_refused(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene_module, "TRIES", 3)
    with pytest.raises(ValueError, match="801 frames are too many for two objects"):
        sample_clip(rng, frames=801, size=8, objects=2)


def test_same_seed_same_clips() -> None:
    one, two = next(clips(5, frames=17)), next(clips(5, frames=17))
    assert one.caption == two.caption and one.objects == two.objects
    assert np.array_equal(one.frames, two.frames) and np.array_equal(one.waveform, two.waveform)
    assert next(clips(6, frames=17)).contacts != one.contacts
