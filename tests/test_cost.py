"""What a mode of guidance costs, from the streams that run in its passes."""

from __future__ import annotations

import pytest
import torch

from ccl_bench import steps
from ccl_bench.counters import Flops
from ccl_pack.ccl_core.cost import pass_work, relative_cost, stream_work
from ccl_pack.ccl_core.guidance import TermScale, branch_weights
from ccl_pack.ccl_core.memory import Clip, stream_parameters
from support import tiny

# Of ten parts of a pass the sound is one.
WORK = {"video": 9.0, "audio": 1.0}
Scales = dict[str, tuple[float, float]]


def cost(mode: str, scales: Scales, work: dict[str, float]) -> float:
    settings = {name: TermScale(*pair) for name, pair in scales.items()}
    return relative_cost(branch_weights(mode, settings), work)


@pytest.mark.parametrize(
    ("mode", "scales", "wanted"),
    [
        ("cfg", {"text": (4, 3)}, 2.0),
        ("cfg", {"text": (1, 1)}, 1.0),
        # A negative text with open coupling runs both streams, whichever is guided.
        ("cfg", {"text": (1, 3)}, 2.0),
        ("ucg", {"text": (3, 3), "cross": (2, 2)}, 3.0),
        # In its two passes without coupling nobody reads the video.
        ("ucg", {"text": (1, 3), "cross": (1, 2)}, 1.2),
        ("ucg_joint", {"joint": (3, 1)}, 1.9),
        ("dual", {"text": (5, 5), "cross": (1, 3.5)}, 2.1),
    ],
)
def test_a_pass_costs_the_streams_that_run_in_it(mode: str, scales: Scales, wanted: float) -> None:
    assert cost(mode, scales, WORK) == pytest.approx(wanted)


def test_a_stream_that_no_pass_computes_costs_nothing() -> None:
    assert cost("ucg", {"text": (1, 3), "cross": (1, 2)}, {"audio": 1.0}) == 3.0


def test_work_grows_with_tokens_and_in_attention_with_their_square() -> None:
    stream = tiny.CONFIG.video
    one, two = (stream_work(stream, tokens) for tokens in (100, 200))
    assert one == 200 * stream_parameters(stream) + 4 * 3 * 48 * 100**2
    assert two - 2 * one == 4 * 3 * 48 * 2 * 100**2


def test_a_clip_without_sound_has_the_work_of_its_video() -> None:
    assert list(pass_work(tiny.CONFIG, Clip((3, 4, 6)))) == ["video"]
    assert list(pass_work(tiny.CONFIG, Clip((3, 4, 6), audio=18))) == ["video", "audio"]


@pytest.mark.parametrize(
    ("mode", "scales"),
    [
        ("ucg", {"text": (3.0, 3.0), "cross": (2.0, 2.0)}),
        ("ucg", {"text": (1.0, 3.0), "cross": (1.0, 2.0)}),
        ("dual", {"text": (1.0, 3.0), "cross": (1.0, 2.0)}),
    ],
)
def test_the_cost_is_that_of_the_flops_of_a_run(mode: str, scales: Scales) -> None:
    size = steps.sizes()["tiny"]
    counter = Flops()
    patcher = steps.patcher_on_meta(size.config, counter)
    with torch.inference_mode():
        plain, guided = (
            steps.count(patcher, counter, size, mode=name, scales=pairs).later
            for name, pairs in (("cfg", {"text": (1.0, 1.0)}), (mode, scales))
        )
    estimate = cost(mode, scales, pass_work(size.config, Clip(size.latent, size.tokens)))
    assert guided / plain == pytest.approx(estimate, rel=0.1)
