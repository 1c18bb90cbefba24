"""CCLStoryboard: prompts that hold one after the other, for the loop sampler."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from comfy_api.latest import io

from ..ccl_core.host.storyboard import read_lines, timed
from .inputs import FROM_MODEL, model_input, phrases
from .node import CCLNode
from .prompts import PROMPT_TOOLTIP, CCLPrompt, text_input, variant_input

EXAMPLE = "0: a red ball bounces, drum\n4: a blue square slides, bell"


class CCLStoryboard(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        own = "Empty: the one the model was published with. A space: none."
        return io.Schema(
            node_id="CCLStoryboard",
            display_name="Storyboard (CCL)",
            category="CCL/conditioning",
            description="Prompts by the second: what is seen, heard and said from when on. For Loop Sampler "
            "(CCL).",
            search_aliases=[
                *("storyboard", "prompt schedule", "prompt travel", "timed prompts", "prompt by time"),
                *("several scenes", "scene list", "long video prompt", "change prompt in video"),
                *phrases("{model} storyboard"),
            ],
            inputs=[
                model_input("The joint model the texts are for"),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.String.Input(
                    "lines",
                    multiline=True,
                    dynamic_prompts=True,
                    default=EXAMPLE,
                    tooltip='A line "seconds: prompt" for each scene, the first at 0. A line without seconds '
                    f"goes on with the one above. {PROMPT_TOOLTIP}",
                ),
                text_input("negative_prompt", f"What the video should not show. {own}", optional=True),
                text_input("negative_sound", f"What the sound should not have. {own}", optional=True),
                variant_input(),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="For positive of Loop Sampler (CCL)."),
                io.Conditioning.Output("negative", tooltip="For its negative: one for all scenes."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        clip: CLIP,
        lines: str,
        negative_prompt: str = "",
        negative_sound: str = "",
        variant: str = FROM_MODEL,
    ) -> io.NodeOutput:
        _require_joint(model)
        positive: list[list[Any]] = []
        negative: list[list[Any]] = []
        avoided = {"negative_prompt": negative_prompt, "negative_sound": negative_sound}
        for seconds, prompt in read_lines(lines):
            scene, negative = CCLPrompt.execute(model, clip, prompt, **avoided, variant=variant).result
            positive += timed(scene, seconds)
        return io.NodeOutput(positive, negative)


def _require_joint(model: ModelPatcher) -> None:
    """ValueError for a model whose other samplers would mix the scenes, as they do not know of them."""
    if getattr(model.model, "ccl_config", None) is None:
        raise ValueError(
            f"model: got {type(model.model).__name__}, and a storyboard is for a joint model of this pack: "
            "load one with CCLCheckpointLoader or CCLModelLoader"
        )
