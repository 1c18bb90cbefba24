"""CCLLoraLoader: a LoRA on a joint model, with a strength for each of its parts."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..ccl_core.host.files.lora import BOTH, EXPERTS, Strengths, apply_lora
from .files import path_of, safetensors_in
from .inputs import model_input, phrases, titles
from .node import CCLNode

# In the order of the fields of Strengths.
STRENGTHS = {
    "strength_video": "How strongly the LoRA changes the video stream. 0 leaves it as it is, negative is the "
    "opposite.",
    "strength_audio": "How strongly the LoRA changes the audio stream. 0 mutes what the LoRA does to the "
    "sound.",
    "strength_coupling": "How strongly the LoRA changes how picture and sound hear each other. 0 leaves that "
    "as it is.",
}


class CCLLoraLoader(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = safetensors_in("loras")
        strengths = [
            io.Float.Input(name, default=1.0, min=-100.0, max=100.0, step=0.01, tooltip=tooltip)
            for name, tooltip in STRENGTHS.items()
        ]
        return io.Schema(
            node_id="CCLLoraLoader",
            display_name=f"Load LoRA ({titles()})",
            category="CCL/loaders",
            description="Puts a LoRA on a joint audio-video model, with a strength of its own for video, "
            f"audio and coupling. Reads LoRAs for Wan, {titles(', ')}; several nodes in a row add up.",
            search_aliases=[
                *("load lora", "audio video lora", "lora with sound", "mute lora audio"),
                *phrases("{model} lora", "load {model} lora"),
            ],
            inputs=[
                model_input(),
                io.Combo.Input("lora_name", options=files, tooltip="A safetensors file in models/loras."),
                *strengths,
                io.Combo.Input(
                    "expert",
                    options=list(EXPERTS),
                    default=BOTH,
                    optional=True,
                    advanced=True,
                    tooltip="Which video expert of a model with two (as in Wan 2.2 A14B) takes the video "
                    "part. LoRAs for those often come as two files: use one node for each.",
                ),
            ],
            outputs=[
                io.Model.Output("model", tooltip="The model with the LoRA on it; the input is not changed.")
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        lora_name: str,
        strength_video: float = 1.0,
        strength_audio: float = 1.0,
        strength_coupling: float = 1.0,
        expert: str = BOTH,
    ) -> io.NodeOutput:
        path = path_of("loras", lora_name)
        strengths = Strengths(strength_video, strength_audio, strength_coupling)
        return io.NodeOutput(apply_lora(model, path, strengths, expert))
