"""One MODEL with two video experts, switched by the noise level of the step (MOVA, reference Wan 2.2 A14B).

The high-noise expert is the patcher itself. The low-noise expert is a second patcher whose audio and
interaction tensors are those of the first; it hangs on the first as an attachment, so clones keep it, and is
loaded by the host when the run reaches its noise levels. The host then unloads the other one as it unloads
any idle model.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import comfy.hooks
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sampler_helpers
import torch
from comfy.model_patcher import ModelPatcher

from ..model.heard import HEARD
from ..tasks import State
from .both_experts import KEY, SHARED, LowNoise, low_noise_of, show_both, with_low_noise
from .bypass import shared_bypasses
from .patches import counterparts, moved, moved_patches
from .run import RUN

COMPILE_KEY = "torch.compile"  # under which the host keeps the wrapper of its compile nodes
Callbacks = comfy.patcher_extension.CallbacksMP
Executor = comfy.patcher_extension.WrapperExecutor
Wrappers = comfy.patcher_extension.WrappersMP


def attach_low_noise(patcher: ModelPatcher, low: ModelPatcher, boundary: float) -> None:
    """Let `low` take the steps of `patcher` whose video sigma is below the boundary.

    Both hold joint models of one configuration. ValueError if they differ or the boundary is not within 0 and
    1. Patches of the audio stream and the interaction, which the experts share, are those of `patcher` in
    both. Patches of the video stream are each expert's own.
    """
    if not 0.0 < boundary < 1.0:
        raise ValueError(
            f"the boundary of the video experts is {boundary}, wanted a sigma between 0 and 1 (MOVA: 0.9)"
        )
    if patcher.model.ccl_config != low.model.ccl_config:
        raise ValueError(
            "the low-noise expert has other sizes than the model it belongs to: "
            "choose the two experts of one release"
        )
    if patcher.get_attachment(KEY) is None:
        patcher.add_wrapper_with_key(Wrappers.OUTER_SAMPLE, KEY, _sample_with_experts)
        patcher.add_wrapper_with_key(Wrappers.PREPARE_SAMPLING, KEY, _load_active)
        patcher.add_wrapper_with_key(Wrappers.APPLY_MODEL, KEY, _apply_active)
        patcher.add_callback_with_key(Callbacks.ON_DEEPCLONE_MULTIGPU, KEY, _deepclone_low)
        patcher.add_callback_with_key(Callbacks.ON_MATCH_MULTIGPU_CLONES, KEY, _refuse_split)
    patcher.set_attachments(KEY, LowNoise(low, boundary))
    show_both(patcher)


class Experts:
    """The experts of one run: which of them is active, and how the host loads the other one."""

    def __init__(
        self, guider: Any, noise_shape: Sequence[int], sigmas: torch.Tensor, sound_alone: bool
    ) -> None:
        self.guider = guider
        # The audio stream is the same in both, so a run without video needs no other expert.
        self.sound_alone = sound_alone
        self.noise_shape = noise_shape
        self.high = guider.model_patcher
        self.boundary = self.high.get_attachment(KEY).boundary
        self.low = _low_for_run(guider)
        self.compiled = _compiled_alike(self.high, self.low)
        self.hooks: tuple | None = None
        # A run that begins below the boundary (second pass, denoise) never needs the high-noise expert. The
        # boundary itself is the high one's, as in Wan 2.2.
        self.active = self.high if sound_alone or sigmas[0] >= self.boundary else self.low

    @property
    def name(self) -> str:
        return "high" if self.active is self.high else "low"

    def of_pass(self, sigma: torch.Tensor, options: dict[str, Any]) -> ModelPatcher:
        """The expert for a pass at sigmas (b,), with these transformer options."""
        # Between two steps of the video its audio stream, the same in both, reads what the last one made.
        if HEARD not in options:
            return self.at(sigma)
        if self.active is self.low:
            self._follow_hooks()
        return self.active

    def at(self, sigma: torch.Tensor) -> ModelPatcher:
        """The expert for sigmas (b,) of the video, loaded. ValueError where the boundary divides them."""
        if self.sound_alone:
            return self.high
        above = (sigma >= self.boundary).tolist()
        if any(above) and not all(above):
            raise ValueError(
                f"one batch holds noise levels on both sides of the expert boundary {self.boundary}: "
                "sample them apart"
            )
        wanted = self.high if above[0] else self.low
        if wanted is not self.active:
            self.active = wanted
            self.hooks = None
            guider = self.guider
            # The host loads through its own helper, which our wrapper `_load_active` sends the active expert.
            comfy.sampler_helpers.prepare_sampling(
                self.high, self.noise_shape, guider.conds, guider.model_options
            )
        if wanted is self.low:
            self._follow_hooks()
        return wanted

    def loaded(self) -> None:
        """After the host has loaded the active expert."""
        if self.active is self.low:
            if self.low.model.current_patcher is not self.low:
                self.low.pre_run()
                self._in_use(True)
            # To make room the host may unload the high-noise expert, and takes its object patches off too.
            # The sampler goes on reading them, such as the shift: they come back without the weights.
            self.high.unpatch_model(unpatch_weights=False)
            self.high.patch_model(load_weights=False)

    def _follow_hooks(self) -> None:
        """Apply to the low-noise expert the hooks that the host has just applied to the high-noise one."""
        # Anew only when the group or a strength has changed: each time patches all weights again.
        group = self.high.current_hooks
        hooks = None if group is None else (group, [hook.strength for hook in group.hooks])
        if hooks != self.hooks:
            self.low.patch_hooks(None)
            self.low.apply_hooks(group)
            self.hooks = hooks

    def _in_use(self, in_use: bool) -> None:
        """Tell the host that this prompt uses the low-noise expert, which no node has handed on.

        The host frees the pinned memory of models that are not in use first.
        """
        if self.low.is_dynamic():
            self.low.set_in_use_by_current_prompt(in_use)

    def close(self) -> None:
        self.low.model.run = None
        # Patches in the options are cleaned up once, by the host, with the high-noise expert.
        self.low.model_options = {"transformer_options": {}}
        if self.low.model.current_patcher is self.low:
            self.low.cleanup()
            self._in_use(False)
        # The host takes object patches off when it unloads a model. If it has unloaded the high-noise expert
        # during the run, those of `loaded` are still there.
        if not any(map(self.high.is_clone, comfy.model_management.loaded_models())):
            self.high.unpatch_model(unpatch_weights=False)


def _low_for_run(guider: Any) -> ModelPatcher:
    """A clone of the low-noise expert that carries what was done to the whole MODEL."""
    high = guider.model_patcher
    low = low_noise_of(high)
    # For hooks and for torch.compile the host replaces a MODEL with one that it does not load dynamically
    # (get_non_dynamic_delegate): the low-noise expert has to follow.
    low = low.get_non_dynamic_delegate() if low.is_dynamic() and not high.is_dynamic() else low.clone()
    low.load_device = high.load_device
    low.offload_device = high.offload_device
    # The options name models and tensors of patches, which the host loads with the expert that runs.
    low.model_options = comfy.model_patcher.create_model_options_clone(guider.model_options)
    low.object_patches = moved_patches(high, low) | low.object_patches
    low.injections = low.injections | shared_bypasses(high, low, SHARED)
    low.force_cast_weights = high.force_cast_weights
    low.hook_patches = comfy.model_patcher.create_hook_patches_clone(high.hook_patches)
    # No cache of patched weights: it goes stale with the strength of a keyframe.
    low.hook_mode = comfy.hooks.EnumHookMode.MinVram
    shared = {key: value for key, value in high.patches.items() if key.startswith(SHARED)}
    own = {key: value for key, value in low.patches.items() if not key.startswith(SHARED)}
    if shared or len(own) < len(low.patches) or low.force_cast_weights:
        low.patches = own | shared
        low.patches_uuid = uuid.uuid5(low.patches_uuid, str(high.patches_uuid))
    return low


def _compiled_alike(high: ModelPatcher, low: ModelPatcher) -> dict[Callable[..., Any], Callable[..., Any]]:
    """For each compile wrapper of the host one like it around the modules of the low-noise expert."""
    # Kept between runs, since a new wrapper compiles from the start.
    kept = high.get_attachment(KEY).compiled
    wrappers = high.get_wrappers(Wrappers.APPLY_MODEL, COMPILE_KEY)
    if set(kept) != set(wrappers):
        modules = counterparts(high, low)
        kept.clear()
        kept.update({wrapper: moved(wrapper, modules) for wrapper in wrappers})
    return kept


def _sample_with_experts(
    executor: Any,
    noise: torch.Tensor,
    latent_image: torch.Tensor,
    sampler: Any,
    sigmas: torch.Tensor,
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    """Wrapper of the host's OUTER_SAMPLE."""
    guider = executor.class_obj
    run = guider.model_options["transformer_options"][RUN]
    experts = Experts(guider, noise.shape, sigmas, run.video is State.ABSENT)
    experts.low.model.run = run
    run.experts = experts
    try:
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    finally:
        experts.close()


def _load_active(
    executor: Any,
    model: ModelPatcher,
    noise_shape: Any,
    conds: Any,
    model_options: dict[str, Any],
    **kwargs: Any,
) -> tuple[Any, Any, list]:
    """Wrapper of the host's PREPARE_SAMPLING: loads the active expert, hands on the high-noise one."""
    experts = model_options["transformer_options"][RUN].experts
    _, conds, models = executor(experts.active, noise_shape, conds, model_options=model_options, **kwargs)
    experts.loaded()
    return model.model, conds, models


def _apply_active(
    executor: Any,
    x: torch.Tensor,
    t: torch.Tensor,
    c_concat: Any,
    c_crossattn: Any,
    control: Any,
    transformer_options: dict[str, Any],
    **conds: Any,
) -> torch.Tensor:
    """Wrapper of the host's APPLY_MODEL: the pass goes, through further wrappers, to this sigma's expert."""
    experts = transformer_options[RUN].experts
    expert = experts.of_pass(t, transformer_options)
    arguments = (x, t, c_concat, c_crossattn, control, transformer_options)
    if expert is experts.high:
        return executor(*arguments, **conds)
    # A compile wrapper holds modules of the high-noise expert, so the low-noise one has its own.
    further = [experts.compiled.get(wrapper, wrapper) for wrapper in executor.wrappers[executor.idx + 1 :]]
    low = Executor.new_class_executor(expert.model._apply_model, expert.model, further)
    return low.execute(*arguments, **conds)


def _deepclone_low(patcher: ModelPatcher, clone: ModelPatcher) -> None:  # noqa: ARG001 - the host's callback
    with_low_noise(clone, low_noise_of(clone).deepclone_multigpu(clone.load_device))


def _refuse_split(patcher: ModelPatcher, clone: ModelPatcher) -> None:  # noqa: ARG001 - the host's callback
    raise ValueError(
        "a model with two video experts runs on one GPU: remove MultiGPU CFG Split from the workflow"
    )
