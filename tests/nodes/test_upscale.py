"""CCLUpscaleAV: a larger picture for a second pass, and the sound of the first to the bit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

import comfy.utils
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from torch import Tensor

from ccl_pack.ccl_core.alignment.sizing import audio_tokens_of
from ccl_pack.ccl_core.host.files.build import load_checkpoint, load_model
from ccl_pack.ccl_core.host.media.latents import AVLatent, join, split
from ccl_pack.ccl_core.host.media.source import KEY, Source, remember
from ccl_pack.ccl_core.training.world.evaluate import draw_clips
from ccl_pack.nodes.guidance import CCLJointSampler
from ccl_pack.nodes.tasks import CCLSetTask
from ccl_pack.nodes.upscale import METHODS, CCLUpscaleAV
from support import tiny_published
from support.av_models import h3_latent, ltx_latent
from support.by_hand import TINY

LATENT_FRAMES = 5


@pytest.fixture(autouse=True)
def as_the_host_runs_nodes() -> Iterator[None]:
    with torch.inference_mode():
        yield


@cache
def tiny() -> tuple[Any, Any]:
    """Model and video VAE of ccl-tiny."""
    model, _, vae, _ = load_checkpoint(str(TINY))
    return model, vae


@pytest.fixture(scope="module", params=["ccl-tiny", *tiny_published.MODELS])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if request.param == "ccl-tiny":
        yield tiny()[0]
        tiny.cache_clear()
        return
    folder = tmp_path_factory.mktemp("published")
    write, file = tiny_published.MODELS[request.param]
    write(folder)
    yield load_model(str(folder / file), {"dtype": torch.float32})


def clip(video: int = 16, audio: int = 8, tokens: int = 34, **rest: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    streams = [
        torch.randn(1, video, LATENT_FRAMES, 4, 6, generator=generator),
        torch.randn(1, audio, tokens, generator=generator),
    ]
    return {"samples": NestedTensor(streams), "fps": 16.0} | rest


def upscaled(latent: dict[str, Any], factor: float = 2.0, method: str = "bicubic", **given: Any) -> AVLatent:
    return split(CCLUpscaleAV.execute(latent, method, factor, **given)[0])


def streams(latent: dict[str, Any]) -> list[Tensor]:
    return latent["samples"].unbind()


@pytest.mark.parametrize("method", METHODS)
def test_each_frame_is_enlarged_by_itself_and_the_sound_is_given(method: str) -> None:
    latent = clip()
    video, audio = streams(latent)
    made = upscaled(latent, method=method)
    frames = [comfy.utils.common_upscale(frame, 12, 8, method, "disabled") for frame in video.unbind(2)]
    torch.testing.assert_close(made.video, torch.stack(frames, dim=2))
    assert torch.equal(made.audio, audio)
    assert made.video_mask.all() and not made.audio_mask.any()
    assert made.rest["task"] == "a2v" and made.fps == 16.0


def test_a_size_between_patches_is_the_nearest_and_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        made = upscaled(clip(), 1.4)
    # 4 x 6 cells times 1.4 are 5.6 x 8.4.
    assert made.video.shape[-2:] == (6, 8)
    assert "6 x 4 latent cells became 8 x 6, the nearest size of whole patches to 1.4 times" in caplog.text


@pytest.mark.parametrize("latent", [ltx_latent(), h3_latent()], ids=["LTX-2", "MiniMax H3"])
def test_latents_of_other_models_are_enlarged_too(latent: dict[str, Any]) -> None:
    video, audio = streams(latent)
    larger, sound = streams(CCLUpscaleAV.execute(latent, "bicubic", 2.0)[0])
    assert larger.shape[-2:] == (2 * video.shape[-2], 2 * video.shape[-1])
    assert torch.equal(sound, audio)


def test_a_patch_of_ltx_2_is_one_cell() -> None:
    video = torch.randn(1, 128, 3, 5, 7)
    assert torch.equal(upscaled({"samples": video}, 1.0).video, video)


def test_through_the_vae_the_pictures_are_those_of_the_first_pass_enlarged() -> None:
    (drawn,) = draw_clips(0, 1, 33, 16.0)
    vae = tiny()[1]
    video = vae.encode(torch.from_numpy(drawn.frames).float() / 255)
    before = vae.decode(video)[0]
    errors = {}
    for name, given in (("latents", {}), ("pictures", {"video_vae": vae})):
        made = upscaled({"samples": video, "fps": 16.0}, **given)
        assert made.video.shape == (1, 16, 9, 16, 16)
        after = vae.decode(made.video)[0]
        small = torch.nn.functional.avg_pool2d(after.movedim(-1, 1), 2).movedim(1, -1)
        errors[name] = float((small - before).abs().mean())
    tiny.cache_clear()
    assert errors["pictures"] < 0.005 < errors["latents"]


def test_a_second_pass_renews_the_picture_and_keeps_the_sound_to_the_bit(model: Any) -> None:
    config = model.model.ccl_config
    tokens = audio_tokens_of(LATENT_FRAMES, config.fps, config.audio_latent.rate)
    latent = clip(config.video.out_dim, config.audio_latent.channels, tokens, fps=float(config.fps))
    larger = CCLUpscaleAV.execute(latent, "bicubic", 2.0)[0]
    width = config.video.text_dim
    texts = [
        [[torch.randn(1, 5, width, generator=torch.Generator().manual_seed(seed)), {}]] for seed in (1, 2)
    ]
    settings = {"seed": 7, "steps": 4, "sampler_name": "euler", "scheduler": "simple", "denoise": 0.5}
    made = CCLJointSampler.execute(model, *texts, larger, **settings, mode={"mode": "from model"})[0]
    video, audio = streams(made)
    assert torch.equal(audio, streams(latent)[1])
    assert video.shape[-2:] == (8, 12) and torch.isfinite(video).all()
    assert not torch.equal(video, streams(larger)[0])


def test_a_clip_without_sound_stays_without() -> None:
    made = upscaled({"samples": streams(clip())[0], "fps": 16.0})
    assert made.audio is None and made.rest["task"] == "t2v"
    silent = CCLSetTask.execute(clip(), {"task": "t2v"})[0]
    assert upscaled(silent).rest["task"] == "t2v" and not upscaled(silent).audio.any()


def test_a_given_sound_stays_the_original_and_a_given_picture_does_not() -> None:
    picture, sound = object(), object()
    given = join(remember(split(clip()), Source(picture=picture, sound=sound)))
    for task, kept in (("a2v", sound), ("v2a", None)):
        source = upscaled(CCLSetTask.execute(given, {"task": task})[0]).rest[KEY]
        assert source.picture is None and source.sound is kept


@pytest.mark.parametrize(("stream", "named"), [(0, "the picture of the latent"), (1, "the audio latent")])
def test_an_empty_stream_is_refused(stream: int, named: str) -> None:
    latent = clip()
    streams(latent)[stream].zero_()
    with pytest.raises(ValueError, match=f"keeps {named}, and that is empty"):
        upscaled(latent)


@pytest.mark.parametrize("factor", [0.5, 9.0, float("nan")])
def test_a_factor_that_is_none_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="scale_by is"):
        upscaled(clip(), factor)
