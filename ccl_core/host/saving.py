"""What the host's ModelSave and CheckpointSave cannot know of a joint model."""

from __future__ import annotations

import comfy.sd
import comfy.supported_models_base
from torch import Tensor

from ..notices import notice


def require_writable(model_config: comfy.supported_models_base.BASE) -> None:
    """ValueError for a model of a GGUF file, whose layers are another pack's."""
    if model_config.custom_operations is not None:
        raise ValueError(
            "This model comes from a GGUF file, whose weights ComfyUI cannot write: the file would hold "
            "no usable ones. Load the fp8, int8 or bf16 safetensors of the model and save that"
        )


def sound_weights(audio_vae: comfy.sd.VAE | None) -> dict[str, Tensor]:
    """The audio VAE under the names of an all-in-one file; a notice where a checkpoint gets none."""
    if audio_vae is None:
        notice(
            "The checkpoint is saved without an audio VAE: the model does not come from "
            "Load Audio-Video Checkpoint (CCL), and CheckpointSave takes one VAE, the picture's. Save the "
            "sound's by VAESave, and load the parts by CCLModelLoader, CLIPLoader, VAELoader and "
            "CCLAudioVAELoader."
        )
        return {}
    return {f"audio_vae.{key}": value for key, value in audio_vae.get_sd().items()}
