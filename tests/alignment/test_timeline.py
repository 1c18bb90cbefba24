"""The clock: known answers of every conversion, and positions against an interpolation between the frames."""

from __future__ import annotations

import ast
from bisect import bisect_right
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from ccl_pack.ccl_core.alignment.plan import in_audio_tokens, whole_clip
from ccl_pack.ccl_core.alignment.timeline import (
    Timeline,
    fills_latent_frames,
    frame_start,
    frame_time,
    frames_of,
    latent_frames_of,
    ramp,
    samples_of,
)
from support.tiny import CONFIG

ROOT = Path(__file__).resolve().parents[2]
CLOCK = ROOT / "ccl_core" / "alignment" / "timeline.py"
FILES = sorted({*(ROOT / "ccl_core").rglob("*.py"), *(ROOT / "nodes").rglob("*.py")} - {CLOCK})
SIZES = [
    (1, 1),
    (1, 9),
    (2, 3),
    (9, 66),
    (12, 90),
    (16, 126),
    (21, 168),
    (31, 157),
    (61, 314),
    (49, 403),
    (20, 7),
]


def timeline(latent_frames: int, audio_tokens: int, clock: str = "causal", first: int = 0) -> Timeline:
    scale = 0.19676 if clock == "linear" else None
    return Timeline(latent_frames, audio_tokens, Fraction(16), Fraction(32), clock, scale, first)


def test_pixel_frames_count_one_and_then_fours() -> None:
    assert [frames_of(count) for count in (1, 2, 3, 21)] == [1, 5, 9, 81]
    assert [latent_frames_of(count) for count in (1, 2, 5, 6, 81)] == [1, 2, 2, 3, 21]
    assert [count for count in range(-3, 14) if fills_latent_frames(count)] == [1, 5, 9, 13]


def test_a_latent_frame_stands_at_the_mean_of_its_pixel_frames() -> None:
    covered = [[0], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert [frame_time(i) for i in range(3)] == [Fraction(sum(frames), len(frames)) for frames in covered]
    assert [frame_start(i) for i in range(3)] == [Fraction(frames[0], 4) for frames in covered]


def test_a_ramp_is_even_and_leaves_out_both_ends() -> None:
    assert ramp(3) == (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4)) and ramp(0) == ()


def test_samples_round_half_up() -> None:
    assert samples_of(Fraction(1, 2), 3) == 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("clock", ["uniform", "causal", "linear"])
@pytest.mark.parametrize("first", [0, 6])
def test_the_tokens_of_the_frames_are_a_partition(clock: str, size: tuple[int, int], first: int) -> None:
    frames, tokens = size
    made = timeline(*size, clock, first)
    assert len(made.tokens_of_frames) == frames
    assert made.tokens_of(range(frames)) == list(range(tokens))


def test_tokens_of_some_frames_keep_their_order() -> None:
    made = timeline(9, 66)
    assert made.tokens_of([8, 2]) == [*range(*made.tokens_of_frames[8]), *range(*made.tokens_of_frames[2])]


@pytest.mark.parametrize("size", SIZES[2:])
@pytest.mark.parametrize("first", [0, 6])
def test_causal_positions_lie_between_the_middles_of_the_frames(size: tuple[int, int], first: int) -> None:
    made = timeline(*size, "causal", first)
    middles = made.frame_middles
    for j, position in enumerate(made.audio_positions):
        middle = j + Fraction(1, 2)
        left = min(max(bisect_right(middles, middle) - 1, 0), len(middles) - 2)
        assert position == left + (middle - middles[left]) / (middles[left + 1] - middles[left])


def test_causal_clock_meets_the_frames_at_their_own_times() -> None:
    """Same second, same position: a token whose middle lies at a frame's time sits on that frame's index."""
    made = timeline(9, 66)  # two tokens a pixel frame
    for j, position in enumerate(made.audio_positions):
        time = (j + Fraction(1, 2)) / 2
        assert position == ((time + Fraction(3, 2)) / 4 if time > Fraction(5, 2) else time / Fraction(5, 2))
    for i, (start, stop) in enumerate(made.tokens_of_frames):
        for position in made.audio_positions[start:stop]:
            distances = [abs(position - frame) for frame in range(9)]
            assert distances[i] == min(distances)


def test_causal_clock_gives_the_first_frame_its_short_share() -> None:
    shares = [stop - start for start, stop in timeline(9, 66).tokens_of_frames]
    assert shares[0] in (2, 3)
    assert shares[2:-1] == [8] * 6


def test_a_window_that_starts_later_has_no_short_frame() -> None:
    whole, part = timeline(12, 90), timeline(6, 48, first=6)
    assert whole.has_short_frame and not part.has_short_frame
    assert all(stop - start == 8 for start, stop in part.tokens_of_frames)
    offset = whole.tokens_of_frames[6][0]
    for j, position in enumerate(part.audio_positions):
        assert float(position + 6) == pytest.approx(float(whole.audio_positions[offset + j]), abs=0.2)


def test_uniform_positions_are_the_index_over_c() -> None:
    assert timeline(21, 168, "uniform").audio_positions == tuple(Fraction(j, 8) for j in range(168))


def test_linear_clock_scales_the_index_as_floats_do_and_shares_out_the_tokens_as_causal() -> None:
    linear, causal = timeline(31, 157, "linear"), timeline(31, 157)
    assert [float(position) for position in linear.audio_positions] == [j * 0.19676 for j in range(157)]
    assert linear.tokens_of_frames == causal.tokens_of_frames
    assert linear.tokens_per_frame == causal.tokens_per_frame


def test_a_configuration_gives_its_clock_and_rates() -> None:
    config = replace(CONFIG, clock="linear", clock_scale=0.25)
    rate = config.audio_latent.rate
    assert Timeline.of(config, 6, 48, first=6) == Timeline(6, 48, config.fps, rate, "linear", 0.25, 6)


@pytest.mark.parametrize(("frames", "tokens"), [(0, 5), (5, 0)])
def test_an_empty_stream_is_refused(frames: int, tokens: int) -> None:
    with pytest.raises(ValueError, match=f"{frames} latent frames and {tokens} audio tokens"):
        timeline(frames, tokens)


def test_an_unknown_clock_is_refused() -> None:
    with pytest.raises(ValueError, match="clock 'sidereal', known are causal"):
        timeline(3, 4, "sidereal")


def test_the_plan_of_a_whole_clip_holds_positions_only() -> None:
    made = timeline(9, 66)
    plan = whole_clip(made)
    assert plan.frame_positions == tuple(range(9))
    assert plan.audio_positions == made.audio_positions
    assert (plan.frame_unit, plan.a2v, plan.v2a) == (1, None, None)


@pytest.mark.parametrize(
    ("bias", "frames"), [(False, (0, 1, 2)), (True, (0, Fraction(1, 4), Fraction(5, 4)))]
)
def test_the_plan_of_the_bridge_counts_in_audio_tokens(bias: bool, frames: tuple[Fraction, ...]) -> None:
    plan = in_audio_tokens(timeline(3, 18), bias)
    assert plan.frame_positions == frames
    assert plan.frame_unit == 8  # 32 tokens a second, 4 frames a second
    assert plan.audio_positions == tuple(range(18))
    assert (plan.a2v, plan.v2a) == (None, None)


def writes_the_stride(node: ast.AST) -> bool:
    """Whether this piece of code counts in fours as Wan's VAE does: n % 4, (n - 1) // 4, 4 * n - 3,
    stride = 4.
    """
    match node:
        case ast.BinOp(op=ast.Mod(), right=ast.Constant(value=4)):
            return True
        case ast.BinOp(
            left=ast.BinOp(op=ast.Add() | ast.Sub()), op=ast.FloorDiv(), right=ast.Constant(value=4)
        ):
            return True
        case ast.BinOp(
            left=ast.BinOp(op=ast.Mult()) as product, op=ast.Add() | ast.Sub(), right=ast.Constant()
        ):
            return any(
                isinstance(side, ast.Constant) and side.value == 4 for side in (product.left, product.right)
            )
        case ast.Call(func=ast.Name(id="Fraction"), args=[ast.Constant(value=3), ast.Constant(value=2)]):
            return True
        case ast.keyword(arg=name, value=ast.Constant(value=4)):
            return name is not None and is_of_time(name)
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=4)):
            return is_of_time(name)
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=4)):
            return is_of_time(name)
    return False


def is_of_time(name: str) -> bool:
    return name == "step" or any(
        word in name.lower() for word in ("temporal", "time_stride", "latent_stride")
    )


def lines_with_the_stride(source: str) -> list[int]:
    return [node.lineno for node in ast.walk(ast.parse(source)) if writes_the_stride(node)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_other_file_knows_the_stride(path: Path) -> None:
    assert lines_with_the_stride(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "frames % 4 != 1",
        "(frames - 1) // 4 + 1",
        "4 * latent_frames - 3",
        "(latent_frames - 1) * 4 + 1",
        "4 * i - Fraction(3, 2)",
        "TEMPORAL_STRIDE = 4",
        "temporal_stride: int = 4",
        "Input(step=4)",
    ],
)
def test_a_copy_of_the_stride_is_found(line: str) -> None:
    assert lines_with_the_stride(line)
