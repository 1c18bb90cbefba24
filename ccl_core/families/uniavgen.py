"""UniAVGen (arXiv 2511.03334): Wan 2.2 5B and an audio tower of its layers, coupled asymmetrically.

No weights are public. Rates and sizes of a file stand in its `ccl_config`.
"""

from __future__ import annotations

from fractions import Fraction

from ..config import AudioLatentConfig
from ..guidance import default_settings
from .base import DIRECTIONS, MODEL, STREAMS, Content, Family, LoraNames, Sampling

UNIAVGEN = Family(
    title="UniAVGen",
    coupling="asymmetric",
    modules=frozenset(("norm_x", "norm_y", "q", "k", "v", "o", "norm_q", "norm_k", "face")),
    contents=(
        Content(MODEL, "a UniAVGen model"),
        Content(DIRECTIONS, "an asymmetric interaction"),
    ),
    # A condition is a clean latent before what is made, and the coupling does not change it.
    token_times=STREAMS,
    # The mel of Vocos at 24 kHz: 100 bands, a hop of 256 samples.
    published={
        "fps": Fraction(16),
        "audio_latent": AudioLatentConfig("vocos", 100, Fraction(375, 4), 24000),
        "clock": "causal",
        "shift": 5.0,
    },
    streams={"video": {"references": True}, "audio": {"references": True}},
    fp16=True,
    lora=LoraNames(low_noise=("low_noise.",)),
    files={
        "unet_name": "a file with both streams and their interaction",
        "audio_stream": "its audio stream",
        "interaction": "its interaction",
        "vae_name": "mel spectrograms with a Vocos vocoder",
    },
    sampling=Sampling(mode="ma_cfg", settings=default_settings("ma_cfg"), steps=50, sampler_name="euler"),
)
