"""The benchmarks' own parts: the dense reference agrees with the partition, and the counts of ccl-tiny add up."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ccl_pack.ccl_core.model.interactions.cca import frames_to_windows, tokens_to_frames
from ccl_pack.ccl_core.tarp import align
from ccl_pack.ccl_core.training.captions import Attributes, held_out


def benchmark(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


attention, tiny = benchmark("attention"), benchmark("tiny")


@pytest.mark.parametrize("clock", ["uniform", "causal"])
@pytest.mark.parametrize("latent_frames, audio_tokens", [(1, 5), (5, 34), (9, 66), (7, 3)])
@pytest.mark.parametrize("direction", ["a2v", "v2a"])
def test_partition_equals_dense_mask(direction, latent_frames, audio_tokens, clock):
    tarp, spatial, context, heads, dim = align(clock, latent_frames, audio_tokens), 6, 3, 2, 16
    counts = (latent_frames * spatial, audio_tokens)
    queries, keys = counts if direction == "a2v" else counts[::-1]
    torch.manual_seed(latent_frames)
    q, k, v = (torch.randn(2, n, dim) for n in (queries, keys, keys))
    anchor = (torch.randn(1, context, dim), torch.randn(1, context, dim))
    partition, ranges = {"a2v": (frames_to_windows, tarp.a2v), "v2a": (tokens_to_frames, tarp.v2a)}[direction]
    mask = attention.dense_mask(direction, ranges, spatial, context, audio_tokens)
    assert mask.shape == (queries, context + keys)
    assert (mask[:, :context].all() and not mask.all()) or latent_frames == 1
    torch.testing.assert_close(
        partition(q, k, v, anchor, ranges, heads, {}), attention.dense_attention(q, k, v, anchor, mask, heads)
    )


def test_asked_captions_are_held_out_and_follow_the_seed():
    clips = tiny.draw_clips(seed=3, count=32, frames=33, fps=16)
    asked = [Attributes(colour=c.colour, shape=c.shape, motion=c.motion, sound=c.sound) for c in clips]
    assert all(map(held_out, asked))
    assert len(set(asked)) == 32
    assert [c.caption for c in clips] == [c.caption for c in tiny.draw_clips(3, 32, 33, 16)]
    assert [c.caption for c in clips] != [c.caption for c in tiny.draw_clips(4, 32, 33, 16)]


def truth(clip) -> object:
    return tiny.Result(torch.from_numpy(clip.frames).float() / 255, torch.from_numpy(clip.waveform), 16000)


def test_the_world_itself_scores_all_and_chance_does_not():
    clips = tiny.draw_clips(seed=5, count=8, frames=45, fps=16)
    rows = [tiny.measure(clip, truth(clip), 16) for clip in clips]
    ceiling = tiny.ceiling(rows)
    contacts = sum(len(clip.contacts) for clip in clips)
    assert ceiling["contacts"] == ceiling["onsets"] == ceiling["matched_62ms"] == ceiling["matched_125ms"] == contacts
    assert ceiling["spurious_onsets"] == 0
    assert {ceiling[key] for key in ceiling if key.endswith(("_right", "_recall", "_precision", "_share"))} == {1.0}
    assert ceiling["sync_error_ms_median"] < 20
    assert tiny.chance(rows)["matched_62ms_share"] < 0.6


def test_silence_and_stillness_score_nothing():
    (clip,) = tiny.draw_clips(seed=5, count=1, frames=33, fps=16)
    nothing = tiny.Result(torch.zeros(33, 64, 64, 3), torch.zeros(33000), 16000)
    total = tiny.total([tiny.measure(clip, nothing, 16)])
    assert (total["contacts"], total["onsets"], total["matched_125ms"], total["spurious_onsets"]) == (0, 0, 0, 0)
    assert total["matched_125ms_share"] is None and total["sync_error_ms_median"] is None
    assert total["motion_right"] == total["sound_right"] == 0


def test_another_sound_and_colour_are_wrong():
    asked, other = tiny.draw_clips(seed=6, count=32, frames=33, fps=16)[0], None
    for other in tiny.draw_clips(seed=7, count=32, frames=33, fps=16):
        if other.colour != asked.colour and other.sound != asked.sound and other.motion != asked.motion:
            break
    row = tiny.measure(asked, truth(other), 16)
    assert (row["colour_right"], row["motion_right"], row["sound_right"]) == (False, False, False)
    assert (row["colour"], row["motion"], row["sound"]) == (other.colour, other.motion, other.sound)


def test_defaults_are_those_of_the_nodes():
    from ccl_pack.nodes.sampling import CCLJointSampler

    first = tiny.defaults(CCLJointSampler, "mode")
    assert first["steps"] == 30 and first["mode"]["mode"] == "ucg_joint"
    assert {mode: tiny.defaults(CCLJointSampler, "mode", mode)["mode"]["mode"] for mode in tiny.GUIDANCE} == {
        mode: mode for mode in tiny.GUIDANCE
    }
