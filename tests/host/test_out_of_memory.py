"""Memory that runs out, at each place of a run: what was being done, the numbers, and what helps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch

from ccl_pack.ccl_core.host.base_model import CCLModel
from ccl_pack.ccl_core.host.files.build import load_checkpoint, load_model
from ccl_pack.ccl_core.host.guider import AVGuider
from ccl_pack.ccl_core.host.media.decode import SMALL_TILES, decode_audio, decode_video
from ccl_pack.ccl_core.host.media.encode import Fit, write_audio, write_images
from ccl_pack.ccl_core.host.media.latents import split
from ccl_pack.ccl_core.host.memory import Plan
from ccl_pack.ccl_core.host.memory_report import after_out_of_memory
from ccl_pack.ccl_core.host.out_of_memory import advising, is_out_of_memory
from ccl_pack.ccl_core.memory import Machine
from ccl_pack.nodes import CHECKPOINTS
from ccl_pack.nodes.prompts import CCLPrompt
from support import tiny
from support.tiny_vaes import audio_vae, frames, release, sound, video_vae

# What no machine has, so that the allocators of torch raise their own errors.
FAR_TOO_MUCH = 2**60


@pytest.fixture(scope="module", autouse=True)
def vaes_of_this_file() -> Iterator[None]:
    yield
    release()


def in_ram() -> None:
    torch.empty(FAR_TOO_MUCH, dtype=torch.uint8)


def on_gpu() -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture(autouse=True)
def as_the_host_runs_nodes() -> Iterator[None]:
    with torch.inference_mode():
        yield


@contextmanager
def failing(module: torch.nn.Module, fail: Callable[[], None], above: int = 0) -> Iterator[None]:
    """Each call of a module fails whose first input holds more numbers than `above`."""

    def hook(_module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs[0].numel() > above:
            fail()

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("fail", [in_ram, on_gpu])
def test_errors_of_memory_are_known(fail: Callable[[], None]) -> None:
    with pytest.raises(Exception) as caught:
        fail()
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [ValueError("not enough memory"), RuntimeError("shapes"), KeyError("x")])
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, advising("testing", lambda: "no"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("fail", [in_ram, on_gpu])
@pytest.mark.parametrize("mode", ["cfg", "ucg_joint"])
def test_a_run_without_memory_ends_with_the_plan_s_advice(fail: Callable[[], None], mode: str) -> None:
    model = tiny.patcher()
    latent = tiny.av_latent()
    guider = AVGuider(model)
    guider.set_conds(tiny.conditioning(), tiny.conditioning(2))
    guider.set_guidance(mode, {})
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 2)
    noise = comfy.sample.prepare_noise(latent["samples"], 1)
    with (
        failing(model.model.diffusion_model.blocks[1], fail),
        pytest.raises((MemoryError, torch.cuda.OutOfMemoryError)) as caught,
    ):
        guider.sample(noise, latent["samples"], comfy.samplers.sampler_object("euler"), sigmas)
    message = str(caught.value)
    # The host unloads what it has loaded where the error is of its own kind.
    assert comfy.model_management.is_oom(caught.value) == (fail is on_gpu)
    plan = Plan(model, latent, mode)
    assert f"Guidance {mode}: {sum(plan.passes)} passes per step" in message
    assert f"{plan.clip.video_tokens(plan.config):,} video tokens" in message
    assert "a size of" in message
    assert model.model.run is None


def step_of(plan: Plan) -> int:
    return plan.demand(replace(plan.clip, passes=1)).step


def test_the_advice_is_smaller_than_the_step_that_did_not_fit() -> None:
    model = tiny.patcher()
    latent = tiny.av_latent(frames=9)
    plan = Plan(model, latent, "cfg")
    text = after_out_of_memory(model, latent, "cfg")
    length = int(re.search(r"a length of (\d+) frames instead of 33 fits", text)[1])
    assert length < 33
    smaller = Plan(model, tiny.av_latent(frames=(length + 3) // 4), "cfg")
    assert step_of(smaller) <= 0.75 * step_of(plan)


def test_a_run_on_a_card_is_told_its_card() -> None:
    card = Machine(
        "cuda:0 Tiny", ram_free=2**30, ram_total=2**31, vram_free=2**10, vram_total=2**20, vram_reserve=2**9
    )
    text = after_out_of_memory(tiny.patcher(), tiny.av_latent(), "cfg", card)
    assert "VRAM of cuda:0 Tiny: 1.0 KiB of 1.00 MiB free" in text
    assert "more than there is" in text


def test_a_decode_without_memory_is_tried_again_in_tiles() -> None:
    vae = video_vae()
    latent = torch.randn(1, 16, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    cells = (SMALL_TILES["size"] // 8) ** 2
    whole = vae.decode(latent)
    # The decoder takes one latent frame after the other: a tile of 32 x 32 cells fits, 40 x 40 do not.
    with failing(vae.first_stage_model.decoder, in_ram, above=16 * cells * 2):
        tiled = decode_video(vae, latent)
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.05


@pytest.mark.parametrize("fail", [in_ram, on_gpu])
def test_a_decode_that_finds_no_memory_for_tiles_says_so(fail: Callable[[], None]) -> None:
    vae = video_vae()
    with (
        failing(vae.first_stage_model.decoder, fail),
        pytest.raises((MemoryError, torch.cuda.OutOfMemoryError), match="tile_size"),
    ):
        decode_video(vae, torch.randn(1, 16, 2, 2, 2))


def test_loading_and_encoding_a_prompt_say_what_is_smaller(tmp_path: Path) -> None:
    model, clip, _, _ = load_checkpoint(str(CHECKPOINTS / "ccl-tiny.safetensors"))
    with (
        patch_object(clip.cond_stage_model, "encode_token_weights", in_ram),
        pytest.raises(MemoryError, match="out of memory while encoding a prompt") as caught,
    ):
        CCLPrompt.execute(model, clip, "a dog")
    assert "smaller text encoder" in str(caught.value)
    path = tiny.write(tmp_path / "joint.safetensors")
    with (
        patch_object(CCLModel, "load_model_weights", in_ram),
        pytest.raises(MemoryError, match=r"out of memory while loading joint\.safetensors"),
    ):
        load_model(str(path))


@contextmanager
def patch_object(owner: object, name: str, fail: Callable[[], None]) -> Iterator[None]:
    """A method that fails while this lasts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, lambda *_args, **_kwargs: fail())
        yield


def test_other_steps_without_memory_say_what_they_did() -> None:
    vae = audio_vae()
    av = split(tiny.av_latent())
    with (
        failing(vae.first_stage_model.backbone, in_ram),
        pytest.raises(MemoryError, match=r"out of memory while decoding 1 s of sound"),
    ):
        decode_audio(vae, torch.randn(1, vae.latent_channels, 8), Fraction(1))
    with (
        failing(video_vae().first_stage_model.encoder, in_ram),
        pytest.raises(MemoryError, match="while encoding 9 frames of 48 x 32"),
    ):
        write_images(av, video_vae(), frames(5), Fit("stretch", "pad"))
    with (
        failing(vae.first_stage_model.feature_extractor, in_ram),
        pytest.raises(MemoryError, match=r"while encoding \d+\.\d\d s of sound"),
    ):
        write_audio(av, vae, sound(16000), Fit("crop", "pad"))
