"""CCLTrimAV and CCLJoinAV: latents of video and sound cut and joined in time."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from comfy.sd import VAE
from comfy_api.latest import io

from ..ccl_core.host.media.cut import join_in_time, trim
from ..ccl_core.host.media.latents import AVLatent, frame_rate, join, require_finite, split
from ..ccl_core.host.media.masks import Part
from ..ccl_core.host.media.states import settled
from .inputs import latent_fps_input, part_inputs, seconds_input
from .node import CCLNode

CATEGORY = "CCL/latent"


class CCLTrimAV(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLTrimAV",
            display_name="Trim Audio-Video (CCL)",
            category=CATEGORY,
            description="A part of a latent by seconds, video and sound cut at one place.",
            search_aliases=[
                *("trim video latent", "trim latent with sound", "cut latent", "cut audio latent"),
                *("shorten clip", "last seconds", "split latent in time", "crop video in time"),
            ],
            inputs=[
                io.Latent.Input("latent", tooltip="An audio-video latent, or a plain Wan video latent."),
                *part_inputs(),
                io.Vae.Input(
                    "video_vae",
                    optional=True,
                    tooltip="The model's video VAE, for a part that does not start with the clip: its first "
                    "picture is made anew.",
                ),
                latent_fps_input(),
            ],
            outputs=[io.Latent.Output("latent", tooltip="The part, with its masks.")],
        )

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        start_time: float,
        end_time: float,
        video_vae: VAE | None = None,
        fps: float = 0.0,
    ) -> io.NodeOutput:
        av = split(latent)
        require_finite(av, "latent")
        return io.NodeOutput(
            join(_untasked(trim(av, frame_rate(av, fps), Part.typed(start_time, end_time), video_vae)))
        )


class CCLJoinAV(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLJoinAV",
            display_name="Join Audio-Video (CCL)",
            category=CATEGORY,
            description="Two latents one behind the other, with an overlap that is faded from the first to "
            "the second, picture and sound. Puts a continuation behind its clip.",
            search_aliases=[
                *(
                    "join clips",
                    "join latents",
                    "concatenate clips",
                    "concat video with sound",
                    "append video",
                ),
                *("extend video", "extend video with sound", "cross-fade", "crossfade", "merge clips"),
            ],
            inputs=[
                io.Latent.Input("first", tooltip="The clip in front."),
                io.Latent.Input("second", tooltip="The clip behind it, of the same size, batch and model."),
                seconds_input(
                    "overlap",
                    1.0,
                    "Seconds that both clips share. Of a continuation: the seconds that Set Task (CCL) kept. "
                    "0: the second begins with the last picture of the first.",
                ),
                latent_fps_input(),
            ],
            outputs=[io.Latent.Output("latent", tooltip="Both clips as one.")],
        )

    @classmethod
    def execute(
        cls, first: dict[str, Any], second: dict[str, Any], overlap: float, fps: float = 0.0
    ) -> io.NodeOutput:
        clips = split(first), split(second)
        for name, clip in zip(("first", "second"), clips, strict=True):
            require_finite(clip, name)
        # A NaN compares false too.
        if not 0 <= overlap <= 600:
            raise ValueError(f"overlap is {overlap}: give 0 to 600 seconds")
        exact = Fraction(overlap).limit_denominator(1_000_000)
        return io.NodeOutput(join(_untasked(join_in_time(*clips, frame_rate(clips[0], fps), exact))))


def _untasked(av: AVLatent) -> AVLatent:
    """Without the task and the originals of the whole clip."""
    return settled(replace(av, rest={name: value for name, value in av.rest.items() if name != "task"}))
