"""StreamTexts: what nodes of the host do to a text happens to the texts of both streams, whatever their
sizes.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import nodes as host_nodes
from ccl_pack.ccl_core.host.texts import StreamTexts, of_streams

SAME, OTHER = ((5, 24), (5, 24)), ((5, 24), (7, 32))
SIZES = pytest.mark.parametrize("sizes", [SAME, OTHER], ids=["equal sizes", "other tokens and width"])
Sizes = tuple[tuple[int, int], tuple[int, int]]


def text(seed: int, tokens: int, width: int) -> Tensor:
    return torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(seed))


def pair(sizes: Sizes, seed: int = 1, more: int = 0) -> list[Tensor]:
    """A text for each stream. more: tokens beyond those of `sizes`."""
    return [text(10 * seed + i, tokens + more, width) for i, (tokens, width) in enumerate(sizes)]


def entry(texts: list[Tensor]) -> list:
    return [[StreamTexts.join(*texts), {}]]


def of_length(given: Tensor, tokens: int) -> Tensor:
    return torch.nn.functional.pad(given, (0, 0, 0, max(0, tokens - given.shape[1])))[:, :tokens]


def assert_streams(conditioning: list, wanted: list[Tensor]) -> None:
    for got, expected in zip(of_streams(conditioning[0][0]), wanted, strict=True):
        assert type(got) is Tensor
        torch.testing.assert_close(got, expected)


def average(to: list, other: list, strength: float = 0.25) -> list:
    return host_nodes.ConditioningAverage().addWeighted(to, other, strength)[0]


@SIZES
def test_zero_out_zeroes_both_texts(sizes: Sizes) -> None:
    out = host_nodes.ConditioningZeroOut().zero_out(entry(pair(sizes)))[0]
    assert_streams(out, [torch.zeros(1, *size) for size in sizes])


@SIZES
@pytest.mark.parametrize("more", [-2, 0, 3])
def test_average_weighs_both_texts(sizes: Sizes, more: int) -> None:
    """The second text is cut or filled with zeros to the tokens of the first, each stream for itself."""
    to, other = pair(sizes), pair(sizes, 2, more)
    wanted = [0.25 * x + 0.75 * of_length(y, x.shape[1]) for x, y in zip(to, other, strict=True)]
    assert_streams(average(entry(to), entry(other)), wanted)


@pytest.mark.parametrize("more", [-2, 0, 3])
def test_average_with_a_plain_text_gives_it_to_both_streams(more: int) -> None:
    """The host cuts a plain text to the tokens of the video before the sound's text can have it."""
    to, plain = pair(((5, 24), (7, 24))), text(9, 5 + more, 24)
    cut = plain[:, :5]
    wanted = [0.25 * x + 0.75 * of_length(cut, x.shape[1]) for x in to]
    assert_streams(average(entry(to), [[plain, {}]]), wanted)
    wanted = [0.25 * plain + 0.75 * of_length(x, 5 + more) for x in to]
    assert_streams(average([[plain, {}]], entry(to)), wanted)


@SIZES
def test_concat_joins_both_texts(sizes: Sizes) -> None:
    one, other = pair(sizes), pair(sizes, 2, more=1)
    out = host_nodes.ConditioningConcat().concat(entry(one), entry(other))[0]
    assert_streams(out, [torch.cat([x, y], dim=1) for x, y in zip(one, other, strict=True)])


def test_concat_with_a_plain_text_gives_it_to_both_streams() -> None:
    texts, plain = pair(((5, 24), (7, 24))), text(9, 3, 24)
    out = host_nodes.ConditioningConcat().concat(entry(texts), [[plain, {}]])[0]
    assert_streams(out, [torch.cat([x, plain], dim=1) for x in texts])
    out = host_nodes.ConditioningConcat().concat([[plain, {}]], entry(texts))[0]
    assert_streams(out, [torch.cat([plain, x], dim=1) for x in texts])


@pytest.mark.parametrize(
    "node", [average, lambda one, other: host_nodes.ConditioningConcat().concat(one, other)[0]]
)
def test_texts_of_other_width_are_refused_with_the_remedy(node: Callable) -> None:
    with pytest.raises(
        ValueError, match=r"one is 32 wide, the other 24.*text for the sound with CCLDualPrompt"
    ):
        node(entry(pair(OTHER)), [[text(9, 5, 24), {}]])


def test_zeros_are_zeros_in_every_width() -> None:
    out = host_nodes.ConditioningConcat().concat(entry(pair(OTHER)), [[torch.zeros(1, 3, 24), {}]])[0]
    assert_streams(out, [of_length(x, x.shape[1] + 3) for x in pair(OTHER)])


@SIZES
def test_combine_and_timestep_range_keep_both_texts(sizes: Sizes) -> None:
    one, other = pair(sizes), pair(sizes, 2)
    both = host_nodes.ConditioningCombine().combine(entry(one), entry(other))[0]
    ranged = host_nodes.ConditioningSetTimestepRange().set_range(both, 0.2, 0.6)[0]
    assert_streams(ranged[:1], one)
    assert_streams(ranged[1:], other)
    assert [extra for _, extra in ranged] == [{"start_percent": 0.2, "end_percent": 0.6}] * 2


@SIZES
@pytest.mark.parametrize(
    "edit",
    [
        lambda x: x.clone(),
        lambda x: x.to(torch.bfloat16),
        lambda x: x * 2.0 - 1.0,
        lambda x: 1.0 - x / 3.0,
        lambda x: torch.cat([x, x]),
        lambda x: x.repeat(2, 1, 1)[1:],
        lambda x: x.detach().cpu(),
        lambda x: torch.zeros_like(x),
    ],
)
def test_an_edit_of_a_text_is_an_edit_of_both(sizes: Sizes, edit: Callable[[Tensor], Tensor]) -> None:
    texts = pair(sizes)
    assert_streams([[edit(StreamTexts.join(*texts)), {}]], [edit(x) for x in texts])


def test_an_edit_in_place_changes_both() -> None:
    texts = StreamTexts.join(*pair(OTHER))
    texts.mul_(0.0)
    texts[:1] += 3.0
    assert all((stream == 3.0).all() for stream in of_streams(texts))


def test_what_reads_a_text_reads_the_one_of_the_video() -> None:
    texts = StreamTexts.join(*pair(OTHER))
    assert texts.shape == (1, 5, 24) and texts.ndim == 3 and texts.dtype is torch.float32
    read = torch.nn.functional.linear(texts, torch.ones(2, 24))
    assert type(read) is Tensor and torch.equal(
        read, torch.nn.functional.linear(pair(OTHER)[0], torch.ones(2, 24))
    )


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_holds_both_texts(copied: Callable[[list], list]) -> None:
    conditioning = entry(pair(OTHER)) + entry(pair(OTHER, 2))
    out = copied(conditioning)
    assert_streams(out[:1], pair(OTHER))
    assert_streams(out[1:], pair(OTHER, 2))


def test_of_two_joint_texts_each_gives_that_of_its_stream() -> None:
    one, other = pair(OTHER), pair(OTHER, 2)
    assert_streams(
        [[StreamTexts.join(StreamTexts.join(*one), StreamTexts.join(*other)), {}]], [one[0], other[1]]
    )
