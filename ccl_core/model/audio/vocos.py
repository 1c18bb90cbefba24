"""Vocos (arXiv 2306.00814), an audio autoencoder: log-mel features, ConvNeXt, and an inverse-STFT head.

Axes: `b` batch, `n` samples, `f` mel frames, `a` audio tokens of `p` frames each, `m` mel bands, `d` width,
`k` STFT bins. Module names give the keys of the published checkpoints. STFT, mel and inverse STFT run in
float32 whatever the type of the layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torchaudio
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

# As in the published code of Vocos: kernel of ConvNeXt, `safe_log` of the features, limit of the ISTFT head.
KERNEL = 7
LOG_FLOOR = math.log(1e-7)
MAGNITUDE_LIMIT = 1e2
# Momentum of the fast Griffin-Lim algorithm, as in torchaudio's.
MOMENTUM = 0.99
# Frame after frame: the first m channels of a token are the spectrum of its first frame.
FOLDED = "b m (a p) -> b (p m) a"
UNFOLDED = "b (p m) a -> b m (a p)"
PADDINGS = ("center", "same")
MOST_ROUNDS = 1000


@dataclass(frozen=True)
class VocosConfig:
    """Sizes of a vocoder. `mel_n_fft` is the window of the features, `n_fft` that of the synthesis.

    A token is `frames_per_token` mel frames, `hop` samples apart. `phase_rounds` is how often the phases are
    made to agree from window to window: a small network tells the magnitudes of a voice, and not the phases.
    `padding` is the framing. `center`: frame j lies at sample j * hop, f frames are (f - 1) * hop samples.
    `same`: frame j lies at (j + 0.5) * hop, f frames are exactly f * hop samples.
    """

    sample_rate: int
    hop: int
    mels: int
    mel_n_fft: int
    n_fft: int
    dim: int
    intermediate_dim: int
    layers: int
    padding: str
    frames_per_token: int = 1
    phase_rounds: int = 0

    def __post_init__(self) -> None:
        if self.padding not in PADDINGS:
            raise ValueError(f"the vocoder's padding is {self.padding!r}, known are {', '.join(PADDINGS)}")
        # Whole margins at both ends, and windows that overlap by half, so that their sum is nowhere 0.
        for name, size in (("mel_n_fft", self.mel_n_fft), ("n_fft", self.n_fft)):
            if self.hop < 1 or size < 2 * self.hop or (size - self.hop) % 2 or self.hop % 2:
                raise ValueError(
                    f"the vocoder's hop {self.hop} does not fit {name} {size}:"
                    f" both must be even and {name} at least twice the hop"
                )
        if self.sample_rate < 1:
            raise ValueError(f"the vocoder's sample rate is {self.sample_rate}, wanted a positive number")
        if self.frames_per_token < 1:
            raise ValueError(
                f"the vocoder's frames_per_token is {self.frames_per_token}, wanted 1 or more mel frames"
            )
        if not 0 <= self.phase_rounds <= MOST_ROUNDS:
            raise ValueError(
                f"the vocoder's phase_rounds is {self.phase_rounds}, wanted 0 to {MOST_ROUNDS} rounds"
            )

    @property
    def channels(self) -> int:
        """Of the latent: the bands of all frames of a token."""
        return self.mels * self.frames_per_token

    @property
    def token_hop(self) -> int:
        """Samples from one token to the next."""
        return self.hop * self.frames_per_token

    @property
    def receptive_frames(self) -> int:
        """Frames to either side that the spectrum of a frame depends on."""
        return (KERNEL // 2) * (self.layers + 1)

    def margin(self, size: int) -> int:
        """Samples by which the first and the last window of `size` reach over the ends of the waveform."""
        return size // 2 if self.padding == "center" else (size - self.hop) // 2

    def tokens(self, samples: int) -> int:
        frames = samples // self.hop + 1 if self.padding == "center" else -(-samples // self.hop)
        return -(-frames // self.frames_per_token)

    def samples(self, tokens: int) -> int:
        frames = tokens * self.frames_per_token
        return self.hop * (frames - 1 if self.padding == "center" else frames)


class _Fixed(nn.Module):
    """One fixed tensor under its published name."""

    def __init__(self, name: str, value: Tensor) -> None:
        super().__init__()
        self.register_buffer(name, value)


class MelFeatures(nn.Module):
    """Vocos §3.1: natural log of the HTK mel bands of the STFT magnitude."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.config = config
        fb = torchaudio.functional.melscale_fbanks(
            config.mel_n_fft // 2 + 1, 0.0, config.sample_rate / 2, config.mels, config.sample_rate
        )
        window = torch.hann_window(config.mel_n_fft)
        self.mel_spec = nn.ModuleDict(
            {"spectrogram": _Fixed("window", window), "mel_scale": _Fixed("fb", fb)}
        )

    def forward(self, waveform: Tensor, floor: Tensor, tile: int | None = None) -> Tensor:
        padded = self._padded(waveform.float())
        size = self.config.mel_n_fft
        hop = self.config.hop
        frames = (padded.shape[-1] - size) // hop + 1
        step = tile or frames
        # Frames start..end need the samples up to the end of the last one's window.
        parts = [
            self._bands(padded[:, start * hop : (min(start + step, frames) - 1) * hop + size])
            for start in range(0, frames, step)
        ]
        return torch.cat(parts, dim=-1).clamp(min=floor.to(padded).exp()).log()  # (b, m, f)

    def _padded(self, waveform: Tensor) -> Tensor:
        samples = waveform.shape[-1]
        margin = self.config.margin(self.config.mel_n_fft)
        # Silence fills the last token.
        waveform = F.pad(waveform, (0, max(0, self.config.samples(self.config.tokens(samples)) - samples)))
        # A reflection can be no longer than what it reflects.
        if waveform.shape[-1] <= margin:
            raise ValueError(
                f"the audio has {waveform.shape[-1]} samples, this vocoder needs at least {margin + 1}:"
                " pad it with silence"
            )
        return F.pad(waveform, (margin, margin), mode="reflect")  # (b, n + 2 margin)

    def _bands(self, padded: Tensor) -> Tensor:
        window = self.mel_spec["spectrogram"].window.to(padded)
        spectrum = torch.stft(
            padded, self.config.mel_n_fft, self.config.hop, window=window, center=False, return_complex=True
        ).abs()  # (b, k, f)
        return self.mel_spec["mel_scale"].fb.to(padded).T @ spectrum  # (b, m, f)


class ConvNeXtBlock(nn.Module):
    """ConvNeXt in one dimension: depthwise convolution, norm, expansion, contraction, layer scale."""

    def __init__(
        self, dim: int, intermediate_dim: int, scale: float, dtype: Any, device: Any, operations: Any
    ) -> None:
        super().__init__()
        kw = {"dtype": dtype, "device": device}
        self.dwconv = operations.Conv1d(dim, dim, KERNEL, padding=KERNEL // 2, groups=dim, **kw)
        self.norm = operations.LayerNorm(dim, eps=1e-6, **kw)
        self.pwconv1 = operations.Linear(dim, intermediate_dim, **kw)
        self.pwconv2 = operations.Linear(intermediate_dim, dim, **kw)
        # Layer scale of ConvNeXt (arXiv 2201.03545), which Vocos starts at 1 / layers.
        self.gamma = nn.Parameter(torch.full((dim,), scale, **kw))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).transpose(1, 2))  # (b, f, d)
        y = self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + (self.gamma.to(y) * y).transpose(1, 2)  # (b, d, f)


class Backbone(nn.Module):
    """Vocos §3.2: the network at the rate of the frames, without upsampling."""

    def __init__(self, config: VocosConfig, dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()
        kw = {"dtype": dtype, "device": device}
        self.embed = operations.Conv1d(config.mels, config.dim, KERNEL, padding=KERNEL // 2, **kw)
        self.norm = operations.LayerNorm(config.dim, eps=1e-6, **kw)
        self.convnext = nn.ModuleList(
            ConvNeXtBlock(config.dim, config.intermediate_dim, 1 / config.layers, dtype, device, operations)
            for _ in range(config.layers)
        )
        self.final_layer_norm = operations.LayerNorm(config.dim, eps=1e-6, **kw)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.norm(self.embed(mel).transpose(1, 2)).transpose(1, 2)  # (b, d, f)
        for block in self.convnext:
            x = block(x)
        return self.final_layer_norm(x.transpose(1, 2))  # (b, f, d)


class ISTFTHead(nn.Module):
    """Vocos §3.3: magnitude and phase of every bin, then overlap-add of the windowed inverse transforms."""

    def __init__(self, config: VocosConfig, dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()
        self.config = config
        self.out = operations.Linear(config.dim, config.n_fft + 2, dtype=dtype, device=device)
        self.istft = _Fixed("window", torch.hann_window(config.n_fft))

    def spectrum(self, x: Tensor) -> Tensor:
        # n_fft + 2 numbers: n_fft / 2 + 1 bins, each with a log magnitude and an angle.
        log_magnitude, phase = self.out(x).float().transpose(1, 2).chunk(2, dim=1)
        return torch.polar(log_magnitude.exp().clamp(max=MAGNITUDE_LIMIT), phase)  # (b, k, f)

    def agreed(self, spectrum: Tensor) -> Tensor:
        """Fast Griffin-Lim (Perraudin et al., WASPAA 2013): the same magnitudes, phases of one waveform."""
        # torchaudio's knows the framing "center" alone, and begins at phases of its own.
        magnitude = spectrum.abs()
        before = torch.zeros_like(spectrum)
        for _ in range(self.config.phase_rounds):
            found = self.analysis(self.synthesis(spectrum))
            ahead = found - MOMENTUM / (1 + MOMENTUM) * before
            spectrum = magnitude * ahead / ahead.abs().clamp(min=1e-9)
            before = found
        return spectrum

    def analysis(self, waveform: Tensor) -> Tensor:
        """(b, n) -> (b, k, f), whose synthesis is the waveform."""
        margin = self.config.margin(self.config.n_fft)
        return torch.stft(
            F.pad(waveform, (margin, margin)),
            self.config.n_fft,
            self.config.hop,
            window=self.istft.window.to(waveform),
            center=False,
            return_complex=True,
        )

    def synthesis(self, spectrum: Tensor) -> Tensor:
        window = self.istft.window.to(spectrum.real)[:, None]
        frames = torch.fft.irfft(spectrum, self.config.n_fft, dim=1) * window  # (b, n_fft, f)
        # Not torch.istft, whose check of the envelope refuses the framing "same" (as in Vocos' own code).
        waveform = self._overlap_add(frames)
        envelope = self._overlap_add((window**2).expand(1, -1, frames.shape[-1]))
        return waveform / envelope  # (b, n)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        size = self.config.n_fft
        hop = self.config.hop
        length = (frames.shape[-1] - 1) * hop + size
        margin = self.config.margin(size)
        # `fold` adds columns (b, size, count) up where they overlap, here in a picture of one row.
        summed = F.fold(frames, (1, length), (1, size), stride=(1, hop))  # (b, 1, 1, length)
        return summed[:, 0, 0, margin : length - margin]


class Vocos(nn.Module):
    """Audio autoencoder whose latent is the log-mel spectrogram, normalised per band; a token is p frames."""

    def __init__(
        self, config: VocosConfig, *, dtype: Any = None, device: Any = None, operations: Any
    ) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.feature_extractor = MelFeatures(config)
        self.backbone = Backbone(config, dtype, device, operations)
        self.head = ISTFTHead(config, dtype, device, operations)
        self.register_buffer("latent_mean", torch.zeros(config.mels))
        self.register_buffer("latent_std", torch.ones(config.mels))
        self.register_buffer("latent_floor", torch.tensor(LOG_FLOOR))

    def mel(self, waveform: Tensor, tile: int | None = None) -> Tensor:
        """(b, n) -> (b, m, f), whole tokens. `tile` frames at a time, with the same result."""
        return self.feature_extractor(waveform, self.latent_floor, tile)

    def synthesize(self, mel: Tensor, tile: int | None = None) -> Tensor:
        """(b, m, f) -> (b, n). `tile` frames run through the backbone at a time, with the same result."""
        return self.head.synthesis(self.head.agreed(self.spectrum(mel, tile)))

    def spectrum(self, mel: Tensor, tile: int | None = None) -> Tensor:
        """(b, m, f) -> (b, k, f), the phases as the network has them."""
        frames = mel.shape[-1]
        halo = self.config.receptive_frames
        mel = mel if self.dtype is None else mel.to(self.dtype)
        step = tile or frames
        parts = []
        for start in range(0, frames, step):
            first = max(0, start - halo)
            last = min(frames, start + step + halo)
            hidden = self.backbone(mel[..., first:last])[:, start - first : start - first + step]
            parts.append(self.head.spectrum(hidden))
        return torch.cat(parts, dim=-1)

    def encode(self, audio: Tensor, tile: int | None = None) -> Tensor:
        """(b, 1, n) -> (b, p m, a), `tile` tokens at a time."""
        mel = self.mel(audio[:, 0], self._frames(tile))
        mel = (mel - self.latent_mean.to(mel)[:, None]) / self.latent_std.to(mel)[:, None]
        return rearrange(mel, FOLDED, p=self.config.frames_per_token)

    def decode(self, latent: Tensor, tile: int | None = None) -> Tensor:
        """(b, p m, a) -> (b, 1, n), `tile` tokens at a time."""
        return self.synthesize(self.mel_of(latent), self._frames(tile))[:, None]

    def mel_of(self, latent: Tensor) -> Tensor:
        """(b, p m, a) -> (b, m, f)"""
        mel = rearrange(latent.float(), UNFOLDED, p=self.config.frames_per_token)
        return mel * self.latent_std.to(mel)[:, None] + self.latent_mean.to(mel)[:, None]

    def _frames(self, tokens: int | None) -> int | None:
        return tokens and tokens * self.config.frames_per_token
