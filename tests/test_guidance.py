"""Guidance modes: identities first (scale 1, sums, linearity), then each published formula by hand."""

from __future__ import annotations

import pytest
import torch

from ccl_pack.ccl_core.guidance import (
    MODES,
    N0,
    NC,
    SCALE_NAMES,
    T0,
    TC,
    Branch,
    StreamWeights,
    TermScale,
    branch_weights,
    check_settings,
    combine,
    without_coupling,
)

# A scale for each term, none of them 1 and none the same for both streams.
VIDEO = {term: 2.5 + i for i, term in enumerate(SCALE_NAMES)}
AUDIO = {term: 1.5 + 0.5 * i for i, term in enumerate(SCALE_NAMES)}
PUBLISHED = {
    "cfg": (2, lambda p, s: p[NC] + s["text"] * (p[TC] - p[NC])),
    "ma_cfg": (2, lambda p, s: p[N0] + s["joint"] * (p[TC] - p[N0])),
    "ucg": (3, lambda p, s: p[N0] + s["text"] * (p[T0] - p[N0]) + s["cross"] * (p[TC] - p[T0])),
    "ucg_joint": (2, lambda p, s: p[N0] + s["joint"] * (p[TC] - p[N0])),
    "ucg_cross": (2, lambda p, s: p[T0] + s["cross"] * (p[TC] - p[T0])),
    "dual": (3, lambda p, s: p[N0] + s["cross"] * (p[NC] - p[N0]) + s["text"] * (p[TC] - p[NC])),
    "modality": (3, lambda p, s: p[NC] + s["text"] * (p[TC] - p[NC]) + (s["cross"] - 1) * (p[TC] - p[T0])),
}


def predictions(dtype: torch.dtype = torch.float64) -> dict[Branch, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {branch: torch.randn(2, 5, generator=generator, dtype=dtype) for branch in Branch}


def scales(mode: str, **changes: float) -> dict[str, TermScale]:
    return {term: TermScale(VIDEO[term], AUDIO[term], **changes) for term in MODES[mode].terms}


def stream(weights: dict[Branch, StreamWeights], name: str) -> dict[Branch, float]:
    return {branch: getattr(weight, name) for branch, weight in weights.items()}


def test_each_mode_of_the_table_has_its_published_formula() -> None:
    assert set(MODES) == set(PUBLISHED)


@pytest.mark.parametrize("mode", MODES)
def test_scale_one_is_the_open_positive_branch_bit_for_bit(mode: str) -> None:
    weights = branch_weights(mode, {term: TermScale() for term in MODES[mode].terms})
    assert weights == {TC: (1.0, 1.0)}
    outputs = predictions(torch.float16)
    assert torch.equal(combine({TC: outputs[TC]}, stream(weights, "video")), outputs[TC])


@pytest.mark.parametrize("mode", MODES)
def test_a_stream_at_scale_one_is_untouched_by_the_other(mode: str) -> None:
    settings = {term: TermScale(video=1.0, audio=AUDIO[term]) for term in MODES[mode].terms}
    weights, outputs = branch_weights(mode, settings), predictions(torch.float32)
    assert len(weights) == PUBLISHED[mode][0]
    assert torch.equal(combine(outputs, stream(weights, "video")), outputs[TC])
    assert not torch.equal(combine(outputs, stream(weights, "audio")), outputs[TC])


@pytest.mark.parametrize("mode", MODES)
def test_weights_of_each_stream_sum_to_one(mode: str) -> None:
    weights = branch_weights(mode, scales(mode))
    assert sum(stream(weights, "video").values()) == pytest.approx(1.0, abs=1e-12)
    assert sum(stream(weights, "audio").values()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_modes_give_the_published_prediction_in_the_published_passes(mode: str) -> None:
    passes, formula = PUBLISHED[mode]
    weights, outputs = branch_weights(mode, scales(mode)), predictions()
    assert len(weights) == passes
    torch.testing.assert_close(combine(outputs, stream(weights, "video")), formula(outputs, VIDEO))
    torch.testing.assert_close(combine(outputs, stream(weights, "audio")), formula(outputs, AUDIO))


@pytest.mark.parametrize("mode", MODES)
def test_the_prediction_is_linear_in_each_scale(mode: str) -> None:
    outputs = predictions()
    for term in MODES[mode].terms:
        low, middle, high = (
            combine(outputs, stream(branch_weights(mode, {term: TermScale(video=scale)}), "video"))
            for scale in (2.0, 4.0, 6.0)
        )
        torch.testing.assert_close(high - middle, middle - low)


def test_equal_scales_of_ucg_are_ucg_joint() -> None:
    both = {"text": TermScale(3.0, 2.0), "cross": TermScale(3.0, 2.0)}
    assert branch_weights("ucg", both) == branch_weights("ucg_joint", {"joint": TermScale(3.0, 2.0)})


def test_ma_cfg_starts_at_the_published_scales() -> None:
    default = MODES["ma_cfg"].terms["joint"].default
    assert (default.video, default.audio) == (3.0, 2.0)


@pytest.mark.parametrize("mode", MODES)
def test_without_coupling_every_mode_is_cfg_with_the_scales_of_its_text(mode: str) -> None:
    weights = without_coupling(branch_weights(mode, scales(mode)))
    compared = [
        name for name, term in MODES[mode].terms.items() if term.toward.negative != term.away.negative
    ]
    scale = 1.0 + sum(VIDEO[name] - 1.0 for name in compared)
    wanted = {TC: scale, NC: 1.0 - scale} if compared else {TC: 1.0}
    assert stream(weights, "video") == pytest.approx(wanted)


@pytest.mark.parametrize("mode", MODES)
def test_each_term_of_a_mode_has_a_name_of_its_own_for_people(mode: str) -> None:
    names = [SCALE_NAMES[term] for term in MODES[mode].terms]
    assert len(set(names)) == len(names)


def test_an_unknown_mode_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'ucgg' is unknown, known are .*ucg_cross"):
        branch_weights("ucgg", {})


def test_a_term_the_mode_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'cfg' has no term \['cross'\], its terms are text"):
        check_settings("cfg", {"cross": TermScale(2.0, 2.0)})


@pytest.mark.parametrize("wrong", [{"start": 0.8, "end": 0.2}, {"start": -0.1}, {"end": 1.5}])
def test_a_range_outside_the_run_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="0 <= start <= end <= 1"):
        TermScale(**wrong)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        TermScale(audio=value)
