"""The words of a speech as features of an audio stream: ConvNeXt-V2 blocks over bytes (UniAVGen, F5-TTS).

UniAVGen (arXiv 2511.03334) takes the text features of F5-TTS (arXiv 2410.06885): an embedding of each
character, its place, and blocks of ConvNeXt V2 (arXiv 2301.00808) in one dimension. Characters here are the
bytes of UTF-8, so that no language needs a vocabulary.

Axes: b batch, n bytes, d width, h hidden width.
"""

from __future__ import annotations

from typing import Any

import comfy.ops
import torch
from comfy.ldm.wan.model import sinusoidal_embedding_1d
from torch import Tensor

# Bytes are 1 to 256, 0 is none.
BYTES = 256
WINDOW = 7
# The hidden layer of a block over its width.
EXPANSION = 2
EPS = 1e-6


def bytes_of(speech: str) -> Tensor:
    """The bytes of a speech as a text of width 1: (1, n, 1), one that is none for an empty speech."""
    codes = [code + 1 for code in speech.strip().encode("utf-8")] or [0]
    return torch.tensor(codes, dtype=torch.float32)[None, :, None]


class ResponseNorm(torch.nn.Module):
    """Global response normalisation: x + gamma (x N(x)) + beta, N the norm over time by its mean over h."""

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__()
        self.gamma = torch.nn.Parameter(torch.empty(dim, **factory))
        self.beta = torch.nn.Parameter(torch.empty(dim, **factory))

    def forward(self, x: Tensor) -> Tensor:  # (b, n, h)
        gamma, beta = (comfy.ops.cast_to_input(value, x) for value in (self.gamma, self.beta))
        # Its gradient is 0 where all is 0, as where no words are said.
        norm = torch.linalg.vector_norm(x.float(), dim=1, keepdim=True)
        share = norm / (norm.mean(dim=-1, keepdim=True) + EPS)
        return x + gamma * (x * share.to(x.dtype)) + beta


class TextBlock(torch.nn.Module):
    """x + W2 GRN(GELU(W1 LN(conv x))), with a convolution over time for each channel (ConvNeXt V2)."""

    def __init__(self, dim: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv = operations.Conv1d(dim, dim, WINDOW, padding=WINDOW // 2, groups=dim, **factory)
        self.norm = operations.LayerNorm(dim, EPS, **factory)
        self.w1 = operations.Linear(dim, EXPANSION * dim, **factory)
        self.response = ResponseNorm(EXPANSION * dim, **factory)
        self.w2 = operations.Linear(EXPANSION * dim, dim, **factory)

    def forward(self, x: Tensor, said: Tensor) -> Tensor:
        """x: (b, n, d). said: (b, n, 1), where there is a byte: what is behind the end changes nothing."""
        y = self.norm(self.conv(x.transpose(1, 2)).transpose(1, 2))
        y = torch.nn.functional.gelu(self.w1(y)) * said
        return (x + self.w2(self.response(y))) * said


class SpeechText(torch.nn.Module):
    """Features (b, n, d) of bytes (b, n, 1); zeros where there is none."""

    def __init__(self, dim: int, blocks: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.dim = dim
        self.embedding = operations.Embedding(BYTES + 1, dim, **factory)
        self.blocks = torch.nn.ModuleList(TextBlock(dim, operations, **factory) for _ in range(blocks))

    def forward(self, codes: Tensor) -> Tensor:
        numbers = codes[..., 0].round().long().clamp(0, BYTES)
        said = (numbers > 0)[..., None].to(codes.dtype)
        places = torch.arange(codes.shape[1], device=codes.device)
        x = self.embedding(numbers, out_dtype=codes.dtype)
        x = (x + sinusoidal_embedding_1d(self.dim, places).to(x.dtype)) * said
        for block in self.blocks:
            x = block(x, said)
        return x
