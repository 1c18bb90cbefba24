"""The features of a speech: bytes in, one feature each, and nothing behind the end counts."""

from __future__ import annotations

from dataclasses import replace

import comfy.ops
import pytest
import torch
from torch import Tensor

from ccl_pack.ccl_core.counts import speech_text
from ccl_pack.ccl_core.model.speech_text import SpeechText, bytes_of
from ccl_pack.ccl_core.training.flow import initialise
from support.tiny import CONFIG, latents, patcher

DIM, BLOCKS = 24, 2
SPOKEN = replace(CONFIG.audio, speech_blocks=BLOCKS, text_len=16)
TIME = torch.tensor([500.0])


@pytest.fixture(scope="module")
def network() -> SpeechText:
    torch.manual_seed(0)
    made = SpeechText(DIM, BLOCKS, comfy.ops.disable_weight_init)
    initialise(made)
    for block in made.blocks:
        torch.nn.init.normal_(block.response.gamma)
        torch.nn.init.normal_(block.response.beta)
    return made.requires_grad_(False)


def padded(codes: Tensor, count: int) -> Tensor:
    return torch.nn.functional.pad(codes, (0, 0, 0, count))


def test_bytes_of_any_language() -> None:
    assert bytes_of("ab").flatten().tolist() == [98, 99]
    assert bytes_of(" é\n").flatten().tolist() == [0xC3 + 1, 0xA9 + 1]
    assert bytes_of("你").shape == (1, 3, 1)
    assert bytes_of("").flatten().tolist() == [0] == bytes_of("  ").flatten().tolist()


def test_one_block_is_its_formula(network: SpeechText) -> None:
    """Without padding: x + W2 GRN(GELU(W1 LN(conv x)))."""
    block, x = network.blocks[0].double(), torch.randn(1, 5, DIM, dtype=torch.float64)
    y = torch.nn.functional.pad(x[0], (0, 0, 3, 3))
    conv = (
        torch.stack([(y[i : i + 7] * block.conv.weight[:, 0].T).sum(0) for i in range(5)]) + block.conv.bias
    )
    hidden = torch.nn.functional.gelu(block.w1(torch.nn.functional.layer_norm(conv, (DIM,), eps=1e-6)))
    norm = hidden.norm(dim=0)
    response = hidden + block.response.gamma * hidden * norm / (norm.mean() + 1e-6) + block.response.beta
    made = block(x, torch.ones(1, 5, 1, dtype=torch.float64))
    network.float()
    wanted = x[0] + torch.nn.functional.linear(response, *weights_of(block))
    torch.testing.assert_close(made[0], wanted, rtol=0, atol=1e-6)


def weights_of(block: torch.nn.Module) -> tuple[Tensor, Tensor]:
    return block.w2.weight.double(), block.w2.bias.double()


def test_what_is_behind_the_end_changes_nothing(network: SpeechText) -> None:
    codes = bytes_of("kama tobi")
    alone, behind = network(codes), network(padded(codes, 4))
    torch.testing.assert_close(behind[:, : codes.shape[1]], alone)
    assert not behind[:, codes.shape[1] :].any() and not network(bytes_of("")).any()


def test_order_and_letters_count(network: SpeechText) -> None:
    for one, other in (("kama", "mako"), ("kama tobi", "tobi kama")):
        assert (network(bytes_of(one)) - network(bytes_of(other))).abs().max() > 0.1


def test_its_size_is_counted(network: SpeechText) -> None:
    assert sum(value.numel() for value in network.parameters()) == speech_text(DIM, BLOCKS)


def test_the_audio_stream_reads_the_words_and_the_video_its_text() -> None:
    model = patcher(audio=SPOKEN).model.diffusion_model
    text = torch.randn(1, 5, 24)
    closed = {"a2v_cross_attn": False, "v2a_cross_attn": False}

    def run(speech: str) -> list[Tensor]:
        with torch.no_grad():
            return model(
                list(latents()), TIME, text, transformer_options=dict(closed), audio_context=bytes_of(speech)
            )

    first, second = run("kama"), run("tobi")
    assert torch.equal(first[0], second[0]) and (first[1] - second[1]).abs().max() > 1e-4


def test_a_text_embedding_is_no_speech() -> None:
    model = patcher(audio=SPOKEN).model.diffusion_model
    with pytest.raises(
        ValueError, match="got a text of width 24, the audio stream reads the bytes of a speech"
    ):
        model(list(latents()), TIME, torch.randn(1, 5, 24), transformer_options={})


def test_without_words_the_gradient_is_finite() -> None:
    network = SpeechText(DIM, BLOCKS, comfy.ops.disable_weight_init)
    initialise(network)
    codes = torch.cat([padded(bytes_of(""), 3), padded(bytes_of("ka"), 2)])
    network(codes).square().sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in network.parameters())
