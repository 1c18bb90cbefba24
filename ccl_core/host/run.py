"""One sampling run: everything that belongs to it and to nothing else.

A wrapper of the host's OUTER_SAMPLE makes it; each pass of the model finds it in `transformer_options`; it is
gone when the run ends.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ..alignment.agreement import disagreement
from ..config import CCLConfig
from ..model.interactions.base import Routes
from ..model.kept import Kept
from ..notices import notice
from ..tasks import State, routes_of
from .diagnosis import Watch, require_finite_result
from .hooks import separate
from .kept_parts import KEPT_PARTS, noisy_parts
from .latent_checks import refuse_windows_of_a_batch, require_shapes
from .regions import pack_regions
from .storyboard import refuse_storyboard
from .texts import REFERENCE_IMAGE
from .video_wrappers import with_video_result

RUN = "ccl_run"
# A transformer option: False lets each pass compute a given stream again.
KEEP_GIVEN = "ccl_keep_given"
# Options that nodes for LTX-2 set for a pass, which nothing in a joint model reads: what the node is called.
OF_LTX = {"stg_self_attn_blocks": "LTXV Spatio-Temporal Guidance (STG)"}


@dataclass
class Run:
    """The facts of one run, and what it keeps.

    shapes: of the video latent and, where there is one, the audio latent.
    video, audio: states of the streams; given only where all clips of the batch are.
    clips: both states of each clip.
    noisy: where kept parts are shown with the noise of the step, None: nowhere.
    keeps: the model can read kept keys and values of a given stream.
    experts: the video experts, where there are two.
    kept: keys and values of a given stream; moment: the sigmas at which they were read last.
    predicted: the passes that have predicted once, by expert and texts.
    watch: where NaN appeared first, if it did.
    told: options of other models that were told of.
    """

    shapes: tuple[tuple[int, ...], ...]
    video: State
    audio: State
    clips: tuple[tuple[State, State], ...] = ()
    noisy: Tensor | None = None
    keeps: bool = False
    experts: Any = None
    kept: dict[Hashable, Kept] = field(default_factory=dict)
    moment: Hashable = None
    predicted: set[Hashable] = field(default_factory=set)
    watch: Watch = field(default_factory=Watch)
    told: set[str] = field(default_factory=set)

    @property
    def routes(self) -> tuple[bool, bool]:
        """DCR: whether a2v and v2a are open."""
        return routes_of(self.video, self.audio)

    def routes_of_pass(self, rows: int) -> tuple[Routes, Routes]:
        """The routes of a pass of so many rows, which holds all clips once for each text."""
        if len(set(self.clips)) < 2:
            return self.routes
        a2v, v2a = zip(*(routes_of(*states) for states in self.clips), strict=True)
        texts = rows // len(self.clips)
        return a2v * texts, v2a * texts

    @property
    def absent(self) -> list[str]:
        """The streams that no pass computes."""
        return [stream for stream in ("video", "audio") if getattr(self, stream) is State.ABSENT]

    @property
    def alone(self) -> bool:
        """Whether one stream runs without the other."""
        return bool(self.absent)

    @property
    def switches(self) -> dict[str, bool]:
        """Transformer options that leave an absent stream out of a pass."""
        streams = {"run_vx": self.video, "run_ax": self.audio}
        return {name: False for name, state in streams.items() if state is State.ABSENT}

    @property
    def given(self) -> str | None:
        """The stream that is given while the other one is made, and so depends on neither noise nor step."""
        states = {"video": self.video, "audio": self.audio}
        if set(states.values()) != {State.GIVEN, State.GENERATED}:
            return None
        return next(stream for stream, state in states.items() if state is State.GIVEN)

    def is_first(self, options: dict[str, Any]) -> bool:
        """Whether a pass with these transformer options is the first of its expert and texts."""
        key = (None if self.experts is None else self.experts.name, tuple(options.get("uuids", ())))
        first = key not in self.predicted
        self.predicted.add(key)
        return first

    def tell_of_other_models(self, options: dict[str, Any]) -> None:
        """Say, once in a run, which of the options of a pass mean nothing to a joint model."""
        for name in OF_LTX.keys() & options.keys() - self.told:
            self.told.add(name)
            notice(
                f"{OF_LTX[name]} is for LTX-2: it sets {name}, which a joint model of this pack does not "
                "read. Its extra pass in each step changes nothing: take the node out, or use "
                "SkipLayerGuidanceDiT"
            )


def state_of(mask: Tensor | None, latent: Tensor) -> State:
    """A stream whose mask keeps everything is given; one that keeps nothing but zeros is absent."""
    # The host's samplers hand on samples and masks alone (docs/decisions.md). No VAE makes a latent of zeros.
    if mask is None or mask.any():
        return State.GENERATED
    return State.GIVEN if latent.any() else State.ABSENT


def unpack(packed: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """The streams of a packed latent or mask (b, 1, n); a latent of the video alone is not packed."""
    return comfy.utils.unpack_latents(packed, shapes) if len(shapes) > 1 else [packed]


def sample_in_run(
    executor: Any,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    denoise_mask: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Wrapper of the host's OUTER_SAMPLE: makes the run, before the model has to normalise a packed latent.

    Kept regions come back bit-exact: the original is put back after the round trip through the normalisation.
    ValueError for a latent of another model, and where the result holds NaN or infinity.
    """
    guider = executor.class_obj
    model = guider.model_patcher.model
    require_shapes(model, kwargs["latent_shapes"])
    for name, entries in getattr(guider, "conds", {}).items():
        refuse_storyboard(name, entries)
    refuse_windows_of_a_batch(guider.model_options, kwargs["latent_shapes"])
    options = guider.model_options.setdefault("transformer_options", {})
    # Put back at the end, not cleared: another sampling of this model may stand around this one.
    before = model.run
    by_step = "denoise_mask_function" in guider.model_options
    run = run_of(model, kwargs["latent_shapes"], latent_image, denoise_mask, options, by_step)
    model.run = options[RUN] = run
    separate(guider.model_options, kwargs["latent_shapes"])
    tell_of_texts(getattr(guider, "conds", {}), latent_image.shape[0])
    tell_of_images(model.ccl_config, getattr(guider, "conds", {}))
    tell_of_clocks(model.ccl_config, kwargs["latent_shapes"])
    noise = whole_noise(noise, latent_image)
    try:
        if len(kwargs["latent_shapes"]) > 1:
            # A guider that was given no texts has no conds.
            pack_regions(getattr(guider, "conds", {}), kwargs["latent_shapes"])
        sample = with_video_result(executor, kwargs["latent_shapes"])
        samples = sample(noise, latent_image, sampler, sigmas, denoise_mask, *args, **kwargs)
    finally:
        model.run = before
        for kept in run.kept.values():
            kept.close()
    if denoise_mask is not None:
        # The normalisation is not exact: (x - mean) / std * std + mean differs from x in its last bits.
        kept = denoise_mask.to(samples.device) == 0
        samples = torch.where(kept, latent_image.to(samples), samples)
    require_finite_result(samples, run.watch)
    return samples


def tell_of_texts(conds: dict[str, list[dict[str, Any]]], batch: int) -> None:
    """Tell of texts for more clips than there are, of which the host takes the first ones without a word."""
    for name, entries in conds.items():
        counts = [entry["cross_attn"].shape[0] for entry in entries if entry.get("cross_attn") is not None]
        most = max(counts, default=0)
        if most > batch:
            left = f"the last {most - batch} are left out. Make the latent with batch_size {most} to use them"
            notice(f"{name} has texts for {most} clips, the latent {batch}: {left}")


def tell_of_images(config: CCLConfig, conds: dict[str, list[dict[str, Any]]]) -> None:
    """Tell of reference images that no stream reads."""
    if config.video.references or config.video.in_dim_ref_conv:
        return
    for name, entries in conds.items():
        if any(entry.get(REFERENCE_IMAGE) for entry in entries):
            notice(
                f"{name} has a reference image ({REFERENCE_IMAGE}), which this model does not read: it "
                "changes nothing. Take it away, or choose a model that was trained with reference images"
            )


def tell_of_clocks(config: CCLConfig, shapes: Sequence[Sequence[int]]) -> None:
    """Tell of streams that cover different seconds by the rates of the model. shapes: of the latents."""
    if len(shapes) < 2:
        return
    fault = disagreement(shapes[0][2], shapes[1][2], config.fps, config.audio_latent.rate)
    if fault is not None:
        notice(
            f"by the clock of this model {fault}: sound and picture will not be in step. Make the latent "
            "by CCLEmptyAVLatent with fps 0, or cut both parts to the same seconds"
        )


def whole_noise(noise: Tensor, latent_image: Tensor) -> Tensor:
    """The noise in the size of the packed latent."""
    # KSamplerAdvanced without add_noise makes zeros in the shape of the video alone, in hosts before 0.33.
    if noise.shape != latent_image.shape and not noise.any():
        return torch.zeros_like(latent_image)
    return noise


def run_of(
    model: Any,
    shapes: Sequence[Sequence[int]],
    latent: Tensor,
    mask: Tensor | None,
    options: dict[str, Any],
    by_step: bool = False,
) -> Run:
    """The run of a latent of these shapes; the task is read off the masks here, once.

    options: of the transformer. by_step: a node changes the masks in each step.
    """
    streams = unpack(latent, shapes)
    masks = [None] * len(shapes) if mask is None else unpack(mask, shapes)
    whole = _states(masks, streams)
    clips = [_states(_of_clip(masks, i), _of_clip(streams, i)) for i in range(shapes[0][0])]
    routed = model.diffusion_model.kind.routed
    if not routed:
        _require_same_streams(clips)
    keeps = options.get(KEEP_GIVEN, True) and routed
    noisy = noisy_parts(model.ccl_config.family, masks, by_step, options.get(KEPT_PARTS))
    return Run(tuple(map(tuple, shapes)), *whole, tuple(clips), noisy, keeps)


def _require_same_streams(clips: Sequence[tuple[State, State]]) -> None:
    """ValueError where some clips lack a stream, which a coupling without routes cannot leave out of them."""
    for stream, states in zip(("video", "audio"), zip(*clips, strict=True), strict=True):
        absent = [number for number, state in enumerate(states, 1) if state is State.ABSENT]
        if absent and len(absent) < len(states):
            raise ValueError(
                f"latent_image: of {len(states)} clips {absent} have no {stream} and the others have: sample "
                "them apart (LatentFromBatch at both streams)"
            )


def _of_clip(parts: Sequence[Tensor | None], clip: int) -> list[Tensor | None]:
    return [None if part is None else part[clip] for part in parts]


def _states(masks: Sequence[Tensor | None], streams: Sequence[Tensor]) -> tuple[State, State]:
    """Of video and audio; a latent of the video alone has no audio."""
    video, *audio = map(state_of, masks, streams)
    return video, audio[0] if audio else State.ABSENT
