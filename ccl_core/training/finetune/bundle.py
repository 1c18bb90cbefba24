"""The encoders of a training as they lie in an all-in-one file beside the model."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import comfy.utils
from torch import Tensor

from ...config import CCLConfig
from ...host.files.identify import stated_config
from ...host.files.read import BUNDLED, read
from ...metadata import ENTRIES
from .encoders import TEXT_ENCODER
from .settings import EncoderSettings

# The entry of `encoders` whose file lies behind each prefix.
FILES = {"text_encoders.": "text_encoder", "vae.": "video_vae", "audio_vae.": "audio_vae"}


@dataclass(frozen=True)
class Bundle:
    """Tensors named as in an all-in-one file, what its metadata says, and the model's configuration."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    config: CCLConfig


def bundle(encoders: EncoderSettings, config: CCLConfig) -> Bundle:
    """The encoders for the file of a model; an audio VAE in two files has no place there (settings.py)."""
    made = Bundle({}, {}, config)
    if encoders.checkpoint is not None:
        made = _of_checkpoint(encoders.checkpoint, config)
    for prefix, name in FILES.items():
        path = getattr(encoders, name)
        if path is not None:
            made = _with_file(made, prefix, path)
    return made


def _of_checkpoint(path: str, config: CCLConfig) -> Bundle:
    whole = read(path)
    tensors = {prefix + key: value for prefix in BUNDLED for key, value in whole.bundled[prefix].items()}
    stated = stated_config(whole)
    if stated is not None:
        config = replace(
            config, text_encoder=stated.text_encoder, latent_rgb_factors=stated.latent_rgb_factors
        )
    return Bundle(tensors, _audio_entries(whole.metadata), config)


def _with_file(made: Bundle, prefix: str, path: str) -> Bundle:
    """A bundle in which the encoder behind a prefix is that of a file."""
    sd, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    said = metadata or {}
    others = {key: value for key, value in made.tensors.items() if not key.startswith(prefix)}
    tensors = others | {prefix + key: value for key, value in sd.items()}
    if prefix == "text_encoders.":
        config = replace(made.config, text_encoder=json.loads(said.get(TEXT_ENCODER, "null")))
        return Bundle(tensors, made.metadata, config)
    # An audio VAE of its own does not have what that of the checkpoint says.
    entries = _audio_entries(said) if prefix == "audio_vae." else made.metadata
    return Bundle(tensors, entries, made.config)


def _audio_entries(metadata: dict[str, str]) -> dict[str, str]:
    """What an audio VAE says of itself."""
    return {key: value for key, value in metadata.items() if key in ENTRIES and key != "ccl_config"}
