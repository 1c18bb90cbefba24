"""CCLInspectAV: what a latent is, in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui

from ..ccl_core.host.media.describe import describe
from ..ccl_core.host.media.latents import frame_rate, read, with_audio_rate
from ..ccl_core.notices import told
from .inputs import any_latent_tooltip, audio_rate_input, latent_fps_input
from .node import CCLNode


class CCLInspectAV(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLInspectAV",
            display_name="Inspect Audio-Video (CCL)",
            category="CCL/latent",
            description="Says what a latent is: whose, its streams, shapes, seconds and rates, by how much "
            "sound and video differ, its task and its masks.",
            search_aliases=[
                *("inspect latent", "latent info", "latent shape", "show latent", "debug latent"),
                *("latent length", "latent duration", "audio video mismatch", "what is in a latent"),
            ],
            is_output_node=True,
            inputs=[
                io.Latent.Input("latent", tooltip=any_latent_tooltip()),
                latent_fps_input(),
                audio_rate_input(),
            ],
            outputs=[io.String.Output("report", tooltip="The text; it also stands on the node.")],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], fps: float = 0.0, audio_rate: float = 0.0) -> io.NodeOutput:
        av = with_audio_rate(read(latent), audio_rate)
        if fps and av.video is not None:
            av = replace(av, fps=float(frame_rate(av, fps)))
        text = describe(av)
        told(text)
        return io.NodeOutput(text, ui=ui.PreviewText(text))
