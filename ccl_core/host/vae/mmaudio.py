"""MMAudio's 16 kHz mel VAE with BigVGAN, the audio VAE of Ovi: from every published form to the host's.

The host's class wants plain convolutions under `vae.`, `vocoder.` and `mel_converter.`. What is published has
raw or folded weights, with or without prefixes, in one file or two. The weights are licensed CC-BY-NC-4.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torchaudio
from comfy.ldm.mmaudio.vae.autoencoder import AudioAutoencoder
from comfy.ldm.mmaudio.vae.vae_modules import normalize
from torch import Tensor

from .base import AudioVAE, StateDict, check_state_dict, check_types

# Of the mel spectrogram, as in the host's AudioAutoencoder; rates and frequencies in Hz.
SAMPLE_RATE = 16000
N_FFT = 1024
MELS = 80
TOP_FREQUENCY = 8000.0
# Before the names in one file or another: `generator` in best_netG.pt, `tod` in MMAudio's FeaturesUtils.
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
# Names that only this VAE has: statistics per mel band, and the gains of EDM2's convolutions.
MARKS = ("vae.data_mean", "vae.encoder.learnable_gain", "vae.decoder.learnable_gain")
VOCODER_MARK = "vocoder.activation_post."
# Magnitude and direction of a weight-normed layer, in the older and the newer spelling of torch.
NORMED = (
    (".weight_g", ".weight_v"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
)
# A row's norm is 1 if folded, sqrt(inputs * kernel) if raw (at least 7). bf16 moves a norm by less than .01.
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
        # The host says 2; its network decodes 1.
        self.output_channels = 1


def to_host(sd: StateDict) -> StateDict:
    """The whole state dict of the host's class, checked, from VAE and vocoder in any published form."""
    check_types(sd, MMAudioVAE.what)  # before they are cast to float32
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
            raise ValueError(
                f"the MMAudio files hold {host_key} twice, once as {key}: choose one VAE and one vocoder"
            )
        named[host_key] = value
    return named


def fold_weight_norms(sd: StateDict) -> StateDict:
    """Weight-normed layers of either spelling as plain fp32 `.weight`; other tensors unchanged."""
    folded = dict(sd)
    for magnitude_suffix, direction_suffix in NORMED:
        for magnitude_key in [key for key in sd if key.endswith(magnitude_suffix)]:
            layer = magnitude_key.removesuffix(magnitude_suffix)
            _require_one_pair(folded, layer, magnitude_suffix, direction_suffix)
            magnitude = folded.pop(magnitude_key).float()
            direction = folded.pop(layer + direction_suffix).float()
            folded[f"{layer}.weight"] = _with_magnitude(direction, magnitude)
    return folded


def _require_one_pair(sd: StateDict, layer: str, magnitude_suffix: str, direction_suffix: str) -> None:
    if layer + direction_suffix not in sd:
        raise ValueError(
            f"the vocoder has {layer}{magnitude_suffix} without {layer}{direction_suffix}: "
            "the file is incomplete, get it again"
        )
    if f"{layer}.weight" in sd:
        raise ValueError(f"{layer} is there twice, folded and with weight norm: choose one vocoder file")


def _with_magnitude(direction: Tensor, magnitude: Tensor) -> Tensor:
    # torch's weight_norm with dim=0: one norm per row, in transposed convolutions too.
    norm = torch.linalg.vector_norm(direction, dim=tuple(range(1, direction.ndim)), keepdim=True)
    return direction * (magnitude / norm)


def fold_magnitudes(sd: StateDict) -> StateDict:
    """Raw magnitude-preserving convolutions as plain fp32 ones; other tensors unchanged."""
    return {key: _magnitude_preserving(w) if _is_conv(key, w) else w for key, w in sd.items()}


# EDM2 (Karras et al. 2024, arXiv 2312.02696), equations 47 and 66.
def _magnitude_preserving(w: Tensor) -> Tensor:
    """w / (1e-4 + |w| / sqrt(n)) / sqrt(n) for each row of n = inputs * kernel numbers."""
    return normalize(w.float()) / math.sqrt(w[0].numel())


def is_folded(sd: StateDict) -> bool:
    """Whether magnitude-preserving convolutions are folded, which their keys and shapes do not show."""
    convolutions = [w for key, w in sd.items() if _is_conv(key, w)]
    norms = [torch.linalg.vector_norm(w.float().flatten(1), dim=1) for w in convolutions]
    return bool(norms) and abs(torch.cat(norms).median().item() - 1) < FOLDED_WITHIN


def mel_tensors() -> StateDict:
    """The two fixed tensors of the host's mel converter, which no published file holds."""
    # The host fills its `mel_basis` with torch.empty and wants it from the file, as librosa's slaney bank.
    basis = torchaudio.functional.melscale_fbanks(
        N_FFT // 2 + 1, 0.0, TOP_FREQUENCY, MELS, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return {
        "mel_converter.mel_basis": basis.T.contiguous(),
        "mel_converter.hann_window": torch.hann_window(N_FFT),
    }


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
            "this is the BigVGAN vocoder of MMAudio without its VAE: choose mmaudio_vae_16k in vae_name and "
            "this file in vocoder_name"
        )
    mean = named.get("vae.data_mean")
    if mean is not None and mean.numel() != MELS:
        raise ValueError(
            f"this is an MMAudio VAE with {mean.numel()} mel bands (the 44 kHz one): Ovi and ComfyUI use the "
            f"16 kHz VAE with {MELS}, choose mmaudio_vae_16k"
        )
    if not any(key.startswith("vocoder.") for key in named):
        raise ValueError(
            "this is an MMAudio VAE without its vocoder: choose mmaudio_vocoder_bigvgan_best_netG in "
            "vocoder_name"
        )
