"""CCL (arXiv 2603.18600), in the form of the embedded ccl-tiny: no other weights are published.

Every size and rate is stated in the `ccl_config` of a file.
"""

from __future__ import annotations

from ..guidance import TermScale
from .base import DIRECTIONS, MODEL, STREAMS, Content, Family, LoraNames, Preset, Sampling

CCL = Family(
    title="CCL",
    coupling="cca",
    modules=frozenset(("norm_x", "norm_y", "q", "k", "v", "o", "norm_q", "norm_k", "context")),
    contents=(
        Content(MODEL, "a CCL model"),
        Content(DIRECTIONS, "an interaction of CCL"),
        Content(
            STREAMS,
            "two streams without an interaction",
            "choose it as the video model of CCLModelAssembler, and an interaction beside it",
        ),
        Content(frozenset(("audio",)), "an audio stream"),
    ),
    other_files={"backbone.embed.weight": "a Vocos vocoder: use CCLAudioVAELoader"},
    # DCR is by the region: what is kept reads its anchor, at the time of a clean latent.
    token_times=STREAMS,
    fp16=True,
    lora=LoraNames(low_noise=("low_noise.",)),
    presets=(Preset("ccl-tiny", 64, 64, frames=33, video_dim=160),),
    files={
        "ckpt_name": "ccl-tiny.safetensors comes with this pack",
        "unet_name": "a file with both streams and their interaction",
        "audio_stream": "its audio stream",
        "interaction": "its interaction",
        "vae_name": "mel spectrograms with a Vocos vocoder",
    },
    sampling=Sampling(
        mode="ucg_joint",
        settings={"joint": TermScale(3.0, 3.0)},
        steps=30,
        sampler_name="euler_ancestral",
    ),
)
