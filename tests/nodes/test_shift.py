"""A sigma shift per stream: known answers of the audio's own schedule on the host's samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_sampling
import comfy.nested_tensor
import comfy.sample
import comfy.samplers
import comfy.utils
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_minimax_h3 import MiniMaxH3SigmaShift
from comfy_extras.nodes_model_advanced import ModelSamplingFlux, ModelSamplingSD3

import nodes as host_nodes
from ccl_pack.ccl_core.host.experts import attach_low_noise
from ccl_pack.nodes.shift import CCLStreamShift
from support.tiny import av_latent, conditioning, config, latents, patcher, state_dict

TEXT = conditioning(1), conditioning(2)


def shifted(model: ModelPatcher, video: float, audio: float) -> ModelPatcher:
    return CCLStreamShift.execute(model, video_shift=video, audio_shift=audio)[0]


def own_sigma(sigma: torch.Tensor | float, video: float, audio: float) -> torch.Tensor | float:
    """Through the base grid u: sigma = s u / (1 + (s - 1) u) for both shifts s."""
    u = sigma / (video + sigma * (1 - video))
    return audio * u / (1 + (audio - 1) * u)


def recorded(model: ModelPatcher) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """What the transformer got: the audio latent, the time of the video and of the audio."""
    calls = []

    def note(_module: Any, arguments: Any, _options: Any) -> None:
        (_, audio), (video_time, audio_time) = arguments
        calls.append((audio.clone(), video_time.clone(), audio_time.clone()))

    model.model.diffusion_model.register_forward_pre_hook(note, with_kwargs=True)
    return calls


def noise_of(latent: dict[str, Any]) -> list[torch.Tensor]:
    return comfy.sample.prepare_noise(latent["samples"], 1).unbind()


def run(
    model: ModelPatcher,
    sigmas: torch.Tensor,
    latent: dict[str, Any] | None = None,
    sampler: str = "euler",
    callback: Callable[..., Any] | None = None,
) -> list[torch.Tensor]:
    latent = av_latent() if latent is None else latent
    samples = latent["samples"]
    noise = comfy.sample.prepare_noise(samples, 1)
    sampler = comfy.samplers.sampler_object(sampler)
    mask = latent.get("noise_mask")
    return comfy.sample.sample_custom(
        model, noise, 1.0, sampler, sigmas, *TEXT, samples, noise_mask=mask, callback=callback, seed=1
    ).unbind()


def constant_field() -> ModelPatcher:
    """The tiny model with a head that gives one velocity everywhere, 0.7 for the audio and 0.4 for the
    video.
    """
    weights = state_dict(config())
    for prefix, velocity in (("", 0.4), ("audio.", 0.7)):
        weights[f"{prefix}head.head.weight"].zero_()
        weights[f"{prefix}head.head.bias"].fill_(velocity)
    return patcher(weights=weights)


def same(x: list[torch.Tensor], y: list[torch.Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(x, y, strict=True)]


@pytest.mark.parametrize("video", [5.0, 8.0, 1.0])
def test_equal_shifts_are_the_shift_of_the_host_bit_for_bit(video: float) -> None:
    model = patcher()
    host = ModelSamplingSD3().patch(model, video)[0]
    wanted = host_nodes.common_ksampler(host, 1, 3, 2.0, "euler", "simple", *TEXT, av_latent())[0][
        "samples"
    ].unbind()
    ours = shifted(model, video, video)
    got = host_nodes.common_ksampler(ours, 1, 3, 2.0, "euler", "simple", *TEXT, av_latent())[0][
        "samples"
    ].unbind()
    assert same(got, wanted) == [True, True]


def test_the_times_are_those_of_both_schedules() -> None:
    model = patcher()
    calls = recorded(model)
    clone = shifted(model, 5.0, 2.0)
    sampling = clone.get_model_object("model_sampling")
    assert sampling.shift == 5.0
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", 8)
    run(clone, sigmas)
    for (_, video, audio), sigma in zip(calls, sigmas, strict=False):
        torch.testing.assert_close(video, sigma[None] * 1000)
        torch.testing.assert_close(audio, own_sigma(sigma[None], 5.0, 2.0) * 1000)
    # by hand: u = 1/2 is 5/6 of shift 5 and 2/3 of shift 2; shift 1 is the grid itself
    assert own_sigma(5 / 6, 5.0, 2.0) == pytest.approx(2 / 3)
    assert own_sigma(5 / 6, 5.0, 1.0) == pytest.approx(1 / 2)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("audio_shift", [1.0, 2.0, 5.0, 11.0])
def test_a_constant_velocity_is_integrated_exactly_whatever_the_steps(steps: int, audio_shift: float) -> None:
    """x - v (sigma_0 - 0) in both streams: the own schedule of the audio begins and ends at 1 and 0 too."""
    model = shifted(constant_field(), 5.0, audio_shift)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    video, audio = run(model, sigmas)
    noise = noise_of(av_latent())
    torch.testing.assert_close(audio, noise[1] - 0.7, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.model.process_latent_in(video), noise[0] - 0.4, rtol=1e-4, atol=1e-4)


def test_each_euler_step_of_the_audio_is_the_euler_step_of_its_own_schedule() -> None:
    """The latents that the model sees, on its real velocities, stepped by hand on the audio's sigmas."""
    model = patcher()
    calls, outputs = recorded(model), []
    model.model.diffusion_model.register_forward_hook(
        lambda _module, _arguments, output: outputs.append(output[1])
    )
    clone = shifted(model, 5.0, 1.5)
    sigmas = comfy.samplers.calculate_sigmas(clone.get_model_object("model_sampling"), "simple", 6)
    result = run(clone, sigmas)[1]
    own = own_sigma(sigmas, 5.0, 1.5)
    x = noise_of(av_latent())[1]
    for i, velocity in enumerate(outputs):
        torch.testing.assert_close(calls[i][0], x, rtol=1e-4, atol=1e-4)
        x = x + velocity * (own[i + 1] - own[i])
    torch.testing.assert_close(result, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "uni_pc", "res_multistep"])
def test_samplers_of_higher_order_converge_to_the_own_schedule(sampler: str) -> None:
    """The audio by itself: 5 for the video and 2 for the audio ends where a shift of 2 for all does."""
    weights = state_dict(config())
    weights = {
        k: torch.zeros_like(v) if "interaction." in k and ".o." in k else v for k, v in weights.items()
    }
    base = ModelSamplingSD3().patch(patcher(weights=weights), 2.0)[0]
    ours = shifted(base, 5.0, 2.0)

    def difference(steps: int) -> float:
        own, sigmas = (
            comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
            for model in (base, ours)
        )
        torch.testing.assert_close(own_sigma(sigmas, 5.0, 2.0), own)
        wanted = run(base, own, sampler=sampler)[1]
        return ((run(ours, sigmas, sampler=sampler)[1] - wanted).norm() / wanted.norm()).item()

    few, many = difference(8), difference(32)
    assert many < 0.03 and many < few / 3


@pytest.mark.parametrize(
    "sampler", ["euler_ancestral", "dpmpp_2s_ancestral", "dpmpp_2m_sde", "er_sde", "sa_solver"]
)
def test_the_noise_that_a_sampler_adds_has_the_level_of_the_audio_s_own_sigma(sampler: str) -> None:
    """A model whose every prediction is the same clean latent: what is left of each of its inputs is unit
    noise.
    """
    model = shifted(patcher(), 5.0, 1.5)
    clean, seen = latents(tokens=2000)[1], []

    def perfect(x: Any, timestep: Any, *_: Any, **__: Any) -> Any:
        (video, audio), own = x, timestep[1][:, None, None] / 1000
        seen.append(((audio - (1 - own) * clean) / own).std().item())
        return [torch.zeros_like(video), (audio - clean) / own]

    model.model.diffusion_model.forward = perfect
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 8)
    audio = run(model, sigmas, av_latent(tokens=2000), sampler)[1]
    assert len(seen) >= 8 and seen == pytest.approx([1.0] * len(seen), rel=0.02)
    torch.testing.assert_close(audio, clean, rtol=1e-3, atol=1e-3)


def test_a_run_from_less_noise_starts_at_the_noise_of_the_audio_s_sigma() -> None:
    model = patcher()
    calls = recorded(model)
    sigma = torch.tensor(0.6)
    run(shifted(model, 5.0, 2.0), torch.stack([sigma, torch.tensor(0.0)]))
    own = own_sigma(sigma, 5.0, 2.0)
    clean, noise = av_latent()["samples"].unbind()[1], noise_of(av_latent())[1]
    torch.testing.assert_close(calls[0][0], (1 - own) * clean + own * noise)
    torch.testing.assert_close(calls[0][2], own[None] * 1000)


def test_a_run_split_over_two_samplers_is_the_whole_run() -> None:
    model = shifted(patcher(), 5.0, 2.0)
    whole = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 6)
    wanted = run(model, whole)
    first = run(model, whole[:4])
    samples = comfy.nested_tensor.NestedTensor(first)
    zero = comfy.nested_tensor.NestedTensor([torch.zeros_like(part) for part in first])
    euler = comfy.samplers.sampler_object("euler")
    second = comfy.sample.sample_custom(model, zero, 1.0, euler, whole[3:], *TEXT, samples, seed=1).unbind()
    for x, y in zip(second, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3)


def test_a_kept_region_is_read_clean_at_time_zero_and_comes_back_bit_exact() -> None:
    model = patcher()
    calls = recorded(model)
    masks = (torch.ones(1, 1, 3, 4, 6), torch.ones(1, 1, 18))
    masks[1][..., :7] = 0
    latent = av_latent(masks=masks)
    clone = shifted(model, 5.0, 2.0)
    audio = run(
        clone, comfy.samplers.calculate_sigmas(clone.get_model_object("model_sampling"), "simple", 3), latent
    )[1]
    clean = latent["samples"].unbind()[1]
    for seen, video_time, audio_time in calls:
        torch.testing.assert_close(seen[..., :7], clean[..., :7])
        own = own_sigma(video_time[:, None] / 1000, 5.0, 2.0) * 1000
        torch.testing.assert_close(audio_time, torch.where(masks[1][0] == 0, 0.0, own))
    assert (
        torch.equal(audio[..., :7], clean[..., :7])
        and not torch.isclose(audio[..., 7:], clean[..., 7:]).all()
    )


def test_the_preview_of_the_audio_is_its_clean_prediction() -> None:
    previews = []
    model = shifted(constant_field(), 5.0, 2.0)
    sigmas = torch.tensor([1.0, 0.7, 0.3, 0.0])
    run(model, sigmas, callback=lambda _step, x0, _x, _total: previews.append(x0.unbind()[1]))
    # with one velocity everywhere every prediction is the end of the straight line
    for preview in previews:
        nested = comfy.nested_tensor.NestedTensor([latents()[0], preview])
        audio = model.model.process_latent_out(nested).unbind()[1]
        torch.testing.assert_close(audio, noise_of(av_latent())[1] - 0.7, rtol=1e-4, atol=1e-4)


def test_the_shift_of_the_configuration_is_the_one_of_the_node() -> None:
    weights = state_dict(config())
    own = patcher(weights=weights, audio_shift=2.0, shift=5.0)
    base = patcher(weights=weights, shift=5.0)
    sigmas = comfy.samplers.calculate_sigmas(base.get_model_object("model_sampling"), "simple", 4)
    wanted = run(shifted(base, 5.0, 2.0), sigmas)
    assert same(run(own, sigmas), wanted) == [True, True]
    assert same(run(base, sigmas), wanted) == [False, False]
    # one and the same shift for both undoes it
    assert same(run(shifted(own, 5.0, 5.0), sigmas), run(base, sigmas)) == [True, True]


def test_the_input_is_not_touched_and_clones_keep_the_shift() -> None:
    model = patcher()
    sigmas = torch.tensor([1.0, 0.8, 0.4, 0.0])
    before = run(model, sigmas)
    clone = shifted(model, 5.0, 2.0)
    assert model.object_patches == {}
    assert same(run(clone.clone(), sigmas), run(clone, sigmas)) == [True, True]
    assert same(run(model, sigmas), before) == [True, True]
    # a shift of the host behind the node moves the video and leaves the audio its own
    behind = ModelSamplingSD3().patch(clone, 4.0)[0]
    assert same(run(behind, sigmas), run(shifted(model, 4.0, 2.0), sigmas)) == [True, True]


def test_the_host_s_own_node_of_two_shifts_sets_both_where_its_schedule_carries_both() -> None:
    """ComfyUI 0.30 hands the second shift to its own model only; later ones put it on the schedule."""
    model = patcher()
    sigmas = torch.tensor([1.0, 0.8, 0.4, 0.0])
    carries_both = hasattr(comfy.model_sampling, "ModelSamplingAV")
    for earlier in (model, shifted(model, 3.0, 9.0)):
        by_host = MiniMaxH3SigmaShift.execute(earlier, shift_video=5.0, shift_audio=2.0)[0]
        left = earlier.object_patches.get("audio_shift", 5.0)
        wanted = run(shifted(model, 5.0, 2.0 if carries_both else left), sigmas)
        assert same(run(by_host, sigmas), wanted) == [True, True]
        # The last node decides, whichever of the two it is.
        again = run(shifted(by_host, 5.0, 4.0), sigmas)
        assert same(again, run(shifted(model, 5.0, 4.0), sigmas)) == [True, True]


def test_the_schedule_tells_by_how_much_the_audio_is_scaled() -> None:
    """As the samplers and nodes of other packs read it: by this the clean audio is larger while it is
    sampled.
    """
    video, audio = av_latent()["samples"].unbind()
    pair = comfy.nested_tensor.NestedTensor([video, audio])
    for model in (shifted(patcher(), 6.0, 1.5), patcher(audio_shift=1.5, shift=6.0)):
        model.patch_model()
        schedule = model.model.model_sampling
        known = getattr(schedule, "audio_shift", model.model.audio_shift)  # 0.30's own schedule has one shift
        scaled = model.model.process_latent_in(pair).unbind()[1]
        torch.testing.assert_close(scaled, audio * schedule.shift / known)
        assert getattr(schedule, "audio_scale", 4.0) == 4.0
        model.unpatch_model()


def test_both_experts_follow_the_shift() -> None:
    weights = state_dict(config())
    two = patcher(weights=weights)
    attach_low_noise(two, patcher(weights=weights), 0.9)
    sigmas = torch.tensor([1.0, 0.95, 0.8, 0.4, 0.0])
    wanted = run(shifted(patcher(weights=weights), 5.0, 2.0), sigmas)
    assert same(run(shifted(two, 5.0, 2.0), sigmas), wanted) == [True, True]


def test_a_plain_video_latent_has_no_audio_to_shift() -> None:
    model, video = patcher(), latents()[0]
    noise = comfy.sample.prepare_noise(video, 1)
    sigmas, euler = torch.tensor([1.0, 0.8, 0.0]), comfy.samplers.sampler_object("euler")
    results = [
        comfy.sample.sample_custom(chosen, noise, 1.0, euler, sigmas, *TEXT, video, seed=1)
        for chosen in (ModelSamplingSD3().patch(model, 5.0)[0], shifted(model, 5.0, 2.0))
    ]
    assert torch.equal(*results)


def test_context_windows_keep_the_own_schedule() -> None:
    windowed = ContextWindowsManualNode.execute(
        shifted(constant_field(), 5.0, 2.0),
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
    audio = run(windowed, torch.tensor([1.0, 0.8, 0.4, 0.0]), latent)[1]
    torch.testing.assert_close(audio, noise_of(latent)[1] - 0.7, rtol=1e-3, atol=1e-3)


def test_a_schedule_without_a_shift_is_refused() -> None:
    own = patcher(audio_shift=2.0)
    flux = ModelSamplingFlux().patch(own, 1.15, 0.5, 64, 64)[0]
    with pytest.raises(ValueError, match=r"shift of its own \(2.0\)"):
        run(flux, torch.tensor([1.0, 0.0]))


def test_a_model_without_an_audio_stream_is_refused(video_only: ModelPatcher) -> None:
    with pytest.raises(ValueError, match="no audio stream"):
        shifted(video_only, 5.0, 5.0)


@pytest.fixture
def video_only() -> ModelPatcher:
    """The host's own Wan, tiny."""
    import comfy.model_patcher
    import comfy.supported_models

    unet = {
        "image_model": "wan2.1",
        "model_type": "t2v",
        "dim": 48,
        "num_heads": 2,
        "num_layers": 1,
        "ffn_dim": 64,
    }
    model_config = comfy.supported_models.WAN21_T2V(unet | {"freq_dim": 32, "text_dim": 24})
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model_config.get_model({}), load_device=cpu, offload_device=cpu)
