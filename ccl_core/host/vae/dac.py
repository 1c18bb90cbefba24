"""The continuous DAC autoencoder of MOVA as the host's VAE object."""

from __future__ import annotations

import json
from collections.abc import Mapping

import comfy.ops
import comfy.utils
import torch

from ...metadata import as_tensor
from ...model.audio.dac import DAC, TILE_TOKENS, DACConfig
from .base import NativeAudioVAE, StateDict, check_state_dict, json_object

# Of MOVA's published `audio_vae`, which has no metadata. In Hz.
SAMPLE_RATE = 48000


class DACVAE(NativeAudioVAE):
    """Latent: mean of the posterior, (b, channels, tokens), 50 tokens a second. Audio: (b, samples, 1)."""

    what = "DAC autoencoder"

    @classmethod
    def recognises(cls, sd: StateDict) -> bool:
        return any(key.startswith("decoder.model.") for key in sd)

    @classmethod
    def from_file(cls, sd: StateDict, metadata: Mapping[str, str]) -> DACVAE:
        return cls(sd, dac_config(sd, metadata))

    def __init__(self, sd: StateDict, config: DACConfig) -> None:
        check_state_dict(sd, DAC(config, device="meta", operations=torch.nn).state_dict(), self.what)
        self.config = config
        self._set_interface(config.sample_rate, config.latent_dim, config.hop)
        # The weights keep the 2 bytes they are stored in, and each is cast where it is used: half the memory
        # of float32, the same result.
        dtype = comfy.utils.weight_dtype(sd)
        self._set_network(DAC(config, dtype=dtype, operations=comfy.ops.manual_cast), sd)

    def get_sd(self) -> StateDict:
        """What the host's VAESave writes: the weights, and the configuration as a tensor."""
        stated = json.dumps({"sample_rate": self.config.sample_rate})
        return super().get_sd() | {"dac_config": as_tensor(stated)}

    # Measured with the published sizes on the CPU (torch.profiler), tiles of 128 tokens. bf16 weights: 278 MB
    # to decode and 1,102 MB to encode, nearly all of it the largest weight on its way to fp32. fp32 weights:
    # 218 and 569 MB. The sounds themselves fill up to six tensors of the last stage's width, and up to four
    # of the first's.
    def memory_used_encode(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """Bytes for one clip (1, 1, samples) besides the weights."""
        config = self.config
        # Rounded up, and never more than one tile with its context on both sides.
        tokens = min(-(-shape[2] // config.hop), TILE_TOKENS + 2 * config.encoder_reach)
        return max(4 * config.encoder_dim * config.hop * tokens, self._cast("encoder")) * dtype.itemsize

    def memory_used_decode(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """Bytes for one latent (1, channels, tokens) besides the weights."""
        config = self.config
        tokens = min(shape[2], TILE_TOKENS + 2 * config.decoder_reach)
        # Each stage of the decoder halves the width.
        width = config.decoder_dim // 2 ** len(config.decoder_rates)
        return max(6 * width * config.hop * tokens, self._cast("decoder")) * dtype.itemsize

    def _cast(self, part: str) -> int:
        """Numbers in the largest weight of a part, twice: as it is stored or moved, and as it is used."""
        return 2 * max(weight.numel() for weight in self.first_stage_model.get_submodule(part).parameters())


def dac_config(sd: StateDict, metadata: Mapping[str, str]) -> DACConfig:
    """Sizes from the shapes, the sample rate from the metadata `dac_config` or `ccl_config`, else 48 kHz."""
    try:
        return DACConfig.from_state_dict(sd, _sample_rate(metadata))
    except KeyError as error:
        raise ValueError(
            f"the {DACVAE.what} lacks the key {error.args[0]}: the file is incomplete or of another kind, "
            "get it again"
        ) from error
    except IndexError as error:
        raise ValueError(
            f"a convolution of the {DACVAE.what} has too few dimensions: the file is damaged, get it again"
        ) from error


def _sample_rate(metadata: Mapping[str, str]) -> int:
    if "dac_config" in metadata:
        given = json_object(metadata, "dac_config")
    elif "ccl_config" in metadata:
        given = json_object(metadata, "ccl_config").get("audio_latent")
    else:
        return SAMPLE_RATE
    try:
        return int(given["sample_rate"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the metadata of the {DACVAE.what} is {given!r}, wanted a whole sample_rate in it: "
            "save the file with it again"
        ) from error
