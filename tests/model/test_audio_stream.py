"""The audio stream: its stem, its positions and times, and the way from a latent (b, c, a) to tokens and
back.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, silu

from ccl_pack.ccl_core.model.audio_stream import AudioStream
from ccl_pack.ccl_core.model.rotary import axis_table, time_table
from support.tiny import CONFIG, latents, patcher

TOKENS = 18
TIME = torch.tensor([400.0, 700.0])
CPU = torch.device("cpu")


def stream_of(**changes: object) -> AudioStream:
    return patcher(audio=replace(CONFIG.audio, **changes)).model.diffusion_model.audio


@torch.no_grad()
def embed(stream: AudioStream, latent: Tensor, time: Tensor = TIME) -> tuple[Tensor, object]:
    text = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(7))
    positions = patcher().model.diffusion_model.timeline(3, TOKENS).audio_positions
    return stream.embed_audio(latent, time, text, positions, {})


def test_a_token_is_a_column_of_the_latent() -> None:
    stream, latent = stream_of(), latents(batch=2)[1]
    tokens, made = embed(stream, latent)
    weight = stream.patch_embedding.weight[..., 0, 0, 0]  # (d, c)
    wanted = torch.einsum("dc,bca->bad", weight, latent) + stream.patch_embedding.bias
    torch.testing.assert_close(tokens, wanted)
    assert made.grid == (TOKENS, 1, 1) and made.context_img_len is None
    assert stream.unembed_audio(tokens, made).shape == latent.shape


def test_the_stem_is_a_convolution_and_a_gated_one_over_seven_tokens() -> None:
    """w2( silu(w1 h) * w3 h ),  h = silu(conv x)."""
    stream, latent = stream_of(stem_dim=24), latents(batch=2)[1]
    first, _, gated = stream.patch_embedding
    h = silu(conv1d(latent, first.weight, first.bias, padding=3))
    inner = silu(conv1d(h, gated.w1.weight, padding=3)) * conv1d(h, gated.w3.weight, padding=3)
    wanted = conv1d(inner, gated.w2.weight, padding=3)
    tokens, made = embed(stream, latent)
    torch.testing.assert_close(tokens, wanted.transpose(1, 2))
    assert made.grid == (TOKENS, 1, 1)


def test_the_tokens_stand_on_the_clock_of_both_streams() -> None:
    stream = stream_of()
    _, made = embed(stream, latents(batch=2)[1])
    positions = patcher().model.diffusion_model.timeline(3, TOKENS).audio_positions
    assert torch.equal(made.freqs, time_table(stream, positions, CPU))


def test_with_the_rope_of_tokens_they_stand_at_their_index_over_the_whole_head() -> None:
    stream = stream_of(rope="token")
    _, made = embed(stream, latents(batch=2)[1])
    head = CONFIG.audio.dim // CONFIG.audio.num_heads
    assert torch.equal(made.freqs, axis_table(torch.arange(float(TOKENS)), head))


@pytest.mark.parametrize("count", [1, TOKENS])
def test_a_time_for_each_token(count: int) -> None:
    stream, latent = stream_of(), latents(batch=2)[1]
    time = torch.linspace(100, 900, count).repeat(2, 1)
    tokens, made = embed(stream, latent, time)
    velocity = stream.unembed_audio(tokens, made)
    for j in (0, TOKENS - 1):
        alone = stream.unembed_audio(*embed(stream, latent, time[:, min(j, count - 1)]))
        torch.testing.assert_close(velocity[..., j], alone[..., j])


def test_a_mask_of_two_values_makes_two_rows_of_modulation() -> None:
    time = torch.full((2, TOKENS), 900.0)
    time[:, :5] = 0
    _, made = embed(stream_of(), latents(batch=2)[1], time)
    assert made.e.shape == (2, 2, 6, CONFIG.audio.dim)
    assert made.rows.tolist() == [0] * 5 + [1] * (TOKENS - 5)
