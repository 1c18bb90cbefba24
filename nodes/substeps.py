"""CCLSubstepSampler: a SAMPLER in which the audio takes several steps in each of the video's."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..ccl_core.guidance import MODES, TermScale, default_settings
from ..ccl_core.host.substeps import SoundGuidance, SubstepSampler
from .guidance_inputs import SCALE_TOOLTIPS, scale_widget
from .inputs import given, phrases
from .node import CCLNode, known_choices

FROM_GUIDER = "from guider"
# They ask the model between the noise levels of their steps, where no pass of both streams is.
BETWEEN = frozenset(
    (
        *("heunpp2", "dpm_2", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral"),
        *("dpmpp_sde", "dpmpp_sde_gpu", "seeds_2", "seeds_3"),
    )
)


def sampler_names() -> list[str]:
    """The host's samplers in which the audio can take sub-steps, euler first as there."""
    return [name for name in comfy.samplers.KSampler.SAMPLERS if name not in BETWEEN]


def _mode_option(name: str) -> io.DynamicCombo.Option:
    scales = [
        io.Float.Input(
            scale_widget("audio", term),
            default=default.audio,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip=SCALE_TOOLTIPS[term].format(stream="audio"),
        )
        for term, default in default_settings(name).items()
    ]
    return io.DynamicCombo.Option(name, scales)


def _guidance_of(chosen: dict[str, Any]) -> SoundGuidance | None:
    mode = chosen["audio_guidance"]
    if mode == FROM_GUIDER:
        return None
    # The ranges of a mode as it was published; those of the guider are its own.
    settings = {
        term: TermScale(
            audio=given(chosen, scale_widget("audio", term), default.audio),
            start=default.start,
            end=default.end,
            least_sigma=default.least_sigma,
        )
        for term, default in default_settings(mode).items()
    }
    return SoundGuidance(mode, settings)


class CCLSubstepSampler(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLSubstepSampler",
            display_name="Audio Substep Sampler (CCL)",
            category="CCL/sampling",
            description="A sampler for few steps with sound: in each step of the video the audio takes "
            "several of its own.",
            search_aliases=[
                *("few steps with sound", "8 steps with sound", "4 step lora sound", "lightx2v audio"),
                *("audio substeps", "sub-steps", "more audio steps", "turbo lora sound is bad"),
                *phrases("{model} few steps"),
            ],
            inputs=[
                io.Combo.Input(
                    "sampler_name",
                    options=sampler_names(),
                    default="euler",
                    tooltip="The sampling algorithm of both streams. Those that ask the model between two "
                    "steps are not here.",
                ),
                io.Int.Input(
                    "audio_substeps",
                    default=4,
                    min=1,
                    max=64,
                    tooltip="Steps of the audio in each step of the video. 1: the sampler as it is. Each "
                    "costs a pass of the audio stream alone.",
                ),
                io.DynamicCombo.Input(
                    "audio_guidance",
                    options=[io.DynamicCombo.Option(FROM_GUIDER, []), *map(_mode_option, MODES)],
                    tooltip=f"What moves the audio. {FROM_GUIDER}: its scales of CCLGuider. Else a mode of "
                    "its own, whose passes are of the audio alone; the video can go without guidance.",
                ),
                io.Sampler.Input(
                    "sampler",
                    optional=True,
                    tooltip="Another sampler in the place of sampler_name, such as one with settings.",
                ),
                io.Model.Input(
                    "model_without_lora",
                    optional=True,
                    tooltip="The model of the guider from in front of its LoRA. The audio then reads the "
                    "video as this one makes it, by one more pass in each step. Empty: the video made.",
                ),
            ],
            outputs=[io.Sampler.Output("sampler", tooltip="For SamplerCustomAdvanced or the joint sampler.")],
        )

    @classmethod
    def validate_inputs(cls, audio_substeps: Any = None, audio_guidance: Any = None) -> bool | str:
        return known_choices(cls, audio_substeps=audio_substeps, audio_guidance=audio_guidance)

    @classmethod
    def execute(
        cls,
        sampler_name: str,
        audio_substeps: int,
        audio_guidance: dict[str, Any],
        sampler: Any = None,
        model_without_lora: Any = None,
    ) -> io.NodeOutput:
        inner = comfy.samplers.sampler_object(sampler_name) if sampler is None else sampler
        guidance = _guidance_of(audio_guidance)
        return io.NodeOutput(SubstepSampler(inner, audio_substeps, guidance, model_without_lora))
