"""CFG-step hooks of the host's nodes: on the video of a pair as on plain Wan, on the sound by itself."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_cfg import CFGNorm, CFGZeroStar
from comfy_extras.nodes_fresca import FreSca
from comfy_extras.nodes_lumina2 import RenormCFG
from comfy_extras.nodes_mahiro import Mahiro
from comfy_extras.nodes_model_advanced import RescaleCFG
from comfy_extras.nodes_perpneg import PerpNeg
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT
from comfy_extras.nodes_tcfg import TCFG
from torch import Tensor

from ccl_pack.ccl_core.guidance import TermScale
from ccl_pack.ccl_core.host.guider import AVGuider
from ccl_pack.ccl_core.host.hooks import PerStream, separate, with_own_state
from support.tiny import av_latent, conditioning
from support.uncoupled import model_of, wan_of

CFG = 4.0
STEPS = 3


def rescaled(model: ModelPatcher) -> ModelPatcher:
    return RescaleCFG().patch(model, 0.7)[0]


def renormed(model: ModelPatcher) -> ModelPatcher:
    return RenormCFG.execute(model, 100.0, 0.8).args[0]


def without_a_layer(model: ModelPatcher) -> ModelPatcher:
    return SkipLayerGuidanceDiT.execute(model, 2.0, 0.0, 1.0, "1", "", 0.5).args[0]


NODES: dict[str, Callable[[ModelPatcher], ModelPatcher]] = {
    "APG": lambda model: APG.execute(model, 1.0, 2.0, -0.5).args[0],
    "CFGNorm": lambda model: CFGNorm.execute(model, 1.0).args[0],
    "CFGZeroStar": lambda model: CFGZeroStar.execute(model).args[0],
    "FreSca": lambda model: FreSca.execute(model, 1.0, 1.5, 1).args[0],
    "Mahiro": lambda model: Mahiro.execute(model).args[0],
    "PerpNeg": lambda model: PerpNeg.execute(model, conditioning(9), 1.5).args[0],
    "RescaleCFG": rescaled,
    "SkipLayerGuidanceDiT": without_a_layer,
    "TCFG": lambda model: TCFG.execute(model).args[0],
}


@cache
def joint() -> ModelPatcher:
    return model_of("cca", fresh=True)


@cache
def plain() -> ModelPatcher:
    return wan_of(joint())


def unguided(model: ModelPatcher) -> ModelPatcher:
    return model


def sample(model: ModelPatcher, sound: bool, guider: str = "host") -> list[Tensor]:
    """A run of the host's CFGGuider or of ours, on the noise that the video has with and without sound."""
    samples = av_latent()["samples"]
    noise = comfy.sample.prepare_noise(samples, 3)
    if not sound:
        samples, noise = samples.unbind()[0], noise.unbind()[0]
    run = comfy.samplers.CFGGuider(model) if guider == "host" else AVGuider(model)
    run.set_conds(conditioning(1), conditioning(2))
    if guider == "host":
        run.set_cfg(CFG)
    else:
        run.set_guidance("cfg", {"text": TermScale(CFG, CFG)})
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    made = run.sample(noise, samples, comfy.samplers.sampler_object("euler"), sigmas)
    return list(made.unbind()) if made.is_nested else [made]


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("guider", ["host", "ours"])
def test_a_hook_does_to_the_video_what_it_does_to_plain_wan(node: str, guider: str) -> None:
    patch = NODES[node]
    wanted = sample(patch(plain()), sound=False, guider="host")[0]
    assert distance(wanted, sample(plain(), sound=False)[0]) > 1e-4
    video, audio = sample(patch(joint()), sound=True, guider=guider)
    # Our guider shows a hook the unconditional prediction for which the host's formula gives the guided one.
    assert distance(video, wanted) < (2e-6 if guider == "host" else 1e-5)
    assert torch.isfinite(audio).all()


# A Fourier filter over the last two axes, of which a sound has none.
@pytest.mark.parametrize("node", [name for name in NODES if name != "FreSca"])
def test_a_hook_acts_on_the_sound_too(node: str) -> None:
    _, audio = sample(NODES[node](joint()), sound=True)
    assert distance(audio, sample(joint(), sound=True)[1]) > 1e-4


@pytest.mark.parametrize("node", ["APG", "RescaleCFG", "CFGZeroStar"])
def test_the_sound_is_that_of_the_hook_on_the_sound_alone(node: str) -> None:
    """Other noise in the video, and so other norms of it: the sound of a fresh coupling stays as it is."""
    model = NODES[node](joint())
    _, first = sample(model, sound=True)
    latent = av_latent()["samples"]
    noise = comfy.sample.prepare_noise(latent, 3)
    noise.tensors[0] = 3 * noise.tensors[0].flip(2)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning(1), conditioning(2))
    guider.set_cfg(CFG)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    second = guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas).unbind()[1]
    assert distance(first, second) < 2e-6


def test_renorm_cfg_runs_on_a_pair() -> None:
    """On plain Wan it asks for an attribute that is not there; its formula by hand on each stream."""
    made = sample(renormed(joint()), sound=True)
    for stream, (ours, free) in enumerate(zip(made, sample(joint(), sound=True), strict=True)):
        assert torch.isfinite(ours).all() and distance(ours, free) > 1e-4, stream


SHAPES = [(1, 16, 3, 4, 6), (1, 8, 18)]


def test_what_a_hook_remembers_is_kept_for_each_stream() -> None:
    """The sum over the steps so far, as APG keeps one."""
    total = 0
    seen: list[Any] = []

    def hook(args: dict[str, Any]) -> Tensor:
        nonlocal total
        total = total + args["denoised"]
        seen.append(total)
        return args["denoised"] + total

    options = {"sampler_post_cfg_function": [hook]}
    separate(options, SHAPES)
    (both,) = options["sampler_post_cfg_function"]
    video, audio = torch.randn(SHAPES[0]), torch.randn(SHAPES[1])
    packed = torch.cat([video.flatten(1), audio.flatten(1)], dim=1)[:, None]
    args = {"denoised": packed, "input": packed, "model": None, "model_options": {}}
    for step in (1, 2):
        made = both(args)
        wanted = (1 + step) * packed
        torch.testing.assert_close(made, wanted)
    assert [tensor.shape for tensor in seen] == [SHAPES[0], SHAPES[0]]
    assert both.hooks[1].__closure__ is not hook.__closure__


class Remembering:
    """A hook with a buffer, as an object with a method or as a callable."""

    def __init__(self) -> None:
        self.last: Any = None

    def __call__(self, args: dict[str, Any]) -> Tensor:
        return self.step(args)

    def step(self, args: dict[str, Any]) -> Tensor:
        before, self.last = self.last, args["denoised"]
        return args["denoised"] if before is None else before


@pytest.mark.parametrize("form", ["object", "method", "partial"])
def test_objects_methods_and_partials_have_a_state_for_each_stream(form: str) -> None:
    original = Remembering()
    forms = {"object": original, "method": original.step, "partial": functools.partial(original.step)}
    hook: Any = forms[form]
    other = with_own_state(hook)
    first, second = torch.ones(1), torch.zeros(1)
    assert hook({"denoised": first}) is first and other({"denoised": second}) is second
    assert hook({"denoised": second}) is first and other({"denoised": first}) is second


class Holder:
    def __init__(self) -> None:
        self.sums = {"all": [0]}
        self.inner = Remembering()
        self.lock = threading.Lock()
        self.itself = self

    def __call__(self, number: int) -> int:
        self.itself.sums["all"][0] += number
        return self.sums["all"][0]


def counter(kind: str) -> Callable[[int], int]:
    """A sum of the numbers so far, kept in one of the places that a hook may keep it."""
    if kind == "object":
        return Holder()
    sums = {"all": [0]}
    if kind == "nested":

        def hook(number: int) -> int:
            sums["all"][0] += number
            return sums["all"][0]

        return hook
    if kind == "shared cell":
        total = 0

        def add(number: int) -> None:
            nonlocal total
            total += number

        def through(number: int) -> int:
            add(number)
            return total

        return through

    def attribute(number: int) -> int:
        attribute.total += number
        return attribute.total

    attribute.total = 0
    return attribute


@pytest.mark.parametrize("kind", ["object", "nested", "shared cell", "attribute"])
def test_a_sum_is_kept_apart_wherever_a_hook_holds_it(kind: str) -> None:
    hook = counter(kind)
    other = with_own_state(hook)
    assert [hook(1), other(10), hook(2), other(20)] == [1, 10, 3, 30]


def test_what_has_no_copy_is_shared_and_an_unset_variable_stays_unset() -> None:
    held = Holder()
    copied = with_own_state(held)
    assert copied.lock is held.lock and copied.itself is copied and copied.inner is not held.inner

    def unset(number: int) -> int:
        return number if number < 5 else later

    other = with_own_state(unset)
    assert other(1) == 1
    with pytest.raises(NameError):
        other(5)
    later = 7
    assert unset(5) == 7


def test_modules_and_plain_functions_are_shared() -> None:
    layer = torch.nn.Linear(2, 2)
    copied = with_own_state(lambda args: layer(args))
    assert copied.__closure__[0].cell_contents is layer
    assert with_own_state(len) is len


def test_hooks_of_a_video_alone_stay_as_they_are() -> None:
    options = {"sampler_cfg_function": len}
    separate(options, [SHAPES[0]])
    assert options["sampler_cfg_function"] is len
    separate(options, SHAPES)
    once = options["sampler_cfg_function"]
    assert isinstance(once, PerStream)
    separate(options, SHAPES)
    assert options["sampler_cfg_function"] is once


def test_the_pass_of_a_hook_runs_once_for_both_streams() -> None:
    model = without_a_layer(joint())
    counts = []
    for chosen in (joint(), model):
        count = 0

        def counted(executor: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            return executor(*args, **kwargs)

        clone = chosen.clone()
        clone.add_wrapper_with_key("diffusion_model", "count", counted)
        sample(clone, sound=True)
        counts.append(count)
    assert counts[1] - counts[0] == STEPS
