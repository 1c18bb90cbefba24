"""MMAudio's 16 kHz mel VAE with BigVGAN (the audio VAE of Ovi): every published form into the host's names and weights.

The host's class wants plain convolutions under `vae.`, `vocoder.` and `mel_converter.`; published are raw and folded
weights, with and without prefixes, in one file or two. The weights are licensed CC-BY-NC-4.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torchaudio
from comfy.ldm.mmaudio.vae.autoencoder import AudioAutoencoder
from comfy.ldm.mmaudio.vae.vae_modules import normalize
from torch import Tensor

from .base import AudioVAE, StateDict, check_state_dict

SAMPLE_RATE, N_FFT, MELS, TOP_FREQUENCY = 16000, 1024, 80, 8000.0
WRAPPERS = frozenset(("vae", "vocoder", "generator", "mel_converter", "tod", "module"))
PART_OF = {
    "encoder": "vae",
    "decoder": "vae",
    "data_mean": "vae",
    "data_std": "vae",
    "conv_pre": "vocoder",
    "ups": "vocoder",
    "resblocks": "vocoder",
    "activation_post": "vocoder",
    "conv_post": "vocoder",
    "mel_basis": "mel_converter",
    "hann_window": "mel_converter",
}
MARKS = ("vae.data_mean", "vae.encoder.learnable_gain", "vae.decoder.learnable_gain")
VOCODER_MARK = "vocoder.activation_post."
# Magnitude and direction of a weight-normed layer, in the older and the newer spelling of torch.
NORMED = ((".weight_g", ".weight_v"), (".parametrizations.weight.original0", ".parametrizations.weight.original1"))
# Rows have norm 1 folded and sqrt(inputs * kernel) raw, which is at least 7; bf16 moves a norm by less than 1 %.
FOLDED_WITHIN = 0.02


class MMAudioVAE(AudioVAE):
    """The host's own VAE object, fp32. Latent (b, 20, tokens), 31.25 tokens a second; audio (b, samples, 1).

    The host takes and gives 44.1 kHz and resamples to and from the 16 kHz of the network.
    """

    what = "MMAudio VAE"

    @classmethod
    def recognises(cls, sd: StateDict) -> bool:
        keys = {_host_key(key) for key in sd}
        return any(key in MARKS or key.startswith(VOCODER_MARK) for key in keys)

    @classmethod
    def from_file(cls, sd: StateDict, metadata: Mapping[str, str]) -> MMAudioVAE:
        return cls(to_host(sd), metadata)

    def __init__(self, sd: StateDict, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(sd=sd, metadata=metadata)
        self.output_channels = 1


def to_host(sd: StateDict) -> StateDict:
    """The state dict of the host's class, complete and checked, from VAE and vocoder in any published form."""
    named = fold_weight_norms(host_names(sd))
    _require_both(named)
    autoencoder = {key: value for key, value in named.items() if key.startswith("vae.")}
    if not is_folded(autoencoder):
        named |= fold_magnitudes(autoencoder)
    host = {key: value.float() for key, value in (mel_tensors() | named).items()}
    with torch.device("meta"):
        check_state_dict(host, AudioAutoencoder(mode="16k").state_dict(), MMAudioVAE.what)
    return host


def host_names(sd: StateDict) -> StateDict:
    """The tensors under the host's names, weight norms not folded yet; a key of no part keeps its name."""
    named: StateDict = {}
    for key, value in sd.items():
        host_key = _host_key(key)
        if host_key in named:
            raise ValueError(f"the MMAudio files hold {host_key} twice, once as {key}: choose one VAE and one vocoder")
        named[host_key] = value
    return named


def fold_weight_norms(sd: StateDict) -> StateDict:
    """Weight-normed layers (torch's older or newer spelling) as plain fp32 `.weight`; all other tensors unchanged.

    The norm runs over all dimensions but the first, for transposed convolutions too.
    """
    folded = dict(sd)
    for magnitude_suffix, direction_suffix in NORMED:
        for magnitude_key in [key for key in sd if key.endswith(magnitude_suffix)]:
            layer = magnitude_key.removesuffix(magnitude_suffix)
            if layer + direction_suffix not in sd:
                raise ValueError(f"{magnitude_key} is there without {layer}{direction_suffix}: the file is incomplete")
            if f"{layer}.weight" in folded:
                raise ValueError(f"{layer} is there twice, folded and with weight norm: choose one vocoder file")
            magnitude = folded.pop(magnitude_key).float()
            direction = folded.pop(layer + direction_suffix).float()
            norm = torch.linalg.vector_norm(direction, dim=tuple(range(1, direction.ndim)), keepdim=True)
            folded[f"{layer}.weight"] = direction * (magnitude / norm)
    return folded


def fold_magnitudes(sd: StateDict) -> StateDict:
    """Raw magnitude-preserving convolutions (Karras et al. 2024, eq. 47 and 66) as plain fp32 ones; the rest unchanged.

    w / (1e-4 + |w| / sqrt(n)) / sqrt(n) for each row of n = inputs * kernel numbers.
    """
    return {key: normalize(w.float()) / math.sqrt(w[0].numel()) if _is_conv(key, w) else w for key, w in sd.items()}


def is_folded(sd: StateDict) -> bool:
    """Raw and folded magnitude-preserving convolutions have the same keys; the norms of their rows differ."""
    rows = [torch.linalg.vector_norm(w.float().flatten(1), dim=1) for key, w in sd.items() if _is_conv(key, w)]
    return bool(rows) and abs(torch.cat(rows).median().item() - 1) < FOLDED_WITHIN


def mel_tensors() -> StateDict:
    """The two fixed tensors of the host's mel converter, which no published file holds."""
    basis = torchaudio.functional.melscale_fbanks(
        N_FFT // 2 + 1, 0.0, TOP_FREQUENCY, MELS, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return {"mel_converter.mel_basis": basis.T.contiguous(), "mel_converter.hann_window": torch.hann_window(N_FFT)}


def _is_conv(key: str, tensor: Tensor) -> bool:
    return key.endswith(".weight") and tensor.ndim == 3


def _host_key(key: str) -> str:
    """The host's name of a key; one that belongs to no part comes back as it is."""
    names = key.split(".")
    while len(names) > 1 and names[0] in WRAPPERS:
        names = names[1:]
    return ".".join([PART_OF[names[0]], *names]) if names[0] in PART_OF else key


def _require_both(named: StateDict) -> None:
    if not any(key.startswith("vae.") for key in named):
        raise ValueError(
            "this is the BigVGAN vocoder of MMAudio without its VAE: choose mmaudio_vae_16k in vae_name and this file"
            " in vocoder_name"
        )
    mean = named.get("vae.data_mean")
    if mean is not None and mean.numel() != MELS:
        raise ValueError(
            f"this is an MMAudio VAE with {mean.numel()} mel bands (the 44 kHz one): Ovi and ComfyUI use the 16 kHz"
            f" VAE with {MELS}, choose mmaudio_vae_16k"
        )
    if not any(key.startswith("vocoder.") for key in named):
        raise ValueError(
            "this is an MMAudio VAE without its vocoder: choose mmaudio_vocoder_bigvgan_best_netG in vocoder_name"
        )
