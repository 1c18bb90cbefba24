"""An all-in-one file in small: the tiny model, both VAEs and a text encoder with its vocabulary."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

from ccl_pack.ccl_core.metadata import write_config
from ccl_pack.ccl_core.training.tiny.text_encoder import TextRecipe, build_encoder
from support.tiny import CONFIG, config, state_dict
from support.tiny_vaes import audio_vae, video_vae
from support.vocabulary import train_words

TEXT = TextRecipe(vocab_size=320, d_model=CONFIG.video.text_dim, num_layers=1, num_heads=2, d_kv=8, d_ff=32)


def write(path: Path) -> Path:
    """The file, with the configuration of all parts in its metadata."""
    chosen = config(text_encoder={"umt5xxl_model_config": TEXT.model_config(), "min_length": 12})
    save_file(dict(_tensors()), path, metadata={"ccl_config": write_config(chosen)})
    return path


@cache
def _tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    vocabulary = torch.frombuffer(bytearray(train_words(TEXT.vocab_size)), dtype=torch.uint8)
    parts = {
        "": state_dict(CONFIG),
        "vae.": video_vae().first_stage_model.state_dict(),
        "audio_vae.": audio_vae().first_stage_model.state_dict(),
        "text_encoders.": build_encoder(TEXT).state_dict() | {"spiece_model": vocabulary},
    }
    return {
        prefix + key: value.detach().clone()
        for prefix, tensors in parts.items()
        for key, value in tensors.items()
    }
