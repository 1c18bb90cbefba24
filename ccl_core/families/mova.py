"""MOVA (arXiv 2602.08794): two experts of Wan 2.2 14B and an audio tower, coupled by a bridge."""

from __future__ import annotations

from fractions import Fraction

from ..config import AudioLatentConfig
from ..guidance import TermScale
from .base import (
    DIRECTIONS,
    MODEL,
    Content,
    Download,
    Family,
    Folder,
    LoraNames,
    Preset,
    PromptStyle,
    Sampling,
)
from .wan import NEGATIVE

# Four parts: a repack has the name of its part before every key, a file of one part has not.
RENAMES = (
    (r"^video_dit_2\.", "low_noise."),
    (r"^video_dit\.", ""),
    (r"^audio_dit\.", "audio."),
    (r"^dual_tower_bridge\.", ""),
    (r"^audio_to_video_conditioners\.(\d+)\.", r"interaction.\1.a2v."),
    (r"^video_to_audio_conditioners\.(\d+)\.", r"interaction.\1.v2a."),
    (r"^(interaction\.\d+\.\w+\.)y_norm\.", r"\1norm_y."),
    (r"^(interaction\.\d+\.\w+\.)inner\.", r"\1"),
)
INNER = ("q", "k", "v", "o", "norm_q", "norm_k")
FOLDERS = {
    "video_dit": Folder("video", {"num_heads": "num_heads"}),
    "video_dit_2": Folder("video"),
    "audio_dit": Folder("audio", {"num_heads": "num_heads"}),
    "dual_tower_bridge": Folder(
        "options", {"head_dim": "head_width", "apply_first_frame_bias_in_rope": "first_frame_bias"}
    ),
}

MOVA = Family(
    title="MOVA",
    coupling="bridge",
    modules=frozenset(("norm_y", *INNER)),
    mark=r"(?:^|\.)audio_to_video_conditioners\.",
    renames=RENAMES,
    contents=(Content(MODEL, "a MOVA model"), Content(DIRECTIONS, "the bridge of MOVA")),
    other_files={"decoder.model.7.weight": "MOVA's audio VAE: use CCLAudioVAELoader"},
    published={
        "fps": Fraction(24),
        "audio_latent": AudioLatentConfig("dac", 128, Fraction(50), 48000),
        "clock": "causal",
        "shift": 5.0,
        "expert_boundary": 0.9,
    },
    streams={"video": {}, "audio": {"rope": "token"}},
    # The bridge projects hidden states that no norm has brought down to the range of fp16.
    fp16=False,
    lora=LoraNames(
        video=("video_dit.",),
        low_noise=("video_dit_2.",),
        audio=("audio_dit.",),
        coupling={
            "a2v": ("dual_tower_bridge.audio_to_video_conditioners.{layer}.{weight}",),
            "v2a": ("dual_tower_bridge.video_to_audio_conditioners.{layer}.{weight}",),
        },
        weights={"norm_y": "y_norm"} | {name: f"inner.{name}" for name in INNER},
        whole_file_alpha=("video_dit.", "video_dit_2.", "audio_dit.", "dual_tower_bridge."),
    ),
    prompts=(
        PromptStyle(
            "MOVA",
            speech=None,
            audio=("The audio shows ", ""),
            gap="\n\n",
            lead="This video has no subtitles.",
        ),
    ),
    presets=(
        Preset("MOVA 360p", 640, 352, frames=193, audio_tokens=403),
        Preset("MOVA 720p", 1280, 720, frames=193, audio_tokens=403),
    ),
    folders=FOLDERS,
    downloads=tuple(
        Download(f"OpenMOSS-Team/{name}", tuple(FOLDERS), 65.3, "Apache-2.0")
        for name in ("MOVA-360p", "MOVA-720p")
    ),
    files={
        "unet_name": "its parts repacked into one file",
        "video_model": "video_dit",
        "audio_stream": "audio_dit",
        "interaction": "dual_tower_bridge",
        "low_noise_model": "video_dit_2",
        "vae_name": "the file of its folder audio_vae (DAC)",
    },
    sampling=Sampling(
        mode="cfg",
        settings={"text": TermScale(5.0, 5.0)},
        steps=50,
        sampler_name="euler",
        negative=NEGATIVE,
    ),
)
