"""Audio VAEs: a Vocos vocoder as the host's VAE object, and the loader that tells it from those the host knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..model.vocos import Vocos, VocosConfig

StateDict = dict[str, Tensor]
OPTIONAL_KEYS = frozenset(
    (
        "feature_extractor.mel_spec.spectrogram.window",
        "feature_extractor.mel_spec.mel_scale.fb",
        "head.istft.window",
        "latent_mean",
        "latent_std",
        "latent_floor",
    )
)
PUBLISHED_MEL_24KHZ = {"sample_rate": 24000, "hop_length": 256, "padding": "center"}
PUBLISHED_SHAPE = (100, 1024)  # mel bands, n_fft: the one layout that is recognised without metadata
TILE_TOKENS = 256


class VocosVAE(comfy.sd.VAE):
    """Latent: log-mel spectrogram normalised per band, (b, mels, tokens). Audio: (b, samples, 1), as in host nodes."""

    def __init__(self, sd: StateDict, config: VocosConfig) -> None:
        # The parent's __init__ picks an architecture by key names and has no entry for this one.
        check_state_dict(sd, config)
        self.config = config
        self._set_interface(config)
        self.device = comfy.model_management.vae_device()
        self.output_device = comfy.model_management.intermediate_device()
        self.vae_dtype = comfy.model_management.vae_dtype(self.device, self.working_dtypes)
        self.first_stage_model = Vocos(config, dtype=self.vae_dtype, operations=comfy.ops.manual_cast)
        comfy.model_management.archive_model_dtypes(self.first_stage_model)
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            self.first_stage_model, load_device=self.device, offload_device=comfy.model_management.vae_offload_device()
        )
        # Fixed tensors stay float32: a half precision window would be audible.
        sd = {key: value.float() if key in OPTIONAL_KEYS else value for key, value in sd.items()}
        self.first_stage_model.load_state_dict(sd, strict=False, assign=self.patcher.is_dynamic())
        self.model_size()

    def _set_interface(self, config: VocosConfig) -> None:
        self.audio_sample_rate = config.sample_rate
        self.latent_channels, self.latent_dim, self.output_channels = config.mels, 1, 1
        self.upscale_ratio = self.downscale_ratio = config.hop
        self.upscale_index_formula = self.downscale_index_formula = None
        self.memory_used_encode = self._encode_bytes
        self.memory_used_decode = self._decode_bytes
        self.process_input = self.process_output = lambda audio: audio
        self.working_dtypes = [torch.float32]
        self.pad_channel_value = self.extra_1d_channel = self.format_encoded = self.size = None
        self.disable_offload = self.not_video = self.handles_tiling = self.crop_input = False

    def _encode_bytes(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        return (4 + 6 * self.config.mel_n_fft // self.config.hop) * shape[2] * dtype.itemsize

    def _decode_bytes(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        config = self.config
        return (6 * config.dim + 2 * config.intermediate_dim + 8 * config.n_fft) * shape[2] * dtype.itemsize

    def vae_encode_crop_pixels(self, pixels: Tensor) -> Tensor:
        """(b, samples, channels) -> (b, samples, 1). The vocoder is mono: channels are averaged instead of cropped."""
        if pixels.ndim != 3 or 0 in pixels.shape:
            raise ValueError(
                f"the audio to encode has shape {tuple(pixels.shape)}, wanted (batch, samples, channels), none 0"
            )
        if not torch.isfinite(pixels).all():
            raise ValueError("the audio to encode contains NaN or infinity: check the node that made it")
        return pixels.mean(dim=-1, keepdim=True)

    def _checked(self, latent: Tensor) -> Tensor:
        mels, least = self.config.mels, 2 if self.config.padding == "center" else 1
        if latent.is_nested or latent.ndim != 3 or latent.shape[1] != mels or latent.shape[2] < least:
            shape = [tuple(part.shape) for part in latent.unbind()] if latent.is_nested else tuple(latent.shape)
            raise ValueError(
                f"the audio latent has shape {shape}, this vocoder wants (batch, {mels}, tokens) with at least {least}"
                " tokens: decode it with the audio VAE of the model that made it"
            )
        if not torch.isfinite(latent).all():
            raise ValueError("the audio latent contains NaN or infinity: sampling went wrong before the audio VAE")
        return latent

    def decode(self, samples_in: Tensor, vae_options: Mapping[str, Any] | None = None) -> Tensor:
        return super().decode(self._checked(samples_in), dict(vae_options or {}))

    def decode_tiled(self, samples: Tensor, tile_x: int | None = None, *_: Any, **__: Any) -> Tensor:
        # The host needs both sizes by name although a latent with one axis has no second.
        return super().decode_tiled(self._checked(samples), tile_x=tile_x or TILE_TOKENS, tile_y=1)

    def encode_tiled(self, pixel_samples: Tensor, tile_x: int | None = None, *_: Any, **__: Any) -> Tensor:
        return super().encode_tiled(pixel_samples, tile_x=tile_x or TILE_TOKENS * self.config.hop, tile_y=1)

    def decode_tiled_1d(self, samples: Tensor, tile_x: int = TILE_TOKENS, **_: Any) -> Tensor:
        """Tiles with the exact context of the network instead of blended overlaps: the result equals `decode`."""
        return self._per_clip(self.first_stage_model.decode, samples, tile_x)

    def encode_tiled_1d(self, samples: Tensor, tile_x: int | None = None, **_: Any) -> Tensor:
        tile = max(1, tile_x // self.config.hop) if tile_x else TILE_TOKENS
        return self._per_clip(self.first_stage_model.encode, samples, tile)

    def _per_clip(self, function: Any, batch: Tensor, tile: int) -> Tensor:
        clips = [function(clip.to(self.device, self.vae_dtype), tile) for clip in batch.split(1)]
        return torch.cat(clips).to(self.output_device, self.vae_output_dtype())


def load_audio_vae_file(path: str, vocoder_path: str | None = None) -> comfy.sd.VAE:
    """The VAE in a safetensors file; the keys of a second file (split releases) are added to those of the first."""
    sd, metadata = _read(path)
    if vocoder_path is not None:
        sd, metadata = _merged(sd, metadata, *_read(vocoder_path))
    try:
        return load_audio_vae(sd, metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read(path: str) -> tuple[StateDict, dict[str, str]]:
    try:
        sd, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    except (SafetensorError, ValueError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}): it is damaged or of another kind. Download it again;"
            " convert a pickle (.pt, .pth, .ckpt) with safetensors.torch.save_file on a machine where you trust it"
        ) from error
    return sd, dict(metadata or {})


def _merged(
    sd: StateDict, metadata: dict[str, str], vocoder: StateDict, vocoder_metadata: dict[str, str]
) -> tuple[StateDict, dict[str, str]]:
    if not any(key.startswith(("vocoder.", "backbone.", "head.")) for key in vocoder):
        vocoder = {f"vocoder.{key}": value for key, value in vocoder.items()}
    twice = sorted(set(sd) & set(vocoder))
    if twice:
        raise ValueError(
            f"the VAE file and the vocoder file both have the key {twice[0]}: choose no vocoder file, or another one"
        )
    return {**sd, **vocoder}, {**vocoder_metadata, **metadata}


def load_audio_vae(sd: StateDict, metadata: Mapping[str, str] | None = None) -> comfy.sd.VAE:
    """A Vocos vocoder becomes a VocosVAE; every other file goes to the host, which must find an audio VAE in it."""
    if is_vocos(sd):
        return VocosVAE(sd, vocos_config(sd, metadata))
    vae = comfy.sd.VAE(sd=sd, metadata=metadata)
    if vae.first_stage_model is None or vae.output_channels > 2:
        keys = ", ".join(sorted(sd)[:3])
        raise ValueError(
            f"this is not an audio VAE (its first keys are {keys or 'none'}):"
            " wanted a Vocos vocoder (keys backbone.*, head.*) or an audio VAE that ComfyUI knows"
        )
    return vae


def is_vocos(sd: StateDict) -> bool:
    return any(key.startswith(("backbone.embed.", "backbone.convnext.", "head.istft.")) for key in sd)


def vocos_config(sd: StateDict, metadata: Mapping[str, str] | None) -> VocosConfig:
    """Sizes from the shapes; sample rate, hop, padding from the metadata `vocos_config` or `ccl_config`."""
    dim, mels, _ = _shape(sd, "backbone.embed.weight", 3)
    intermediate_dim, _ = _shape(sd, "backbone.convnext.0.pwconv1.weight", 2)
    n_fft = _shape(sd, "head.out.weight", 2)[0] - 2
    layers = len({key.split(".")[2] for key in sd if key.startswith("backbone.convnext.")})
    given = _metadata_sizes(metadata or {}, (mels, n_fft))
    window, mel_n_fft = "feature_extractor.mel_spec.spectrogram.window", given.get("mel_n_fft", n_fft)
    if window in sd:
        mel_n_fft = _shape(sd, window, 1)[0]
    try:
        sample_rate, hop, mel_n_fft = int(given["sample_rate"]), int(given["hop_length"]), int(mel_n_fft)
        padding = given["padding"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the vocos_config metadata {given} is incomplete or of the wrong type: {error}") from error
    return VocosConfig(
        sample_rate=sample_rate, hop=hop, padding=padding, mels=mels, mel_n_fft=mel_n_fft, n_fft=n_fft, dim=dim,
        intermediate_dim=intermediate_dim, layers=layers,
    )  # fmt: skip


def _shape(sd: StateDict, key: str, ndim: int) -> tuple[int, ...]:
    if key not in sd:
        raise ValueError(f"the vocoder lacks the key {key}: the file is incomplete or of another kind")
    if sd[key].ndim != ndim:
        raise ValueError(f"the vocoder's {key} has shape {tuple(sd[key].shape)}, wanted {ndim} dimensions")
    return tuple(sd[key].shape)


def _metadata_sizes(metadata: Mapping[str, str], shape: tuple[int, int]) -> dict[str, Any]:
    if "vocos_config" in metadata:
        return _json_object(metadata, "vocos_config")
    if "ccl_config" in metadata:
        return _ccl_sizes(_json_object(metadata, "ccl_config").get("audio_latent"))
    if shape == PUBLISHED_SHAPE:
        return PUBLISHED_MEL_24KHZ
    raise ValueError(
        f"a vocoder with {shape[0]} mel bands and n_fft {shape[1]} needs the metadata entry vocos_config,"
        ' for example {"sample_rate": 16000, "hop_length": 500, "padding": "same"}: save the file with it'
    )


def _ccl_sizes(audio: Any) -> dict[str, Any]:
    try:
        rate, sample_rate = Fraction(audio["rate"]), int(audio["sample_rate"])
        hop = sample_rate / rate
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"audio_latent in ccl_config is {audio!r}, wanted sample_rate and rate") from error
    if hop.denominator != 1:
        raise ValueError(f"ccl_config: {rate} tokens per second do not divide the sample rate {sample_rate}")
    return {"sample_rate": sample_rate, "hop_length": int(hop), "padding": "same"}


def _json_object(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        data = json.loads(metadata[name])
    except ValueError as error:
        raise ValueError(f"the metadata entry {name} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"the metadata entry {name} is a JSON {type(data).__name__}, wanted an object")
    return data


def check_state_dict(sd: StateDict, config: VocosConfig) -> None:
    """Every key there, none unknown, all of the right shape; fixed tensors may be absent, they can be computed."""
    wanted = Vocos(config, device="meta", operations=torch.nn).state_dict()
    for key, tensor in wanted.items():
        if key not in sd and key not in OPTIONAL_KEYS:
            raise ValueError(f"the vocoder lacks the key {key} of shape {tuple(tensor.shape)}: the file is incomplete")
        if key in sd and sd[key].shape != tensor.shape:
            raise ValueError(f"the vocoder's {key} has shape {tuple(sd[key].shape)}, wanted {tuple(tensor.shape)}")
    unknown = sorted(set(sd) - set(wanted))
    if unknown:
        raise ValueError(
            f"the vocoder has keys this pack does not know, the first is {unknown[0]}: a variant that is not supported"
        )
