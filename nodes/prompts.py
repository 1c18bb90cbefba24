"""CCLPromptTags: speech and audio description of a prompt in the marks that the chosen model was trained on."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..ccl_core.prompts import read_prompt, styles, write_prompt


def _option(name: str) -> io.DynamicCombo.Option:
    if not styles()[name].lead:
        return io.DynamicCombo.Option(name, [])
    no_subtitles = io.Boolean.Input(
        "no_subtitles",
        default=True,
        tooltip='Begin with "This video has no subtitles.", as the prompts MOVA was trained on do.',
    )
    return io.DynamicCombo.Option(name, [no_subtitles])


class CCLPromptTags(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLPromptTags",
            display_name="Prompt Tags (CCL)",
            category="CCL/conditioning",
            description="Writes the same text with the marks for speech and audio description that each model expects: "
            "both Ovi versions, and MOVA.",
            search_aliases=["ovi prompt", "mova prompt", "speech tags", "audcap", "dialogue", "audio caption"],
            inputs=[
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip='What is seen, and what is said in double quotes: She smiles: "Good morning." Tags of any '
                    "of the models are understood too.",
                ),
                io.String.Input(
                    "audio_description",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip="What is heard: voices, noises, music. May stay empty, also if the prompt holds it already "
                    "(<AUDCAP>...<ENDAUDCAP>, Audio: ..., The audio shows ...).",
                ),
                io.DynamicCombo.Input(
                    "variant",
                    options=[_option(name) for name in styles()],
                    tooltip="The model the text is for. The Ovi files have the same keys and shapes: only the name "
                    "tells them apart.",
                ),
            ],
            outputs=[io.String.Output("text", tooltip="For the text input of CLIPTextEncode.")],
        )

    @classmethod
    def execute(cls, prompt: str, audio_description: str, variant: dict[str, Any]) -> io.NodeOutput:
        parsed = read_prompt(prompt, audio_description)
        return io.NodeOutput(write_prompt(parsed, variant["variant"], variant.get("no_subtitles", True)))
