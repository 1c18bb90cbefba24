"""The benchmarks' own parts: the dense reference agrees with the partition, and ccl-tiny is asked through
the nodes.
"""

import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ccl_bench import attention, generate
from ccl_bench import tiny_options as told
from ccl_pack.ccl_core.alignment.tarp import plan
from ccl_pack.ccl_core.alignment.timeline import Timeline
from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.guidance import MODES
from ccl_pack.ccl_core.model.attention import Place
from ccl_pack.ccl_core.model.interactions import KV
from ccl_pack.ccl_core.model.interactions.cca import frames_to_windows, tokens_to_frames
from ccl_pack.ccl_core.training.world.evaluate import Lesson
from ccl_tools.console import ScriptError
from support.commands import load

tiny = load("benchmarks/tiny.py")


@pytest.mark.parametrize("clock", ["uniform", "causal"])
@pytest.mark.parametrize("latent_frames, audio_tokens", [(1, 5), (5, 34), (9, 66), (7, 3)])
@pytest.mark.parametrize("direction", ["a2v", "v2a"])
def test_partition_equals_dense_mask(
    direction: str, latent_frames: int, audio_tokens: int, clock: str
) -> None:
    made = plan(Timeline(latent_frames, audio_tokens, Fraction(16), Fraction(32), clock))
    spatial, context, heads, dim = 6, 3, 2, 16
    counts = (latent_frames * spatial, audio_tokens)
    queries, keys = counts if direction == "a2v" else counts[::-1]
    torch.manual_seed(latent_frames)
    q, k, v = (torch.randn(2, n, dim) for n in (queries, keys, keys))
    anchor = (torch.randn(1, context, dim), torch.randn(1, context, dim))
    partition, ranges = {"a2v": (frames_to_windows, made.a2v), "v2a": (tokens_to_frames, made.v2a)}[direction]
    place = Place(direction, slice(0, queries), slice(0, keys), context, (queries, keys))
    mask = attention.dense_mask(direction, ranges, spatial, context, audio_tokens)
    assert mask.shape == (queries, context + keys)
    assert (mask[:, :context].all() and not mask.all()) or latent_frames == 1
    torch.testing.assert_close(
        partition(q, KV(k, v), KV(*anchor), ranges, heads, {}, place),
        attention.dense_attention(q, k, v, anchor, mask, heads),
    )


def test_what_is_left_out_comes_from_the_model() -> None:
    from ccl_pack.nodes.guidance import CCLJointSampler

    first = generate.defaults(CCLJointSampler, "mode")
    assert (first["steps"], first["mode"]) == (0, {"mode": "from model"})
    for mode in MODES:
        assert generate.defaults(CCLJointSampler, "mode", mode)["mode"]["mode"] == mode


def test_sampler_and_guidance_are_those_of_the_model() -> None:
    published = FAMILIES["ccl"].sampling
    assert (published.sampler_name, published.mode) == (told.SAMPLER, told.GUIDANCE)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--seed", "1", "--clips", "0"], "at least 1"),
        (["--seed", "1", "-1"], "--seed at least 0"),
        (["--seed", "1", "--objects", "3"], "invalid choice"),
        (["--seed", "1", "--checkpoint", "nowhere"], "nowhere is not there"),
        (["--seed", "1", "--strength", "-1"], "--strength must be at least 0"),
        (["--seed", "1", "--audio-shift", "0"], "--audio-shift must be above 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tiny.parse(["--report", "r.json", *arguments])
    assert re.search(word, capsys.readouterr().err)


def test_a_length_that_no_clip_has_is_refused() -> None:
    with pytest.raises(ScriptError, match=r"4k[+]1 frames and at least 17 .*, got 32"):
        told.check_frames(32)


def test_several_seeds_and_objects_can_be_asked() -> None:
    options = tiny.parse(["--report", "r.json", "--seed", "1", "2", "--objects", "both"])
    assert (options.seed, options.objects, options.task, options.guidance) == (
        [1, 2],
        "both",
        "t2av",
        told.GUIDANCE,
    )


def test_a_checkpoint_is_asked_only_what_it_was_taught(tmp_path: Path) -> None:
    """ccl-tiny's file says how many objects a clip of its training had, and what was held out."""
    command = ["--seed", "1", "--report", str(tmp_path / "report.json")]
    lesson = told.lesson_of(tiny.parse(command))
    assert lesson.held_out
    save_file({"x": torch.zeros(1)}, tmp_path / "bare.safetensors")
    bare = ["--checkpoint", str(tmp_path / "bare.safetensors")]
    with pytest.raises(ScriptError, match="does not say what it was taught"):
        told.lesson_of(tiny.parse([*command, *bare]))
    single = {"lesson": Lesson(1, lesson.held_out).to_json()}
    save_file({"x": torch.zeros(1)}, tmp_path / "single.safetensors", metadata=single)
    chosen = ["--checkpoint", str(tmp_path / "single.safetensors"), "--objects", "both"]
    with pytest.raises(ScriptError, match="taught clips of one object"):
        told.lesson_of(tiny.parse([*command, *chosen]))
