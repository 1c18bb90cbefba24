"""Sub-steps of the audio: a SAMPLER in which the audio takes n steps while the video takes one.

The inner sampler runs twice, on the steps for the video and on n times as many for the audio. Where both ask
for the same noise level the model predicts both streams; between, the audio alone, on what it read of the
video in that pass. With one sub-step every pass is of both, and the result the inner sampler's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.model_sampling
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..guidance import TermScale
from ..model.heard import HEARD, HEARING, Heard
from ..notices import told
from ..tasks import State
from .base_model import CCLModel
from .before_lora import BeforeLora
from .branches import Options, with_switches
from .given import memory_of
from .guider import PART, AVGuider, Part
from .hooks import LISTS, for_stream, without_hooks
from .run import Run
from .turns import Asked, Turns


@dataclass(frozen=True)
class SoundGuidance:
    """Guidance of the audio's own: a mode of the table, and the scales of its terms for the audio."""

    mode: str
    settings: Mapping[str, TermScale]


class SubstepSampler(comfy.samplers.Sampler):
    """The inner sampler, in which the audio takes `substeps` steps in each of the video's.

    guidance: of the audio alone; None: as the guider says for it. before: the model from before its LoRA,
    whose video the audio reads; it takes a further pass of both streams in each step. None: it reads the
    video that is made.
    """

    def __init__(
        self,
        inner: comfy.samplers.Sampler,
        substeps: int,
        guidance: SoundGuidance | None = None,
        before: ModelPatcher | None = None,
    ) -> None:
        if substeps < 1:
            raise ValueError(f"audio_substeps is {substeps}: give at least 1 in each step of the video")
        self.inner, self.substeps, self.guidance, self.before = inner, substeps, guidance, before

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """As the host calls it. ValueError for what has no sub-steps."""
        run = _run_of(model_wrap)
        material = noise, latent_image, denoise_mask
        # A given sound is not made, and an absent one not run.
        if run.audio is not State.GENERATED or len(sigmas) < 2:
            return self.inner.sample(model_wrap, sigmas, extra_args, callback, *material, disable_pbar)
        self._check(model_wrap, sigmas, extra_args["model_options"])
        fine = refined(sigmas, self.substeps, model_wrap.inner_model.model_sampling)
        told(f"The audio takes {len(fine) - 1} steps, {self.substeps} in each of {len(sigmas) - 1}.")
        before = None if self.before is None else BeforeLora(self.before, model_wrap)
        passes = Passes(
            model_wrap, run, extra_args["model_options"], self.guidance, before, self.substeps > 1
        )

        def sample_sound(ask: Any) -> Tensor:
            return self.inner.sample(Asking(model_wrap, ask), fine, dict(extra_args), None, *material, True)

        sound = None
        try:
            sound = Turns(sample_sound)
            asking = Asking(model_wrap, Meeting(passes, sound, self.inner))
            video = self.inner.sample(asking, sigmas, dict(extra_args), callback, *material, disable_pbar)
            while sound.asked is not None:
                sound.answer(passes.of_sound(sound.asked))
            return passes.joined(video, sound.result)
        finally:
            if sound is not None:
                sound.close()
            passes.close()

    def _check(self, guider: Any, sigmas: Tensor, options: Options) -> None:
        if not bool((sigmas[1:] < sigmas[:-1]).all()):
            raise ValueError(
                f"sigmas: got {sigmas.tolist()}, wanted levels that fall from step to step: sub-steps divide "
                "such a step. Use a scheduler, or a sampler without sub-steps"
            )
        own = self.guidance is not None or self.before is not None
        if own and not isinstance(guider, AVGuider):
            raise ValueError(
                f"the guider is {type(guider).__name__}, which cannot guide the audio apart from the video: "
                "use CCLGuider, or set audio_guidance to that of the guider and leave model_without_lora out"
            )
        if "easycache" in options.get("transformer_options", {}):
            raise ValueError(
                "EasyCache and LazyCache leave out passes, which the sub-steps of the audio read: take the "
                "node out, or use a sampler without sub-steps"
            )


def _run_of(guider: Any) -> Run:
    model = guider.model_patcher.model
    if not isinstance(model, CCLModel):
        raise ValueError(
            f"the model is {type(model).__name__}, whose audio cannot run by itself: sub-steps need a joint "
            "model of this pack. Use another sampler for this one"
        )
    return model.run


class Asking:
    """The guider as a sampler sees it, with its calls of the model answered by somebody else."""

    def __init__(self, guider: Any, call: Any) -> None:
        self._guider, self._call = guider, call

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._call(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guider, name)


class Meeting:
    """The model of the video's sampler: before it answers, the audio's own comes down to its noise level."""

    def __init__(self, passes: Passes, sound: Turns, inner: Any) -> None:
        self.passes, self.sound, self.inner = passes, sound, inner

    def __call__(
        self, x: Tensor, sigma: Tensor, model_options: Options | None = None, seed: int | None = None
    ) -> Tensor:
        video = Asked(x, sigma, model_options or {}, seed)
        sound = self.sound
        while sound.asked is not None and _above(sound.asked.level, video.level):
            sound.answer(self.passes.of_sound(sound.asked))
        if sound.asked is None or _above(video.level, sound.asked.level):
            raise ValueError(self._apart(video.level))
        prediction = self.passes.of_both(video, sound.asked)
        sound.answer(self.passes.for_sound(sound.asked, prediction))
        return prediction

    def _apart(self, level: float) -> str:
        function = getattr(self.inner, "sampler_function", self.inner)
        name = getattr(function, "__name__", type(function).__name__).removeprefix("sample_")
        return (
            f"the sampler {name} asks the model between the noise levels of its steps (sigma {level:.4g}), "
            "where the sub-steps of the audio have no pass of both streams: choose euler, or another sampler "
            "that CCLSubstepSampler lists"
        )


def _above(x: float, y: float) -> bool:
    # Some samplers come back to a level by way of its logarithm.
    return x > y and not math.isclose(x, y, rel_tol=1e-5)


class Passes:
    """The passes of a step: one of both streams, and those of the audio alone."""

    def __init__(
        self,
        guider: Any,
        run: Run,
        options: Options,
        guidance: SoundGuidance | None,
        before: BeforeLora | None,
        further: bool,
    ) -> None:
        self.guider, self.run, self.options = guider, run, options
        self.guidance, self.before = guidance, before
        # Whether the audio has a prediction of its own where both meet, not the one beside the video.
        self.apart = guidance is not None or before is not None
        self.size = math.prod(run.shapes[0][1:])
        # Two texts at once, as the host runs them.
        self.heard = Heard(memory_of(run, guider.model_patcher, 2 * run.shapes[0][0], ""))
        self.hears = before is None and (further or self.apart)
        self.video: Tensor | None = None

    def of_both(self, video: Asked, sound: Asked) -> Tensor:
        """The prediction for both; with guidance of the audio's own, that for the video alone counts."""
        self.heard.forget()
        self.video = video.x
        options = video.options
        if self.hears:
            options = with_switches(options, {HEARING: self.heard})
        if self.apart:
            options = {**for_stream(options, 0), PART: Part("video")}
        else:
            options = with_hooks_of(options, sound.options, self.options)
        x = self.joined(video.x, sound.x)
        prediction = self.guider(x, video.sigma, model_options=options, seed=video.seed)
        if self.before is not None:
            with self.before.loaded(self.run.experts):
                self._listen(x, video)
        return prediction

    def _listen(self, x: Tensor, video: Asked) -> None:
        """A pass of the positive text for what it hands out alone."""
        options = with_switches(without_hooks(self.options), {HEARING: self.heard})
        unguided = Part("video", "cfg")
        self.guider(x, video.sigma, model_options={**options, PART: unguided}, seed=video.seed)

    def for_sound(self, sound: Asked, prediction: Tensor) -> Tensor:
        """What the audio's sampler is told where both have met."""
        return self.of_sound(sound) if self.apart else prediction

    def of_sound(self, sound: Asked) -> Tensor:
        """The prediction for the audio alone."""
        options = for_stream(with_switches(sound.options, {HEARD: self.heard}), 1)
        own = self.guidance
        part = Part("audio") if own is None else Part("audio", own.mode, own.settings)
        x = self.joined(self.video, sound.x)
        return self.guider(x, sound.sigma, model_options={**options, PART: part}, seed=sound.seed)

    def joined(self, video: Tensor, sound: Tensor) -> Tensor:
        """The video of one packed latent (b, 1, n) and the audio of another one."""
        return torch.cat([video[..., : self.size], sound[..., self.size :]], dim=-1)

    def close(self) -> None:
        self.heard.close()


def with_hooks_of(options: Options, other: Options, base: Options) -> Options:
    """These model options with the hooks that the other sampler has added to the common ones (CFG++)."""
    made = dict(options)
    for name in LISTS:
        known = set(map(id, base.get(name, [])))
        added = [hook for hook in other.get(name, []) if id(hook) not in known]
        if added:
            made[name] = [*made.get(name, []), *added]
    return made


def refined(sigmas: Tensor, substeps: int, model_sampling: Any) -> Tensor:
    """The steps of the audio: each step of sigmas (s,) in so many parts, which are as long before the shift.

    So they are even on the schedule of either stream (audio_shift.py). The levels of the steps stay as they
    are, bit for bit.
    """
    shift = 1.0
    if isinstance(model_sampling, comfy.model_sampling.ModelSamplingDiscreteFlow):
        shift = model_sampling.shift
    exact = sigmas.double()
    # sigma = s u / (1 + (s - 1) u), and back.
    even = exact / (shift - (shift - 1) * exact)
    parts = torch.arange(substeps, dtype=torch.float64, device=sigmas.device) / substeps
    even = even[:-1, None] + (even[1:] - even[:-1])[:, None] * parts
    levels = (shift * even / (1 + (shift - 1) * even)).to(sigmas.dtype)
    levels[:, 0] = sigmas[:-1]
    return torch.cat([levels.flatten(), sigmas[-1:]])
