"""AV latents: what goes in comes out, and what is no AV latent is refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_lt import LTXVConcatAVLatent, LTXVSeparateAVLatent

from ccl_pack.ccl_core.alignment.sizing import Grid, size_av
from ccl_pack.ccl_core.host.media.latents import (
    AVLatent,
    empty,
    frame_rate,
    join,
    ones_mask,
    require_agreement,
    require_finite,
    split,
)
from ccl_pack.ccl_core.host.media.pair import Pair
from support import tiny


def av_latent(batch: int = 1) -> AVLatent:
    return AVLatent(
        torch.randn(batch, 16, 3, 4, 6), torch.randn(batch, 8, 20), fps=16.0, rest={"task": "joint"}
    )


@pytest.mark.parametrize("masks", [(False, False), (True, False), (False, True), (True, True)])
def test_join_then_split_is_the_identity(masks: tuple[bool, bool]) -> None:
    av = av_latent(2)
    video_mask = torch.rand(2, 1, 3, 4, 6) if masks[0] else None
    audio_mask = torch.rand(2, 1, 20) if masks[1] else None
    back = split(join(replace(av, video_mask=video_mask, audio_mask=audio_mask)))
    assert back.video is av.video
    assert back.audio is av.audio
    assert (back.fps, back.rest) == (16.0, {"task": "joint"})
    if any(masks):
        assert torch.equal(back.video_mask, video_mask if masks[0] else torch.ones(2, 1, 3, 4, 6))
        assert torch.equal(back.audio_mask, audio_mask if masks[1] else torch.ones(2, 1, 20))
    else:
        assert back.video_mask is None
        assert back.audio_mask is None


def test_a_plain_video_latent_means_audio_absent_and_stays_plain() -> None:
    latent = {
        "samples": torch.randn(1, 16, 3, 4, 6),
        "noise_mask": torch.zeros(1, 1, 3, 4, 6),
        "batch_index": [3],
    }
    av = split(latent)
    assert av.audio is None
    assert av.fps is None
    back = join(av)
    assert back.keys() == latent.keys()
    assert all(back[name] is latent[name] for name in latent)


def test_a_plain_mask_beside_a_nested_latent_is_the_videos() -> None:
    mask = torch.zeros(1, 1, 3, 4, 6)
    av = split({**join(av_latent()), "noise_mask": mask})
    assert av.video_mask is mask
    assert av.audio_mask is None


def test_the_hosts_separate_and_concat_nodes_undo_each_other_on_it() -> None:
    latent = join(replace(av_latent(), audio_mask=torch.zeros(1, 1, 20)))
    again = split(LTXVConcatAVLatent.execute(*LTXVSeparateAVLatent.execute(latent).args)[0])
    assert torch.equal(again.video, latent["samples"].unbind()[0])
    assert torch.equal(again.audio_mask, torch.zeros(1, 1, 20))
    assert (again.fps, again.rest) == (16.0, {"task": "joint"})


def test_split_leaves_the_callers_dict_alone() -> None:
    latent = join(av_latent())
    before = dict(latent)
    split(latent).rest["task"] = "changed"
    assert latent == before


@pytest.mark.parametrize(
    "samples",
    [
        torch.zeros(1, 16, 4, 6),
        torch.zeros(1, 8, 20),
        NestedTensor([torch.zeros(1, 8, 20), torch.zeros(1, 16, 3, 4, 6)]),
        NestedTensor([torch.zeros(1, 16, 3, 4, 6)] * 3),
    ],
)
def test_other_latents_are_refused_with_their_shapes(samples: torch.Tensor | NestedTensor) -> None:
    with pytest.raises(ValueError, match=r"shape \[\(1, .*CCLEmptyAVLatent"):
        split({"samples": samples})


@pytest.mark.parametrize("kind", [NestedTensor, Pair])
@pytest.mark.parametrize("place", [0, 1])
def test_a_pair_in_the_place_of_a_stream_is_refused(kind: type, place: int) -> None:
    streams = list(tiny.latents())
    streams[place] = kind(tiny.latents())
    with pytest.raises(
        ValueError, match=r"in the place of a stream of the latent: take it apart with LTXVSep"
    ):
        split({"samples": NestedTensor(streams)})


def test_different_batch_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="2 videos and 1 sounds"):
        split({"samples": NestedTensor([torch.zeros(2, 16, 3, 4, 6), torch.zeros(1, 8, 20)])})


def test_empty_has_the_size_it_was_asked_for() -> None:
    grid = Grid(Fraction(24), 16, 2, Fraction(125, 4), 16000, pinned=((31, 157),))
    size = size_av(grid, width=64, height=96, frames=121)
    av = empty(size, 48, 20, 2)
    assert av.video.shape == (2, 48, 31, 6, 4)
    assert av.audio.shape == (2, 20, 157)
    assert av.fps == 24.0
    assert not av.video.any()
    assert not av.audio.any()


def test_ones_mask_has_one_channel() -> None:
    assert ones_mask(torch.zeros(2, 16, 3, 4, 6)).shape == (2, 1, 3, 4, 6)


def test_a_latent_has_its_own_frame_rate_or_the_typed_one() -> None:
    av = av_latent()
    assert frame_rate(av, 0) == frame_rate(av, 16.0) == 16
    assert frame_rate(replace(av, fps=None), 23.976) == Fraction(2997, 125)
    # As a node of the host may write the rate of NTSC, and a person types it.
    assert frame_rate(replace(av, fps=29.97002997), 29.97) == Fraction(30000, 1001)


@pytest.mark.parametrize(("tokens", "right"), [(18, True), (17, True), (24, True), (12, False), (40, False)])
def test_streams_of_other_seconds_are_refused(tokens: int, right: bool) -> None:
    av = replace(av_latent(), audio=torch.zeros(1, 8, tokens))  # 3 latent frames: 9 frames, .5625 s at 16 fps
    if right:
        require_agreement(av, Fraction(16), Fraction(32))
        return
    with pytest.raises(
        ValueError, match=rf"the video is 0\.562 s long \(9 frames at 16 fps\), the sound .*{tokens}"
    ):
        require_agreement(av, Fraction(16), Fraction(32))


@pytest.mark.parametrize(
    "fps, typed, message",
    [
        (None, 0, "type it into the fps"),
        (0.0, 0, "fps is 0"),
        (16.0, -5, "fps is -5"),
        (16.0, 24, "fps is 24, and the latent was made for 16 fps: set fps to 0"),
        (float("nan"), 0, "fps is nan"),
    ],
)
def test_no_frame_rate_is_refused(fps: float | None, typed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frame_rate(replace(av_latent(), fps=fps), typed)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("stream", ["video", "audio"])
def test_nan_is_refused_with_the_streams_name(stream: str, value: float) -> None:
    av = av_latent()
    require_finite(av, "the latent")
    getattr(av, stream)[0, 0, 0] = value
    with pytest.raises(ValueError, match=f"the {stream} part of the latent"):
        require_finite(av, "the latent")
