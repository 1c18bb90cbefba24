"""CCLTrimAV and CCLJoinAV: latents of video and sound cut and joined in time."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from comfy.sd import VAE
from comfy_api.latest import io

from ..ccl_core.host.media.cut import join_in_time, require_alike, trim
from ..ccl_core.host.media.latents import AUDIO_RATE, AVLatent, join, read, require_finite, timed
from ..ccl_core.host.media.masks import Part
from ..ccl_core.host.media.states import settled
from .inputs import any_latent_tooltip, audio_rate_input, latent_fps_input, part_inputs, seconds_input
from .node import CCLNode

CATEGORY = "CCL/latent"


class CCLTrimAV(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLTrimAV",
            display_name="Trim Audio-Video (CCL)",
            category=CATEGORY,
            description="A part of a latent by seconds, video and sound cut at one place; of any model with "
            "sound.",
            search_aliases=[
                *("trim video latent", "trim latent with sound", "cut latent", "cut audio latent"),
                *("shorten clip", "last seconds", "split latent in time", "crop video in time"),
            ],
            inputs=[
                io.Latent.Input("latent", tooltip=any_latent_tooltip()),
                *part_inputs(),
                io.Vae.Input(
                    "video_vae",
                    optional=True,
                    tooltip="The model's video VAE, for a part that does not start with the clip: its first "
                    "picture is made anew.",
                ),
                latent_fps_input(),
                audio_rate_input(),
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
        audio_rate: float = 0.0,
    ) -> io.NodeOutput:
        av, rate = timed(read(latent), fps, audio_rate)
        require_finite(av, "latent")
        return io.NodeOutput(join(_untasked(trim(av, rate, Part.typed(start_time, end_time), video_vae))))


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
                audio_rate_input(),
            ],
            outputs=[io.Latent.Output("latent", tooltip="Both clips as one.")],
        )

    @classmethod
    def execute(
        cls,
        first: dict[str, Any],
        second: dict[str, Any],
        overlap: float,
        fps: float = 0.0,
        audio_rate: float = 0.0,
    ) -> io.NodeOutput:
        clips = read(first), read(second)
        for name, clip in zip(("first", "second"), clips, strict=True):
            require_finite(clip, name)
        # A NaN compares false too.
        if not 0 <= overlap <= 600:
            raise ValueError(f"overlap is {overlap}: give 0 to 600 seconds")
        exact = Fraction(overlap).limit_denominator(1_000_000)
        require_alike(*clips)
        # What one of them does not say the other one does.
        typed = fps or clips[1].fps or 0.0, audio_rate or clips[1].rest.get(AUDIO_RATE) or 0.0
        one, rate = timed(clips[0], *typed)
        two = replace(clips[1], rest={**one.rest, **clips[1].rest})
        return io.NodeOutput(join(_untasked(join_in_time(one, two, rate, exact))))


def _untasked(av: AVLatent) -> AVLatent:
    """Without the task and the originals of the whole clip."""
    return settled(replace(av, rest={name: value for name, value in av.rest.items() if name != "task"}))
