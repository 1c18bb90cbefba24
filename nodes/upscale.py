"""CCLUpscaleAV: the picture of a latent made larger for a second pass, its sound kept."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from comfy.sd import VAE
from comfy_api.latest import io

from ..ccl_core.host.media.latents import join, require_finite, split
from ..ccl_core.host.media.upscale import upscaled
from .node import CCLNode

# Those of the host's LatentUpscaleBy, bicubic first.
METHODS = ["bicubic", "bilinear", "nearest-exact", "area", "bislerp"]


class CCLUpscaleAV(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLUpscaleAV",
            display_name="Upscale Audio-Video (CCL)",
            category="CCL/latent",
            description="Makes the picture of a latent larger for a second pass of the sampler, and keeps "
            "its sound to the bit.",
            search_aliases=[
                *("upscale video latent", "upscale latent with sound", "latent upscale audio video"),
                *("two stage", "second pass", "hires fix", "hires fix video", "upscale and keep sound"),
                *("larger video", "upscale video with sound"),
            ],
            inputs=[
                io.Latent.Input(
                    "latent", tooltip="What a first pass made: an audio-video latent, or a plain Wan one."
                ),
                io.Combo.Input(
                    "upscale_method", options=METHODS, tooltip="How new pixels come of those around them."
                ),
                io.Float.Input(
                    "scale_by",
                    default=2.0,
                    min=1.0,
                    max=8.0,
                    step=0.01,
                    tooltip="So many times as wide and as high, to the nearest whole patch of the model.",
                ),
                io.Vae.Input(
                    "video_vae",
                    optional=True,
                    tooltip="The model's video VAE: the pictures are enlarged instead of their latents, "
                    "which needs less denoise and takes a decoding and an encoding.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    tooltip="For a sampler with a denoise below 1, about .5: the picture is renewed, the "
                    "sound is given.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, latent: dict[str, Any], upscale_method: str, scale_by: float, video_vae: VAE | None = None
    ) -> io.NodeOutput:
        av = split(latent)
        require_finite(av, "latent")
        # A NaN compares false too.
        if not 1 <= scale_by <= 8:
            raise ValueError(f"scale_by is {scale_by}: give 1 to 8")
        factor = Fraction(scale_by).limit_denominator(1000)
        return io.NodeOutput(join(upscaled(av, factor, upscale_method, video_vae)))
