"""Two video experts behind one MODEL on the host's samplers: which runs when, what is loaded, what
patches reach.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import comfy.hooks
import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_model_advanced import ModelSamplingSD3

import nodes as host_nodes
from ccl_pack.ccl_core.guidance import TermScale
from ccl_pack.ccl_core.host.experts import attach_low_noise, low_noise_of, with_low_noise
from ccl_pack.ccl_core.host.guider import AVGuider
from support.tiny import av_latent, conditioning, config, dual_conditioning, patcher, state_dict

SHIFT = {"shift": 5.0}
STEPS = 6  # simple, shift 5: sigmas 1, .962, .909 | .833, .714, .5
VIDEO_Q, AUDIO_Q = "diffusion_model.blocks.0.self_attn.q", "diffusion_model.audio.blocks.0.self_attn.q"
Wrappers = comfy.patcher_extension.WrappersMP


def expert_weights(seed: int) -> dict[str, torch.Tensor]:
    """Video weights of their own, audio and interaction the same tensors for every seed."""
    shared, own = state_dict(config(**SHIFT)), state_dict(config(**SHIFT), seed)
    return {key: shared[key] if key.startswith(("audio.", "interaction.")) else own[key] for key in own}


def experts(low_seed: int = 3, boundary: float = 0.9) -> ModelPatcher:
    """A MODEL with two experts; `low_seed` 0 gives both the same weights."""
    model = patcher(weights=expert_weights(0), **SHIFT)
    attach_low_noise(model, patcher(weights=expert_weights(low_seed), **SHIFT), boundary)
    return model


def recorded(model: ModelPatcher) -> list[tuple[str, float]]:
    """What ran, in order: the expert and the sigma it saw."""
    passes = []

    def note(name: str) -> Callable[..., None]:
        return lambda _module, _arguments, options: passes.append(
            (name, options["transformer_options"]["sigmas"][0].item())
        )

    for name, half in (("high", model), ("low", low_noise_of(model))):
        half.model.diffusion_model.register_forward_pre_hook(note(name), with_kwargs=True)
    return passes


def sample(
    model: ModelPatcher,
    steps: int = STEPS,
    cfg: float = 3.0,
    sampler: str = "euler",
    latent: dict[str, Any] | None = None,
    denoise: float = 1.0,
    positive: list[Any] | None = None,
    **conds: Any,
) -> list[torch.Tensor]:
    latent = av_latent() if latent is None else latent
    positive, negative = positive or conditioning(1, **conds), conditioning(2)
    out = host_nodes.common_ksampler(
        model, 1, steps, cfg, sampler, "simple", positive, negative, latent, denoise=denoise
    )[0]["samples"]
    return out.unbind() if out.is_nested else [out]


def guided(model: ModelPatcher, mode: str = "dual") -> list[torch.Tensor]:
    guider = AVGuider(model)
    guider.set_conds(conditioning(1), conditioning(2))
    guider.set_guidance(mode, {"text": TermScale(3.0, 2.0), "cross": TermScale(2.0, 2.5)})
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    samples = av_latent()["samples"]
    noise, euler = comfy.sample.prepare_noise(samples, 1), comfy.samplers.sampler_object("euler")
    return guider.sample(noise, samples, euler, sigmas, disable_pbar=True, seed=1).unbind()


def lora(*names: str, seed: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    width = {VIDEO_Q: 48, AUDIO_Q: 32}
    return {
        f"{name}.{side}.weight": torch.randn(shape, generator=generator)
        for name in names
        for side, shape in (("lora_A", (2, width[name])), ("lora_B", (width[name], 2)))
    }


def with_lora(model: ModelPatcher, *names: str) -> ModelPatcher:
    return comfy.sd.load_lora_for_models(model, None, lora(*names), 1.0, 0)[0]


def same(x: list[torch.Tensor], y: list[torch.Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(x, y, strict=True)]


def is_loaded(model: ModelPatcher) -> bool:
    return any(model.is_clone(loaded) for loaded in comfy.model_management.loaded_models())


def trajectory(model: ModelPatcher, **options: Any) -> list[torch.Tensor]:
    """The packed latent before each step."""
    states = []
    latent = av_latent()["samples"]
    comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent, 1),
        STEPS,
        1.0,
        "euler",
        "simple",
        conditioning(1),
        conditioning(2),
        latent,
        callback=lambda _step, _x0, x, _total: states.append(
            torch.cat([part.flatten() for part in x.unbind()])
        ),
        **options,
    )
    return states


@pytest.mark.parametrize("run", [sample, guided], ids=["KSampler", "AVGuider"])
def test_two_equal_experts_are_one_model_bit_for_bit(run: Callable[..., Any]) -> None:
    model = experts(low_seed=0)
    passes = recorded(model)
    assert same(run(model), run(patcher(weights=expert_weights(0), **SHIFT))) == [True, True]
    assert {name for name, _ in passes} == {"high", "low"}


@pytest.mark.parametrize("run", [sample, guided], ids=["KSampler", "AVGuider"])
def test_the_high_noise_expert_runs_down_to_the_boundary_and_the_other_below(run: Callable[..., Any]) -> None:
    model = experts()
    passes = recorded(model)
    result = run(model)
    assert passes and all(name == ("high" if sigma >= 0.9 else "low") for name, sigma in passes)
    assert [name for name, _ in passes] == sorted(name for name, _ in passes), "it switches once"
    assert same(result, run(patcher(weights=expert_weights(0), **SHIFT))) == [False, False]


def test_equality_belongs_to_the_high_noise_expert_and_plain_video_switches_too() -> None:
    model = experts()
    passes = recorded(model)
    samples = {"samples": av_latent()["samples"].unbind()[0]}
    noise = comfy.sample.prepare_noise(samples["samples"], 1)
    sigmas = torch.tensor([0.95, 0.9, torch.nextafter(torch.tensor(0.9), torch.tensor(0.0)), 0.0])
    comfy.sample.sample_custom(
        model,
        noise,
        1.0,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        conditioning(1),
        conditioning(2),
        samples["samples"],
    )
    assert [name for name, _ in passes] == ["high", "high", "low"]


def test_each_step_is_that_of_its_expert_alone() -> None:
    """From the latent at the switch on, the run equals one of the low-noise expert begun there."""
    model = experts()
    states = trajectory(model)
    alone = patcher(weights=expert_weights(3), **SHIFT)
    sigmas = comfy.samplers.calculate_sigmas(alone.get_model_object("model_sampling"), "simple", STEPS)
    below = next(i for i, sigma in enumerate(sigmas) if sigma < 0.9)
    high_only = trajectory(patcher(weights=expert_weights(0), **SHIFT))
    assert [torch.equal(x, y) for x, y in zip(states, high_only, strict=True)] == [
        step <= below for step in range(STEPS)
    ]


def test_a_sound_alone_runs_with_one_expert() -> None:
    """Audio stream and interaction are the same in both."""
    masks = torch.zeros(1, 1, 3, 4, 6), torch.ones(1, 1, 18)
    latent = av_latent(masks=masks)
    latent["samples"].unbind()[0].zero_()
    made = []
    for denoise in (1.0, 0.5):
        model = experts()
        passes = recorded(model)
        made.append(sample(model, latent=latent, denoise=denoise)[1])
        assert {name for name, _ in passes} == {"high"} and len(passes) == STEPS
    alone = patcher(weights=expert_weights(0), **SHIFT)
    assert torch.equal(made[0], sample(alone, latent=latent)[1])


def test_restarting_at_high_noise_switches_back() -> None:
    model = experts()
    passes = recorded(model)
    video = av_latent()["samples"].unbind()[0]
    sigmas = torch.tensor([0.95, 0.5, 0.95, 0.5, 0.0])
    noise = comfy.sample.prepare_noise(video, 1)
    euler = comfy.samplers.sampler_object("euler")
    comfy.sample.sample_custom(model, noise, 1.0, euler, sigmas, conditioning(1), conditioning(2), video)
    assert [name for name, _ in passes] == ["high", "low", "high", "low"]


def test_noise_levels_on_both_sides_in_one_batch_are_refused() -> None:
    model = experts()

    def mix(apply_model: Callable[..., torch.Tensor], args: dict[str, Any]) -> torch.Tensor:
        timestep = args["timestep"].clone()
        timestep[0] = 0.5
        return apply_model(args["input"], timestep, **args["c"])

    mixed = model.clone()
    mixed.set_model_unet_function_wrapper(mix)
    with pytest.raises(ValueError, match=r"both sides of the expert boundary 0\.9"):
        sample(mixed, latent=av_latent(batch=2))


def test_an_expert_is_loaded_when_its_noise_levels_come() -> None:
    comfy.model_management.unload_all_models()
    model = experts()
    low, seen = low_noise_of(model), []

    def watch(apply_model: Callable[..., torch.Tensor], args: dict[str, Any]) -> torch.Tensor:
        seen.append((args["timestep"][0].item() >= 0.9, is_loaded(low)))
        assert low.model.run is model.model.run is not None  # by which the host estimates its memory
        result = apply_model(args["input"], args["timestep"], **args["c"])
        assert is_loaded(low) is not seen[-1][0]
        return result

    watched = model.clone()
    watched.set_model_unet_function_wrapper(watch)
    sample(watched, cfg=1.0)
    assert seen == [(True, False)] * 3 + [(False, False)] + [(False, True)] * 2


@pytest.mark.parametrize("start", [0.85, 0.95])
def test_a_run_loads_the_expert_it_begins_with(start: float) -> None:
    comfy.model_management.unload_all_models()
    model = experts()
    loaded = []

    def prepared(executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = executor(*args, **kwargs)
        loaded.append((is_loaded(model), is_loaded(low_noise_of(model))))
        return result

    model.add_wrapper_with_key(Wrappers.PREPARE_SAMPLING, "test", prepared)
    video = av_latent()["samples"].unbind()[0]
    noise, euler = comfy.sample.prepare_noise(video, 1), comfy.samplers.sampler_object("euler")
    sigmas = torch.tensor([start, 0.0])
    comfy.sample.sample_custom(model, noise, 1.0, euler, sigmas, conditioning(1), conditioning(2), video)
    assert loaded == [(start > 0.9, start < 0.9)]


def evicting(model: ModelPatcher, evicted: list) -> ModelPatcher:
    """As on a small GPU: loading one expert unloads the other."""

    def prepare(executor: Callable[..., Any], loading: ModelPatcher, *args: Any, **kwargs: Any) -> Any:
        result = executor(loading, *args, **kwargs)
        for entry in list(comfy.model_management.current_loaded_models):
            if entry.model is not None and not entry.model.is_clone(loading):
                evicted.append(entry.model)
                comfy.model_management.current_loaded_models.remove(entry)
                entry.model_unload()
        return result

    clone = model.clone()
    clone.add_wrapper_with_key(Wrappers.PREPARE_SAMPLING, "test", prepare)
    return clone


def test_the_idle_expert_can_be_unloaded_and_the_model_keeps_its_shift_and_patches() -> None:
    comfy.model_management.unload_all_models()
    model = with_lora(ModelSamplingSD3().patch(experts(), 7.0)[0], VIDEO_Q)
    wanted, evicted = sample(model), []
    tight = evicting(model, evicted)
    for _ in range(2):
        assert same(sample(tight), wanted) == [True, True]
    assert any(tight.is_clone(gone) for gone in evicted)
    assert model.model.model_sampling.shift == 5.0 and not model.backup, (
        "the evicted expert is unpatched after the run"
    )


def test_a_run_that_begins_below_the_boundary_uses_the_shift_of_the_model() -> None:
    model = ModelSamplingSD3().patch(experts(), 7.0)[0]
    comfy.model_management.unload_all_models()
    shifts = []

    def note(apply_model: Callable[..., torch.Tensor], args: dict[str, Any]) -> torch.Tensor:
        shifts.append((model.model.model_sampling.shift, low_noise_of(model).model.model_sampling.shift))
        return apply_model(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(note)
    sample(model, denoise=0.3, steps=4, cfg=1.0)
    assert shifts == [(7.0, 7.0)] * 4


def test_cancel_in_either_phase_leaves_nothing_behind() -> None:
    model = experts()
    wanted = sample(model)
    for stop_at in (1, 4):

        def interrupt(step: int, *_: Any, stop_at: int = stop_at) -> None:
            if step == stop_at:
                comfy.model_management.interrupt_current_processing()

        latent = av_latent()["samples"]
        noise = comfy.sample.prepare_noise(latent, 1)
        arguments = (model, noise, STEPS, 3.0, "euler", "simple", conditioning(1), conditioning(2), latent)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            comfy.sample.sample(*arguments, callback=interrupt)
        comfy.model_management.interrupt_current_processing(False)
        for half in (model, low_noise_of(model)):
            assert half.model.run is None and half.model.current_patcher is None
        assert same(sample(model), wanted) == [True, True]


def test_a_lora_on_the_low_noise_expert_changes_only_late_steps() -> None:
    model = experts()
    changed = model.clone()
    assert with_low_noise(changed, with_lora(low_noise_of(model), VIDEO_Q)) is changed
    base, patched = trajectory(model), trajectory(changed)
    # the state before the first step of the low-noise expert (0.833, index 3) is still the same
    assert [torch.equal(x, y) for x, y in zip(base, patched, strict=True)] == [True] * 4 + [False] * 2
    assert same(trajectory(model), base) == [True] * STEPS, "the input of the LoRA is not touched"
    assert low_noise_of(changed.clone()) is low_noise_of(changed) is not low_noise_of(model)


def test_a_lora_of_the_host_on_the_video_belongs_to_the_high_noise_expert() -> None:
    model = experts(boundary=0.97)  # one step of the high-noise expert
    base = sample(model, cfg=1.0)
    assert same(sample(with_lora(model, VIDEO_Q), cfg=1.0), base) == [False, False]
    below = with_lora(experts(boundary=0.9999), VIDEO_Q)
    never = {"denoise": 0.4, "steps": 3, "cfg": 1.0}
    assert same(sample(below, **never), sample(experts(boundary=0.9999), **never)) == [True, True]


def test_a_lora_on_the_shared_audio_stream_reaches_both_experts_once() -> None:
    """As if one model with equal experts had it, whether or not the low-noise expert was given it as well."""
    equal = experts(low_seed=0)
    wanted = sample(with_lora(patcher(weights=expert_weights(0), **SHIFT), AUDIO_Q))
    assert same(sample(with_lora(equal, AUDIO_Q)), wanted) == [True, True]
    twice = with_low_noise(with_lora(equal, AUDIO_Q), with_lora(low_noise_of(equal), AUDIO_Q))
    assert same(sample(twice), wanted) == [True, True]
    assert same(sample(equal), sample(patcher(weights=expert_weights(0), **SHIFT))) == [True, True]


def test_hooks_of_a_conditioning_apply_to_both_experts() -> None:
    equal, one = experts(low_seed=0), patcher(weights=expert_weights(0), **SHIFT)
    keyframes = comfy.hooks.HookKeyframeGroup()
    for start, strength in ((0.0, 0.5), (0.4, 1.0), (0.8, 0.25)):
        keyframes.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))

    def hooked() -> Any:
        group = comfy.hooks.create_hook_lora(lora(VIDEO_Q, AUDIO_Q), 1.0, 0.0)
        group.set_keyframes_on_hooks(keyframes)
        return {"hooks": group}

    for cfg in (
        1.0,
        3.0,
    ):  # without negative text the same group stays applied, and only its strength changes
        wanted = sample(one, cfg=cfg, **hooked())
        assert same(wanted, sample(one, cfg=cfg)) == [False, False]
        assert same(sample(equal, cfg=cfg, **hooked()), wanted) == [True, True]
    assert same(sample(equal), sample(one)) == [True, True]


def test_patches_wrappers_and_easycache_work_on_both() -> None:
    equal, one = experts(low_seed=0), patcher(weights=expert_weights(0), **SHIFT)
    results = []
    for model in (equal, one):
        patched = EasyCacheNode.execute(
            model, reuse_threshold=3.0, start_percent=0.0, end_percent=1.0, verbose=False
        )[0]
        patched.set_model_patch_replace(
            lambda args, extra: extra["original_block"](args), "dit", "double_block", 1
        )
        patched.set_model_attn2_patch(lambda args: 0.9 * args["x"])
        results.append(sample(patched, steps=12))
    assert same(*results) == [True, True]
    assert same(results[0], sample(equal, steps=12)) == [False, False]


def test_wrappers_of_others_run_around_the_active_expert_and_compiled_modules_around_their_own() -> None:
    model = experts()
    wanted, around, graphs = sample(model), [], []

    def wrapper(executor: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        around.append(executor.class_obj)
        return executor(*args, **kwargs)

    def backend(graph: torch.fx.GraphModule, _inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    wrapped = model.clone()
    wrapped.add_wrapper_with_key(Wrappers.APPLY_MODEL, "test", wrapper)
    set_torch_compile_wrapper(wrapped, backend=backend, keys=["diffusion_model.text_embedding"])
    seen = compiled_modules(wrapped)
    assert same(sample(wrapped), wanted) == [True, True]
    assert graphs and seen == {"high", "low"}
    switched = len(around) // 2
    assert set(around[:switched]) == {model.model} and set(around[switched:]) == {low_noise_of(model).model}


def compiled_modules(model: Any) -> set[str]:
    """Filled while it samples: the experts whose text embedding is entered as a compiled module."""
    seen: set[str] = set()
    for name, half in (("high", model), ("low", low_noise_of(model))):
        network = half.model.diffusion_model

        def note(_module: Any, _args: Any, name: str = name, network: Any = network) -> None:
            if isinstance(network.text_embedding, torch._dynamo.OptimizedModule):
                seen.add(name)

        network.register_forward_pre_hook(note)
    return seen


def zeroed(self: torch.nn.Module, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ARG001
    return x * 0


def around(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A function that closes over a module's method, as many patches are."""
    return lambda *args, **kwargs: 0.5 * original(*args, **kwargs)


class Halved(torch.nn.Module):
    """A module of somebody else's around one of the model."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return 0.5 * self.inner(*args, **kwargs)


PATCHES: dict[str, tuple[str, Callable[[torch.nn.Module], Any]]] = {
    "a bound function": ("blocks.0.cross_attn.forward", lambda m: zeroed.__get__(m.blocks[0].cross_attn)),
    "a closure over a method": (
        "blocks.0.self_attn.forward",
        lambda m: around(m.blocks[0].self_attn.forward),
    ),
    "a partial over a module": ("blocks.1.ffn.forward", lambda m: functools.partial(zeroed, m.blocks[1].ffn)),
    "a module around ours": ("blocks.1.norm1", lambda m: Halved(m.blocks[1].norm1)),
    "another module": ("blocks.2.norm2", lambda _: torch.nn.LayerNorm(48, elementwise_affine=False, eps=0.5)),
    "a method of the audio": ("audio.blocks.0.ffn.forward", lambda m: zeroed.__get__(m.audio.blocks[0].ffn)),
}


@pytest.mark.parametrize("kind", PATCHES)
def test_an_object_patch_acts_on_both_experts_with_each_one_s_own_weights(kind: str) -> None:
    key, make = PATCHES[kind]
    model, low_alone = experts(), patcher(weights=expert_weights(3), **SHIFT)
    below = {"steps": 4, "denoise": 0.4}  # a run that begins below the boundary
    results = []
    for half in (model, low_alone):
        patched = half.clone()
        patched.add_object_patch(f"diffusion_model.{key}", make(half.model.diffusion_model))
        results.append(sample(patched, **below))
        assert not torch.equal(results[-1][0], sample(half, **below)[0])
    assert same(*results) == [True, True]
    whole = model.clone()
    whole.add_object_patch(f"diffusion_model.{key}", make(model.model.diffusion_model))
    assert same(sample(whole), sample(model)) == [False, False]
    assert same(sample(model, **below), sample(model.clone(), **below)) == [True, True]


def test_an_object_patch_that_cannot_be_moved_is_named() -> None:
    model = experts()

    class Holder:
        def __init__(self, module: torch.nn.Module) -> None:
            self.module = module

        def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return self.module(*args, **kwargs)

    model.add_object_patch(
        "diffusion_model.blocks.0.ffn.forward", Holder(model.model.diffusion_model.blocks[0].ffn)
    )
    with pytest.raises(
        ValueError, match=r"blocks\.0\.ffn\.forward holds a module .* an object of the class Holder"
    ):
        sample(model)


def test_masks_and_context_reach_the_low_noise_expert() -> None:
    equal, one = experts(low_seed=0), patcher(weights=expert_weights(0), **SHIFT)
    masks = (torch.ones(1, 1, 3, 4, 6), torch.ones(1, 1, 18))
    masks[0][:, :, :1] = 0
    masks[1][..., :5] = 0
    latent = av_latent(masks=masks)
    text = dual_conditioning(1, 9)
    results = [sample(model, latent=latent, positive=text) for model in (equal, one)]
    assert same(*results) == [True, True]


def test_wrong_experts_are_refused() -> None:
    model = patcher(**SHIFT)
    with pytest.raises(ValueError, match="other sizes"):
        attach_low_noise(model, patcher(shift=4.0), 0.9)
    with pytest.raises(ValueError, match="between 0 and 1"):
        attach_low_noise(model, patcher(**SHIFT), 900.0)
    assert low_noise_of(model) is None


def test_a_deep_clone_gets_experts_of_its_own_and_a_split_over_gpus_is_refused() -> None:
    model = experts()
    low = low_noise_of(model)
    model.cached_patcher_init = (lambda: experts(), ())
    low.cached_patcher_init = (lambda: patcher(weights=expert_weights(3), **SHIFT), ())
    deep = model.deepclone_multigpu(torch.device("cpu"))
    assert not deep.is_clone(model) and not low_noise_of(deep).is_clone(low)
    assert same(sample(deep), sample(model)) == [True, True]
    model.set_additional_models("multigpu", [deep])
    with pytest.raises(ValueError, match="one GPU"):
        sample(model)
