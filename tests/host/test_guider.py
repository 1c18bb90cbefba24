"""AVGuider on the tiny CCL model in the host's sampler: the host's own guider is the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.nested_tensor
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.supported_models
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.samplers import CFGGuider
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_custom_sampler import CFGOverride
from comfy_extras.nodes_easycache import EasyCacheNode as EasyCache
from comfy_extras.nodes_lt import LTXVConcatAVLatent
from comfy_extras.nodes_model_advanced import RescaleCFG

from ccl_pack.ccl_core.guidance import MODES, TermScale, branch_weights, default_settings
from ccl_pack.ccl_core.host.branches import ANCHOR, with_switches
from ccl_pack.ccl_core.host.guider import AVGuider
from ccl_pack.ccl_core.host.media.pair import Pair
from nodes import SetLatentNoiseMask
from support import tiny

POSITIVE, NEGATIVE = tiny.conditioning(1), tiny.conditioning(7)
PASSES = {
    "cfg": [("TC", "NC")],
    "ma_cfg": [("TC",), ("N0",)],
    "ucg": [("TC",), ("T0", "N0")],
    "ucg_joint": [("TC",), ("N0",)],
    "ucg_cross": [("TC",), ("T0",)],
    "dual": [("TC", "NC"), ("N0",)],
    "modality": [("TC", "NC"), ("T0",)],
}


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return tiny.patcher()


def av_guider(model: ModelPatcher, mode: str, settings: dict[str, TermScale], **options: Any) -> AVGuider:
    guider = AVGuider(model)
    guider.set_conds(POSITIVE, NEGATIVE)
    guider.set_guidance(mode, settings, **options)
    return guider


def host_guider(model: ModelPatcher, cfg: float, positive: list[Any] = POSITIVE) -> comfy.samplers.CFGGuider:
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, NEGATIVE)
    guider.set_cfg(cfg)
    return guider


def run(
    guider: AVGuider | CFGGuider, latent: dict, steps: int = 3, sampler: str = "euler"
) -> list[torch.Tensor]:
    """Video and audio (or video alone) after sampling from pure noise; one step gives the prediction
    itself.
    """
    samples = latent["samples"]
    sigmas = comfy.samplers.calculate_sigmas(
        guider.model_patcher.get_model_object("model_sampling"), "simple", steps
    )
    noise = comfy.sample.prepare_noise(samples, 5)
    out = guider.sample(
        noise, samples, comfy.samplers.sampler_object(sampler), sigmas, disable_pbar=True, seed=5
    )
    return out.unbind() if out.is_nested else [out]


def recorded(model: ModelPatcher) -> tuple[ModelPatcher, list[Any]]:
    """A clone of the model that notes the transformer options of every pass, in order."""
    passes, clone = [], model.clone()

    def note(apply_model: Callable[..., torch.Tensor], args: dict[str, Any]) -> torch.Tensor:
        passes.append(args["c"]["transformer_options"])
        return apply_model(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(note)
    return clone, passes


def names(options: dict) -> tuple[str, ...]:
    """Which branches a pass holds, positive first."""
    coupling = "C" if options.get("a2v_cross_attn", True) else "0"
    assert options.get("v2a_cross_attn", True) is (coupling == "C")
    return tuple("TN"[index] + coupling for index in sorted(options["cond_or_uncond"]))


def all_terms(mode: str, scale: TermScale) -> dict[str, TermScale]:
    return dict.fromkeys(MODES[mode].terms, scale)


def defaults(mode: str) -> dict[str, TermScale]:
    scales = {"text": TermScale(4.0, 5.0), "cross": TermScale(2.0, 3.0)}
    return {term: scales.get(term, TermScale(3.0, 2.0)) for term in MODES[mode].terms}


def assert_close(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert len(got) == len(wanted)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_cfg_is_the_host_cfg(model: ModelPatcher) -> None:
    ours = av_guider(model, "cfg", {"text": TermScale(4.0, 4.0)})
    assert_close(run(ours, tiny.av_latent()), run(host_guider(model, 4.0), tiny.av_latent()))


@pytest.mark.parametrize("mode", MODES)
def test_scale_one_is_the_positive_text_alone_bit_for_bit(model: ModelPatcher, mode: str) -> None:
    clone, passes = recorded(model)
    ours = run(av_guider(clone, mode, all_terms(mode, TermScale())), tiny.av_latent())
    assert [names(options) for options in passes] == [("TC",)] * 3
    for got, wanted in zip(ours, run(host_guider(model, 1.0), tiny.av_latent()), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("mode", MODES)
def test_a_step_runs_exactly_the_branches_of_the_mode_in_as_few_calls(model: ModelPatcher, mode: str) -> None:
    clone, passes = recorded(model)
    run(av_guider(clone, mode, defaults(mode)), tiny.av_latent(), steps=1)
    assert [names(options) for options in passes] == PASSES[mode]


def test_ucg_is_its_formula_over_branches_run_by_the_host(model: ModelPatcher) -> None:
    anchored = model.clone()
    anchored.model_options = with_switches(anchored.model_options, ANCHOR)
    tc, t0, n0 = (
        run(host_guider(patcher, 1.0, text), tiny.av_latent(), steps=1)
        for patcher, text in ((model, POSITIVE), (anchored, POSITIVE), (anchored, NEGATIVE))
    )
    ours = run(
        av_guider(model, "ucg", {"text": TermScale(4.0, 5.0), "cross": TermScale(2.0, 3.0)}),
        tiny.av_latent(),
        steps=1,
    )
    wanted = [
        n0[i] + text * (t0[i] - n0[i]) + cross * (tc[i] - t0[i])
        for i, (text, cross) in enumerate([(4.0, 2.0), (5.0, 3.0)])
    ]
    assert not torch.allclose(tc[0], t0[0], atol=1e-3)
    assert_close(ours, wanted)


@pytest.mark.parametrize("mode", MODES)
def test_a_scale_acts_on_its_own_stream_only(model: ModelPatcher, mode: str) -> None:
    weak, strong = (
        run(av_guider(model, mode, all_terms(mode, TermScale(3.0, audio))), tiny.av_latent(), steps=1)
        for audio in (2.0, 6.0)
    )
    assert torch.equal(weak[0], strong[0])
    assert not torch.allclose(weak[1], strong[1], atol=1e-3)


def test_a_range_is_a_part_of_the_run(model: ModelPatcher) -> None:
    clone, passes = recorded(model)
    run(
        av_guider(clone, "ucg_cross", {"cross": TermScale(3.0, 3.0, start=0.2, end=0.6)}),
        tiny.av_latent(),
        steps=8,
    )
    sampling = model.get_model_object("model_sampling")
    low, high = sampling.percent_to_sigma(0.6), sampling.percent_to_sigma(0.2)
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", 8)[:-1].tolist()
    inside = [low <= sigma <= high for sigma in sigmas]
    assert 0 < sum(inside) < 8
    wanted = [branch for active in inside for branch in ([("TC",), ("T0",)] if active else [("TC",)])]
    assert [names(options) for options in passes] == wanted


def test_ma_cfg_acts_at_the_noise_levels_it_was_published_with(model: ModelPatcher) -> None:
    """Of the model's time, not of the run: with a shift of 3 most steps lie above .5."""
    clone, passes = recorded(model)
    run(av_guider(clone, "ma_cfg", default_settings("ma_cfg")), tiny.av_latent(), steps=8)
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", 8)[:-1].tolist()
    inside = [sigma >= 0.5 for sigma in sigmas]
    assert sum(inside) == 7
    wanted = [branch for active in inside for branch in ([("TC",), ("N0",)] if active else [("TC",)])]
    assert [names(options) for options in passes] == wanted


def test_a_video_without_audio_gets_cfg_from_every_mode_that_guides_text(model: ModelPatcher) -> None:
    latent = {"samples": tiny.latents()[0]}
    clone, passes = recorded(model)
    ours = run(av_guider(clone, "ucg", {"text": TermScale(4.0, 9.0), "cross": TermScale(2.0, 9.0)}), latent)
    assert [names(options) for options in passes] == [("TC", "NC")] * 3
    assert_close(ours, run(host_guider(model, 4.0), latent))


def test_skip_layers_apply_to_negative_passes_only(model: ModelPatcher) -> None:
    clone, passes = recorded(model)
    skipped = run(av_guider(clone, "dual", defaults("dual"), skip_layers=(1,)), tiny.av_latent(), steps=1)
    assert [(names(options), options.get("skip_layers")) for options in passes] == [
        (("TC",), None),
        (("NC",), (1,)),
        (("N0",), (1,)),
    ]
    assert not torch.allclose(
        skipped[0], run(av_guider(model, "dual", defaults("dual")), tiny.av_latent(), steps=1)[0]
    )


def test_a_layer_the_model_lacks_is_refused(model: ModelPatcher) -> None:
    with pytest.raises(ValueError, match=r"skip_layers names \[3\], the model has the layers 0 to 2"):
        av_guider(model, "cfg", {}, skip_layers=(0, 3))


def test_open_and_anchor_passes_are_told_apart_by_the_caches_of_the_host(model: ModelPatcher) -> None:
    clone, passes = recorded(model)
    run(av_guider(clone, "ucg", defaults("ucg")), tiny.av_latent(), steps=2)
    first = [uuid for options in passes[0:2] for uuid in options["uuids"]]
    second = [uuid for options in passes[2:4] for uuid in options["uuids"]]
    assert len(set(first)) == 3
    assert sorted(first) == sorted(second)


def test_pre_cfg_hooks_see_the_pair_of_the_host(model: ModelPatcher) -> None:
    patched = APG.execute(model, eta=0.5, norm_threshold=2.0, momentum=-0.2)[0]
    ours = run(av_guider(patched, "cfg", {"text": TermScale(4.0, 4.0)}), tiny.av_latent())
    patched = APG.execute(model, eta=0.5, norm_threshold=2.0, momentum=-0.2)[0]
    wanted = run(host_guider(patched, 4.0), tiny.av_latent())
    assert_close(ours, wanted)
    assert not torch.allclose(ours[0], run(host_guider(model, 4.0), tiny.av_latent())[0], atol=1e-3)


def test_a_cfg_function_replaces_the_combination_as_in_the_host(model: ModelPatcher) -> None:
    latent = {"samples": tiny.latents()[0]}
    patched = (
        RescaleCFG.execute(model, 0.7)[0]
        if hasattr(RescaleCFG, "execute")
        else RescaleCFG().patch(model, 0.7)[0]
    )
    ours = run(av_guider(patched, "cfg", {"text": TermScale(4.0, 4.0)}), latent)
    assert_close(ours, run(host_guider(patched, 4.0), latent))


@pytest.mark.parametrize("cfg", [4.0, 1.0])
def test_cfg_plus_plus_samplers_get_the_negative_prediction(model: ModelPatcher, cfg: float) -> None:
    """They take it from a post-CFG hook, and ask for it at scale 1 too."""
    ours = run(
        av_guider(model, "cfg", {"text": TermScale(cfg, cfg)}), tiny.av_latent(), sampler="euler_cfg_pp"
    )
    assert_close(ours, run(host_guider(model, cfg), tiny.av_latent(), sampler="euler_cfg_pp"))


def test_post_cfg_hooks_see_a_pair_that_explains_the_prediction(model: ModelPatcher) -> None:
    seen, patched = {}, model.clone()

    def keep(args: dict[str, Any]) -> torch.Tensor:
        seen.update(args)
        return args["denoised"] * 0.5

    patched.set_model_sampler_post_cfg_function(keep)
    guidance = "ucg", {"text": TermScale(4.0, 5.0), "cross": TermScale(1.0, 3.0)}
    halved = run(av_guider(patched, *guidance), tiny.av_latent(), steps=1)
    plain = run(av_guider(model, *guidance), tiny.av_latent(), steps=1)
    assert seen["cond_scale"] == 5.0
    pair = seen["uncond_denoised"] + seen["cond_scale"] * (seen["cond_denoised"] - seen["uncond_denoised"])
    torch.testing.assert_close(pair, seen["denoised"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(halved[1], plain[1] * 0.5, rtol=1e-4, atol=1e-4)


def test_predict_noise_wrappers_run(model: ModelPatcher) -> None:
    calls, patched = [], model.clone()

    def wrapper(executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return executor(*args, **kwargs)

    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, "test", wrapper)
    run(av_guider(patched, "ucg", defaults("ucg")), tiny.av_latent(), steps=2)
    assert len(calls) == 2


def test_the_guider_leaves_the_model_options_alone(model: ModelPatcher) -> None:
    run(av_guider(model, "ucg", defaults("ucg"), skip_layers=(0,)), tiny.av_latent(), steps=1)
    assert "a2v_cross_attn" not in model.model_options["transformer_options"]
    assert "skip_layers" not in model.model_options["transformer_options"]


def test_an_empty_conditioning_is_refused(model: ModelPatcher) -> None:
    with pytest.raises(ValueError, match="negative holds no conditioning: connect a text encoder"):
        AVGuider(model).set_conds(POSITIVE, [])


@pytest.mark.parametrize("stream", [0, 1])
def test_nan_in_a_latent_is_refused(model: ModelPatcher, stream: int) -> None:
    latent = tiny.av_latent()
    latent["samples"].unbind()[stream][0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=f"latent_image: the {('video', 'audio')[stream]} latent holds NaN"):
        run(av_guider(model, "cfg", {}), latent)


def test_a_latent_of_another_model_is_refused(model: ModelPatcher) -> None:
    with pytest.raises(ValueError, match=r"the video latent has the shape \(1, 48, 3, 4, 6\).*16 channels"):
        run(av_guider(model, "cfg", {}), tiny.av_latent(channels=48))
    video, audio = tiny.latents()
    wide = comfy.nested_tensor.NestedTensor([video, audio.repeat(1, 2, 1)])
    with pytest.raises(ValueError, match=r"the audio latent has the shape.*8 channels"):
        run(av_guider(model, "cfg", {}), {"samples": wide})


def test_a_mask_of_a_picture_on_a_sound_is_refused(model: ModelPatcher) -> None:
    video, audio = tiny.latents()
    behind_audio = SetLatentNoiseMask().set_mask({"samples": audio}, torch.ones(32, 48))[0]
    latent = LTXVConcatAVLatent.execute({"samples": video}, behind_audio)[0]
    guider, euler = av_guider(model, "cfg", {}), comfy.samplers.sampler_object("euler")
    words = r"the mask of the sound has the shape \(1, 1, 32, 48\), and a sound has no height and width: put"
    with pytest.raises(ValueError, match=words):
        guider.sample(*[latent["samples"]] * 2, euler, torch.ones(2), latent["noise_mask"])


@pytest.mark.parametrize("kind", [comfy.nested_tensor.NestedTensor, Pair])
def test_a_pair_in_the_place_of_a_stream_is_refused(model: ModelPatcher, kind: type) -> None:
    video, audio = tiny.latents()
    latent = {"samples": comfy.nested_tensor.NestedTensor([kind([video, audio]), audio])}
    with pytest.raises(ValueError, match=r"a pair .* in the place of its video: take it apart with LTXVSep"):
        av_guider(model, "cfg", {}).sample(
            latent["samples"], latent["samples"], comfy.samplers.sampler_object("euler"), torch.ones(2)
        )


@pytest.fixture(scope="module")
def wan() -> ModelPatcher:
    sizes = {
        "in_dim": 16,
        "out_dim": 16,
        "dim": 48,
        "ffn_dim": 64,
        "num_heads": 2,
        "num_layers": 2,
        "text_dim": 24,
    }
    return tiny.host_patcher(comfy.supported_models.WAN21_T2V, **sizes)


@pytest.fixture(scope="module")
def ltx() -> ModelPatcher:
    return tiny.other_model()


def ltx_latent() -> dict:
    generator = torch.Generator().manual_seed(3)
    streams = [torch.randn(shape, generator=generator) for shape in ((1, 128, 2, 4, 4), (1, 8, 6, 16))]
    return {"samples": comfy.nested_tensor.NestedTensor(streams)}


def test_a_wan_model_of_the_host_gets_cfg(wan: ModelPatcher) -> None:
    latent = {"samples": tiny.latents()[0]}
    assert_close(
        run(av_guider(wan, "ucg_joint", {"joint": TermScale(4.0, 2.0)}), latent),
        run(host_guider(wan, 4.0), latent),
    )


def test_a_wan_model_of_the_host_reads_the_video_text_of_a_dual_prompt(wan: ModelPatcher) -> None:
    latent = {"samples": tiny.latents()[0]}
    dual, plain = (
        run(host_guider(wan, 4.0, text), latent) for text in (tiny.dual_conditioning(1, 9), POSITIVE)
    )
    assert torch.equal(dual[0], plain[0])


def test_audio_for_a_video_model_is_refused(wan: ModelPatcher) -> None:
    with pytest.raises(ValueError, match="this model makes video only"):
        run(av_guider(wan, "cfg", {}), tiny.av_latent())


def test_skip_layers_on_a_model_without_them_are_refused(wan: ModelPatcher) -> None:
    with pytest.raises(ValueError, match="skip_layers works on the joint models of this pack only"):
        av_guider(wan, "cfg", {}, skip_layers=(1,))


def test_modality_guidance_works_on_ltx_2_of_the_host(ltx: ModelPatcher) -> None:
    anchored = ltx.clone()
    anchored.model_options = with_switches(anchored.model_options, ANCHOR)
    text = [[torch.cat([tiny.conditioning(seed)[0][0] for seed in (1, 2)], dim=-1), {"frame_rate": 16}]]
    tc, t0 = (run(host_guider(patcher, 1.0, text), ltx_latent(), steps=1) for patcher in (ltx, anchored))
    clone, passes = recorded(ltx)
    guider = av_guider(clone, "ucg_cross", {"cross": TermScale(3.0, 2.0)})
    guider.set_conds(text, text)
    ours = run(guider, ltx_latent(), steps=1)
    assert [names(options) for options in passes] == [("TC",), ("T0",)]
    assert not torch.allclose(tc[0], t0[0], atol=1e-4)
    assert_close(ours, [t0[0] + 3.0 * (tc[0] - t0[0]), t0[1] + 2.0 * (tc[1] - t0[1])])


def overridden_model(model: ModelPatcher, cfg: float, start: float = 0.0, end: float = 1.0) -> ModelPatcher:
    return CFGOverride.execute(model, cfg, start, end).args[0]


def test_an_override_is_the_scale_of_the_mode_where_it_has_one(model: ModelPatcher) -> None:
    for mode, term in (("cfg", "text"), ("ucg_joint", "joint")):
        given = {term: TermScale(3.0, 3.0)}
        ours = run(av_guider(overridden_model(model, 5.0), mode, given), tiny.av_latent())
        assert_close(ours, run(av_guider(model, mode, {term: TermScale(5.0, 5.0)}), tiny.av_latent()))


def test_an_override_moves_all_scales_by_one_measure(model: ModelPatcher) -> None:
    """The largest is 4, so an override of 2.5 halves the distance of each scale from 1."""
    given = {"text": TermScale(4.0, 3.0), "cross": TermScale(2.0, 1.0)}
    halved = {"text": TermScale(2.5, 2.0), "cross": TermScale(1.5, 1.0)}
    ours = run(av_guider(overridden_model(model, 2.5), "dual", given), tiny.av_latent())
    assert_close(ours, run(av_guider(model, "dual", halved), tiny.av_latent()))


@pytest.mark.parametrize("mode", MODES)
def test_an_override_of_one_is_no_guidance_and_costs_no_pass(model: ModelPatcher, mode: str) -> None:
    clone, passes = recorded(overridden_model(model, 1.0))
    run(av_guider(clone, mode, defaults(mode)), tiny.av_latent())
    assert [names(options) for options in passes] == [("TC",)] * 3


def test_an_override_holds_in_its_range_as_in_the_host_s_guider(model: ModelPatcher) -> None:
    chosen = overridden_model(model, 1.0, 0.5, 1.0)
    ours = run(av_guider(chosen, "cfg", {"text": TermScale(4.0, 4.0)}), tiny.av_latent(), steps=4)
    assert_close(ours, run(host_guider(chosen, 4.0), tiny.av_latent(), steps=4))


def test_an_override_turns_guidance_on_where_there_was_none(model: ModelPatcher) -> None:
    ours = run(av_guider(overridden_model(model, 4.0), "cfg", {"text": TermScale()}), tiny.av_latent())
    assert_close(ours, run(host_guider(model, 4.0), tiny.av_latent()))


@pytest.mark.parametrize("mode", [mode for mode in MODES if len(PASSES[mode]) > 1])
def test_all_branches_of_a_step_come_from_easycache_or_none(model: ModelPatcher, mode: str) -> None:
    cached = EasyCache.execute(model, 10.0, 0.1, 0.95, False).args[0]
    ran: list[tuple[float, Any]] = []

    def note(executor: Any, *args: Any, **kwargs: Any) -> Any:
        options = args[-1] if isinstance(args[-1], dict) else kwargs["transformer_options"]
        ran.extend((float(options["sigmas"][0]), uuid) for uuid in options["uuids"])
        return executor(*args, **kwargs)

    # Behind the wrapper of EasyCache: what is not taken from the cache.
    cached.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "note", note)
    run(av_guider(cached, mode, defaults(mode)), tiny.av_latent(), steps=8)
    steps: dict[float, set[Any]] = {}
    for sigma, uuid in ran:
        steps.setdefault(sigma, set()).add(uuid)
    branches = sum(len(call) for call in PASSES[mode])
    assert {len(uuids) for uuids in steps.values()} == {branches}
    assert 2 <= len(steps) < 8


def test_a_model_without_switches_runs_no_pass_for_them_and_says_so(
    wan: ModelPatcher, caplog: pytest.LogCaptureFixture
) -> None:
    guider = AVGuider(wan)
    guider.set_guidance("dual", {"text": TermScale(4.0, 4.0), "cross": TermScale(2.0, 3.0)})
    (record,) = caplog.records
    assert "cross of the mode dual does nothing" in record.getMessage()
    caplog.clear()
    guider.set_guidance("dual", {"text": TermScale(4.0, 4.0), "cross": TermScale()})
    guider.set_guidance("cfg", {"text": TermScale(4.0, 4.0)})
    assert not caplog.records
    guider.latent_shapes = [(1, 16, 1, 2, 2), (1, 8, 2)]
    folded = guider._fold(branch_weights("dual", {"text": TermScale(4.0, 4.0), "cross": TermScale(2.0, 3.0)}))
    assert all(not branch.anchor for branch in folded)


def h3_latent() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    video = torch.randn(1, 24, 2, 4, 6, generator=generator)
    audio = torch.randn(1, 32, 2, 10, generator=generator)
    return {"samples": comfy.nested_tensor.NestedTensor([video, audio])}


def test_a_joint_model_without_switches_is_guided_by_its_text_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """MiniMax H3: picture and sound are one sequence, and no switch parts them."""
    model, passes = recorded(tiny.packed_model())
    guided = av_guider(model, "dual", {"text": TermScale(4.0, 4.0), "cross": TermScale(2.0, 3.0)})
    (record,) = caplog.records
    assert record.getMessage().startswith("MiniMaxH3 has no coupling that can be switched off: cross of")
    ours = run(guided, h3_latent(), steps=2)
    # The host's model takes one text at a time.
    assert {tuple(options["cond_or_uncond"]) for options in passes} == {(0,), (1,)} and len(passes) == 4
    assert_close(ours, run(host_guider(tiny.packed_model(), 4.0), h3_latent(), steps=2))
    moved = run(host_guider(tiny.packed_model(), 1.0), h3_latent(), steps=2)
    assert all(float((one - other).abs().max()) > 1e-2 for one, other in zip(ours, moved, strict=True))
    caplog.clear()
    av_guider(model, "cfg", {"text": TermScale(4.0, 4.0)})
    assert not caplog.records
