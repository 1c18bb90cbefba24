"""The model on the host's own samplers: packed latents, masks, LoRA, EasyCache, context windows, cancel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_management
import comfy.nested_tensor
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_custom_sampler import CFGGuider, Noise_RandomNoise, SamplerCustomAdvanced
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_lt import LTXVConcatAVLatent
from comfy_extras.nodes_wan import Wan22ImageToVideoLatent, WanImageToVideo

import nodes as host_nodes
from ccl_pack.ccl_core.config import OPTIONS, InteractionConfig
from ccl_pack.ccl_core.guidance import TermScale
from ccl_pack.ccl_core.host import base_model
from ccl_pack.ccl_core.host.base_model import CCLModelConfig
from ccl_pack.ccl_core.host.branches import ANCHOR, with_switches
from ccl_pack.ccl_core.host.guider import AVGuider
from ccl_pack.ccl_core.host.run import run_of
from ccl_pack.ccl_core.host.texts import StreamTexts
from ccl_pack.ccl_core.model.streams import Stream
from support import tiny_vaes
from support.tiny import (
    CONFIG,
    av_latent,
    conditioning,
    config,
    dual_conditioning,
    given,
    latents,
    patcher,
    state_dict,
)


def sample(
    model: ModelPatcher,
    latent: dict[str, Any],
    steps: int = 3,
    cfg: float = 3.0,
    seed: int = 1,
    positive: list[Any] | None = None,
    **conds: Any,
) -> NestedTensor | torch.Tensor:
    positive = positive or conditioning(1, **conds)
    return host_nodes.common_ksampler(
        model, seed, steps, cfg, "euler", "simple", positive, conditioning(2), latent
    )[0]["samples"]


def test_packed_latent_normalises_like_the_unpacked_one() -> None:
    model = patcher().model
    video, audio = latents()
    packed, shapes = comfy.utils.pack_latents([video, audio])
    model.run = run_of(model, shapes, packed, None, {})
    for packed_out, plain in (
        (model.process_latent_in(packed), model.process_latent_in(video)),
        (model.process_latent_out(packed), model.process_latent_out(video)),
    ):
        video_out, audio_out = comfy.utils.unpack_latents(packed_out, shapes)
        assert torch.equal(video_out, plain)
        assert torch.equal(audio_out, audio)
    assert torch.equal(model.process_latent_in(video), comfy.latent_formats.Wan21().process_in(video))


def test_ksampler_of_the_host_runs_both_streams() -> None:
    video, audio = sample(patcher(), av_latent()).unbind()
    assert video.shape == (1, 16, 3, 4, 6) and audio.shape == (1, 8, 18)
    assert video.isfinite().all() and audio.isfinite().all()
    again = sample(patcher(), av_latent()).unbind()
    assert torch.equal(video, again[0]) and torch.equal(audio, again[1])


def test_sampler_custom_advanced_equals_ksampler() -> None:
    model, latent = patcher(), av_latent()
    guider = CFGGuider.execute(model, conditioning(1), conditioning(2), 3.0)[0]
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 3)
    out, denoised = SamplerCustomAdvanced.execute(
        Noise_RandomNoise(1), guider, comfy.samplers.sampler_object("euler"), sigmas, latent
    ).args
    for x, y in zip(out["samples"].unbind(), sample(model, latent).unbind(), strict=True):
        torch.testing.assert_close(x, y)
    # the last step ends at sigma 0
    for x, y in zip(denoised["samples"].unbind(), out["samples"].unbind(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3)


def test_plain_video_latent_means_audio_absent() -> None:
    video, _ = latents()
    out = sample(patcher(), {"samples": video})
    assert out.shape == video.shape and out.isfinite().all()


@pytest.mark.parametrize("batch", [1, 2])
def test_kept_region_is_bit_exact_and_generated_region_new(batch: int) -> None:
    video, audio = latents(batch=batch)
    video_mask, audio_mask = torch.ones(batch, 1, 3, 4, 6), torch.ones(batch, 1, 18)
    video_mask[:, :, :1] = 0
    audio_mask[..., :7] = 0
    out = sample(patcher(), av_latent(masks=(video_mask, audio_mask), batch=batch)).unbind()
    assert torch.equal(out[0][:, :, :1], video[:, :, :1]) and torch.equal(out[1][..., :7], audio[..., :7])
    assert not torch.isclose(out[0][:, :, 1:], video[:, :, 1:]).any(dim=(1, 3, 4)).all()
    assert not torch.isclose(out[1][..., 7:], audio[..., 7:]).all()


def test_kept_tokens_are_read_at_time_zero() -> None:
    model = patcher().model
    timestep = torch.tensor([500.0, 900.0])
    frame_mask = torch.tensor([0.0, 1.0, 1.0]).view(1, 1, 3, 1, 1).expand(2, -1, -1, -1, -1)
    video, audio = model.process_timestep(
        timestep, latent_shapes=[(), ()], video_mask=frame_mask, audio_mask=torch.tensor([[[1.0, 0.0]]])
    )
    assert torch.equal(video, torch.tensor([[0.0, 500, 500], [0, 900, 900]]))
    assert torch.equal(audio, torch.tensor([[500.0, 0], [900, 0]]))
    patch_mask = torch.zeros(2, 1, 1, 4, 6)
    patch_mask[..., 3, 5] = 1  # one latent pixel generates its whole patch
    video, _ = model.process_timestep(timestep, latent_shapes=[(), ()], video_mask=patch_mask)
    assert torch.equal(video[0], torch.tensor([0.0, 0, 0, 0, 0, 500]))


@pytest.mark.parametrize("stream", ["video", "audio"])
@pytest.mark.parametrize("kind", ["cca", "fusion", "bridge"])
def test_a_given_stream_has_one_time_and_the_result_of_a_time_for_each_frame(
    monkeypatch: pytest.MonkeyPatch, kind: str, stream: str
) -> None:
    model = patcher(interaction=InteractionConfig(kind, (0, 1), OPTIONS[kind]()))
    latent, seen = av_latent(masks=given(stream)), []
    embed = Stream.embed_times

    def note(self: Any, times: Any, dtype: torch.dtype) -> Any:
        seen.append(times.values.shape[1])
        return embed(self, times, dtype)

    monkeypatch.setattr(Stream, "embed_times", note)
    made = sample(model, latent).unbind()
    assert set(seen) == {1}
    by_frame = lambda mask: mask[..., :1, :1] if mask.ndim == 5 else mask  # noqa: E731
    monkeypatch.setattr(base_model, "mask_for_timesteps", by_frame)
    for got, wanted in zip(made, sample(model, latent).unbind(), strict=True):
        assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_a_clip_that_is_given_beside_one_that_is_made_has_one_time_too() -> None:
    mask = torch.zeros(2, 1, 3, 4, 6)
    mask[1] = 1
    assert base_model.mask_for_timesteps(mask).shape == (2, 1, 1, 1, 1)
    assert base_model.mask_for_timesteps(mask[:, :, 0, 0]).shape == (2, 1, 1)
    mask[0, :, 2] = 1
    assert base_model.mask_for_timesteps(mask).shape == (2, 1, 3, 1, 1)


def silenced(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights with a fresh interaction: the streams run side by side."""
    return {
        key: torch.zeros_like(value) if "interaction." in key and ".o." in key else value
        for key, value in weights.items()
    }


def test_audio_prompt_of_its_own_reaches_only_the_audio() -> None:
    model = patcher(weights=silenced(state_dict(CONFIG)))
    base = sample(model, av_latent(), cfg=1.0).unbind()
    other = sample(model, av_latent(), cfg=1.0, positive=dual_conditioning(1, 9)).unbind()
    assert torch.equal(base[0], other[0])
    assert (base[1] - other[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "name",
    [
        "diffusion_model.blocks.0.self_attn.q",
        "lora_unet_blocks_0_self_attn_q",
        "diffusion_model.audio.blocks.0.self_attn.q",
    ],
)
def test_lora_with_wan_names_changes_exactly_the_video_stream(name: str) -> None:
    model = patcher()
    width = 32 if ".audio." in name else 48
    down, up = (
        (".lora_down.weight", ".lora_up.weight")
        if name.startswith("lora_unet")
        else (".lora_A.weight", ".lora_B.weight")
    )
    lora = {name + down: torch.randn(2, width), name + up: torch.randn(width, 2)}
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
    where = (
        "diffusion_model.audio.blocks.0.self_attn.q.weight"
        if ".audio." in name
        else "diffusion_model.blocks.0.self_attn.q.weight"
    )
    assert list(patched.patches) == [where]
    silent = {"transformer_options": {"a2v_cross_attn": False, "v2a_cross_attn": False}}
    model.model_options = patched.model_options = model.model_options | silent
    base, changed = sample(model, av_latent()).unbind(), sample(patched, av_latent()).unbind()
    same = [torch.equal(x, y) for x, y in zip(base, changed, strict=True)]
    assert same == ([True, False] if ".audio." in name else [False, True])


def test_easycache_skips_steps() -> None:
    model = patcher()
    cached = EasyCacheNode.execute(
        model, reuse_threshold=3.0, start_percent=0.0, end_percent=1.0, verbose=False
    )[0]
    passes = []
    hook = model.model.diffusion_model.audio.head.register_forward_hook(lambda *_: passes.append(1))
    full = sample(model, av_latent(), steps=12).unbind()
    whole = len(passes)
    quick = sample(cached, av_latent(), steps=12).unbind()
    hook.remove()
    assert whole == 12 and len(passes) - whole < whole
    assert [x.shape for x in quick] == [x.shape for x in full] and quick[1].isfinite().all()


def test_easycache_keeps_an_audio_latent_wider_than_the_video_latent() -> None:
    channels = 24
    audio = replace(CONFIG.audio, in_dim=channels, out_dim=channels)
    model = patcher(audio=audio, audio_latent=replace(CONFIG.audio_latent, channels=channels))
    cached = EasyCacheNode.execute(
        model, reuse_threshold=3.0, start_percent=0.0, end_percent=1.0, verbose=False
    )[0]
    latent = {"samples": comfy.nested_tensor.NestedTensor([latents()[0], torch.randn(1, channels, 18)])}
    _, audio = sample(cached, latent, steps=12).unbind()
    assert audio.shape == (1, channels, 18) and audio.isfinite().all()


def test_context_windows_map_to_the_audio() -> None:
    model = patcher()
    indices = model.model.map_context_window_to_modalities([0, 1, 2], [(1, 16, 6, 4, 6), (1, 8, 42)], 2)
    assert (
        indices[0] == [0, 1, 2]
        and indices[1] == list(range(indices[1][-1] + 1))
        and 14 <= len(indices[1]) <= 22
    )
    windowed = ContextWindowsManualNode.execute(
        model,
        context_length=4,
        context_overlap=2,
        context_schedule="standard_static",
        context_stride=1,
        closed_loop=False,
        fuse_method="pyramid",
        dim=2,
        freenoise=False,
    )[0]
    masks = (torch.ones(1, 1, 8, 4, 6), torch.ones(1, 1, 58))
    masks[0][:, :, :1] = 0
    latent = av_latent(frames=8, tokens=58, masks=masks)
    video, audio = sample(windowed, latent).unbind()
    assert video.shape == (1, 16, 8, 4, 6) and audio.shape == (1, 8, 58)
    assert video.isfinite().all() and audio.isfinite().all()


def test_cancel_stops_and_the_next_run_works() -> None:
    model = patcher()

    def interrupt(step: int, *_: Any) -> None:
        if step == 1:
            comfy.model_management.interrupt_current_processing()

    noise = comfy.sample.prepare_noise(av_latent()["samples"], 1)
    arguments = (
        model,
        noise,
        6,
        1.0,
        "euler",
        "simple",
        conditioning(1),
        conditioning(2),
        av_latent()["samples"],
    )
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        comfy.sample.sample(*arguments, callback=interrupt)
    comfy.model_management.interrupt_current_processing(False)
    assert model.model.run is None
    assert sample(model, av_latent()).unbind()[0].isfinite().all()


def test_memory_estimate_of_a_packed_latent_is_that_of_its_streams() -> None:
    model = patcher().model
    plain = model.memory_required([1, 16, 21, 44, 80])
    packed = model.memory_required([1, 1, 16 * 21 * 44 * 80 + 8 * 168])
    assert packed == pytest.approx(plain, rel=0.01)


@pytest.mark.parametrize("kind", sorted(OPTIONS))
def test_the_audio_stream_is_what_leaves_vram_first(kind: str) -> None:
    """Hosts after 0.30 ask for it: the layers of the audio stream, nothing of the video or the coupling."""
    model = patcher(interaction=InteractionConfig(kind, (0, 1), OPTIONS[kind]())).model
    first, last = model.get_dynamic_vram__units()
    held = {id(weight) for unit in last for weight in unit.parameters()}
    named = dict(model.diffusion_model.named_parameters())
    assert first == []
    assert {name for name, weight in named.items() if id(weight) in held} == {
        name for name in named if name.startswith("audio.blocks.")
    }


@pytest.mark.parametrize(
    ("stream", "options"),
    [
        ({}, {}),
        (
            {"in_dim": 36},
            {"concat_latent_image": torch.randn(1, 16, 3, 4, 6), "concat_mask": torch.ones(1, 1, 3, 4, 6)},
        ),
        ({"in_dim": 48, "out_dim": 48}, {}),
    ],
    ids=["t2v", "i2v with 36 channels", "5B-style with 48 channels"],
)
def test_fresh_model_makes_the_same_video_with_and_without_audio(
    stream: dict[str, Any], options: dict[str, Any]
) -> None:
    chosen = replace(CONFIG.video, **stream)
    model = patcher(video=chosen, weights=silenced(state_dict(config(video=chosen))))
    video_mask, audio_mask = torch.ones(1, 1, 3, 4, 6), torch.ones(1, 1, 18)
    video_mask[:, :, :1] = 0
    latent = av_latent(masks=(video_mask, audio_mask), channels=chosen.out_dim)
    alone = {"samples": latent["samples"].unbind()[0], "noise_mask": video_mask}
    paired = sample(model, latent, **options).unbind()[0]
    torch.testing.assert_close(paired, sample(model, alone, **options), rtol=1e-3, atol=1e-3)


KINDS = ("bridge", "fusion")
FAMILY_OF = {"cca": "ccl", "fusion": "ovi", "bridge": "mova"}


def of_kind(kind: str, **overrides: Any) -> dict:
    """The configuration of a coupling without anchor tokens, as MOVA and Ovi have it."""
    interaction = InteractionConfig(kind, (0, 1), OPTIONS[kind]())
    return {"interaction": interaction, "family": FAMILY_OF[kind]} | overrides


def fed(model: ModelPatcher) -> tuple[list[Any], list[Any]]:
    """The latents that the video stream embeds and the times of both streams, pass by pass."""
    latents, times = [], []
    transformer = model.model.diffusion_model
    transformer.patch_embedding.register_forward_pre_hook(
        lambda _module, arguments: latents.append(arguments[0])
    )
    transformer.register_forward_pre_hook(lambda _module, arguments: times.append(arguments[1]))
    return latents, times


@pytest.fixture
def image_to_video() -> Iterator[Callable[..., Any]]:
    """What the host's node makes of a start image: positive, negative, latent (1, 16, 3, 4, 6)."""
    yield (
        lambda **inputs: (
            WanImageToVideo.execute(
                conditioning(1), conditioning(2), tiny_vaes.video_vae(), 48, 32, 9, 1, **inputs
            ).args
        )
    )
    tiny_vaes.release()


@pytest.mark.parametrize("with_audio", [True, False])
def test_the_start_image_of_the_host_reaches_a_joint_model_of_36_channels(
    image_to_video: Callable[..., Any], with_audio: bool
) -> None:
    model = patcher(**of_kind("bridge", video=replace(CONFIG.video, in_dim=36, model_type="i2v")))
    latents, times = fed(model)
    image = tiny_vaes.frames(1, 32, 48)
    positive, negative, latent = image_to_video(start_image=image)
    if with_audio:
        latent = LTXVConcatAVLatent.execute(latent, {"samples": torch.zeros(1, 8, 18)})[0]
    host_nodes.common_ksampler(model, 1, 2, 3.0, "euler", "simple", positive, negative, latent)
    clip = torch.full((9, 32, 48, 3), 0.5)
    clip[:1] = image
    wanted = comfy.latent_formats.Wan21().process_in(tiny_vaes.video_vae().encode(clip))
    # The host runs both texts in one pass or in two, as memory is free.
    rows = torch.cat(latents)
    assert rows.shape == (4, 36, 3, 4, 6)
    mask = rows[:, 16:20]
    assert (mask[:, :, 0] == 1).all() and (mask[:, :, 1:] == 0).all()
    torch.testing.assert_close(rows[:, 20:], wanted.expand(4, -1, -1, -1, -1))
    for time, x in zip([time[0] if with_audio else time for time in times], latents, strict=True):
        assert time.shape == (len(x),), "the whole clip is noise, the image stands beside it"


@pytest.mark.parametrize("with_audio", [True, False])
def test_without_a_start_image_the_channels_beside_the_latent_are_zero(
    image_to_video: Callable[..., Any], with_audio: bool
) -> None:
    model = patcher(video=replace(CONFIG.video, in_dim=36, model_type="i2v"))
    latents, _ = fed(model)
    positive, negative, latent = image_to_video()
    if with_audio:
        latent = LTXVConcatAVLatent.execute(latent, {"samples": torch.zeros(1, 8, 18)})[0]
    host_nodes.common_ksampler(model, 1, 2, 3.0, "euler", "simple", positive, negative, latent)
    assert all(x.shape[1] == 36 and (x[:, 16:] == 0).all() and (x[:, :16] != 0).all() for x in latents)


def test_clip_vision_of_wan_21_reaches_the_video_of_a_joint_model(image_to_video: Callable[..., Any]) -> None:
    chosen = replace(CONFIG.video, in_dim=36, model_type="i2v")
    model = patcher(video=chosen, weights=silenced(state_dict(config(video=chosen))))
    seen = []
    for seed in (0, 0, 1):
        vision = comfy.clip_vision.Output()
        generator = torch.Generator().manual_seed(seed)
        vision["penultimate_hidden_states"] = torch.randn(1, 257, 1280, generator=generator)
        positive, negative, latent = image_to_video(
            start_image=tiny_vaes.frames(1, 32, 48), clip_vision_output=vision
        )
        if not seen:
            positive, negative, latent = image_to_video(start_image=tiny_vaes.frames(1, 32, 48))
        latent = LTXVConcatAVLatent.execute(latent, {"samples": torch.zeros(1, 8, 18)})[0]
        out = host_nodes.common_ksampler(model, 1, 2, 1.0, "euler", "simple", positive, negative, latent)[0]
        seen.append(out["samples"].unbind())
    (none, audio), *others = seen
    assert all(torch.equal(other[1], audio) for other in others)
    videos = [none, *(other[0] for other in others)]
    assert all((x - y).abs().max() > 1e-3 for x, y in ((videos[0], videos[1]), (videos[1], videos[2])))


def wan_22_latent(start: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Wan22ImageToVideoLatent at the size of the tests; the image is given as the latent its VAE would
    make.
    """
    latent = Wan22ImageToVideoLatent.execute(None, 96, 64, 9, 1)[0]
    if start is None:
        return latent
    mask = torch.ones(1, 1, 3, 4, 6)
    mask[:, :, :1] = 0
    samples = comfy.latent_formats.Wan22().process_out(latent["samples"])
    return {"samples": torch.where(mask == 0, start, samples), "noise_mask": mask}


@pytest.mark.parametrize("kind", ["fusion", "cca"])
def test_a_kept_first_frame_is_clean_at_time_zero_beside_audio_that_is_all_noise(kind: str) -> None:
    video = replace(CONFIG.video, in_dim=48, out_dim=48)
    overrides = {"video": video} | (
        of_kind(kind, clock="linear", clock_scale=0.2) if kind == "fusion" else {}
    )
    model = patcher(**overrides)
    latents, times = fed(model)
    start = torch.randn(1, 48, 1, 4, 6, generator=torch.Generator().manual_seed(3))
    latent = LTXVConcatAVLatent.execute(wan_22_latent(start), {"samples": torch.zeros(1, 8, 18)})[0]
    out, audio = sample(model, latent, cfg=1.0).unbind()
    assert torch.equal(out[:, :, :1], start) and out.isfinite().all() and audio.isfinite().all()
    clean = comfy.latent_formats.Wan22().process_in(start)
    for x, (video_time, audio_time) in zip(latents, times, strict=True):
        torch.testing.assert_close(x[:, :, :1], clean)
        assert (
            video_time.shape == (1, 3)
            and video_time[0, 0] == 0
            and (video_time[0, 1:] == audio_time.max()).all()
        )
        assert (audio_time == audio_time.max()).all() and audio_time.max() > 0
    # the mask is the video's affair: with the coupling off the audio does not know of it
    model.model_options = with_switches(model.model_options, ANCHOR)
    free = LTXVConcatAVLatent.execute(wan_22_latent(None), {"samples": torch.zeros(1, 8, 18)})[0]
    assert torch.equal(sample(model, latent, cfg=1.0).unbind()[1], sample(model, free, cfg=1.0).unbind()[1])


def test_a_plain_latent_of_wan_22_keeps_its_first_frame_too() -> None:
    model = patcher(video=replace(CONFIG.video, in_dim=48, out_dim=48))
    start = torch.randn(1, 48, 1, 4, 6, generator=torch.Generator().manual_seed(3))
    out = sample(model, wan_22_latent(start))
    assert torch.equal(out[:, :, :1], start) and not torch.isclose(out[:, :, 1:], start).any(dim=1).all()


@pytest.mark.parametrize(
    ("kind", "fp16"), [("cca", True), ("fusion", False), ("bridge", False)], ids=lambda value: str(value)
)
def test_fp16_only_where_it_is_sound(kind: str, fp16: bool) -> None:
    described = CCLModelConfig(config(**of_kind(kind)))
    assert (torch.float16 in described.supported_inference_dtypes) is fp16
    assert {torch.bfloat16, torch.float32} <= set(described.supported_inference_dtypes)


def test_memory_estimate_of_a_context_window_is_its_share() -> None:
    model = patcher().model
    packed = torch.zeros(1, 1, 16 * 6 * 4 * 6 + 8 * 42)
    model.run = run_of(model, [(1, 16, 6, 4, 6), (1, 8, 42)], packed, None, {})
    whole = model.memory_required([1, 1, 16 * 6 * 4 * 6 + 8 * 42])
    assert model.memory_required([1, 1, (16 * 6 * 4 * 6 + 8 * 42) // 2]) == pytest.approx(whole / 2, rel=0.01)
    assert whole == model.memory_required([1, 16, 6 * 4 * 6 + 42, 1, 1])


def one_step(model: ModelPatcher, text: list[Any], **switches: Any) -> list[torch.Tensor]:
    """The prediction of both streams in one Euler step of the host's guider, without guidance."""
    clone = model.clone()
    clone.model_options = with_switches(clone.model_options, switches)
    guider = comfy.samplers.CFGGuider(clone)
    guider.set_conds(text, text)
    guider.set_cfg(1.0)
    return stepped(guider)


def stepped(guider: CFGGuider | AVGuider) -> list[torch.Tensor]:
    samples = av_latent()["samples"]
    noise = comfy.sample.prepare_noise(samples, 1)
    euler = comfy.samplers.sampler_object("euler")
    return guider.sample(noise, samples, euler, torch.tensor([0.8, 0.0]), disable_pbar=True, seed=1).unbind()


def guided(
    model: ModelPatcher, mode: str, settings: dict[str, TermScale], **options: Any
) -> list[torch.Tensor]:
    guider = AVGuider(model)
    guider.set_conds(conditioning(1), conditioning(2))
    guider.set_guidance(mode, settings, **options)
    return stepped(guider)


@pytest.mark.parametrize("kind", KINDS)
def test_the_anchor_of_a_coupling_without_tokens_is_each_stream_alone(kind: str) -> None:
    model, text = patcher(**of_kind(kind)), conditioning(1)
    video, audio = one_step(model, text, **ANCHOR)
    assert torch.equal(video, one_step(model, text, run_ax=False)[0])
    assert torch.equal(audio, one_step(model, text, run_vx=False)[1])
    open_video, open_audio = one_step(model, text)
    assert (video - open_video).abs().max() > 1e-3 and (audio - open_audio).abs().max() > 1e-3
    # one direction at a time
    half = one_step(model, text, a2v_cross_attn=False)
    assert torch.equal(half[0], video) and not torch.equal(half[1], audio)


@pytest.mark.parametrize("kind", KINDS)
def test_dual_guidance_is_the_formula_of_the_mova_paper(kind: str) -> None:
    """v00 + s_B (v0B - v00) + s_T (vTB - v0B), a scale per stream."""
    model = patcher(**of_kind(kind))
    text, null = conditioning(1), conditioning(2)
    v00, v0b, vtb = one_step(model, null, **ANCHOR), one_step(model, null), one_step(model, text)
    got = guided(model, "dual", {"text": TermScale(5.0, 4.0), "cross": TermScale(3.5, 2.0)})
    for stream, (s_t, s_b) in enumerate(((5.0, 3.5), (4.0, 2.0))):
        wanted = v00[stream] + s_b * (v0b[stream] - v00[stream]) + s_t * (vtb[stream] - v0b[stream])
        torch.testing.assert_close(got[stream], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_layer_is_left_out_of_both_streams_in_negative_passes_only(kind: str) -> None:
    chosen = of_kind(kind)
    weights = state_dict(config(**chosen))
    shorter = of_kind(
        kind, video=replace(CONFIG.video, num_layers=2), audio=replace(CONFIG.audio, num_layers=1)
    ) | {"interaction": InteractionConfig(kind, (0,), OPTIONS[kind]())}
    kept = {
        key.replace("blocks.2.", "blocks.1.") if key.startswith("blocks.2.") else key: value
        for key, value in weights.items()
        if not key.startswith(("blocks.1.", "audio.blocks.1.", "interaction.1."))
    }
    model, without = patcher(weights=weights, **chosen), patcher(weights=kept, **shorter)
    negative = {"text": TermScale(0.0, 0.0)}  # TC - (TC - NC)
    skipped = guided(model, "cfg", negative, skip_layers=(1,))
    for got, wanted, whole in zip(
        skipped, one_step(without, conditioning(2)), guided(model, "cfg", negative), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
        assert (got - whole).abs().max() > 1e-2
    positive = guided(model, "cfg", {"text": TermScale(1.0, 1.0)}, skip_layers=(1,))
    assert all(torch.equal(x, y) for x, y in zip(positive, one_step(model, conditioning(1)), strict=True))


def test_a_video_latent_of_another_vae_is_taken_as_it_is() -> None:
    format = CCLModelConfig(config(video=replace(CONFIG.video, in_dim=8, out_dim=8))).latent_format
    latent = torch.randn(1, 8, 3, 4, 6)
    assert torch.equal(format.process_in(latent), latent) and torch.equal(format.process_out(latent), latent)
    assert (format.latent_channels, format.latent_dimensions, format.temporal_downscale_ratio) == (8, 3, 4)


def texts_of_widths(video: int, audio: int) -> list:
    """A text for each stream, 24 numbers wide for the video and 40 for the sound."""
    generator = torch.Generator().manual_seed(video)
    of_video = torch.randn(1, 5, 24, generator=generator)
    of_audio = torch.randn(1, 7, 40, generator=generator.manual_seed(audio))
    return [[StreamTexts.join(of_video, of_audio), {}]]


def test_streams_read_texts_of_different_width() -> None:
    model = patcher(audio=replace(CONFIG.audio, text_dim=40))
    arguments = (model, 1, 2, 3.0, "euler", "simple")
    made, other = (
        host_nodes.common_ksampler(*arguments, texts_of_widths(1, audio), texts_of_widths(2, 4), av_latent())[
            0
        ]
        for audio in (3, 5)
    )
    (video, audio), (_, other_audio) = made["samples"].unbind(), other["samples"].unbind()
    assert video.isfinite().all() and (audio - other_audio).abs().max() > 1e-3
    with pytest.raises(ValueError, match="got a text of width 24, this stream reads texts of width 40"):
        sample(model, av_latent())
