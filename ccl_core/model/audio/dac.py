"""The continuous DAC autoencoder of MOVA (a KL variant of arXiv 2306.06546), 50 tokens a second.

Axes: `b` batch, `n` samples, `a` audio tokens, `c` latent channels, `d` width. Module names give the keys of
the published checkpoint. All convolutions see zeros beyond the ends of the sound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.ops
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Sizes that every DAC has (arXiv 2306.06546); what differs is in DACConfig.
KERNEL = 7
DILATIONS = (1, 3, 9)
STAGE_REACH = KERNEL // 2 * sum(DILATIONS)  # samples to either side that the residual units of a stage see
LAST_KERNEL = 3
# Of the Gaussian in latent diffusion's autoencoders, from which the KL variant has it.
LOGVAR_RANGE = (-30.0, 20.0)
TILE_TOKENS = 128  # 2.56 s at MOVA's 50 tokens a second


@dataclass(frozen=True)
class DACConfig:
    """Sizes of the autoencoder. Each rate is the stride of one stage, whose convolution is twice as wide."""

    encoder_dim: int
    encoder_rates: tuple[int, ...]
    latent_dim: int
    decoder_dim: int
    decoder_rates: tuple[int, ...]
    sample_rate: int = 48000

    def __post_init__(self) -> None:
        if min((*self.encoder_rates, *self.decoder_rates), default=0) < 2:
            raise ValueError(
                f"the DAC's rates are {self.encoder_rates} and {self.decoder_rates}, wanted 2 or more each"
            )
        if math.prod(self.encoder_rates) != math.prod(self.decoder_rates):
            raise ValueError(
                f"the DAC's encoder has the rates {self.encoder_rates}, its decoder {self.decoder_rates}:"
                " their products must be equal, the file mixes two models"
            )
        if self.decoder_dim % 2 ** len(self.decoder_rates):
            raise ValueError(
                f"the DAC's decoder width {self.decoder_dim} cannot be halved {len(self.decoder_rates)} times"
            )
        if self.sample_rate < 1:
            raise ValueError(f"the DAC's sample rate is {self.sample_rate}, wanted a positive number")

    @classmethod
    def from_state_dict(cls, sd: Mapping[str, Tensor], sample_rate: int = 48000) -> DACConfig:
        """All sizes from the shapes; KeyError names a key that is missing."""
        return cls(
            encoder_dim=sd["encoder.block.0.weight"].shape[0],
            encoder_rates=_rates(sd, "encoder.block.{}.block.4.weight"),
            latent_dim=sd["post_quant_conv.weight"].shape[0],
            decoder_dim=sd["decoder.model.0.weight"].shape[0],
            decoder_rates=_rates(sd, "decoder.model.{}.block.1.weight"),
            sample_rate=sample_rate,
        )

    @property
    def hop(self) -> int:
        """Samples of a token."""
        return math.prod(self.encoder_rates)

    @property
    def encoder_reach(self) -> int:
        """Tokens to either side whose samples a token depends on."""
        # From token 0 back to the samples: the range that it depends on, in steps of each layer's input.
        first = -(LAST_KERNEL // 2)
        last = LAST_KERNEL // 2
        for rate in reversed(self.encoder_rates):
            # The stride convolution, 2 rate wide: step j reads from j * rate - padding on.
            first = first * rate - _padding(rate)
            last = last * rate - _padding(rate) + 2 * rate - 1
            first -= STAGE_REACH
            last += STAGE_REACH
        first -= KERNEL // 2
        last += KERNEL // 2
        return max(-(first // self.hop), last // self.hop)

    @property
    def decoder_reach(self) -> int:
        """Tokens to either side that the samples of a token depend on."""
        # From the samples of token 0 back to the tokens.
        first = -(KERNEL // 2)
        last = self.hop - 1 + KERNEL // 2
        for rate in reversed(self.decoder_rates):
            first -= STAGE_REACH
            last += STAGE_REACH
            # The transposed convolution: step j writes to j * rate - padding and the 2 rate - 1 after it.
            first = -((2 * rate - 1 - _padding(rate) - first) // rate)
            last = (last + _padding(rate)) // rate
        first -= KERNEL // 2
        last += KERNEL // 2
        return max(-first, last)


def _rates(sd: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    """Half the kernel of each stage: a published kernel is twice its stride. Stages count from 1."""
    stage = 1
    rates: list[int] = []
    while key.format(stage) in sd:
        rates.append(sd[key.format(stage)].shape[2] // 2)
        stage += 1
    if not rates:
        raise KeyError(key.format(1))
    return tuple(rates)


# ceil(rate / 2): with `output_padding` of the way back, n samples give n / rate tokens and n samples again.
def _padding(rate: int) -> int:
    return -(-rate // 2)


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha (arXiv 2006.08195), one alpha for each channel."""

    def __init__(self, dim: int, dtype: Any, device: Any) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(1, dim, 1, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> Tensor:
        alpha = comfy.ops.cast_to_input(self.alpha, x, copy=False)
        # In place: these activations are the peak of memory. 1e-9 is published, for an alpha of 0.
        return (alpha * x).sin_().square_().div_(alpha + 1e-9).add_(x)


class ResidualUnit(nn.Module):
    def __init__(self, dim: int, dilation: int, operations: Any, kw: dict[str, Any]) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake(dim, **kw),
            operations.Conv1d(dim, dim, KERNEL, dilation=dilation, padding=KERNEL // 2 * dilation, **kw),
            Snake(dim, **kw),
            operations.Conv1d(dim, dim, 1, **kw),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x).add_(x)


class EncoderStage(nn.Module):
    """(b, d, n) -> (b, 2 d, n / rate)"""

    def __init__(self, dim: int, rate: int, operations: Any, kw: dict[str, Any]) -> None:
        super().__init__()
        down = operations.Conv1d(dim, 2 * dim, 2 * rate, stride=rate, padding=_padding(rate), **kw)
        units = [ResidualUnit(dim, dilation, operations, kw) for dilation in DILATIONS]
        self.block = nn.Sequential(*units, Snake(dim, **kw), down)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class DecoderStage(nn.Module):
    """(b, d, n) -> (b, d / 2, n * rate)"""

    def __init__(self, dim: int, rate: int, operations: Any, kw: dict[str, Any]) -> None:
        super().__init__()
        up = operations.ConvTranspose1d(
            dim, dim // 2, 2 * rate, stride=rate, padding=_padding(rate), output_padding=rate % 2, **kw
        )
        units = [ResidualUnit(dim // 2, dilation, operations, kw) for dilation in DILATIONS]
        self.block = nn.Sequential(Snake(dim, **kw), up, *units)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Encoder(nn.Module):
    def __init__(self, config: DACConfig, operations: Any, kw: dict[str, Any]) -> None:
        super().__init__()
        dim = config.encoder_dim
        stages = []
        for rate in config.encoder_rates:
            stages.append(EncoderStage(dim, rate, operations, kw))
            dim *= 2
        self.block = nn.Sequential(
            operations.Conv1d(1, config.encoder_dim, KERNEL, padding=KERNEL // 2, **kw),
            *stages,
            Snake(dim, **kw),
            operations.Conv1d(dim, config.latent_dim, LAST_KERNEL, padding=LAST_KERNEL // 2, **kw),
        )

    def forward(self, audio: Tensor) -> Tensor:
        return self.block(audio)


class Decoder(nn.Module):
    def __init__(self, config: DACConfig, operations: Any, kw: dict[str, Any]) -> None:
        super().__init__()
        dim = config.decoder_dim
        stages = []
        for rate in config.decoder_rates:
            stages.append(DecoderStage(dim, rate, operations, kw))
            dim //= 2
        self.model = nn.Sequential(
            operations.Conv1d(config.latent_dim, config.decoder_dim, KERNEL, padding=KERNEL // 2, **kw),
            *stages,
            Snake(dim, **kw),
            operations.Conv1d(dim, 1, KERNEL, padding=KERNEL // 2, **kw),
            nn.Tanh(),
        )

    def forward(self, latent: Tensor) -> Tensor:
        return self.model(latent)


class DAC(nn.Module):
    """Audio autoencoder whose latent is the mean of a Gaussian, used without scale or shift."""

    def __init__(self, config: DACConfig, *, dtype: Any = None, device: Any = None, operations: Any) -> None:
        super().__init__()
        kw = {"dtype": dtype, "device": device}
        c = config.latent_dim
        self.config = config
        self.encoder = Encoder(config, operations, kw)
        # Mean and log variance, hence 2 c channels.
        self.quant_conv = operations.Conv1d(c, 2 * c, 1, **kw)
        self.post_quant_conv = operations.Conv1d(c, c, 1, **kw)
        self.decoder = Decoder(config, operations, kw)

    def posterior(self, audio: Tensor, tile: int | None = TILE_TOKENS) -> tuple[Tensor, Tensor]:
        """(b, 1, n) -> mean and log variance, each (b, c, a). A ragged end is filled with silence.

        `tile` tokens run through the encoder at a time, all of them if None, with the same result.
        """
        hop = self.config.hop
        audio = F.pad(audio, (0, -audio.shape[-1] % hop))
        moments = tiled(
            lambda first, last: self.quant_conv(self.encoder(audio[..., first * hop : last * hop])),
            audio.shape[-1] // hop, tile, self.config.encoder_reach, 1,
        )  # fmt: skip
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def encode(self, audio: Tensor, tile: int | None = TILE_TOKENS) -> Tensor:
        """(b, 1, n) -> (b, c, a), the mode of the posterior."""
        return self.posterior(audio, tile)[0]

    def decode(self, latent: Tensor, tile: int | None = TILE_TOKENS) -> Tensor:
        """(b, c, a) -> (b, 1, a * hop), within -1..1. `tile` as in `posterior`."""
        return tiled(
            lambda first, last: self.decoder(self.post_quant_conv(latent[..., first:last])),
            latent.shape[-1], tile, self.config.decoder_reach, self.config.hop,
        )  # fmt: skip


def tiled(
    function: Callable[[int, int], Tensor], tokens: int, tile: int | None, reach: int, hop: int
) -> Tensor:
    """The whole result of `function(first, last)`, made from tiles of so many tokens.

    Each tile is computed with `reach` more tokens to either side, which are cut off. Each token gives `hop`
    numbers along the last axis.
    """
    step = tile or tokens
    parts = []
    for start in range(0, tokens, step):
        first = max(0, start - reach)
        end = min(tokens, start + step)
        part = function(first, min(tokens, end + reach))
        # A copy, so that the margins are freed before the next tile runs.
        parts.append(part[..., (start - first) * hop : (end - first) * hop].clone())
    return torch.cat(parts, dim=-1)
