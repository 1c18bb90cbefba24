"""What all audio VAEs share: the host's VAE object with checked input, our own networks in it, reading of files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from torch import Tensor, nn

StateDict = dict[str, Tensor]
TILE_TOKENS = 256


class AudioVAE(comfy.sd.VAE):
    """A VAE whose latent is (b, channels, tokens) and whose audio is (b, samples, 1), as in the host's audio nodes.

    Each kind has the classmethods `recognises(sd)`, which says whether these keys, of a whole file or a cut off one,
    are its own, and `from_file(sd, metadata)`, which makes the VAE or raises a ValueError that says what is wrong.
    """

    what: str
    least_tokens = 1

    def vae_encode_crop_pixels(self, pixels: Tensor) -> Tensor:
        """(b, samples, channels) -> (b, samples, 1). The network is mono: channels are averaged instead of cropped."""
        if pixels.ndim != 3 or 0 in pixels.shape:
            raise ValueError(
                f"the audio to encode has shape {tuple(pixels.shape)}, wanted (batch, samples, channels), none 0"
            )
        if not torch.isfinite(pixels).all():
            raise ValueError("the audio to encode contains NaN or infinity: check the node that made it")
        return pixels.mean(dim=-1, keepdim=True)

    def _checked(self, latent: Tensor) -> Tensor:
        channels, least = self.latent_channels, self.least_tokens
        if latent.is_nested or latent.ndim != 3 or latent.shape[1] != channels or latent.shape[2] < least:
            shape = [tuple(part.shape) for part in latent.unbind()] if latent.is_nested else tuple(latent.shape)
            raise ValueError(
                f"the audio latent has shape {shape}, this {self.what} wants (batch, {channels}, tokens) with at least"
                f" {least} tokens: decode it with the audio VAE of the model that made it"
            )
        if not torch.isfinite(latent).all():
            raise ValueError("the audio latent contains NaN or infinity: sampling went wrong before the audio VAE")
        return latent

    def decode(self, samples_in: Tensor, vae_options: Mapping[str, Any] | None = None) -> Tensor:
        return super().decode(self._checked(samples_in), dict(vae_options or {}))

    def decode_tiled(
        self,
        samples: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        **_: Any,
    ) -> Tensor:
        # The host needs both sizes by name although a latent with one axis has no second.
        return super().decode_tiled(
            self._checked(samples), tile_x=tile_x or TILE_TOKENS, tile_y=tile_y or 1, overlap=overlap
        )

    def encode_tiled(
        self,
        pixel_samples: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        **_: Any,
    ) -> Tensor:
        tile = tile_x or TILE_TOKENS * int(self.downscale_ratio)
        return super().encode_tiled(pixel_samples, tile_x=tile, tile_y=tile_y or 1, overlap=overlap)


class NativeAudioVAE(AudioVAE):
    """A network of this pack, float32 in and out, whose `encode` and `decode` take the number of tokens of a tile.

    Tiles carry the exact context of the network instead of blended overlaps: tiled equals whole. Subclasses add the
    host's `memory_used_encode` and `memory_used_decode`, bytes for one clip besides the weights.
    """

    def _set_interface(self, sample_rate: int, channels: int, hop: int) -> None:
        # The parent's __init__ picks an architecture by key names and has no entry for this one.
        self.audio_sample_rate = sample_rate
        self.latent_channels, self.latent_dim, self.output_channels = channels, 1, 1
        self.upscale_ratio = self.downscale_ratio = hop
        self.upscale_index_formula = self.downscale_index_formula = None
        self.process_input = self.process_output = lambda audio: audio
        self.working_dtypes = [torch.float32]
        self.pad_channel_value = self.extra_1d_channel = self.format_encoded = self.size = None
        self.disable_offload = self.not_video = self.handles_tiling = self.crop_input = False
        self.device = comfy.model_management.vae_device()
        self.output_device = comfy.model_management.intermediate_device()
        self.vae_dtype = comfy.model_management.vae_dtype(self.device, self.working_dtypes)

    def _set_network(self, network: nn.Module, sd: StateDict) -> None:
        self.first_stage_model = network
        comfy.model_management.archive_model_dtypes(network)
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            network, load_device=self.device, offload_device=comfy.model_management.vae_offload_device()
        )
        network.load_state_dict(sd, strict=False, assign=self.patcher.is_dynamic())
        self.model_size()

    def decode_tiled_1d(self, samples: Tensor, tile_x: int = TILE_TOKENS, **_: Any) -> Tensor:
        return self._per_clip(self.first_stage_model.decode, samples, tile_x)

    def encode_tiled_1d(self, samples: Tensor, tile_x: int | None = None, **_: Any) -> Tensor:
        tile = max(1, tile_x // self.downscale_ratio) if tile_x else TILE_TOKENS
        return self._per_clip(self.first_stage_model.encode, samples, tile)

    def _per_clip(self, function: Any, batch: Tensor, tile: int) -> Tensor:
        clips = [function(clip.to(self.device, self.vae_dtype), tile) for clip in batch.split(1)]
        return torch.cat(clips).to(self.output_device, self.vae_output_dtype())


def shape_of(sd: StateDict, key: str, ndim: int, what: str) -> tuple[int, ...]:
    """The shape of a tensor that must be there; ValueError names it and what it belongs to."""
    if key not in sd:
        raise ValueError(f"the {what} lacks the key {key}: the file is incomplete or of another kind")
    if sd[key].ndim != ndim:
        raise ValueError(f"the {what}'s {key} has shape {tuple(sd[key].shape)}, wanted {ndim} dimensions")
    return tuple(sd[key].shape)


def json_object(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """A metadata entry that must be a JSON object."""
    try:
        data = json.loads(metadata[name])
    except ValueError as error:
        raise ValueError(f"the metadata entry {name} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"the metadata entry {name} is a JSON {type(data).__name__}, wanted an object")
    return data


def check_state_dict(sd: StateDict, wanted: StateDict, what: str, optional: Iterable[str] = ()) -> None:
    """Every key there, none unknown, all of the right shape; `optional` ones may be absent, they can be computed."""
    for key, tensor in wanted.items():
        if key not in sd and key not in optional:
            raise ValueError(f"the {what} lacks the key {key} of shape {tuple(tensor.shape)}: the file is incomplete")
        if key in sd and sd[key].shape != tensor.shape:
            raise ValueError(f"the {what}'s {key} has shape {tuple(sd[key].shape)}, wanted {tuple(tensor.shape)}")
    unknown = sorted(set(sd) - set(wanted))
    if unknown:
        raise ValueError(
            f"the {what} has keys this pack does not know, the first is {unknown[0]}: a variant that is not supported"
        )
