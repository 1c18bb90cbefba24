"""Sizes from the configuration alone: parameters, the peak of a step, and what fits."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.ops
import pytest
import torch

from ccl_bench import memory as benchmark
from ccl_bench.published_sizes import mova, ovi
from ccl_pack.ccl_core.config import BridgeOptions, CCAOptions, FusionOptions, InteractionConfig
from ccl_pack.ccl_core.guidance import MODES, branch_weights, default_settings
from ccl_pack.ccl_core.memory import (
    Clip,
    Demand,
    Kernels,
    Machine,
    Verdict,
    calls,
    judge,
    parameters,
    shorter,
    smaller,
    step_bytes,
    stream_parameters,
)
from ccl_pack.ccl_core.model.joint import JointModel
from support import tiny

OVI, MOVA = ovi(), mova()
BF16 = Kernels(itemsize=2, fused_norm=True, fused_rope=True)
MIB = 2**20


def test_published_models_have_their_published_parameters() -> None:
    ovi, mova = parameters(OVI), parameters(MOVA)
    assert ovi["video"] + ovi["interaction"] // 2 == 5_566_479_552
    assert ovi["audio"] + ovi["interaction"] // 2 == 6_094_273_556
    assert sum(ovi.values()) == 11_660_753_108
    assert mova == {"video": 14_288_901_184, "audio": 1_419_193_472, "interaction": 2_659_737_600}
    assert stream_parameters(replace(MOVA.video, in_dim=16)) == 14_288_491_584  # Wan 2.1 14B t2v


@pytest.mark.parametrize(
    "kind, options", [("cca", CCAOptions(3)), ("fusion", FusionOptions()), ("bridge", BridgeOptions())]
)
@pytest.mark.parametrize(
    "video, audio",
    [
        ({}, {}),
        ({"model_type": "i2v", "in_dim": 36}, {}),
        ({"model_type": "i2v", "flf_pos_embed_token_number": 7, "in_dim_ref_conv": 16}, {"stem_dim": 16}),
    ],
)
def test_parameters_are_those_of_the_real_modules(
    kind: str,
    options: CCAOptions | FusionOptions | BridgeOptions,
    video: dict[str, Any],
    audio: dict[str, Any],
) -> None:
    config = tiny.config(
        video=replace(tiny.CONFIG.video, **video),
        audio=replace(tiny.CONFIG.audio, **audio),
        interaction=InteractionConfig(kind, (0, 1), options),
    )
    model = JointModel(config, device="meta", operations=comfy.ops.disable_weight_init)
    parts = {"audio": 0, "interaction": 0, "video": 0}
    for key, value in model.state_dict().items():
        part = key.split(".")[0]
        parts[part if part in parts else "video"] += value.numel()
    assert parameters(config) == parts


def test_a_step_in_copies_of_the_tokens() -> None:
    """The peak of Ovi's step is in its feed-forward: tokens, modulated tokens, and twice 14336 / 3072 of
    them.
    """
    clip, n = Clip(video=(31, 60, 60), audio=157), 27900
    tables = 2 * n * 128 * 8
    latents = 4 * (48 * 31 * 3600 + 20 * 157) * 15
    alone = step_bytes(OVI, clip, BF16)
    assert alone == pytest.approx((3 + 2 * 14336 / 3072) * n * 3072 * 2 + tables + latents, rel=0.01)
    assert 1.8 < step_bytes(OVI, replace(clip, passes=2), BF16) / alone < 2.0  # tables and latent are shared
    assert step_bytes(OVI, replace(clip, batch=2), BF16) > step_bytes(OVI, replace(clip, passes=2), BF16)


def test_masks_and_plain_kernels_cost_copies() -> None:
    clip = Clip(video=(21, 44, 80), audio=162)
    copy = clip.video_tokens(MOVA) * 5120 * 2
    base = step_bytes(MOVA, clip, BF16)
    frame = step_bytes(MOVA, replace(clip, video_times=21), BF16)
    binary = step_bytes(MOVA, replace(clip, video_times=2), BF16)
    plain_rope = step_bytes(MOVA, clip, replace(BF16, fused_rope=False))
    assert (frame - base) / copy == pytest.approx(0, abs=0.05), "times are spread where they are used only"
    assert base < binary < frame, "a mask within the frames costs by the values in it, not by its tokens"
    # 8 copies in self-attention instead of 1 + 2 * 13824 / 5120 in the feed-forward
    assert (plain_rope - base) / copy == pytest.approx(8 - 6.4, abs=0.05)
    assert step_bytes(MOVA, clip, replace(BF16, itemsize=4)) > 1.9 * base


def test_the_dearer_stream_sets_the_peak() -> None:
    quiet = step_bytes(MOVA, Clip(video=(1, 2, 2)), BF16)
    loud = step_bytes(MOVA, Clip(video=(1, 2, 2), audio=50_000), BF16)
    assert loud - quiet > 10 * 50_000 * 1536 * 2
    assert (
        step_bytes(MOVA, Clip(video=(1, 3, 3)), BF16)
        == step_bytes(MOVA, Clip(video=(1, 4, 4)), BF16) - 4 * 15 * 16 * 7
    )


@pytest.mark.parametrize(
    "mode, coupled, video_only",
    [
        ("ucg_joint", (1, 1), (2,)),
        ("cfg", (2,), (2,)),
        ("ma_cfg", (1, 1), (2,)),
        ("ucg", (1, 2), (2,)),
        ("ucg_cross", (1, 1), (1,)),
        ("dual", (2, 1), (2,)),
        ("modality", (2, 1), (2,)),
    ],
)
def test_passes_that_share_a_call(mode: str, coupled: tuple[int, ...], video_only: tuple[int, ...]) -> None:
    assert calls(mode, coupled=True) == coupled
    assert calls(mode, coupled=False) == video_only


def test_every_mode_has_calls() -> None:
    for mode in MODES:
        assert sum(calls(mode, coupled=True)) == len(branch_weights(mode, default_settings(mode)))
    with pytest.raises(ValueError, match="unknown"):
        calls("none", coupled=True)


@pytest.mark.parametrize(
    "vram, verdict",
    [
        (100, Verdict("whole")),
        (99, Verdict("offload", streamed=2)),
        (75, Verdict("offload", streamed=30)),
        (50, Verdict("offload", streamed=60)),
        (49, Verdict("none", missing=1)),
    ],
)
def test_verdict_of_vram(vram: int, verdict: Verdict) -> None:
    """60 of weights, 30 for a step, 10 for others: 100 in all; with 10 of weights under way at least 50."""
    machine = Machine("gpu", ram_free=1, ram_total=1, vram_free=vram, vram_total=200, vram_reserve=10)
    assert judge(Demand(weights=60, step=30, buffer=10), machine) == verdict


@pytest.mark.parametrize("free, verdict", [(40, Verdict("whole")), (39, Verdict("none", missing=1))])
def test_verdict_of_ram(free: int, verdict: Verdict) -> None:
    assert (
        judge(Demand(weights=60, step=30, buffer=10), Machine("cpu", ram_free=free, ram_total=100)) == verdict
    )


def test_shorter_and_smaller_clips() -> None:
    clip = Clip(video=(4, 12, 20), audio=21)
    assert [(c.video, c.audio) for c in shorter(clip)] == [
        ((3, 12, 20), 16),
        ((2, 12, 20), 11),
        ((1, 12, 20), 6),
    ]
    assert [c.video for c in smaller(clip, 4)] == [(4, 8, 12), (4, 4, 4)]
    sizes = [step_bytes(MOVA, c, BF16) for c in [clip, *shorter(clip)]]
    assert all(a > b for a, b in itertools.pairwise(sizes))


def test_the_tracker_sees_what_is_held_at_once() -> None:
    def run() -> None:
        first = torch.ones(3 * MIB, dtype=torch.uint8)
        del first
        both = torch.ones(MIB, dtype=torch.uint8), torch.ones(MIB, dtype=torch.uint8)
        del both

    assert benchmark.peak_bytes(run, torch.device("cpu")) == pytest.approx(3 * MIB, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind, mask, mode", [("cca", "frame", "cfg"), ("fusion", "clip", "ucg_joint")])
def test_the_estimate_is_near_the_measured_peak(kind: str, mask: str, mode: str, dtype: torch.dtype) -> None:
    row = benchmark.compare(benchmark.Case(kind, 256, 768, 128, (3, 32, 32), 40, mask, mode), dtype)
    assert benchmark.LEAST <= row["ratio"] <= benchmark.MOST, row


def test_the_trace_sees_what_is_held_at_once() -> None:
    def run() -> Any:
        first = torch.empty(3, MIB, dtype=torch.uint8, device="meta")
        view = first[1:]
        del first
        other = view + 1
        del view
        return other * 2

    assert benchmark.traced_peak(run) == 5 * MIB


def test_a_feed_forward_that_holds_what_its_activation_read_takes_one_copy_of_the_tokens_more() -> None:
    clip = Clip((31, 60, 60), 157)
    held = replace(BF16, held_activation=True)
    copy = clip.video_tokens(OVI) * OVI.video.dim * BF16.itemsize
    assert step_bytes(OVI, clip, held) - step_bytes(OVI, clip, BF16) == copy


@pytest.mark.parametrize("published", benchmark.PUBLISHED, ids=lambda published: published[0])
def test_the_estimate_is_near_the_trace_of_published_sizes(
    published: tuple[str, Callable[..., Any], tuple[int, ...], int, str],
) -> None:
    row = benchmark.trace(*published)
    assert 0.95 < row["ratio"] < 1.05, row
