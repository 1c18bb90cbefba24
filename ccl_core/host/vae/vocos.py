"""A Vocos vocoder (CCL) as the host's VAE object: sizes from shapes and metadata, and the wrapper."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import comfy.ops
import torch

from ...metadata import as_tensor
from ...model.audio.vocos import Vocos, VocosConfig
from .base import NativeAudioVAE, StateDict, check_state_dict, json_object, shape_of

# How the latent of a joint model is normalised.
STATISTICS = ("latent_mean", "latent_std", "latent_floor")
# Fixed tensors, which follow from the sizes, and what a vocoder of no joint model lacks.
OPTIONAL_KEYS = frozenset(
    (
        "feature_extractor.mel_spec.spectrogram.window",
        "feature_extractor.mel_spec.mel_scale.fb",
        "head.istft.window",
        *STATISTICS,
    )
)
# The release charactr/vocos-mel-24khz, which has no metadata: its mel bands and n_fft tell it.
PUBLISHED_MEL_24KHZ = {"sample_rate": 24000, "hop_length": 256, "padding": "center"}
PUBLISHED_SHAPE = (100, 1024)


class VocosVAE(NativeAudioVAE):
    """Latent: log-mel spectrogram normalised per band, (b, channels, tokens). Audio: (b, samples, 1)."""

    what = "vocoder"

    @classmethod
    def recognises(cls, sd: StateDict) -> bool:
        return any(key.startswith(("backbone.embed.", "backbone.convnext.", "head.istft.")) for key in sd)

    @classmethod
    def from_file(cls, sd: StateDict, metadata: Mapping[str, str]) -> VocosVAE:
        # Without them the latent would be taken for a neutral one, and its sound for another.
        lacking = [key for key in STATISTICS if key not in sd]
        if lacking and ("ccl_config" in metadata or len(lacking) < len(STATISTICS)):
            raise ValueError(
                f"the {cls.what} lacks {', '.join(lacking)}, the statistics of the joint model's latent: "
                "the file is incomplete, get it again"
            )
        return cls(sd, vocos_config(sd, metadata))

    def __init__(self, sd: StateDict, config: VocosConfig) -> None:
        wanted = Vocos(config, device="meta", operations=torch.nn).state_dict()
        check_state_dict(sd, wanted, self.what, OPTIONAL_KEYS)
        self.config = config
        # A token of one frame in the middle of its window is no sound.
        self.least_tokens = 1 if config.samples(1) else 2
        self._set_interface(config.sample_rate, config.channels, config.token_hop)
        # Fixed tensors stay float32: a half precision window would be audible.
        sd = {key: value.float() if key in OPTIONAL_KEYS else value for key, value in sd.items()}
        self._set_network(Vocos(config, dtype=self.vae_dtype, operations=comfy.ops.manual_cast), sd)

    def get_sd(self) -> StateDict:
        """What the host's VAESave writes: the weights, and the configuration as a tensor."""
        return super().get_sd() | {"vocos_config": as_tensor(stated_sizes(self.config))}

    # Numbers that live at once: of windows that overlap n_fft / hop times, and of the widths of a block.
    def memory_used_encode(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        return (4 + 6 * self.config.mel_n_fft // self.config.hop) * shape[2] * dtype.itemsize

    def memory_used_decode(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        config = self.config
        frames = shape[2] * config.frames_per_token
        # Of the rounds: two more spectra, and windows of the waveform.
        windows = (14 if config.phase_rounds else 8) * config.n_fft
        return (6 * config.dim + 2 * config.intermediate_dim + windows) * frames * dtype.itemsize


def stated_sizes(config: VocosConfig) -> str:
    """The entry `vocos_config`: what no shape of a tensor tells."""
    return json.dumps(
        {
            "sample_rate": config.sample_rate,
            "hop_length": config.hop,
            "padding": config.padding,
            "mel_n_fft": config.mel_n_fft,
            "frames_per_token": config.frames_per_token,
            "phase_rounds": config.phase_rounds,
        }
    )


def vocos_config(sd: StateDict, metadata: Mapping[str, str]) -> VocosConfig:
    """Sizes from the shapes, the others from the metadata `vocos_config` or `ccl_config`."""
    what = VocosVAE.what
    dim, mels, _ = shape_of(sd, "backbone.embed.weight", 3, what)
    intermediate_dim, _ = shape_of(sd, "backbone.convnext.0.pwconv1.weight", 2, what)
    # The head gives magnitude and phase of n_fft / 2 + 1 frequencies.
    n_fft = shape_of(sd, "head.out.weight", 2, what)[0] - 2
    layers = len({key.split(".")[2] for key in sd if key.startswith("backbone.convnext.")})
    given = _metadata_sizes(metadata, (mels, n_fft))
    mel_n_fft = given.get("mel_n_fft", n_fft)
    window = "feature_extractor.mel_spec.spectrogram.window"
    if window in sd:
        mel_n_fft = shape_of(sd, window, 1, what)[0]
    try:
        sample_rate = int(given["sample_rate"])
        hop = int(given["hop_length"])
        mel_n_fft = int(mel_n_fft)
        padding = given["padding"]
        frames_per_token = int(given.get("frames_per_token", 1))
        phase_rounds = int(given.get("phase_rounds", 0))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the vocos_config metadata {given} is incomplete or of the wrong type "
            f"({error}): save the file with it again"
        ) from error
    return VocosConfig(
        sample_rate=sample_rate,
        hop=hop,
        padding=padding,
        mels=mels,
        mel_n_fft=mel_n_fft,
        n_fft=n_fft,
        dim=dim,
        intermediate_dim=intermediate_dim,
        layers=layers,
        frames_per_token=frames_per_token,
        phase_rounds=phase_rounds,
    )


def _metadata_sizes(metadata: Mapping[str, str], shape: tuple[int, int]) -> dict[str, Any]:
    if "vocos_config" in metadata:
        return json_object(metadata, "vocos_config")
    if "ccl_config" in metadata:
        return _ccl_sizes(json_object(metadata, "ccl_config").get("audio_latent"))
    if shape == PUBLISHED_SHAPE:
        return PUBLISHED_MEL_24KHZ
    raise ValueError(
        f"a vocoder with {shape[0]} mel bands and n_fft {shape[1]} needs the metadata entry vocos_config,"
        ' for example {"sample_rate": 16000, "hop_length": 500, "padding": "same"}: save the file with it'
    )


def _ccl_sizes(audio: Any) -> dict[str, Any]:
    try:
        rate = Fraction(audio["rate"])
        sample_rate = int(audio["sample_rate"])
        hop = sample_rate / rate
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"audio_latent in ccl_config is {audio!r}, wanted sample_rate and rate: "
            "save the file with them again"
        ) from error
    if hop.denominator != 1:
        raise ValueError(
            f"ccl_config: {rate} tokens per second do not divide the sample rate {sample_rate}: "
            "save the file with a rate that does"
        )
    return {"sample_rate": sample_rate, "hop_length": int(hop), "padding": "same"}
