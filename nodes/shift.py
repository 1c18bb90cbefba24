"""CCLStreamShift: the sigma shift of each stream."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..ccl_core.host.audio_shift import schedule_of
from ..ccl_core.host.base_model import CCLModel
from .inputs import model_input, titles
from .node import CCLNode


def _shift_input(stream: str, tooltip: str) -> io.Float.Input:
    # 5 is what Ovi and MOVA were published with.
    return io.Float.Input(
        f"{stream}_shift", default=5.0, min=0.01, max=100.0, step=0.01, round=0.001, tooltip=tooltip
    )


class CCLStreamShift(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLStreamShift",
            display_name="Stream Shift (CCL)",
            category="CCL/sampling",
            description="A sigma shift for the video and one for the audio: how long each stays at high "
            "noise.",
            search_aliases=[
                "audio shift",
                "sigma shift per stream",
                "visual shift",
                "dual sigma shift",
                "ModelSamplingSD3",
            ],
            inputs=[
                model_input(),
                _shift_input(
                    "video",
                    "Shift of the schedule, as in ModelSamplingSD3: more spends more steps on layout.",
                ),
                _shift_input(
                    "audio", "Shift of the audio on the same steps. Equal to video_shift: one noise level."
                ),
            ],
            outputs=[io.Model.Output("model", tooltip="The model with these schedules.")],
        )

    @classmethod
    def execute(cls, model: Any, video_shift: float, audio_shift: float) -> io.NodeOutput:
        if not isinstance(model.model, CCLModel):
            raise ValueError(
                f"model: got {type(model.model).__name__}, which has no audio stream of this pack: "
                f"load a joint model ({titles(', ')}), or use ModelSamplingSD3"
            )
        shifted = model.clone()
        shifted.add_object_patch(
            "model_sampling", schedule_of(model.model.model_config, video_shift, audio_shift)
        )
        # For a node of the host behind this one that replaces the schedule: the audio keeps its shift.
        shifted.add_object_patch("audio_shift", audio_shift)
        return io.NodeOutput(shifted)
