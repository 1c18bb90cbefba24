"""Keys and values of a given stream, kept from its one pass, against both streams computed in every pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ccl_pack.ccl_core.attention_maps import AttentionMap, Recorder
from ccl_pack.ccl_core.model.attention import TAPS
from ccl_pack.ccl_core.model.joint import JointModel
from ccl_pack.ccl_core.model.kept import KEPT, Kept
from support.tiny import CONFIG, count_blocks, latents, patcher

ROUTES = {"video": (False, True), "audio": (True, False)}  # by the given stream
COUPLED = len(CONFIG.interaction.layers)  # where a pass of a given stream ends
LAYERS = {"video": CONFIG.video.num_layers, "audio": CONFIG.audio.num_layers}
OTHER = {"video": "audio", "audio": "video"}
GIVEN = pytest.mark.parametrize("given", ["video", "audio"])


@pytest.fixture
def model() -> JointModel:
    return patcher().model.diffusion_model


@torch.no_grad()
def run(
    model: JointModel, given: str, step: int = 0, routes: Any = None, conds: Any = None, **options: Any
) -> Tensor:
    """The velocity of the stream that is made, from the noise and at the time of a step; the other one is
    given.
    """
    clean, noise = latents(2, batch=2), latents(10 + step, batch=2)
    pair = [clean[0], noise[1]] if given == "video" else [noise[0], clean[1]]
    time = torch.tensor([900.0, 700.0]) - 100 * step
    times = (0 * time, time) if given == "video" else (time, 0 * time)
    text = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(7))
    routes = routes or ROUTES[given]
    made = model(pair, times, text, transformer_options=options, routes=routes, **(conds or {}))
    return made[1 if given == "video" else 0]


@GIVEN
def test_each_step_is_equal_bit_for_bit_and_runs_no_block_of_the_given_stream(
    model: JointModel, given: str
) -> None:
    wanted = [run(model, given, step) for step in range(3)]
    calls, kept = count_blocks(model), Kept(given)
    made = [run(model, given, step, **{KEPT: kept}) for step in range(3)]
    assert all(torch.equal(x, y) for x, y in zip(made, wanted, strict=True))
    assert calls == {given: COUPLED, OTHER[given]: 3 * LAYERS[OTHER[given]]}


@GIVEN
def test_what_is_kept_are_keys_and_values_in_the_width_of_the_stream_that_reads(
    model: JointModel, given: str
) -> None:
    kept = Kept(given)
    run(model, given, **{KEPT: kept})
    tokens = {"video": 18, "audio": 18}[given]
    width = {"video": CONFIG.audio.dim, "audio": CONFIG.video.dim}[given]
    coupled = [source for source in kept.sources if source is not None]
    assert len(coupled) == len(CONFIG.interaction.layers)
    assert all(tensor.shape == (2, tokens, width) for source in coupled for tensor in source)


@GIVEN
def test_a_pass_on_the_anchor_alone_needs_no_given_stream(model: JointModel, given: str) -> None:
    wanted = run(model, given, routes=(False, False))
    calls, kept = count_blocks(model), Kept(given)
    assert torch.equal(run(model, given, routes=(False, False), **{KEPT: kept}), wanted)
    assert calls[given] == 0 and kept.sources is None


@GIVEN
def test_a_given_stream_that_a_pass_leaves_out_is_not_read_from_what_is_kept(
    model: JointModel, given: str
) -> None:
    flag = {"video": "run_vx", "audio": "run_ax"}[given]
    wanted, kept = run(model, given, **{flag: False}), Kept(given)
    run(model, given, **{KEPT: kept})
    assert torch.equal(run(model, given, **{KEPT: kept, flag: False}), wanted)


@GIVEN
def test_a_stream_that_a_pass_leaves_out_gives_zeros_beside_a_given_one(
    model: JointModel, given: str
) -> None:
    flag = {"video": "run_ax", "audio": "run_vx"}[given]
    calls = count_blocks(model)
    assert not run(model, given, **{KEPT: Kept(given), flag: False}).any()
    assert calls == {"video": 0, "audio": 0}


@GIVEN
def test_a_skipped_layer_hands_out_nothing(model: JointModel, given: str) -> None:
    wanted, kept = run(model, given, skip_layers=(1,)), Kept(given)
    made = [run(model, given, skip_layers=(1,), **{KEPT: kept}) for _ in range(2)]
    assert all(torch.equal(x, wanted) for x in made)
    assert kept.sources[0] is not None and not any(kept.sources[1:])


@GIVEN
def test_where_a_block_is_replaced_nothing_is_kept(model: JointModel, given: str) -> None:
    """What stands in its place may act by the step."""
    around = {("double_block", 1): lambda args, extra: extra["original_block"](args)}
    wanted, kept = run(model, given), Kept(given)
    calls = count_blocks(model)
    for _ in range(2):
        made = run(model, given, patches_replace={"dit": around}, **{KEPT: kept})
        assert torch.equal(made, wanted)
    assert calls[given] == 2 * LAYERS[given] and kept.sources is None


def test_reference_tokens_beside_a_given_video_are_not_kept() -> None:
    model = patcher(video=replace(CONFIG.video, in_dim_ref_conv=16)).model.diffusion_model
    conds = {"reference_latent": torch.randn(2, 16, 4, 6), "context_latents": [torch.randn(2, 16, 1, 4, 6)]}
    wanted, kept = run(model, "video", conds=conds), Kept("video")
    made = [run(model, "video", conds=conds, **{KEPT: kept}) for _ in range(2)]
    assert all(torch.equal(x, wanted) for x in made)
    assert kept.sources[0].k.shape[1] == 18


def maps_of(recorder: Recorder, direction: str) -> list[AttentionMap]:
    return [found for found in recorder.maps if found.direction == direction]


@GIVEN
def test_an_observer_sees_the_same_rows(model: JointModel, given: str) -> None:
    direction = {"video": "v2a", "audio": "a2v"}[given]
    computed, kept_rows, kept = Recorder(model), Recorder(model), Kept(given)
    run(model, given, **{TAPS: computed.taps})
    run(model, given, **{KEPT: kept})
    run(model, given, **{KEPT: kept, TAPS: kept_rows.taps})
    pairs = list(zip(maps_of(kept_rows, direction), maps_of(computed, direction), strict=True))
    assert len(pairs) == len(CONFIG.interaction.layers)
    assert all(torch.equal(x.rows, y.rows) and x.layer == y.layer for x, y in pairs)
