"""The walls of the host: its nodes for one tensor say how to go on with an AV latent, and that way works."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import comfy.samplers
import pytest
import torch
from comfy.nested_tensor import NestedTensor

from ccl_pack.ccl_core.host.guider import AVGuider
from ccl_pack.ccl_core.host.media.latents import join, split
from ccl_pack.ccl_core.host.media.pair import WAY_ROUND, Pair
from support import tiny
from support.sweep import all_classes
from support.tiny_vaes import video_vae

Latent = dict[str, Any]


def pair(**sizes: Any) -> Latent:
    return join(split(tiny.av_latent(**sizes)))


def called(name: str, *given: Any, **named: Any) -> Any:
    """The first output of a node of the host, of either form."""
    node = all_classes()[name]
    if hasattr(node, "define_schema"):
        return node.execute(*given, **named).args[0]
    return getattr(node(), node.FUNCTION)(*given, **named)[0]


def apart(latent: Latent) -> tuple[Latent, Latent]:
    return all_classes()["LTXVSeparateAVLatent"].execute(latent).args


Act = Callable[[Latent], Any]
# A node of the host at one stream or at a pair.
WALLS: dict[str, Act] = {
    "LatentUpscale": lambda x: called("LatentUpscale", x, "bilinear", 96, 64, "disabled"),
    "LatentUpscaleBy": lambda x: called("LatentUpscaleBy", x, "bilinear", 2.0),
    "RepeatLatentBatch": lambda x: called("RepeatLatentBatch", x, 2),
    "LatentFromBatch": lambda x: called("LatentFromBatch", x, 1, 1),
    "LatentBatch": lambda x: called("LatentBatch", x, x),
    "LatentComposite": lambda x: called("LatentComposite", x, x, 8, 8, 0),
    "LatentConcat": lambda x: called("LatentConcat", x, x, "t"),
    "LatentCut": lambda x: called("LatentCut", x, "t", 1, 1),
    "LatentFlip": lambda x: called("LatentFlip", x, "x-axis: vertically"),
    "LatentRotate": lambda x: called("LatentRotate", x, "180 degrees"),
    "LatentCrop": lambda x: called("LatentCrop", x, 16, 16, 0, 0),
    "TrimVideoLatent": lambda x: called("TrimVideoLatent", x, 1),
    "RebatchLatents": lambda x: called("RebatchLatents", [x], [1])[0],
    "VAEDecodeTiled": lambda x: called("VAEDecodeTiled", video_vae(), x, 64, 0),
}
# These act on the sound too, as far as it has their axis.
BOTH = {"RepeatLatentBatch", "LatentFromBatch", "LatentBatch"}
# At a sound of one axis this node of the host stops too.
VIDEO_ALONE = {"RebatchLatents"}


@pytest.mark.parametrize("name", sorted(WALLS.keys() - {"VAEDecodeTiled"}))
def test_a_wall_says_the_way_round(name: str) -> None:
    with pytest.raises((AttributeError, TypeError, IndexError)) as caught:
        WALLS[name](pair(batch=2))
    assert WAY_ROUND in str(caught.value)


def test_a_tiled_decode_of_a_pair_says_the_way_round_or_takes_the_video() -> None:
    """ComfyUI from 0.33 on takes the video of a pair."""
    with torch.inference_mode():
        try:
            made = WALLS["VAEDecodeTiled"](pair())
        except (AttributeError, TypeError, IndexError) as error:
            assert WAY_ROUND in str(error)
        else:
            assert torch.equal(made, WALLS["VAEDecodeTiled"](apart(pair())[0]))


def test_a_pair_apart_decodes_in_tiles() -> None:
    with torch.inference_mode():
        whole = called("VAEDecode", video_vae(), apart(pair())[0])
        tiled = WALLS["VAEDecodeTiled"](apart(pair())[0])
    assert torch.equal(tiled, whole), "one tile holds this latent"


@pytest.mark.parametrize("name", sorted(WALLS.keys() - VIDEO_ALONE - {"VAEDecodeTiled"}))
def test_the_way_round_is_the_node_at_each_stream(name: str) -> None:
    """Apart, through the node, together again; the other stream is untouched."""
    latent = pair(batch=2)
    video, audio = apart(latent)
    changed = WALLS[name](video)
    sound = WALLS[name](audio) if name in BOTH else audio
    joined = split(called("LTXVConcatAVLatent", changed, sound))
    alone = {"samples": split(latent).video}
    assert torch.equal(joined.video, WALLS[name](alone)["samples"])
    if name in BOTH:
        assert joined.audio.shape[0] == joined.video.shape[0]
    else:
        assert torch.equal(joined.audio, split(latent).audio)
    assert joined.fps == 16.0


def test_what_the_hosts_class_can_do_a_pair_can_do() -> None:
    made = pair()["samples"]
    assert isinstance(made, NestedTensor) and made.is_nested and bool(made)
    for changed in (made.to(torch.float64), made * 2.0, made + made, made[:1], copy.deepcopy(made)):
        assert isinstance(changed, Pair) and len(changed.unbind()) == 2
    assert torch.equal((made * 2.0).unbind()[1], made.unbind()[1] * 2)
    assert torch.equal(pickle.loads(pickle.dumps(made)).unbind()[0], made.unbind()[0])
    assert not hasattr(made, "movedim")


def test_the_samplers_of_this_pack_give_pairs() -> None:
    guider = AVGuider(tiny.patcher())
    guider.set_conds(tiny.conditioning(1), tiny.conditioning(2))
    latent = tiny.av_latent()["samples"]
    sampler = comfy.samplers.sampler_object("euler")
    made = guider.sample(latent, latent, sampler, torch.tensor([1.0, 0.5, 0.0]))
    assert isinstance(made, Pair)


def test_the_second_stage_of_ksampler_advanced_goes_on_where_the_first_ended() -> None:
    model, texts = tiny.patcher(), (tiny.conditioning(1), tiny.conditioning(2))

    def stage(latent: Latent, noise: str, start: int, end: int, rest: str) -> Latent:
        settings = ("euler", "simple", *texts, latent, start, end, rest)
        return called("KSamplerAdvanced", model, noise, 1, 4, 3.0, *settings)

    whole = stage(pair(), "enable", 0, 4, "disable")["samples"].unbind()
    first = stage(pair(), "enable", 0, 2, "enable")
    second = stage(first, "disable", 2, 4, "disable")["samples"].unbind()
    for one, two in zip(whole, second, strict=True):
        torch.testing.assert_close(two, one, rtol=0, atol=1e-5)
