"""The channels of a sound into the one or two that an audio VAE takes: the downmix of ITU-R BS.775-4.

To stereo a centre and each surround channel are added at -3 dB, the bass effects (LFE) left out. One channel
is left and right together, so that a centre keeps its level. Stereo becomes its mean, as the audio VAEs were
trained. Nothing is normalised by the matrix: a dialogue would lose 10.7 dB for peaks that films do not have.
"""

from __future__ import annotations

import math

import av
import torch

from ...notices import notice

HALF_POWER = math.sqrt(0.5)  # -3 dB
# FFmpeg's layouts of so many channels. The host's AUDIO says the count alone: three are AAC's, FLAC's and
# Opus' left, right, centre, since a centre left out would be a lost voice. Four are 4.0 for the same reason.
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
LFE = ("LFE", "LFE2")
MAIN = {"FL": (1.0, 0.0), "FR": (0.0, 1.0), "DL": (1.0, 0.0), "DR": (0.0, 1.0)}
# Two channels of the same level lose 0 dB in their mean, unlike ones 3 dB, also where one is silent.
CANCELLED = 6.0  # dB


def to_channels(waveform: torch.Tensor, channels: int, layout: str | None = None) -> torch.Tensor:
    """(b, ch, n) -> (b, channels, n). layout: FFmpeg's name of the channels, where it is known."""
    count = waveform.shape[1]
    if count == channels:
        return waveform
    if channels not in (1, 2) or count == 1:
        return waveform.mean(1, keepdim=True).expand(-1, channels, -1)
    pair = waveform if count == 2 else _stereo(waveform, layout)
    if channels == 1:
        pair = _mono(pair, 0.5 if count == 2 else HALF_POWER)
    return _within_full_scale(pair, waveform, channels)


def names_of(count: int, layout: str | None) -> list[str] | None:
    """FFmpeg's names of so many channels, FL or LFE; None where nobody says what they are."""
    for name in (layout, LAYOUTS.get(count)):
        names = _names(name) if name else []
        # A file may state its count alone ("6 channels"), whose names are all NONE.
        if len(names) == count and "NONE" not in names:
            return names
    return None


def _names(layout: str) -> list[str]:
    try:
        return [channel.name for channel in av.AudioLayout(layout).channels]
    except ValueError:
        return []


def _stereo(waveform: torch.Tensor, layout: str | None) -> torch.Tensor:
    """(b, ch, n) with more than two channels -> (b, 2, n)."""
    names = names_of(waveform.shape[1], layout)
    if names is None:
        notice(
            f"audio has {waveform.shape[1]} channels and does not say which: their mean is taken. Mix them "
            "to stereo before to have it otherwise"
        )
        return waveform.mean(1, keepdim=True).expand(-1, 2, -1)
    weights = waveform.new_tensor([_weights(name) for name in names])  # (ch, 2)
    return torch.einsum("b c n, c s -> b s n", waveform, weights)


def _weights(name: str) -> tuple[float, float]:
    """How much of a channel goes to the left and to the right."""
    if name in MAIN:
        return MAIN[name]
    if name in LFE:
        return 0.0, 0.0
    if name == "FC":
        return HALF_POWER, HALF_POWER
    if name.endswith("L"):
        return HALF_POWER, 0.0
    if name.endswith("R"):
        return 0.0, HALF_POWER
    # One surround channel goes to both sides: -3 dB as a surround, -3 dB as one of two.
    return 0.5, 0.5


def _mono(pair: torch.Tensor, scale: float) -> torch.Tensor:
    """(b, 2, n) -> (b, 1, n): both together, or the louder one where they would cancel each other."""
    both = scale * pair.sum(1, keepdim=True)
    power = pair.square().mean(-1)  # (b, 2)
    kept = pair.mean(1).square().mean(-1) / power.mean(1).clamp(min=1e-20)  # (b,)
    cancelled = (kept < 10 ** (-CANCELLED / 10)) & (power.sum(1) > 0)
    if not cancelled.any():
        return both
    lost = -10 * math.log10(max(1e-12, kept[cancelled].min().item()))
    how_much = "all of it" if lost > 100 else f"{lost:.0f} dB"
    notice(
        f"left and right of audio are in opposite phase: together they would lose {how_much}, so the louder "
        "one is taken alone. Turn the polarity of one round before to have both"
    )
    alone = pair[torch.arange(len(pair), device=pair.device), power.argmax(1)][:, None]
    return torch.where(cancelled[:, None, None], alone, both)


def _within_full_scale(mixed: torch.Tensor, waveform: torch.Tensor, channels: int) -> torch.Tensor:
    """Each sound as it is, or lowered as a whole where mixing made it leave -1..1."""
    limit = waveform.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1)
    over = (mixed.abs().amax(dim=(1, 2), keepdim=True) / limit).clamp(min=1)
    most = over.max().item()
    if most > 1:
        notice(
            f"{waveform.shape[1]} channels of audio mixed to {channels} reach {most:.2f} of full scale: the "
            f"sound is lowered by {20 * math.log10(most):.1f} dB as a whole"
        )
    return mixed / over
