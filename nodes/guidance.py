"""CCLGuider and CCLJointSampler: guidance of both streams, as a GUIDER or with a sampler around it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy_api.latest import io

from ..ccl_core.host.forecast import tell_of_run
from ..ccl_core.host.guider import AVGuider
from ..ccl_core.host.media.latents import frame_rate, require_agreement, split
from ..ccl_core.host.media.states import require_task
from ..ccl_core.host.published import sampling_of, skipped_layers_of
from ..ccl_core.notices import notice
from .guidance_inputs import OF_MODE, guidance_inputs, settings_of
from .inputs import FROM_MODEL, phrases, titles
from .node import CCLNode, known_choices

# The host's class holds the names of samplers and schedulers and computes the sigmas.
Schedule = comfy.samplers.KSampler
# 64 bits, as in the host's KSampler, whose `default_noise_sampler` counts one on.
LARGEST_SEED = 0xFFFFFFFFFFFFFFFF


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.replace(",", " ").split())
    except ValueError as error:
        raise ValueError(
            f"skip_layers wants layer numbers such as 7, 8, 9, got {text!r}: correct the text or leave it "
            "empty"
        ) from error


def make_guider(
    model: Any,
    positive: list,
    negative: list,
    mode: dict[str, Any],
    skip_layers: str,
    kept_parts: str,
    lowest_sigma: float,
) -> AVGuider:
    guider = AVGuider(model)
    guider.set_conds(positive, negative)
    if kept_parts != FROM_MODEL:
        guider.set_kept_parts(kept_parts)
    # Layers that the user types count before those that the model was published with.
    layers = _layers(skip_layers)
    name = mode["mode"]
    if name == FROM_MODEL:
        published = sampling_of(model)
        name, settings = published.mode, published.settings
        layers = layers or skipped_layers_of(model)
    else:
        settings = settings_of(mode)
    if lowest_sigma >= 0:
        settings = {term: replace(scale, least_sigma=lowest_sigma) for term, scale in settings.items()}
    guider.set_guidance(name, settings, layers)
    return guider


def _schedule_input(name: str, options: list[str], tooltip: str) -> io.Combo.Input:
    return io.Combo.Input(
        name,
        options=[FROM_MODEL, *options],
        default=FROM_MODEL,
        tooltip=f"{tooltip} {FROM_MODEL}: what the model was published with.",
    )


def schedule_inputs(seed_between_runs: io.ControlAfterGenerate | bool = True) -> list[io.Input]:
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=LARGEST_SEED,
            control_after_generate=seed_between_runs,
            tooltip="Seed of the noise of both streams.",
        ),
        io.Int.Input(
            "steps",
            display_name=f"steps (0: {FROM_MODEL})",
            default=0,
            min=0,
            max=10000,
            tooltip="Number of denoising steps. 0: as many as the model was published with.",
        ),
        _schedule_input("sampler_name", Schedule.SAMPLERS, "The sampling algorithm."),
        _schedule_input("scheduler", Schedule.SCHEDULERS, "Spacing of the noise levels."),
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="How much to renew: 1 = everything, less keeps more of the latent.",
        ),
    ]


class CCLGuider(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLGuider",
            display_name="Audio-Video CFG Guider (CCL)",
            category="CCL/sampling",
            description="Guidance with a scale per stream for text and for the coupling. For "
            "SamplerCustomAdvanced.",
            search_aliases=[
                *("audio video guider", "audio video cfg", "modality guidance", "dual cfg", "cfg per stream"),
                *("ucg", "ma-cfg"),
                *phrases("{model} guidance"),
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=f"A joint model ({titles(', ')}) or another audio-video model; video models get "
                    "plain CFG.",
                ),
                io.Conditioning.Input("positive", tooltip="What to generate."),
                io.Conditioning.Input("negative", tooltip="What to move away from; an empty prompt will do."),
                *guidance_inputs(),
            ],
            outputs=[io.Guider.Output("guider", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def validate_inputs(cls, model: Any = None, mode: Any = None) -> bool | str:
        return known_choices(cls, model=model, mode=mode)

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list,
        negative: list,
        mode: dict[str, Any],
        skip_layers: str = "",
        kept_parts: str = FROM_MODEL,
        lowest_sigma: float = OF_MODE,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            make_guider(model, positive, negative, mode, skip_layers, kept_parts, lowest_sigma)
        )


class CCLJointSampler(CCLNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CCLJointSampler",
            display_name="Joint Sampler (CCL)",
            category="CCL/sampling",
            description="Denoises video and audio together: the host's KSampler with guidance per stream.",
            search_aliases=[
                *("audio video sampler", "ksampler with sound", "sample audio and video"),
                *("video with sound", "video with audio", "cfg", "video sampler", "ksampler audio video"),
                *phrases("{model} sampler", "{model} ksampler"),
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=f"A joint model ({titles(', ')}). ModelSamplingSD3 changes the shift of its "
                    "schedule.",
                ),
                io.Conditioning.Input(
                    "positive", tooltip="What to generate. Dual Prompt (CCL) joins a text per stream."
                ),
                io.Conditioning.Input("negative", tooltip="What to move away from; an empty prompt will do."),
                io.Latent.Input("latent_image", tooltip="An AV latent; a plain video latent means no audio."),
                *schedule_inputs(),
                *guidance_inputs(),
                io.Sampler.Input(
                    "sampler",
                    optional=True,
                    tooltip="A sampler in the place of sampler_name, such as Audio Substep Sampler (CCL).",
                ),
            ],
            outputs=[
                io.Latent.Output("latent", tooltip="The denoised latent; other entries (fps) are kept.")
            ],
        )

    @classmethod
    def validate_inputs(cls, model: Any = None, mode: Any = None) -> bool | str:
        return known_choices(cls, model=model, mode=mode)

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list,
        negative: list,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        mode: dict[str, Any],
        skip_layers: str = "",
        kept_parts: str = FROM_MODEL,
        lowest_sigma: float = OF_MODE,
        sampler: Any = None,
    ) -> io.NodeOutput:
        require_task(latent_image)
        guider = make_guider(model, positive, negative, mode, skip_layers, kept_parts, lowest_sigma)
        require_one_clock(model, latent_image)
        named, sigmas = schedule_of(model, sampler_name, scheduler, steps, denoise)
        sampler = named if sampler is None else sampler
        if sampler is not named and sampler_name != FROM_MODEL:
            notice(f"sampler_name {sampler_name} is left out: the sampler input has the sampler")
        tell_of_run(guider, latent_image, len(sigmas) - 1)
        return io.NodeOutput(sample_latent(guider, latent_image, seed, sampler, sigmas))


def schedule_of(
    model: Any, sampler_name: str, scheduler: str, steps: int, denoise: float
) -> tuple[Any, torch.Tensor]:
    """The SAMPLER and the SIGMAS that the widgets say, or the model."""
    published = sampling_of(model)
    name = published.sampler_name if sampler_name == FROM_MODEL else sampler_name
    spacing = published.scheduler if scheduler == FROM_MODEL else scheduler
    count = steps or published.steps
    schedule = Schedule(model, count, model.load_device, name, spacing, denoise, model.model_options)
    return comfy.samplers.sampler_object(name), schedule.sigmas


def require_one_clock(model: Any, latent: dict[str, Any]) -> None:
    """ValueError where a latent states its rate, and its streams cover different seconds."""
    config = getattr(model.model, "ccl_config", None)
    if config is not None and latent.get("fps") is not None:
        av = split(latent)
        # The tokens of another model have another rate: the sampler says of them whose they are not.
        if av.audio is not None and av.audio.shape[1] == config.audio_latent.channels:
            require_agreement(av, frame_rate(av, 0.0), config.audio_latent.rate)


def sample_latent(
    guider: AVGuider, latent: dict[str, Any], seed: int, sampler: Any, sigmas: Any
) -> dict[str, Any]:
    """What the host's SamplerCustomAdvanced does, with this guider; the input dict is not touched."""
    out = latent.copy()
    # The host's empty latents state the strides of their VAE: an empty one is fitted to the model by them.
    ratios = out.pop("downscale_ratio_spacial", None), out.pop("downscale_ratio_temporal", None)
    samples = comfy.sample.fix_empty_latent_channels(guider.model_patcher, latent["samples"], *ratios)
    samples = guider.sample(
        comfy.sample.prepare_noise(samples, seed, latent.get("batch_index")),
        samples,
        sampler,
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(guider.model_patcher, max(len(sigmas) - 1, 0)),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=min(seed, LARGEST_SEED - 1),
    )
    memory = comfy.model_management
    out["samples"] = samples.to(device=memory.intermediate_device(), dtype=memory.intermediate_dtype())
    return out
