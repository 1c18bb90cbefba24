"""CCLDualPrompt: one conditioning with a text for the video stream and another for the audio stream."""

from __future__ import annotations

from typing import Any

import comfy.conds
from comfy_api.latest import io

from ..ccl_core.host.texts import REFERENCE_AUDIO, REFERENCE_IMAGE, StreamTexts
from ..ccl_core.notices import notice
from .node import CCLNode

# What the host keeps beside a text and applies to a whole entry, so to both streams.
SHARED = ("start_percent", "end_percent", "strength", "area", "mask")

# What nodes attach to a text.
ATTACHED = (
    *("hooks", "control", "concat_latent_image", "clip_vision_output"),
    *(REFERENCE_IMAGE, REFERENCE_AUDIO),
)

Conditioning = list[list[Any]]


def dual_prompt(video: Conditioning, audio: Conditioning) -> Conditioning:
    """The video conditioning with the audio's text in each of its entries."""
    for name, conditioning in (("video_conditioning", video), ("audio_conditioning", audio)):
        if not conditioning:
            raise ValueError(f"{name} holds no conditioning: connect a text encoder, an empty prompt will do")
    if len(audio) not in (1, len(video)):
        raise ValueError(
            f"audio_conditioning has {len(audio)} entries, video_conditioning {len(video)}: use one audio "
            "prompt or as many as of the video"
        )
    # One audio text serves every entry of the video (areas, time ranges).
    entries = audio * len(video) if len(audio) == 1 else audio
    return [_pair(*entry, *other) for entry, other in zip(video, entries, strict=True)]


def _pair(text: Any, extra: dict[str, Any], audio_text: Any, audio_extra: dict[str, Any]) -> list[Any]:
    carried = [name for name in SHARED if name in audio_extra]
    lost = [name for name in carried if not comfy.conds.is_equal(audio_extra[name], extra.get(name))]
    if lost:
        raise ValueError(
            f"audio_conditioning carries {', '.join(lost)}, which a sampler applies to both streams: "
            "set it behind CCLDualPrompt, or on video_conditioning"
        )
    unused = [name for name in ATTACHED if audio_extra.get(name) is not None]
    if unused:
        notice(
            f"audio_conditioning carries {', '.join(unused)}, of which nothing is used beside its text: set "
            "it on video_conditioning"
        )
    return [StreamTexts.join(text, audio_text), dict(extra)]


class CCLDualPrompt(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLDualPrompt",
            display_name="Dual Prompt (CCL)",
            category="CCL/conditioning",
            description="Gives the audio stream a text of its own. Without it both streams read the same "
            "prompt.",
            search_aliases=[
                "audio prompt",
                "prompt for sound",
                "separate audio text",
                "negative prompt per stream",
            ],
            inputs=[
                io.Conditioning.Input(
                    "video_conditioning", tooltip="Text of the video stream; its images and hooks are kept."
                ),
                io.Conditioning.Input(
                    "audio_conditioning", tooltip="Text of the audio stream. Only its text is used."
                ),
            ],
            outputs=[
                io.Conditioning.Output("conditioning", tooltip="For positive or negative of a sampler.")
            ],
        )

    @classmethod
    def execute(cls, video_conditioning: Conditioning, audio_conditioning: Conditioning) -> io.NodeOutput:
        return io.NodeOutput(dual_prompt(video_conditioning, audio_conditioning))
