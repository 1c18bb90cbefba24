"""Sub-steps of the audio, against the inner sampler: by itself, and on finer steps for streams apart."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.nested_tensor
import comfy.sample
import comfy.samplers
import comfy.utils
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_custom_sampler import CFGOverride
from comfy_extras.nodes_easycache import EasyCacheNode
from torch import Tensor

from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.guidance import MODES, TermScale, default_settings
from ccl_pack.ccl_core.host.experts import attach_low_noise
from ccl_pack.ccl_core.host.guider import AVGuider
from ccl_pack.ccl_core.host.substeps import SoundGuidance, SubstepSampler, refined
from ccl_pack.nodes.shift import CCLStreamShift
from support.tiny import (
    av_latent,
    conditioning,
    config,
    count_blocks,
    given,
    latents,
    other_model,
    patcher,
    state_dict,
)

SIGMAS = torch.tensor([1.0, 0.8, 0.5, 0.0])
STEPS, SUBSTEPS = len(SIGMAS) - 1, 3
KINDS = pytest.mark.parametrize("kind", ["cca", "fusion", "bridge", "asymmetric"])
TEXTS = conditioning(1), conditioning(7)
# The joint passes of a step and those of the audio alone are of other shapes.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def model_of(kind: str = "cca", coupled: bool = True) -> ModelPatcher:
    """The tiny model; one that is not coupled reads zeros of the other stream."""
    chosen = config(interaction=InteractionConfig(kind, (0, 1), OPTIONS[kind]()))
    weights = state_dict(chosen)
    for key, weight in weights.items():
        # UniAVGen's output projection acts on the stream's own tokens too.
        last = ".o." if kind == "asymmetric" else ".v."
        if not coupled and key.startswith("interaction.") and last in key:
            weight.zero_()
    return patcher(weights=weights, interaction=chosen.interaction)


def inner(name: str = "euler") -> comfy.samplers.Sampler:
    return comfy.samplers.sampler_object(name)


def stepped(name: str = "euler", substeps: int = SUBSTEPS, **guidance: Any) -> SubstepSampler:
    return SubstepSampler(inner(name), substeps, **guidance)


def guider_of(
    model: ModelPatcher, mode: str = "cfg", settings: dict[str, TermScale] | None = None
) -> AVGuider:
    guider = AVGuider(model)
    guider.set_conds(*TEXTS)
    guider.set_guidance(mode, default_settings(mode) if settings is None else settings)
    return guider


def run(
    guider: Any,
    sampler: comfy.samplers.Sampler,
    latent: dict[str, Any] | None = None,
    sigmas: Tensor = SIGMAS,
    callback: Callable[..., Any] | None = None,
) -> list[Tensor]:
    latent = av_latent() if latent is None else latent
    samples = latent["samples"]
    made = guider.sample(
        comfy.sample.prepare_noise(samples, 5),
        samples,
        sampler,
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=callback,
        disable_pbar=True,
        seed=5,
    )
    return list(made.unbind()) if made.is_nested else [made]


def fine(model: ModelPatcher, sigmas: Tensor = SIGMAS) -> Tensor:
    return refined(sigmas, SUBSTEPS, model.get_model_object("model_sampling"))


def require_video_of_steps_and_sound_of_substeps(
    guider: Any, name: str = "euler", latent: dict[str, Any] | None = None, sigmas: Tensor = SIGMAS
) -> None:
    """Streams that do not read each other: the video of the inner sampler, the audio of it on finer steps."""
    video, audio = run(guider, stepped(name), latent, sigmas)
    of_steps = run(guider, inner(name), latent, sigmas)
    of_substeps = run(guider, inner(name), latent, fine(guider.model_patcher, sigmas))
    torch.testing.assert_close(video, of_steps[0], **CLOSE)
    torch.testing.assert_close(audio, of_substeps[1], **CLOSE)
    assert not torch.allclose(of_steps[1], of_substeps[1], **CLOSE)


def same(made: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(made, wanted, strict=True))


# ---- the steps of the audio


def test_a_step_is_divided_evenly_before_the_shift() -> None:
    """Shift 3, by hand: 1 is u = 1, and u = .5 is 1.5 / 2 = .75."""
    schedule = patcher().get_model_object("model_sampling")
    assert schedule.shift == 3.0
    made = refined(torch.tensor([1.0, 0.0]), 2, schedule)
    torch.testing.assert_close(made, torch.tensor([1.0, 0.75, 0.0]))
    plain = refined(torch.tensor([0.9, 0.3, 0.0]), 3, object())
    torch.testing.assert_close(plain, torch.tensor([0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.0]))


def test_the_levels_of_the_video_s_steps_stay_bit_for_bit() -> None:
    schedule = patcher().get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(schedule, "simple", 8)
    made = refined(sigmas, 5, schedule)
    assert torch.equal(made[::5], sigmas) and bool((made[1:] < made[:-1]).all()) and len(made) == 41
    assert torch.equal(refined(sigmas, 1, schedule), sigmas)


# ---- identities


@KINDS
@pytest.mark.parametrize("name", ["euler", "euler_ancestral", "heun", "dpmpp_2m", "euler_cfg_pp"])
def test_one_substep_is_the_inner_sampler_bit_for_bit(kind: str, name: str) -> None:
    guider = guider_of(model_of(kind))
    assert same(run(guider, stepped(name, 1)), run(guider, inner(name)))


@KINDS
@pytest.mark.parametrize("name", ["euler", "euler_ancestral", "dpmpp_2m"])
def test_apart_each_stream_has_its_own_steps(kind: str, name: str) -> None:
    require_video_of_steps_and_sound_of_substeps(guider_of(model_of(kind, coupled=False)), name)


@pytest.mark.parametrize("mode", MODES)
def test_apart_each_stream_has_its_own_steps_in_each_mode(mode: str) -> None:
    require_video_of_steps_and_sound_of_substeps(guider_of(model_of(coupled=False), mode))


def test_apart_with_a_shift_of_the_audio_s_own_and_from_less_noise() -> None:
    model = CCLStreamShift.execute(model_of(coupled=False), video_shift=5.0, audio_shift=2.0)[0]
    require_video_of_steps_and_sound_of_substeps(guider_of(model), sigmas=torch.tensor([0.7, 0.4, 0.0]))


def test_apart_with_parts_of_both_streams_kept() -> None:
    masks = torch.ones(1, 1, 3, 4, 6), torch.ones(1, 1, 18)
    masks[0][:, :, 0] = 0
    masks[1][..., :7] = 0
    latent, guider = av_latent(masks=masks), guider_of(model_of(coupled=False))
    require_video_of_steps_and_sound_of_substeps(guider, latent=latent)
    made = run(guider, stepped(), latent)
    video, audio = latent["samples"].unbind()
    assert torch.equal(made[0][:, :, 0], video[:, :, 0]) and torch.equal(made[1][..., :7], audio[..., :7])


def test_apart_in_context_windows() -> None:
    windowed = ContextWindowsManualNode.execute(
        model_of(coupled=False),
        context_length=4,
        context_overlap=2,
        context_schedule="standard_static",
        context_stride=1,
        closed_loop=False,
        fuse_method="pyramid",
        dim=2,
        freenoise=False,
    )[0]
    latent = av_latent(frames=8, tokens=58)
    require_video_of_steps_and_sound_of_substeps(guider_of(windowed), latent=latent)


def test_apart_with_texts_for_parts_of_the_picture() -> None:
    left = torch.zeros(1, 32, 48)
    left[..., :24] = 1
    guider = AVGuider(model_of(coupled=False))
    regions = [*conditioning(1, mask=left), *conditioning(3, mask=1 - left)]
    guider.set_conds(regions, TEXTS[1])
    guider.set_guidance("cfg", default_settings("cfg"))
    require_video_of_steps_and_sound_of_substeps(guider)


def test_apart_under_the_host_s_own_guider() -> None:
    guider = comfy.samplers.CFGGuider(model_of("bridge", coupled=False))
    guider.set_conds(*TEXTS)
    guider.set_cfg(3.0)
    require_video_of_steps_and_sound_of_substeps(guider)


def test_the_clips_of_a_batch_are_those_of_a_run_each() -> None:
    guider, latent = guider_of(model_of()), av_latent(batch=2)
    noise = comfy.sample.prepare_noise(latent["samples"], 5).unbind()
    made = run(guider, stepped(), latent)
    for clip in range(2):
        parts = [part[clip : clip + 1] for part in latent["samples"].unbind()]
        own = comfy.nested_tensor.NestedTensor([part[clip : clip + 1] for part in noise])
        pair = comfy.nested_tensor.NestedTensor(parts)
        alone = guider.sample(own, pair, stepped(), SIGMAS, disable_pbar=True, seed=5).unbind()
        for whole, one in zip(made, alone, strict=True):
            torch.testing.assert_close(whole[clip : clip + 1], one, **CLOSE)


# ---- which passes run


@KINDS
def test_between_two_steps_no_block_of_the_video_runs(kind: str) -> None:
    model = model_of(kind)
    guider = guider_of(model)
    calls = count_blocks(model.model.diffusion_model)
    run(guider, inner())
    plain = dict(calls)
    run(guider, stepped())
    made = {stream: calls[stream] - plain[stream] for stream in calls}
    assert made == {"video": plain["video"], "audio": SUBSTEPS * plain["audio"]}


def test_the_times_of_the_audio_are_those_of_the_finer_steps() -> None:
    model, times = model_of(), []

    def note(_: Any, arguments: Any, options: Any) -> None:  # noqa: ARG001 - the hook's signature
        times.append(float(arguments[1][1].max()) / 1000)

    model.model.diffusion_model.register_forward_pre_hook(note, with_kwargs=True)
    run(guider_of(model, settings={}), stepped())
    assert times == pytest.approx(fine(model)[:-1].tolist(), rel=1e-5)


@KINDS
def test_guidance_of_the_audio_s_own_runs_the_audio_alone(kind: str) -> None:
    """Apart it is what the guider would do with these scales, which runs both streams for it."""
    model = model_of(kind, coupled=False)
    own = SoundGuidance("cfg", {"text": TermScale(audio=3.0)})
    both = guider_of(model, settings={"text": TermScale(1.0, 3.0)})
    wanted = run(both, stepped())
    calls = count_blocks(model.model.diffusion_model)
    unguided = guider_of(model, settings={})
    made = run(unguided, stepped(guidance=own))
    assert calls["video"] == STEPS * 3
    for x, y in zip(made, wanted, strict=True):
        torch.testing.assert_close(x, y, **CLOSE)
    assert not torch.allclose(run(unguided, stepped())[1], made[1], **CLOSE)


def test_the_scales_of_the_guider_for_the_audio_do_not_count_then() -> None:
    model, own = model_of(), SoundGuidance("ucg", default_settings("ucg"))
    made = [
        run(guider_of(model, settings={"text": TermScale(2.0, audio)}), stepped(guidance=own))
        for audio in (1.0, 9.0)
    ]
    assert same(*made)


def test_another_scale_for_some_steps_counts_for_the_audio_s_own_guidance_too() -> None:
    """Of the host's CFG Override: 1 is no guidance."""
    model, own = model_of(), SoundGuidance("cfg", {"text": TermScale(audio=4.0)})
    override = CFGOverride.execute(model=model, cfg=1.0, start_percent=0.0, end_percent=1.0)[0]
    made = run(guider_of(override), stepped(guidance=own))
    for x, y in zip(made, run(guider_of(model, settings={}), stepped()), strict=True):
        torch.testing.assert_close(x, y, **CLOSE)


# Channels of what a hook saw; what it keeps itself, each stream has of its own.
SEEN: list[int] = []


def note(args: dict[str, Any]) -> Tensor:
    SEEN.append(args["denoised"].shape[1])
    return args["denoised"]


@pytest.mark.parametrize("own", [False, True])
def test_a_hook_of_the_guided_step_sees_each_stream_as_often_as_it_steps(own: bool) -> None:
    model = model_of()
    SEEN.clear()
    model.set_model_sampler_post_cfg_function(note)
    guidance = SoundGuidance("cfg", default_settings("cfg")) if own else None
    run(guider_of(model), stepped(guidance=guidance))
    assert SEEN.count(16) == STEPS and SEEN.count(8) == STEPS * SUBSTEPS


# ---- streams that are not both made


def test_a_given_sound_takes_no_substeps() -> None:
    guider, latent = guider_of(model_of()), av_latent(masks=given("audio"))
    assert same(run(guider, stepped(), latent), run(guider, inner(), latent))


def test_a_plain_video_latent_takes_no_substeps() -> None:
    guider, latent = guider_of(model_of()), {"samples": latents()[0]}
    assert same(run(guider, stepped(), latent), run(guider, inner(), latent))


def test_a_given_video_is_computed_once_and_the_audio_has_its_finer_steps() -> None:
    model = model_of()
    guider, latent = guider_of(model), av_latent(masks=given("video"))
    wanted = run(guider, inner(), latent, fine(model))
    calls = count_blocks(model.model.diffusion_model)
    made = run(guider, stepped(), latent)
    assert same(made, wanted) and calls["video"] == 2


def test_a_sound_without_video_has_its_finer_steps() -> None:
    model = model_of()
    latent = av_latent(masks=given("video"))
    video, audio = latent["samples"].unbind()
    latent["samples"] = comfy.nested_tensor.NestedTensor([torch.zeros_like(video), audio])
    guider = guider_of(model)
    assert same(run(guider, stepped(), latent), run(guider, inner(), latent, fine(model)))


# ---- two experts


def test_experts_switch_at_a_step_of_the_video_and_never_between() -> None:
    """The boundary lies between two steps, so that sub-steps of the first are below it."""
    weights = state_dict(config())
    two, low = patcher(weights=weights), patcher(weights=weights)
    wanted = run(guider_of(patcher(weights=weights)), stepped())
    attach_low_noise(two, low, 0.6)
    active = []
    run_of_low = low.model.diffusion_model.audio.head.register_forward_hook(lambda *_: active.append("low"))
    run_of_high = two.model.diffusion_model.audio.head.register_forward_hook(lambda *_: active.append("high"))
    made = run(guider_of(two, settings={}), stepped())
    assert active == ["high"] * 2 * SUBSTEPS + ["low"] * SUBSTEPS
    run_of_low.remove()
    run_of_high.remove()
    made = run(guider_of(two), stepped())
    for x, y in zip(made, wanted, strict=True):
        torch.testing.assert_close(x, y, **CLOSE)


# ---- the host around it


def test_the_preview_comes_once_a_step_of_the_video() -> None:
    told: list[tuple[int, int]] = []
    run(guider_of(model_of()), stepped(), callback=lambda step, _x0, _x, total: told.append((step, total)))
    assert told == [(step, STEPS) for step in range(STEPS)]


@pytest.mark.parametrize("step", [0, STEPS - 1])
def test_a_run_that_is_cancelled_leaves_no_thread(step: int) -> None:
    def cancel(at: int, *_: Any) -> None:
        if at == step:
            raise comfy.model_management.InterruptProcessingException

    before = threading.active_count()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(guider_of(model_of()), stepped(), callback=cancel)
    assert threading.active_count() == before


@pytest.mark.parametrize("name", ["dpm_2", "dpmpp_sde", "dpm_adaptive"])
def test_a_sampler_that_asks_between_its_steps_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"sampler {name}.*choose euler"):
        run(guider_of(model_of()), stepped(name))


def test_what_has_no_substeps_is_refused() -> None:
    with pytest.raises(ValueError, match="audio_substeps is"):
        SubstepSampler(inner(), 0)
    with pytest.raises(ValueError, match="levels that fall"):
        run(guider_of(model_of()), stepped(), sigmas=torch.tensor([0.5, 0.8, 0.0]))
    with pytest.raises(ValueError, match="EasyCache"):
        cached = EasyCacheNode.execute(model_of(), 0.2, 0.15, 0.95, False)[0]
        run(guider_of(cached), stepped())


def test_a_guider_that_has_no_guidance_of_the_audio_s_own_is_refused() -> None:
    guider = comfy.samplers.CFGGuider(model_of())
    guider.set_conds(*TEXTS)
    own = SoundGuidance("cfg", default_settings("cfg"))
    with pytest.raises(ValueError, match=r"CFGGuider.*CCLGuider"):
        run(guider, stepped(guidance=own))


def test_a_model_of_the_host_is_refused() -> None:
    model = other_model()
    audio = torch.ones(1, 8, 4, 16)
    latent = {"samples": comfy.nested_tensor.NestedTensor([torch.ones(1, 128, 2, 4, 4), audio])}
    with pytest.raises(ValueError, match=r"LTXAV.*joint model"):
        run(guider_of(model), stepped(), latent)


# ---- a pass without the LoRA

ONE_STEP = torch.tensor([1.0, 0.0])
VIDEO_WEIGHT = "diffusion_model.blocks.0.ffn.0.weight"


def with_lora(model: ModelPatcher, key: str = VIDEO_WEIGHT) -> ModelPatcher:
    """A clone whose weight of this key is another one."""
    clone = model.clone()
    shape = comfy.utils.get_attr(model.model, key.replace("low_noise.", "")).shape
    clone.add_patches({key: (torch.randn(shape, generator=torch.Generator().manual_seed(8)),)}, 1.0)
    return clone


@pytest.mark.parametrize("kind", ["cca", "bridge"])
def test_the_audio_reads_the_video_as_the_model_without_the_lora_makes_it(kind: str) -> None:
    """In one step: the video of the model with it, the audio of the one without."""
    model = model_of(kind)
    learned = with_lora(model)
    without, with_it = (
        run(guider_of(one, settings={}), inner(), sigmas=ONE_STEP) for one in (model, learned)
    )
    assert not torch.allclose(without[1], with_it[1], **CLOSE)
    made = run(guider_of(learned, settings={}), stepped(substeps=1, before=model), sigmas=ONE_STEP)
    torch.testing.assert_close(made[0], with_it[0], **CLOSE)
    torch.testing.assert_close(made[1], without[1], **CLOSE)
    # The weights are those of each model again.
    again = [run(guider_of(one, settings={}), inner(), sigmas=ONE_STEP) for one in (model, learned)]
    assert same(again[0], without) and same(again[1], with_it)


def test_the_model_itself_in_the_place_of_the_one_without_a_lora_changes_nothing() -> None:
    model = with_lora(model_of())
    made = run(guider_of(model, settings={}), stepped(before=model.clone()))
    for x, y in zip(made, run(guider_of(model, settings={}), stepped()), strict=True):
        torch.testing.assert_close(x, y, **CLOSE)


def test_a_lora_of_the_audio_stays() -> None:
    model = model_of()
    learned = with_lora(model, "diffusion_model.audio.blocks.0.ffn.0.weight")
    wanted = run(guider_of(learned, settings={}), stepped())
    made = run(guider_of(learned, settings={}), stepped(before=model))
    for x, y in zip(made, wanted, strict=True):
        torch.testing.assert_close(x, y, **CLOSE)


@pytest.mark.parametrize("start", [1.0, 0.5])
def test_of_two_experts_it_is_the_one_that_is_active(start: float) -> None:
    chosen, sigmas = config(), torch.tensor([start, 0.0])
    before = patcher(weights=state_dict(chosen))
    attach_low_noise(before, patcher(weights=state_dict(chosen, 0)), 0.6)
    learned = with_lora(
        before, VIDEO_WEIGHT if start == 1.0 else VIDEO_WEIGHT.replace("0.weight", "0.low_noise.weight")
    )
    without, with_it = (run(guider_of(one, settings={}), inner(), sigmas=sigmas) for one in (before, learned))
    assert not torch.allclose(without[1], with_it[1], **CLOSE)
    made = run(guider_of(learned, settings={}), stepped(substeps=1, before=before), sigmas=sigmas)
    torch.testing.assert_close(made[0], with_it[0], **CLOSE)
    torch.testing.assert_close(made[1], without[1], **CLOSE)


def test_another_model_is_refused_there() -> None:
    with pytest.raises(ValueError, match="model_without_lora is another model"):
        run(guider_of(model_of()), stepped(before=model_of()))
