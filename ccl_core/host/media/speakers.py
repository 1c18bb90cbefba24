"""Two speakers in one clip: whose mouth may move in each frame, by the sound of two voices."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import comfy.utils
import torch
import torchaudio
from torch import Tensor

from ...alignment.timeline import samples_of
from ...notices import notice
from ..vae.channels import to_channels

# Of the loudest frame of a voice, in energy: 40 dB below it nobody speaks.
QUIET = 1e-4


def speaker_mask(masks: Sequence[Tensor], voices: Sequence[Any], fps: Fraction, frames: int) -> Tensor:
    """The masks (n, h, w) of each frame, each times the share of its voice: (frames, h, w) in 0..1.

    Where nobody speaks both count whole. The masks take the size of the first one. ValueError for a mask or
    a voice that is none.
    """
    shares = shares_of(voices, fps, frames)
    height, width = masks[0].shape[-2:]
    fitted = [
        _each_frame(mask, frames, height, width, f"mask_{number}") for number, mask in enumerate(masks, 1)
    ]
    whole = sum(share[:, None, None] * mask for share, mask in zip(shares, fitted, strict=True))
    return whole.clamp(0, 1)


def _each_frame(mask: Tensor, frames: int, height: int, width: int, name: str) -> Tensor:
    if mask.ndim != 3 or 0 in mask.shape or 1 < len(mask) < frames:
        raise ValueError(
            f"{name} has shape {tuple(mask.shape)}, wanted 1 picture or one for each of {frames} frames: "
            "repeat or make the missing ones"
        )
    if not mask.any():
        notice(
            f"{name} is black all over, so that nothing of this voice comes to the picture: paint the face "
            "white, in Load Image by Open in MaskEditor"
        )
    if len(mask) > frames:
        notice(f"{name} has {len(mask)} frames, the clip {frames}: those behind its end are left out")
    scaled = comfy.utils.common_upscale(mask[:frames, None].float(), width, height, "bilinear", "disabled")
    return scaled[:, 0].expand(frames, -1, -1)


def shares_of(voices: Sequence[Any], fps: Fraction, frames: int) -> Tensor:
    """The share of each AUDIO in the energy of each frame's time, 1 for all where all are quiet: (n, f)."""
    energies = torch.stack([_energy(voice, fps, frames) for voice in voices])
    whole = energies.sum(dim=0)
    return torch.where(whole > 0, energies / whole.clamp(min=torch.finfo(whole.dtype).tiny), 1.0).float()


def _energy(voice: Any, fps: Fraction, frames: int) -> Tensor:
    """Of each frame's time, (frames,); 0 where the voice is quiet."""
    waveform = require_voice(voice)[0].double().square().mean(dim=0)
    sums = torch.nn.functional.pad(waveform.cumsum(dim=0), (1, 0))
    rate = int(voice["sample_rate"])
    ends = [min(samples_of(frame / fps, rate), len(waveform)) for frame in range(frames + 1)]
    energy = sums[ends].diff()
    return energy * (energy > QUIET * energy.max())


def require_voice(voice: Any) -> Tensor:
    """The waveform (1, channels, n) of an AUDIO; ValueError for one without samples or of several clips."""
    waveform = voice["waveform"]
    if waveform.ndim != 3 or waveform.shape[0] != 1 or 0 in waveform.shape:
        raise ValueError(
            f"a voice has shape {tuple(waveform.shape)}, wanted (1, channels, samples) with samples in it: "
            "give one sound for each speaker"
        )
    return waveform


def mixed(voices: Sequence[Any]) -> dict[str, Any]:
    """The sum of AUDIOs at the rate of the first, as long as the longest; lowered where it would clip."""
    rate = int(voices[0]["sample_rate"])
    most = max(require_voice(voice).shape[1] for voice in voices)
    waveforms = [_at(voice, rate, most) for voice in voices]
    length = max(waveform.shape[-1] for waveform in waveforms)
    padded = [torch.nn.functional.pad(one, (0, length - one.shape[-1])) for one in waveforms]
    total = torch.stack(padded).sum(dim=0)
    peak = float(total.abs().max())
    if peak > 1:
        notice(f"both voices together would clip: they are lowered to {1 / peak:.2f} of their level")
        total = total / peak
    return {"waveform": total, "sample_rate": rate}


def _at(voice: Any, rate: int, channels: int) -> Tensor:
    waveform = to_channels(voice["waveform"].float(), channels, voice.get("layout"))
    own = int(voice["sample_rate"])
    return waveform if own == rate else torchaudio.functional.resample(waveform, own, rate)
