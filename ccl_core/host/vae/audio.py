"""Audio VAEs: the loader that tells the kinds of this pack from those the host knows."""

from __future__ import annotations

from collections.abc import Mapping

import comfy.sd

from ..files.read import read_tensors
from .base import AudioVAE, StateDict
from .dac import DACVAE
from .mmaudio import MMAudioVAE
from .vocos import VocosVAE

# By the names that configurations and families give them.
AUDIO_VAES: dict[str, type[AudioVAE]] = {"vocos": VocosVAE, "dac": DACVAE, "mmaudio": MMAudioVAE}


def load_audio_vae_file(path: str, vocoder_path: str | None = None) -> comfy.sd.VAE:
    """The VAE in a safetensors file. vocoder_path: of a second file, whose keys are added."""
    sd, metadata = read_tensors(path)
    vocoder = None if vocoder_path is None else read_tensors(vocoder_path)
    try:
        if vocoder is not None:
            sd, metadata = _merged(sd, metadata, *vocoder)
        return load_audio_vae(sd, metadata)
    except ValueError as error:
        files = path if vocoder_path is None else f"{path} with {vocoder_path}"
        raise ValueError(f"{files}: {error}") from error


def load_audio_vae(sd: StateDict, metadata: Mapping[str, str] | None = None) -> comfy.sd.VAE:
    """The VAE of that kind in AUDIO_VAES that recognises the keys; every other file goes to the host.

    ValueError: keys of two kinds, missing, unknown or misshapen ones, or no audio VAE.
    """
    kinds = [kind for kind in AUDIO_VAES.values() if kind.recognises(sd)]
    if len(kinds) > 1:
        mixed = " and of a ".join(kind.what for kind in kinds)
        raise ValueError(
            f"these are the keys of a {mixed} in one: choose the vocoder that belongs to the VAE, or none "
            "where the VAE is complete"
        )
    if kinds:
        return kinds[0].from_file(sd, metadata or {})
    # For unknown keys the host leaves `first_stage_model` None. An image has more channels than a sound.
    vae = comfy.sd.VAE(sd=sd, metadata=metadata)
    if vae.first_stage_model is not None and vae.output_channels > 2:
        raise ValueError("this is not an audio VAE but one for images or video: load it with Load VAE")
    if vae.first_stage_model is None:
        keys = ", ".join(sorted(sd)[:3])
        known = ", ".join(kind.what for kind in AUDIO_VAES.values())
        raise ValueError(
            f"this is not an audio VAE (its first keys are {keys or 'none'}): wanted one of {known}, or an"
            " audio VAE that ComfyUI knows"
        )
    return vae


def _merged(
    sd: StateDict, metadata: dict[str, str], vocoder: StateDict, vocoder_metadata: dict[str, str]
) -> tuple[StateDict, dict[str, str]]:
    # A BigVGAN alone has bare names, before which the host wants "vocoder.". A Vocos has none in the host.
    if not any(key.startswith(("vocoder.", "backbone.", "head.")) for key in vocoder):
        vocoder = {f"vocoder.{key}": value for key, value in vocoder.items()}
    twice = sorted(set(sd) & set(vocoder))
    if twice:
        raise ValueError(
            f"the VAE file and the vocoder file both have the key {twice[0]}: "
            "choose no vocoder file, or another one"
        )
    return {**sd, **vocoder}, {**vocoder_metadata, **metadata}
