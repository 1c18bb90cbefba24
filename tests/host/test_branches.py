"""What a branch of guidance leaves out: the stream that is given, or whose prediction has no weight."""

from __future__ import annotations

from typing import Any

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.guidance import MODES, N0, NC, T0, TC, Branch, StreamWeights, TermScale
from ccl_pack.ccl_core.host import guider as module
from ccl_pack.ccl_core.host.branches import ANCHOR, Call, calls
from ccl_pack.ccl_core.host.guider import AVGuider
from ccl_pack.ccl_core.host.run import KEEP_GIVEN
from support.tiny import CONFIG, av_latent, conditioning, count_blocks, given, patcher

KINDS = pytest.mark.parametrize("kind", ["cca", "fusion"])
STEPS = 2
DEPTH = {"video": CONFIG.video.num_layers, "audio": CONFIG.audio.num_layers}
BOTH = StreamWeights(1.0, 1.0)


def model_of(kind: str) -> ModelPatcher:
    model = patcher(interaction=InteractionConfig(kind, (0, 1), OPTIONS[kind]()))
    # Each pass computes a given stream, so that the calls of its blocks are those of the passes.
    model.model_options["transformer_options"][KEEP_GIVEN] = False
    return model


def sample(
    model: ModelPatcher, mode: str, scales: dict[str, TermScale], latent: dict[str, Any]
) -> list[Tensor]:
    guider = AVGuider(model)
    guider.set_conds(conditioning(1), conditioning(2))
    guider.set_guidance(mode, scales)
    samples = latent["samples"]
    noise, euler = comfy.sample.prepare_noise(samples, 1), comfy.samplers.sampler_object("euler")
    options = {"denoise_mask": latent.get("noise_mask"), "disable_pbar": True, "seed": 1}
    return list(guider.sample(noise, samples, euler, torch.linspace(1, 0, STEPS + 1), **options).unbind())


def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every branch that a mode names run both streams."""
    monkeypatch.setattr(module, "without_guidance", lambda weights, **_: weights)
    monkeypatch.setattr(module, "calls", lambda wanted, *skip: calls(dict.fromkeys(wanted, BOTH), *skip))


def compare(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    mode: str,
    scales: dict[str, TermScale],
    stream: str = "",
    allowed: float = 0.0,
) -> tuple[float, ...]:
    """Passes in a step that run video and audio, where a stream may be given. Results are compared."""
    model = model_of(kind)
    latent = av_latent(masks=given(stream)) if stream else av_latent()
    counted = count_blocks(model.model.diffusion_model)
    made = sample(model, mode, scales, latent)
    passes = tuple(counted[name] / DEPTH[name] / STEPS for name in ("video", "audio"))
    with monkeypatch.context() as patched:
        everything(patched)
        wanted = sample(model, mode, scales, latent)
    assert all((x - y).abs().max() <= allowed for x, y in zip(made, wanted, strict=True))
    return passes


def scaled(mode: str, video: float, audio: float) -> dict[str, TermScale]:
    return dict.fromkeys(MODES[mode].terms, TermScale(video, audio))


# Passes a step of video and audio: guidance of the sound alone, of the picture alone. One branch of several
# texts is one batch, so it counts once.
ALONE = {
    "ucg": ((1, 2), (2, 1)),
    "ucg_joint": ((1, 2), (2, 1)),
    "ma_cfg": ((1, 2), (2, 1)),
    "ucg_cross": ((1, 2), (2, 1)),
    "dual": ((1, 2), (2, 1)),
    "modality": ((1, 2), (2, 1)),
    "cfg": ((1, 1), (1, 1)),
}


@KINDS
@pytest.mark.parametrize("mode", MODES)
def test_an_anchor_branch_runs_no_stream_without_a_weight(
    monkeypatch: pytest.MonkeyPatch, kind: str, mode: str
) -> None:
    of_sound, of_picture = ALONE[mode]
    assert compare(monkeypatch, kind, mode, scaled(mode, 1.0, 3.0)) == of_sound
    assert compare(monkeypatch, kind, mode, scaled(mode, 3.0, 1.0)) == of_picture


@KINDS
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stream", ["video", "audio"])
def test_an_anchor_branch_runs_no_given_stream(
    monkeypatch: pytest.MonkeyPatch, kind: str, mode: str, stream: str
) -> None:
    of_other = ALONE[mode][0 if stream == "video" else 1]
    assert compare(monkeypatch, kind, mode, scaled(mode, 2.0, 3.0), stream) == of_other


@KINDS
@pytest.mark.parametrize("mode", MODES)
def test_guidance_of_a_given_stream_alone_is_one_pass(
    monkeypatch: pytest.MonkeyPatch, kind: str, mode: str
) -> None:
    # A text less in the batch, which rounds another way.
    assert compare(monkeypatch, kind, mode, scaled(mode, 3.0, 1.0), "video", 1e-5) == (1, 1)
    assert compare(monkeypatch, kind, mode, scaled(mode, 1.0, 3.0), "audio", 1e-5) == (1, 1)


def test_branches_of_other_streams_are_calls_of_their_own() -> None:
    wanted = {TC: BOTH, T0: StreamWeights(-1.0, -1.0), N0: StreamWeights(0.0, -2.0)}
    assert calls(wanted, ()) == [
        Call({}, TC, None),
        Call(ANCHOR, T0, None),
        Call({**ANCHOR, "run_vx": False}, None, N0),
    ]


@pytest.mark.parametrize("branch", [TC, NC])
def test_an_open_branch_runs_both_streams_whatever_their_weights(branch: Branch) -> None:
    (call,) = calls({branch: StreamWeights(0.0, 1.0)}, ())
    assert call.switches == {}
