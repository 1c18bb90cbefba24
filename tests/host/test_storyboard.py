"""A storyboard: what its lines say, what holds when, and that a sampler of one pass refuses it."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

import nodes as host_nodes
from ccl_pack.ccl_core.host.guider import AVGuider
from ccl_pack.ccl_core.host.storyboard import at, read_lines, timed, times_of
from support import tiny


def test_lines_are_read_with_their_seconds() -> None:
    text = '0: a ball falls\n\n2.5 s: she says "it is 3:00"\nand smiles\n 10,25:a bell'
    assert read_lines(text) == [
        (0, "a ball falls"),
        (Fraction(5, 2), 'she says "it is 3:00" and smiles'),
        (Fraction(41, 4), "a bell"),
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no prompt for the start"),
        ("a ball falls", "begins with 'a ball falls'"),
        ("1: a ball falls", "no prompt for the start"),
        ("0: a ball\n3: a bell\n3: a horn", "3 s behind 3 s"),
        ("0: a ball\n3:", "no prompt at 3 s"),
    ],
)
def test_lines_that_say_nothing_are_refused(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        read_lines(text)


def test_the_text_that_holds_is_the_last_one_that_began() -> None:
    plain = tiny.conditioning(9)
    scenes = [timed(tiny.conditioning(seed), Fraction(seed)) for seed in (0, 2, 4)]
    both = [*plain, *scenes[0], *scenes[1], *scenes[2]]
    assert times_of(both) == [0, 2, 4]
    for second, scene in ((0, 0), (Fraction(199, 100), 0), (2, 1), (3, 1), (9, 2)):
        held = at(both, Fraction(second))
        assert [extra for _, extra in held] == [{}, {}]
        assert torch.equal(held[0][0], plain[0][0]) and torch.equal(held[1][0], scenes[scene][0][0])


def test_samplers_of_one_pass_refuse_a_storyboard() -> None:
    model = tiny.patcher()
    story = [*timed(tiny.conditioning(1), Fraction(0)), *timed(tiny.conditioning(2), Fraction(1))]
    plain = tiny.conditioning(3)
    said = "positive is a storyboard, .* Loop Sampler"
    with pytest.raises(ValueError, match=said):
        AVGuider(model).set_conds(story, plain)
    with pytest.raises(ValueError, match=said):
        host_nodes.common_ksampler(model, 1, 1, 1.0, "euler", "simple", story, plain, tiny.av_latent())
