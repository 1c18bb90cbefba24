"""Masks and areas of conditionings on a latent with sound: the video is that of plain Wan, and the sound
takes all texts.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ccl_pack.ccl_core.host.regions import packed_mask
from support import sweep, tiny

JOINT = sweep.joint_kit()
WAN = sweep.wan_kit(JOINT)


def halves(**options: Any) -> list:
    """Two texts, each on one half of the picture."""
    left = torch.zeros(1, 32, 48)
    left[..., :24] = 1
    texts = []
    for seed, mask in ((1, left), (3, 1 - left)):
        node = sweep.all_classes()["ConditioningSetMask"]
        texts += node().append(tiny.conditioning(seed), mask, "default", 1.0)[0]
    return [[text, {**settings, **options}] for text, settings in texts]


def test_a_mask_is_spread_over_frames_and_channels_and_is_1_for_the_sound() -> None:
    mask = torch.tensor([[[0.0, 1.0]]])
    packed = packed_mask(mask, [(1, 2, 3, 1, 2), (1, 8, 5)])
    assert torch.equal(packed, torch.cat([torch.tensor([[0.0, 1.0] * 6]), torch.ones(1, 40)], dim=1))


def test_texts_on_halves_of_the_picture_act_as_on_plain_wan() -> None:
    video, sound = sweep.sampled(JOINT.model, halves(), JOINT)
    (wanted,) = sweep.sampled(WAN.model, halves(), WAN)
    torch.testing.assert_close(video, wanted, rtol=0, atol=1e-5)
    one, two = (sweep.sampled(JOINT.model, tiny.conditioning(seed), JOINT) for seed in (1, 3))
    assert not any(torch.allclose(video, other, atol=1e-3) for other in (one[0], two[0]))
    assert not any(torch.allclose(sound, other, atol=1e-4) for other in (one[1], two[1]))


def test_the_sound_takes_the_mean_of_texts_on_parts_of_the_picture() -> None:
    def streams(positive: list) -> list[Tensor]:
        return sweep.sampled(JOINT.model, positive, JOINT)

    both = [*tiny.conditioning(1), *tiny.conditioning(3)]
    torch.testing.assert_close(streams(halves())[1], streams(both)[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("area", [(4, 4, 0, 0), ("percentage", 0.5, 0.5, 0.0, 0.0)])
def test_an_area_is_refused_with_what_works(area: tuple) -> None:
    with pytest.raises(ValueError, match=r"positive is set to an area.*ConditioningSetMask"):
        sweep.sampled(JOINT.model, tiny.conditioning(1, area=area), JOINT)


def test_an_area_of_the_whole_is_none() -> None:
    plain, whole = (
        sweep.sampled(JOINT.model, tiny.conditioning(1, **options), JOINT)
        for options in ({}, {"area": ("percentage", 1.0, 1.0, 1.0, 0.0, 0.0, 0.0)})
    )
    assert all(map(torch.equal, plain, whole))
