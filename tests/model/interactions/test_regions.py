"""DCR by region: a direction into tokens that are kept is closed, into the others it is that of the task."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ccl_pack.ccl_core.model.joint import JointModel
from support.tiny import latents, patcher

FRAMES, TOKENS, SPATIAL = 3, 18, 6  # of tiny.latents, in patches of 2x2
TEXT = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(7))
STREAMS = pytest.mark.parametrize("stream", ["video", "audio"])
OTHER = {"video": 1, "audio": 0}


@pytest.fixture(scope="module")
def model() -> JointModel:
    return patcher().model.diffusion_model


@torch.no_grad()
def velocities(
    model: JointModel, stream: str, mask: list[int], other_seed: int = 3, **options: Any
) -> list[Tensor]:
    """Of both streams; `stream` has a time per latent frame or audio token, 0 where the mask is."""
    pair = list(latents(2, batch=2))
    pair[OTHER[stream]] = latents(other_seed, batch=2)[OTHER[stream]]
    time = torch.tensor([900.0, 700.0])
    masked = time[:, None] * torch.tensor(mask, dtype=torch.float32)
    times = (masked, time) if stream == "video" else (time, masked)
    return model(pair, times, TEXT, transformer_options={}, **options)


def masks(stream: str) -> list[int]:
    """A start is kept."""
    return [0] + [1] * (FRAMES - 1) if stream == "video" else [0] * 7 + [1] * (TOKENS - 7)


@STREAMS
def test_a_stream_that_is_kept_as_a_whole_is_a_given_one_to_the_bit(model: JointModel, stream: str) -> None:
    kept = [0] * len(masks(stream))
    given = (False, True) if stream == "video" else (True, False)
    made, wanted = velocities(model, stream, kept), velocities(model, stream, kept, routes=given)
    assert all(map(torch.equal, made, wanted))


@STREAMS
def test_a_stream_of_which_nothing_is_kept_is_a_generated_one_to_the_bit(
    model: JointModel, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = velocities(model, stream, [1] * len(masks(stream)))
    monkeypatch.setattr("ccl_pack.ccl_core.model.streams.kept_tokens", lambda _: None)
    monkeypatch.setattr("ccl_pack.ccl_core.model.audio_stream.kept_tokens", lambda _: None)
    assert all(map(torch.equal, made, velocities(model, stream, [1] * len(masks(stream)))))


@STREAMS
def test_nothing_flows_from_the_other_stream_into_kept_tokens(model: JointModel, stream: str) -> None:
    """In the first coupled layer: behind it self-attention carries on what generated tokens have read."""
    deltas: list[Tensor] = []
    direction = {"video": "a2v", "audio": "v2a"}[stream]
    projection = getattr(model.interaction[0], direction).o
    handle = projection.register_forward_hook(lambda *call: deltas.append(call[2]))
    try:
        for other_seed in (3, 4):
            velocities(model, stream, masks(stream), other_seed)
    finally:
        handle.remove()
    kept = torch.tensor(masks(stream)).repeat_interleave(SPATIAL if stream == "video" else 1) == 0
    change = (deltas[0] - deltas[1]).abs().amax(dim=(0, 2))
    assert not change[kept].any() and change[~kept].min() > 0


def test_each_clip_of_a_batch_keeps_its_own_tokens(model: JointModel) -> None:
    pair, time = latents(2, batch=2), torch.tensor([900.0, 700.0])
    ways = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    with torch.no_grad():
        both = model(list(pair), (time[:, None] * ways, time), TEXT, transformer_options={})
        for i in range(2):
            one = [stream[i : i + 1] for stream in pair]
            times = (time[i : i + 1, None] * ways[i : i + 1], time[i : i + 1])
            alone = model(one, times, TEXT[i : i + 1], transformer_options={})
            for stream, wanted in zip(both, alone, strict=True):
                torch.testing.assert_close(stream[i : i + 1], wanted, rtol=0, atol=1e-5)
