"""What all audio VAEs share: the host's VAE with checked input, our networks in it, checks of files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from torch import Tensor, nn

from ..files.values import fault_of_type, not_finite
from .channels import to_channels

StateDict = dict[str, Tensor]
# The host's own tile for a latent with one axis (`VAE.decode_tiled_1d`).
TILE_TOKENS = 256


class AudioVAE(comfy.sd.VAE):
    """A VAE whose latent is (b, channels, tokens) and whose audio is (b, samples, 1), as in the host's nodes.

    Each kind has two classmethods. `recognises(sd)` says whether keys are its own, also those of a file that
    was cut off. `from_file(sd, metadata)` makes the VAE, or raises a ValueError that says what is wrong.
    """

    what: str
    least_tokens = 1

    # The first step of the host's `VAE.encode`, which would crop to whole cells and drop further channels.
    def vae_encode_crop_pixels(self, pixels: Tensor) -> Tensor:
        """(b, samples, channels) -> (b, samples, 1), nothing cropped."""
        if pixels.ndim != 3 or 0 in pixels.shape:
            raise ValueError(
                f"the audio to encode has shape {tuple(pixels.shape)}, wanted (batch, samples, channels), "
                "none 0: check the node that made it"
            )
        if not torch.isfinite(pixels).all():
            raise ValueError("the audio to encode contains NaN or infinity: check the node that made it")
        return to_channels(pixels.movedim(-1, 1), 1).movedim(1, -1)

    def _checked(self, latent: Tensor) -> Tensor:
        if not self._fits(latent):
            shape = _shapes(latent) if latent.is_nested else tuple(latent.shape)
            raise ValueError(
                f"the audio latent has shape {shape}, this {self.what} wants (batch, "
                f"{self.latent_channels}, tokens) with at least {self.least_tokens} tokens: decode it with "
                "the audio VAE of the model that made it"
            )
        if not torch.isfinite(latent).all():
            raise ValueError(
                "the audio latent contains NaN or infinity: sampling went wrong before the audio VAE, sample "
                "again with another weight_dtype or lower scales"
            )
        return latent

    def _fits(self, latent: Tensor) -> bool:
        if latent.is_nested or latent.ndim != 3:
            return False
        return latent.shape[1] == self.latent_channels and latent.shape[2] >= self.least_tokens

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
        # The host's `decode_tiled` takes `tile_y` out for a latent with one axis, so it must be there.
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
        # In samples, while a tile of the decoder is in tokens.
        tile = tile_x or TILE_TOKENS * int(self.downscale_ratio)
        return super().encode_tiled(pixel_samples, tile_x=tile, tile_y=tile_y or 1, overlap=overlap)


class NativeAudioVAE(AudioVAE):
    """A network of this pack, float32 in and out, whose `encode` and `decode` take the tokens of a tile.

    A tile carries the exact context of the network instead of a blended overlap: tiled equals whole.
    Subclasses add the host's `memory_used_encode` and `memory_used_decode`, bytes for one clip beside the
    weights.
    """

    def _set_interface(self, sample_rate: int, channels: int, hop: int) -> None:
        """Set what the host's `VAE.__init__` would set, which knows no network for these keys."""
        self.audio_sample_rate = sample_rate
        self.latent_channels = channels
        self.latent_dim = 1
        self.output_channels = 1
        self.upscale_ratio = self.downscale_ratio = hop
        self.upscale_index_formula = self.downscale_index_formula = None
        # The host scales images between 0..1 and -1..1 here; a sound is -1..1 already.
        self.process_input = self.process_output = lambda audio: audio
        self.working_dtypes = [torch.float32]
        self.pad_channel_value = self.extra_1d_channel = self.format_encoded = self.size = None
        self.disable_offload = self.not_video = self.handles_tiling = self.crop_input = False
        self.device = comfy.model_management.vae_device()
        self.output_device = comfy.model_management.intermediate_device()
        self.vae_dtype = comfy.model_management.vae_dtype(self.device, self.working_dtypes)

    def _set_network(self, network: nn.Module, sd: StateDict) -> None:
        """Put the network under the host's memory management, with its weights."""
        self.first_stage_model = network
        comfy.model_management.archive_model_dtypes(network)
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            network, load_device=self.device, offload_device=comfy.model_management.vae_offload_device()
        )
        # Not strict: keys that can be computed may be absent, `check_state_dict` has found all others.
        network.load_state_dict(sd, strict=False, assign=self.patcher.is_dynamic())
        self.model_size()

    def decode_tiled_1d(self, samples: Tensor, tile_x: int = TILE_TOKENS, **_: Any) -> Tensor:
        return self._per_clip(self.first_stage_model.decode, samples, tile_x)

    def encode_tiled_1d(self, samples: Tensor, tile_x: int | None = None, **_: Any) -> Tensor:
        tile = max(1, tile_x // self.downscale_ratio) if tile_x else TILE_TOKENS
        return self._per_clip(self.first_stage_model.encode, samples, tile)

    def _per_clip(self, function: Any, batch: Tensor, tile: int) -> Tensor:
        # One clip at a time: `memory_used_encode` and `memory_used_decode` count one.
        clips = [function(clip.to(self.device, self.vae_dtype), tile) for clip in batch.split(1)]
        return torch.cat(clips).to(self.output_device, self.vae_output_dtype())


def _shapes(nested: Tensor) -> list[tuple[int, ...]]:
    return [tuple(part.shape) for part in nested.unbind()]


def shape_of(sd: StateDict, key: str, ndim: int, what: str) -> tuple[int, ...]:
    """The shape of a tensor that must be there; ValueError names it and what it belongs to."""
    if key not in sd:
        raise ValueError(
            f"the {what} lacks the key {key}: the file is incomplete or of another kind, get it again"
        )
    if sd[key].ndim != ndim:
        raise ValueError(
            f"the {what}'s {key} has shape {tuple(sd[key].shape)}, wanted {ndim} dimensions: "
            "the file is damaged or of another kind, get it again"
        )
    return tuple(sd[key].shape)


def json_object(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """A metadata entry that must be a JSON object."""
    try:
        data = json.loads(metadata[name])
    except ValueError as error:
        raise ValueError(
            f"the metadata entry {name} is not JSON ({error}): save the file with it again"
        ) from error
    if not isinstance(data, dict):
        raise ValueError(
            f"the metadata entry {name} is a JSON {type(data).__name__}, wanted an object: save the file "
            "with it again"
        )
    return data


def check_types(sd: StateDict, what: str) -> None:
    """ValueError for a weight that is no real number, or that holds NaN or infinity."""
    fault = next(filter(None, (fault_of_type(key, value) for key, value in sd.items())), None)
    if fault is not None:
        raise ValueError(f"the {what}'s {fault}")
    damaged = not_finite(sd)
    if damaged:
        raise ValueError(
            f"{len(damaged)} weights of the {what} hold NaN or infinity, the first is {damaged[0]}: "
            "the file is damaged, get it again"
        )


def check_state_dict(sd: StateDict, wanted: StateDict, what: str, optional: Iterable[str] = ()) -> None:
    """ValueError unless every key is there in its shape and none is unknown.

    optional: keys that may be absent, since they can be computed.
    """
    for key, tensor in wanted.items():
        shape = tuple(tensor.shape)
        if key not in sd and key not in optional:
            raise ValueError(
                f"the {what} lacks the key {key} of shape {shape}: the file is incomplete, get it again"
            )
        if key in sd and sd[key].shape != tensor.shape:
            raise ValueError(
                f"the {what}'s {key} has shape {tuple(sd[key].shape)}, wanted {shape}: "
                "the file is damaged or of a variant that is not supported, choose another one"
            )
    check_types(sd, what)
    unknown = sorted(set(sd) - set(wanted))
    if unknown:
        raise ValueError(
            f"the {what} has keys this pack does not know, the first is {unknown[0]}: "
            "a variant that is not supported, choose another file"
        )
