"""CCLFaceModulation, CCLFaceMask, CCLSpeakerMasks: the face mask of a coupling, changed, seen and made."""

from __future__ import annotations

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..ccl_core.alignment.timeline import frames_of
from ..ccl_core.host.base_model import CCLModel
from ..ccl_core.host.face_mask import has_face_mask, look_at_mask, overlay, with_face_modulation
from ..ccl_core.host.media.latents import frame_rate, model_grid, require_finite, split
from ..ccl_core.host.media.speakers import mixed, speaker_mask
from ..ccl_core.notices import notice
from .inputs import latent_fps_input, model_input, titles
from .node import CCLNode


class CCLFaceModulation(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLFaceModulation",
            display_name="Face Modulation (CCL)",
            category="CCL/sampling",
            description="Where in the picture sound and video meet: the face mask that the model predicts, "
            "weaker, stronger, or a mask of your own. For models with a face mask, such as UniAVGen's.",
            search_aliases=[
                *("face mask", "face aware modulation", "lip sync mask", "speaker mask", "two speakers"),
                *("audio mask for face", "who is talking"),
            ],
            inputs=[
                model_input(),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    tooltip="Factor of the mask. 1: as predicted. 0: nothing of one stream comes through to "
                    "the other. Above 1: more of the face takes part; a mask ends at 1.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="In the place of the predicted one: white where sound and video meet. One "
                    "picture, or one for each frame of the video; any size.",
                ),
            ],
            outputs=[io.Model.Output("model", tooltip="The model with this face mask.")],
        )

    @classmethod
    def execute(cls, model: Any, strength: float, mask: torch.Tensor | None = None) -> io.NodeOutput:
        if not _has_mask(model):
            notice(f"{_NO_MASK}, so that strength and mask change nothing")
            return io.NodeOutput(model)
        return io.NodeOutput(with_face_modulation(model, strength, mask))


_NO_MASK = "this model has no face mask (all of the picture meets the sound)"


def _has_mask(model: ModelPatcher) -> bool:
    """Whether a joint model has a face mask; ValueError for another model."""
    if not isinstance(model.model, CCLModel):
        raise ValueError(
            f"model: got {type(model.model).__name__}, which has no coupling of this pack: load a joint "
            f"model ({titles(', ')})"
        )
    return has_face_mask(model.model.ccl_config)


class CCLFaceMask(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLFaceMask",
            display_name="Show Face Mask (CCL)",
            category="CCL/sampling",
            description="The face mask that a model predicts, over the video: one pass of the model, the "
            "mean of its layers.",
            search_aliases=["preview face mask", "face mask overlay", "attention on face", "face region"],
            inputs=[
                model_input(),
                io.Conditioning.Input("positive", tooltip="The text of the clip."),
                io.Latent.Input("latent", tooltip="A finished latent with sound, or any other."),
                io.Float.Input(
                    "sigma",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    tooltip="The noise level at which the model is asked; noise is added for it. Low shows "
                    "the clip as it is.",
                ),
                io.Image.Input(
                    "images", optional=True, tooltip="The decoded clip, over which the mask is shown."
                ),
            ],
            outputs=[
                io.Mask.Output("mask", tooltip="The mask of each frame, in the video's size."),
                io.Image.Output("image", tooltip="images, dark where the mask is black; the mask without."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list,
        latent: dict[str, Any],
        sigma: float,
        images: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        av = split(latent)
        require_finite(av, "latent")
        if _has_mask(model):
            mask = look_at_mask(model, positive, latent, sigma)
        else:
            notice(f"{_NO_MASK}: the mask is white")
            side = model_grid(model).spatial_stride
            clips, _, frames, height, width = av.video.shape
            mask = torch.ones(clips * frames_of(frames), height * side, width * side)
        return io.NodeOutput(mask, overlay(mask, images))


class CCLSpeakerMasks(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLSpeakerMasks",
            display_name="Speaker Masks (CCL)",
            category="CCL/latent",
            description="Two speakers in one clip: in each frame the mask of who speaks there, and both "
            "voices in one sound.",
            search_aliases=[
                *("two speakers", "multi speaker lip sync", "dialogue of two", "multitalk mask"),
                *("mask per voice", "mix two voices"),
            ],
            inputs=[
                io.Latent.Input("latent", tooltip="The latent that is sampled: its length and rate count."),
                *_speaker_inputs(1),
                *_speaker_inputs(2),
                latent_fps_input(),
            ],
            outputs=[
                io.Mask.Output("mask", tooltip="For Face Modulation (CCL), a mask for each frame."),
                io.Audio.Output("audio", tooltip="Both voices together, for Encode Audio-Video (CCL)."),
            ],
        )

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        mask_1: torch.Tensor,
        voice_1: dict[str, Any],
        mask_2: torch.Tensor,
        voice_2: dict[str, Any],
        fps: float = 0.0,
    ) -> io.NodeOutput:
        av = split(latent)
        frames = av.grid.video.before(av.video.shape[2])
        voices = voice_1, voice_2
        mask = speaker_mask((mask_1, mask_2), voices, frame_rate(av, fps), frames)
        return io.NodeOutput(mask, mixed(voices))


def _speaker_inputs(number: int) -> list[io.Input]:
    return [
        io.Mask.Input(
            f"mask_{number}",
            tooltip=f"Where speaker {number} is: white on the face. One picture, or one for each frame.",
        ),
        io.Audio.Input(f"voice_{number}", tooltip=f"What speaker {number} says, from the first frame on."),
    ]
