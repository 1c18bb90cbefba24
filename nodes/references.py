"""CCLReferences: the picture and the voice of a speaker, for models that read references (UniAVGen)."""

from __future__ import annotations

from typing import Any

import torch
from comfy.sd import VAE
from comfy_api.latest import io

from ..ccl_core.host.media.latents import AVLatent, require_finite, split
from ..ccl_core.host.media.references import kept_first_frame, reference_image, reference_voice
from ..ccl_core.host.texts import REFERENCE_AUDIO, REFERENCE_IMAGE
from ..ccl_core.host.vae.sockets import require_connected
from ..ccl_core.notices import told
from .conditioning import Conditioning
from .inputs import phrases
from .material import UNCONNECTED, connected_sound
from .node import CCLNode


class CCLReferences(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLReferences",
            display_name="Reference Image and Voice (CCL)",
            category="CCL/conditioning",
            description="Shows a model that reads references who speaks: a picture of the person, and the "
            "first second of a voice. UniAVGen's models do.",
            search_aliases=[
                *("reference image", "reference voice", "voice cloning", "clone voice", "speaker reference"),
                *("talking head", "talking face", "lip sync dubbing", "reference audio"),
                *phrases("{model} reference"),
            ],
            inputs=[
                io.Conditioning.Input("positive", tooltip="What to generate."),
                io.Conditioning.Input("negative", tooltip="What to move away from; it gets the same."),
                io.Latent.Input(
                    "latent",
                    tooltip="The latent that is sampled: it sets the size. Without an image, the first frame "
                    "that it keeps is the reference, as in dubbing.",
                ),
                io.Vae.Input("video_vae", optional=True, tooltip="The model's video VAE. Needed for image."),
                io.Vae.Input("audio_vae", optional=True, tooltip="The model's audio VAE. Needed for voice."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The person: one picture, or one for each clip. It is cut to the shape of the "
                    "video, around its middle.",
                ),
                io.Audio.Input(
                    "voice", optional=True, tooltip="A voice, 1 s or longer; its first second is heard."
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="For positive of a sampler."),
                io.Conditioning.Output("negative", tooltip="For negative of a sampler."),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        latent: dict[str, Any],
        video_vae: VAE | None = None,
        audio_vae: VAE | None = None,
        image: torch.Tensor | None = None,
        voice: dict[str, Any] | None = UNCONNECTED,
    ) -> io.NodeOutput:
        voice = connected_sound(voice, "voice")
        av = split(latent)
        require_finite(av, "latent")
        entries: dict[str, Any] = {}
        picture = _picture(av, video_vae, image)
        if picture is not None:
            entries[REFERENCE_IMAGE] = [picture]
        if voice is not None:
            vae = require_connected(audio_vae, "audio_vae", "voice")
            entries[REFERENCE_AUDIO] = reference_voice(av, vae, voice)
        if not entries:
            raise ValueError(
                "neither image nor voice is connected, and the latent keeps no first frame: connect one of "
                "them, or take the node out"
            )
        return io.NodeOutput(_with(positive, entries), _with(negative, entries))


def _picture(av: AVLatent, vae: VAE | None, image: torch.Tensor | None) -> torch.Tensor | None:
    """The reference image, else the first frame of a video that the latent keeps."""
    if image is not None:
        return reference_image(av, require_connected(vae, "video_vae", "image"), image)
    first = kept_first_frame(av)
    if first is not None:
        told("the first frame that the latent keeps is the reference image")
    return first


def _with(conditioning: Conditioning, entries: dict[str, Any]) -> Conditioning:
    return [[text, extra | entries] for text, extra in conditioning]
