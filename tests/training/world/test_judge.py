"""The judges name what the world put into a clip, and say when there is nothing."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from ccl_pack.ccl_core.metrics.matching import match_events
from ccl_pack.ccl_core.training.world.clip import COLOURS, PALETTE, Attributes, Clip
from ccl_pack.ccl_core.training.world.judge import (
    Onset,
    Seen,
    hear,
    judge_clip,
    judge_sounds,
    judge_video,
)
from ccl_pack.ccl_core.training.world.motions import MOTIONS
from ccl_pack.ccl_core.training.world.scene import APART, clips, sample_clip
from ccl_pack.ccl_core.training.world.sounds import SOUNDS, synthesise

RED_DRUM = Attributes(colour="red", shape="ball", motion="bounces", sound="drum")
BLUE_BELL = Attributes(colour="blue", shape="square", motion="slides", sound="bell")


def tensors(clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(clip.frames).float() / 255, torch.from_numpy(clip.waveform)


def soften(frames: torch.Tensor) -> torch.Tensor:
    """Blurred by 0.7 pixels, with noise, in steps of 1/255: worse than the autoencoder."""
    taps = torch.exp(-(torch.arange(-3.0, 4.0) ** 2) / (2 * 0.7**2))
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    padded = torch.nn.functional.pad(frames.movedim(-1, 1), (3, 3, 3, 3), mode="replicate")
    blurred = torch.nn.functional.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None])
    noisy = blurred.unflatten(0, (-1, 3))[:, :, 0].movedim(1, -1)
    noisy = noisy + 2 / 255 * torch.randn(noisy.shape, generator=torch.Generator().manual_seed(0))
    return (noisy * 255).round().clamp(0, 255) / 255


@pytest.mark.parametrize("motion", MOTIONS)
def test_colour_and_motion(motion: str) -> None:
    rng = np.random.default_rng(11)
    for colour in COLOURS:
        clip = sample_clip(rng, Attributes(colour=colour, motion=motion), frames=33)
        (seen,) = judge_video(torch.from_numpy(clip.frames) / 255, 16)
        assert (seen.colour, seen.motion) == (colour, motion)
        assert seen.contacts == pytest.approx(clip.contacts, abs=0.0625)


@pytest.mark.parametrize("sound", SOUNDS)
def test_sound(sound: str) -> None:
    rng = np.random.default_rng(12)
    for _ in range(4):
        clip = sample_clip(rng, Attributes(sound=sound), frames=33)
        noisy = torch.from_numpy(clip.waveform) * 0.5 + 0.003 * torch.randn(len(clip.waveform))
        assert judge_sounds(hear(noisy, 16000), [()], [None]) == (sound,)


@pytest.mark.parametrize("soft", [False, True], ids=["exact", "softened"])
@pytest.mark.parametrize("objects", [1, 2])
def test_everything_is_right_on_clips_of_the_world(objects: int, soft: bool) -> None:
    errors = []
    for clip in islice(clips(31, frames=33, objects=objects), 12):
        frames, waveform = tensors(clip)
        judged = judge_clip(soften(frames) if soft else frames, 16, waveform, 16000, clip.objects)
        for thing, seen, sound in zip(clip.objects, judged.seen, judged.sounds, strict=True):
            assert (seen.colour, seen.motion, sound) == (thing.colour, thing.motion, thing.sound), (
                clip.caption
            )
            assert seen.contacts == pytest.approx(thing.contacts, abs=0.0625), clip.caption
            errors += [abs(a - b) for a, b in zip(seen.contacts, thing.contacts, strict=True)]
        assert judged.onsets == pytest.approx(clip.contacts, abs=0.0625), clip.caption
        assert (judged.sync.matched_62ms, judged.sync.spurious) == (len(clip.contacts), 0)
    assert np.median(errors) < 0.005


@pytest.mark.parametrize(
    "pair", [("red", "orange"), ("orange", "yellow"), ("cyan", "blue"), ("purple", "white")]
)
def test_neighbouring_hues_are_told_apart(pair: tuple[str, str]) -> None:
    rng = np.random.default_rng(5)
    for _ in range(3):
        clip = sample_clip(rng, *(Attributes(colour=colour) for colour in pair), frames=33)
        seen = judge_video(soften(tensors(clip)[0]), 16, pair)
        assert [(s.colour, s.motion) for s in seen] == [(t.colour, t.motion) for t in clip.objects]


def test_an_object_that_is_missing_or_of_another_colour_is_not_found() -> None:
    clip = sample_clip(np.random.default_rng(6), RED_DRUM, frames=33)
    red, blue = judge_video(tensors(clip)[0], 16, ("red", "blue"))
    assert red.colour == "red" and red.motion == "bounces"
    assert blue == Seen("none", "still", ())
    clip = sample_clip(np.random.default_rng(6), RED_DRUM, replace(BLUE_BELL, colour="purple"), frames=33)
    red, blue = judge_video(tensors(clip)[0], 16, ("red", "blue"))
    assert red.colour == "red" and blue.colour != "blue"


def test_splashes_elsewhere_do_not_move_an_object() -> None:
    clip = sample_clip(np.random.default_rng(7), RED_DRUM, BLUE_BELL, frames=33)
    frames, waveform = tensors(clip)
    before = judge_clip(frames, 16, waveform, 16000, clip.objects)
    frames[::3, 2:4, 4:6] = torch.tensor(PALETTE["blue"]) / 255
    frames[1::4, 60:63, 50:53] = torch.tensor(PALETTE["red"]) / 255
    assert judge_clip(frames, 16, waveform, 16000, clip.objects).contacts == pytest.approx(
        before.contacts, abs=0.03
    )


def test_sounds_follow_the_contacts_they_are_heard_at() -> None:
    parts = [("drum", (0.3, 0.9)), ("bell", (0.5, 1.3))]
    heard = hear(torch.from_numpy(synthesise(np.random.default_rng(0), parts, 32000)), 16000)
    assert [onset.sound for onset in heard] == ["drum", "bell", "drum", "bell"]
    contacts = [(0.3, 0.9), (0.5, 1.3)]
    assert judge_sounds(heard, contacts, ("drum", "bell")) == ("drum", "bell")
    assert judge_sounds(heard, contacts[::-1], ("drum", "bell")) == ("bell", "drum")  # exchanged
    assert judge_sounds(heard, [(), (0.5, 1.3)], ("drum", "bell")) == ("drum", "bell")  # of what is left over
    assert judge_sounds([], contacts, ("drum", "bell")) == ("silent", "silent")
    assert judge_sounds(heard[1::2], [(0.3, 0.9)], ("drum",)) == ("bell",)


def test_the_kind_of_sound_decides_between_contacts_that_are_close() -> None:
    heard = [Onset(1.0, "bell"), Onset(1.08, "drum")]
    contacts = [(1.06,), (0.99,)]
    assert judge_sounds(heard, contacts, ("drum", "bell")) == ("drum", "bell")
    # Both sounds at once belong to either object: only the contact that is alone tells of an exchange.
    heard = [Onset(1.0, "bell"), Onset(1.0, "drum"), Onset(1.5, "bell")]
    assert judge_sounds(heard, [(1.0, 1.5), (1.02,)], ("drum", "bell")) == ("bell", "bell")
    assert judge_sounds(heard, [(1.0,), (1.02, 1.5)], ("drum", "bell")) == ("drum", "bell")


def test_what_is_off_screen_is_no_sound_of_an_object() -> None:
    heard = [Onset(0.2, "horn"), Onset(1.4, "horn")]
    assert judge_sounds(heard, [(0.8,)], ("drum",)) == ("horn",)
    assert judge_sounds(heard, [(0.8,)], ("drum",), {"horn"}) == ("silent",)


def test_what_is_no_note_of_the_world_is_heard_as_another_sound() -> None:
    seconds = torch.arange(16000) / 16000
    whistle = 0.3 * torch.sin(2 * torch.pi * 5200 * seconds) * (seconds > 0.5)
    heard = hear(whistle, 16000)
    assert {onset.sound for onset in heard} == {"other"} and heard[0].time == pytest.approx(0.5, abs=0.02)


def test_a_new_sound_is_heard_through_one_that_rings() -> None:
    rng = np.random.default_rng(1)
    for first in SOUNDS:
        for second in SOUNDS:
            wave = synthesise(rng, [(first, (0.4,)), (second, (0.4 + APART,))], 16000)
            assert [onset.sound for onset in hear(torch.from_numpy(wave), 16000)] == [first, second]


def test_an_onset_at_no_contact_is_spurious() -> None:
    clip = sample_clip(np.random.default_rng(8), RED_DRUM, BLUE_BELL, frames=33)
    frames, _ = tensors(clip)
    contacts = np.array(clip.contacts)
    gap = next(t for t in np.arange(0.05, 1.9, 0.01) if (np.abs(t - contacts) > 0.16).all())
    parts = [(thing.sound, thing.contacts) for thing in clip.objects] + [("horn", (float(gap),))]
    judged = judge_clip(
        frames, 16, torch.from_numpy(synthesise(np.random.default_rng(0), parts, 33000)), 16000, clip.objects
    )
    assert judged.sync.spurious == 1 and judged.sounds == ("drum", "bell")
    assert len(match_events(clip.contacts, list(judged.onsets), 0.0625).pairs) == len(clip.contacts)


def test_a_dim_shape_keeps_its_colour_and_a_resting_one_is_still() -> None:
    frames = torch.full((20, 32, 32, 3), 0.07)
    frames[:, 10:20, 10:20] = 0.7 * torch.tensor(PALETTE["purple"]) / 255
    assert judge_video(frames, 16) == [Seen("purple", "still", ())]


def test_silence_and_wrong_input() -> None:
    assert judge_sounds(hear(torch.zeros(16000), 16000), [()], [None]) == ("silent",)
    with pytest.raises(ValueError, match="at least two frames"):
        judge_video(torch.zeros(1, 8, 8, 3), 16)
    with pytest.raises(ValueError, match=r"colours must be of red.* got pink: name one for each object"):
        judge_video(torch.zeros(4, 8, 8, 3), 16, ("red", "pink"))
    empty = judge_clip(torch.zeros(8, 16, 16, 3), 16, torch.zeros(8000), 16000, [RED_DRUM, BLUE_BELL])
    assert empty.seen == (Seen("none", "still", ()),) * 2 and empty.sounds == ("silent", "silent")
    assert (empty.contacts, empty.onsets, empty.sync.contacts) == ((), (), 0)
