"""Guidance of an audio-video model in the host's sampler: a mode's branches, run and weighed in each step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.model_base
import comfy.samplers
import torch

from ..guidance import (
    MODES,
    TC,
    Branch,
    StreamWeights,
    TermScale,
    branch_weights,
    check_settings,
    combine,
    without_coupling,
    without_guidance,
)
from ..notices import notice
from ..tasks import State
from .base_model import CCLModel
from .branches import Conds, Options, as_other_branch, calls, with_switches
from .hooks import separate
from .kept_parts import CHOICES, KEPT_PARTS
from .latent_checks import check_latent, check_sound_mask
from .media.pair import Pair
from .step_cache import in_same_step, skips
from .storyboard import refuse_storyboard

# A model option: the `Part` of a step that a call is for.
PART = "ccl_part"


@dataclass(frozen=True)
class Part:
    """The stream that a call is for, and its guidance; mode None: that of the guider."""

    stream: str
    mode: str | None = None
    settings: Mapping[str, TermScale] = field(default_factory=dict)


class AVGuider(comfy.samplers.CFGGuider):
    """The host's CFGGuider with weights per branch and stream in the place of one scale."""

    def __init__(self, model_patcher: Any) -> None:
        super().__init__(model_patcher)
        # Whether the model reads the switches of a branch without coupling.
        self.coupled = isinstance(model_patcher.model, CCLModel | comfy.model_base.LTXAV)
        self.latent_shapes: Sequence[Sequence[int]] = ()
        self.set_guidance("cfg", {})

    def set_conds(self, positive: list, negative: list) -> None:
        for name, conditioning in (("positive", positive), ("negative", negative)):
            if not conditioning:
                raise ValueError(
                    f"{name} holds no conditioning: connect a text encoder, an empty prompt will do"
                )
            refuse_storyboard(name, [extra for _, extra in conditioning])
        super().set_conds(positive, negative)

    def set_guidance(
        self, mode: str, settings: Mapping[str, TermScale], skip_layers: Sequence[int] = ()
    ) -> None:
        """Choose the row of the table and its scales. skip_layers: not run in passes with negative text."""
        check_settings(mode, settings)
        self.mode = mode
        self.settings = dict(settings)
        self.skip_layers = _known_layers(self.model_patcher, skip_layers)
        self.nominal = _nominal_scale(self.settings.values())
        # What nodes that read the one scale of the host's guider find, and what CFGOverride sets for a step.
        self.set_cfg(self.nominal)
        if not self.coupled:
            _tell_of_no_coupling(type(self.model_patcher.model).__name__, mode, self.settings)

    def set_kept_parts(self, choice: str) -> None:
        """How the model is shown parts that a mask keeps: a key of CHOICES in kept_parts.py."""
        if choice not in CHOICES:
            raise ValueError(f"kept_parts is {choice!r}: choose one of {', '.join(CHOICES)}")
        self.model_options = with_switches(self.model_options, {KEPT_PARTS: choice})

    def sample(
        self,
        noise: Any,
        latent_image: Any,
        sampler: Any,
        sigmas: Any,
        denoise_mask: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        check_latent(self.model_patcher.model, latent_image)
        check_sound_mask(latent_image, denoise_mask)
        samples = super().sample(noise, latent_image, sampler, sigmas, denoise_mask, *args, **kwargs)
        return Pair(samples.unbind()) if samples.is_nested else samples

    def outer_sample(
        self, *args: Any, latent_shapes: Sequence[Sequence[int]] = (), **kwargs: Any
    ) -> torch.Tensor:
        self.latent_shapes = latent_shapes
        separate(self.model_options, latent_shapes)
        return super().outer_sample(*args, latent_shapes=latent_shapes, **kwargs)

    def predict_noise(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: Options | None = None,
        seed: int | None = None,  # noqa: ARG002 - the host passes it
    ) -> torch.Tensor:
        """The guided prediction of a step, in the place of the host's `sampling_function`."""
        model_options = model_options or {}
        part: Part | None = model_options.get(PART)
        mode, settings = self._guidance_of(part)
        settings = overridden(self._active(settings, float(timestep[0])), self.nominal, self.cfg)
        run = getattr(self.model_patcher.model, "run", None)
        weights = read_by(self._fold(branch_weights(mode, settings)), run, part)
        wanted = dict(weights)
        # Without guidance the host runs the positive pass alone, unless a hook needs another one beside it.
        if len(weights) == 1 and model_options.get("disable_cfg1_optimization", False):
            wanted |= self._fold({MODES[mode].reference: StreamWeights(1.0, 1.0)})
        predictions = self._run(wanted, x, timestep, model_options)
        guided = self._combine(predictions, weights)
        scale = _nominal_scale(settings.values()) if len(weights) > 1 else 1.0
        return self._host_hooks(guided, predictions, scale, x, timestep, model_options)

    def _guidance_of(self, part: Part | None) -> tuple[str, Mapping[str, TermScale]]:
        own = part is not None and part.mode is not None
        return (part.mode, part.settings) if own else (self.mode, self.settings)

    def _active(self, settings: Mapping[str, TermScale], sigma: float) -> dict[str, TermScale]:
        """The terms whose range holds this step. The others have scale 1, so their branches need not run."""
        to_sigma = self.inner_model.model_sampling.percent_to_sigma

        # A range from 0 or up to 1 holds whatever the sigma: a sampler may step beyond the schedule's ends.
        def active(scale: TermScale) -> bool:
            started = scale.start <= 0.0 or sigma <= to_sigma(scale.start)
            return (
                started and sigma >= scale.least_sigma and (scale.end >= 1.0 or sigma >= to_sigma(scale.end))
            )

        return {name: scale for name, scale in settings.items() if active(scale)}

    def _fold(self, weights: dict[Branch, StreamWeights]) -> dict[Branch, StreamWeights]:
        run = getattr(self.model_patcher.model, "run", None)
        pair = len(self.latent_shapes) > 1 and not (run is not None and run.alone)
        return folded(weights, self.coupled and pair)

    def _run(
        self,
        wanted: Mapping[Branch, StreamWeights],
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: Options,
    ) -> dict[Branch, torch.Tensor]:
        """The predictions of the wanted branches, in as few calls as their switches allow."""
        predictions: dict[Branch, torch.Tensor] = {}
        skipping = False
        for number, call in enumerate(calls(wanted, self.skip_layers)):
            conds = [self._text(call.positive), self._text(call.negative)]
            options = with_switches(model_options, call.switches)
            if number > 0:
                options = in_same_step(options, skipping)
            outputs = _calculate(self.inner_model, conds, x, timestep, options)
            for branch, output in zip((call.positive, call.negative), outputs, strict=True):
                if branch is not None:
                    predictions[branch] = output
            skipping = skipping or skips(options)
        return predictions

    def _text(self, branch: Branch | None) -> Conds | None:
        """The conds of a branch; None stands for a pass that is not run, as in the host's calc_cond_batch."""
        if branch is None:
            return None
        conds = self.conds["negative" if branch.negative else "positive"]
        return as_other_branch(conds) if branch.anchor else conds

    def _combine(
        self, predictions: Mapping[Branch, torch.Tensor], weights: Mapping[Branch, StreamWeights]
    ) -> torch.Tensor:
        """The guided prediction, each stream with its own weights."""
        video_weights = {branch: weight.video for branch, weight in weights.items()}
        if len(self.latent_shapes) < 2:
            return combine(predictions, video_weights)
        audio_weights = {branch: weight.audio for branch, weight in weights.items()}
        # A packed latent is the numbers of the video, then those of the audio.
        video_size = math.prod(self.latent_shapes[0][1:])
        video = {branch: output[..., :video_size] for branch, output in predictions.items()}
        audio = {branch: output[..., video_size:] for branch, output in predictions.items()}
        guided = [combine(video, video_weights), combine(audio, audio_weights)]
        return torch.cat(guided, dim=-1)  # (b, 1, n)

    def _host_hooks(
        self,
        guided: torch.Tensor,
        predictions: Mapping[Branch, torch.Tensor],
        scale: float,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: Options,
    ) -> torch.Tensor:
        """Show hooks a pair (cond, uncond) that gives our prediction under one scale, and take their answer.

        They are those of `sampling_function` and `cfg_function` in the host, such as APG and RescaleCFG.
        """
        before = model_options.get("sampler_pre_cfg_function", [])
        after = model_options.get("sampler_post_cfg_function", [])
        replaced = "sampler_cfg_function" in model_options
        if not (before or after or replaced):
            return guided
        cond = predictions[TC]
        uncond = _implied_uncond(guided, predictions, scale)
        conds = [self.conds["positive"], self.conds["negative"] if len(predictions) > 1 else None]
        shared = {"model": self.inner_model, "model_options": model_options, "input": x, "sigma": timestep}
        shared["cond_scale"] = scale
        if before or replaced:
            pair = [cond, uncond]
            for hook in before:
                pair = hook({**shared, "conds": conds, "conds_out": pair, "timestep": timestep})
            # The host's formula on what the hooks made of the pair; it calls the hooks behind it too.
            return comfy.samplers.cfg_function(
                self.inner_model, *pair[:2], scale, x, timestep, model_options, *conds
            )
        # The formula would give our prediction but for rounding: hooks behind it get the prediction itself.
        for hook in after:
            pair = {"cond": conds[0], "uncond": conds[1], "cond_denoised": cond, "uncond_denoised": uncond}
            guided = hook({**shared, **pair, "denoised": guided})
        return guided


def folded(weights: dict[Branch, StreamWeights], coupled: bool) -> dict[Branch, StreamWeights]:
    """The weights as they are for a pair, those without a coupling where a stream runs alone."""
    return weights if coupled else without_coupling(weights)


def read_by(
    weights: dict[Branch, StreamWeights], run: Any, part: Part | None = None
) -> dict[Branch, StreamWeights]:
    """The weights without those of a stream whose prediction nobody reads: a given one, one of no part."""
    if run is None:
        return weights
    unread = {
        stream: getattr(run, stream) is State.GIVEN or (part is not None and part.stream != stream)
        for stream in ("video", "audio")
    }
    return without_guidance(weights, **unread)


def _implied_uncond(
    guided: torch.Tensor, predictions: Mapping[Branch, torch.Tensor], scale: float
) -> torch.Tensor:
    """The prediction u for which the formula of the host, u + scale (TC - u), gives the guided one."""
    cond = predictions[TC]
    # guided = u + scale (TC - u), solved for u.
    if scale != 1.0:
        return cond - (guided - cond) / (scale - 1.0)
    # At scale 1 every u does: hooks that ask for one are shown a branch that was run.
    others = [output for branch, output in predictions.items() if branch is not TC]
    return others[-1] if others else cond


def _calculate(
    model: Any, conds: list[Conds | None], x: torch.Tensor, timestep: torch.Tensor, model_options: Options
) -> list[torch.Tensor]:
    replacement = model_options.get("sampler_calc_cond_batch_function")
    if replacement is None:
        return comfy.samplers.calc_cond_batch(model, conds, x, timestep, model_options)
    return replacement(
        {"conds": conds, "input": x, "sigma": timestep, "model": model, "model_options": model_options}
    )


def overridden(settings: Mapping[str, TermScale], nominal: float, cfg: float) -> dict[str, TermScale]:
    """The scales where something has set another nominal one: each distance from 1 grows as its does.

    So 1 is no guidance at all, and the only scale of a mode is the new one. Where there was none, all are.
    """
    if cfg == nominal:
        return dict(settings)
    if nominal == 1.0:
        return {name: replace(scale, video=cfg, audio=cfg) for name, scale in settings.items()}
    growth = (cfg - 1.0) / (nominal - 1.0)
    return {
        name: replace(scale, video=1 + growth * (scale.video - 1), audio=1 + growth * (scale.audio - 1))
        for name, scale in settings.items()
    }


def _tell_of_no_coupling(model: str, mode: str, settings: Mapping[str, TermScale]) -> None:
    """Say which scales do nothing on a model whose streams no switch uncouples."""
    terms = MODES[mode].terms
    idle = [
        name
        for name, scale in settings.items()
        if terms[name].toward.negative == terms[name].away.negative
        and (scale.video, scale.audio) != (1.0, 1.0)
    ]
    if idle:
        notice(
            f"{model} has no coupling that can be switched off: {', '.join(idle)} of the mode {mode} does "
            "nothing on it and costs no pass. Text guidance acts as in the mode cfg"
        )


def _nominal_scale(settings: Iterable[TermScale]) -> float:
    """The scale furthest from 1: what hooks that know a single CFG scale are told."""
    scales = [scale for term in settings for scale in (term.video, term.audio)]
    return max(scales, key=lambda scale: abs(scale - 1.0), default=1.0)


def _known_layers(model_patcher: Any, layers: Sequence[int]) -> tuple[int, ...]:
    config = getattr(model_patcher.model, "ccl_config", None)
    if layers and config is None:
        raise ValueError(
            "skip_layers works on the joint models of this pack only: "
            "leave it empty, or use SkipLayerGuidanceDiT"
        )
    count = max(config.video.num_layers, config.audio.num_layers) if config else 0
    wrong = [layer for layer in layers if not 0 <= layer < count]
    if wrong:
        raise ValueError(f"skip_layers names {wrong}, the model has the layers 0 to {count - 1}")
    return tuple(sorted(set(layers)))
