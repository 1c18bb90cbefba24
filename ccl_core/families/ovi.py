"""Ovi 1.0 and 1.1 (arXiv 2510.01284): two towers of Wan 2.2 5B's size, coupled inside their text attention.

The published files have the same keys and shapes: only their names tell the versions apart.
"""

from __future__ import annotations

from fractions import Fraction

from ..config import AudioLatentConfig
from ..guidance import TermScale
from .base import MODEL, Content, Family, LoraNames, Preset, PromptStyle, Sampling

# The coupling stands inside each stream's text attention.
RENAMES = (
    (r"^video_model\.", ""),
    (r"^audio_model\.", "audio."),
    (r"^blocks\.(\d+)\.cross_attn\.(?=\w+_fusion\.)", r"interaction.\1.a2v."),
    (r"^audio\.blocks\.(\d+)\.cross_attn\.(?=\w+_fusion\.)", r"interaction.\1.v2a."),
    (r"^(interaction\.\d+\.\w+\.)pre_attn_norm_fusion\.", r"\1norm_y."),
    (r"^(interaction\.\d+\.\w+\.)(k|v|norm_k)_fusion\.", r"\1\2."),
    (r"^((?:audio\.)?blocks\.\d+\.modulation)\.modulation$", r"\1"),
)

OVI = Family(
    title="Ovi",
    coupling="fusion",
    modules=frozenset(("norm_y", "k", "v", "norm_k")),
    mark=r"\.cross_attn\.k_fusion\.",
    renames=RENAMES,
    contents=(
        Content(MODEL, "an Ovi model"),
        Content(frozenset(("video", "a2v")), "the video part of Ovi"),
        Content(frozenset(("audio", "v2a")), "the audio part of Ovi"),
    ),
    other_files={"vocoder.conv_post.weight": "the audio VAE of Ovi: use CCLAudioVAELoader"},
    # Its video is Wan 2.2 5B's, whose first frame may be given, at time 0.
    token_times=frozenset(("video",)),
    published={
        "fps": Fraction(24),
        "audio_latent": AudioLatentConfig("mmaudio", 20, Fraction(125, 4), 16000),
        "clock": "linear",
        "clock_scale": 0.19676,
        "shift": 5.0,
    },
    streams={"video": {"text_len": 512}, "audio": {"text_len": 512}},
    # fp16 turns the video black.
    fp16=False,
    lora=LoraNames(
        video=("video_model.",),
        audio=("audio_model.",),
        block={"modulation": "modulation.modulation"},
        coupling={
            "a2v": ("blocks.{layer}.cross_attn.{weight}", "video_model.blocks.{layer}.cross_attn.{weight}"),
            "v2a": ("audio_model.blocks.{layer}.cross_attn.{weight}",),
        },
        weights={
            "k": "k_fusion",
            "v": "v_fusion",
            "norm_y": "pre_attn_norm_fusion",
            "norm_k": "norm_k_fusion",
        },
    ),
    prompts=(
        PromptStyle("Ovi 1.1 (960)", speech=("<S>", "<E>"), audio=("Audio: ", "")),
        PromptStyle("Ovi 1.0 (720, 5 s)", speech=("<S>", "<E>"), audio=("<AUDCAP>", "<ENDAUDCAP>")),
    ),
    presets=(
        Preset("Ovi 960, 5 s", 960, 960, frames=121, audio_tokens=157),
        Preset("Ovi 960, 10 s", 960, 960, frames=241, audio_tokens=314),
        Preset("Ovi 720, 5 s", 704, 704, frames=121, audio_tokens=157),
    ),
    files={
        "unet_name": "one file, as published, in fp8, or repacked",
        "video_model": "its video file",
        "audio_stream": "its audio file",
        "vae_name": "mmaudio_vae_16k (MMAudio; CC-BY-NC-4.0: no commercial use)",
        "vocoder_name": "mmaudio_vocoder_bigvgan_best_netG",
    },
    sampling=Sampling(
        mode="cfg",
        settings={"text": TermScale(4.0, 3.0)},
        steps=50,
        sampler_name="uni_pc_bh2",
        skip_layers=(11,),
        negative="jitter, bad hands, blur, distortion",
        audio_negative="robotic, muffled, echo, distorted",
    ),
)
