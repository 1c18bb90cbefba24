"""CCLGuider and CCLJointSampler: their schemas, and whole runs against the host's KSampler."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.samplers
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest._io import get_finalized_class_inputs
from comfy_extras.nodes_custom_sampler import (
    BasicScheduler,
    KSamplerSelect,
    RandomNoise,
    SamplerCustomAdvanced,
)

import nodes as host_nodes
from ccl_pack.ccl_core.families import FAMILIES
from ccl_pack.ccl_core.guidance import MODES, TermScale, branch_weights, default_settings
from ccl_pack.nodes.guidance import CCLGuider, CCLJointSampler
from ccl_pack.nodes.guidance_inputs import mode_tooltip, range_widget, scale_widget, settings_of
from support import tiny

POSITIVE, NEGATIVE = tiny.conditioning(1), tiny.conditioning(7)
FROM_MODEL = {"mode": "from model"}
CFG = {"mode": "cfg", "video_cfg": 4.0, "audio_cfg": 4.0}
RUN = {"seed": 5, "steps": 3, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}


@pytest.fixture(scope="module")
def model() -> ModelPatcher:
    return tiny.patcher()


def joint(model: ModelPatcher, latent: dict, **changes: Any) -> dict:
    run = {"mode": CFG, **RUN, **changes}
    return CCLJointSampler.execute(model, POSITIVE, NEGATIVE, latent, **run)[0]


def ksampler(model: ModelPatcher, latent: dict, denoise: float = 1.0) -> dict:
    return host_nodes.common_ksampler(
        model, 5, 3, 4.0, "euler", "simple", POSITIVE, NEGATIVE, latent, denoise
    )[0]


def streams(latent: dict) -> list[torch.Tensor]:
    return latent["samples"].unbind() if latent["samples"].is_nested else [latent["samples"]]


def assert_close(ours: dict, theirs: dict) -> None:
    for got, wanted in zip(streams(ours), streams(theirs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("denoise", [1.0, 0.6])
def test_joint_sampler_with_cfg_is_the_host_ksampler(model: ModelPatcher, denoise: float) -> None:
    assert_close(joint(model, tiny.av_latent(), denoise=denoise), ksampler(model, tiny.av_latent(), denoise))


def test_joint_sampler_makes_video_alone_from_a_plain_latent(model: ModelPatcher) -> None:
    latent = {"samples": torch.zeros(1, 16, 3, 4, 6)}
    assert_close(joint(model, latent), ksampler(model, latent))


def test_an_empty_image_latent_is_adapted_as_by_the_host(model: ModelPatcher) -> None:
    latent = {"samples": torch.zeros(1, 4, 4, 6), "downscale_ratio_spacial": 8}
    out = joint(model, latent)
    assert out["samples"].shape == (1, 16, 1, 4, 6)
    assert "downscale_ratio_spacial" not in out


def test_no_denoising_returns_the_latent(model: ModelPatcher) -> None:
    latent = tiny.av_latent()
    for got, given in zip(streams(joint(model, latent, denoise=0.0)), streams(latent), strict=True):
        assert torch.equal(got, given)


def test_joint_sampler_keeps_the_other_entries_and_its_input(model: ModelPatcher) -> None:
    latent = tiny.av_latent() | {"task": "joint"}
    before = [stream.clone() for stream in streams(latent)]
    out = joint(model, latent)
    assert (out["fps"], out["task"]) == (16.0, "joint")
    assert all(torch.equal(now, then) for now, then in zip(streams(latent), before, strict=True))


def test_a_kept_stream_comes_back_bit_exact(model: ModelPatcher) -> None:
    masks = torch.zeros(1, 1, 3, 4, 6), torch.ones(1, 1, 18)
    latent = tiny.av_latent(masks=masks)
    mode = {"mode": "ucg_cross", "video_modality_scale": 3.0, "audio_modality_scale": 3.0}
    video, audio = streams(joint(model, latent, mode=mode))
    assert torch.equal(video, streams(latent)[0])
    assert not torch.allclose(audio, streams(latent)[1], atol=1e-2)


def test_the_seed_decides_the_result(model: ModelPatcher) -> None:
    first, again, other = (streams(joint(model, tiny.av_latent(), seed=seed)) for seed in (1, 1, 2))
    for i in range(2):
        assert torch.equal(first[i], again[i])
        assert not torch.allclose(first[i], other[i], atol=1e-2)


def test_the_guider_in_the_host_sampler_gives_the_same_as_the_joint_sampler(model: ModelPatcher) -> None:
    mode = {
        "mode": "ucg",
        "video_cfg": 3.0,
        "audio_cfg": 2.0,
        "video_modality_scale": 1.5,
        "audio_modality_scale": 2.5,
        "modality_scale_end_percent": 0.7,
    }
    guider = CCLGuider.execute(model, POSITIVE, NEGATIVE, mode, skip_layers="1")[0]
    noise, sampler = RandomNoise.execute(5)[0], KSamplerSelect.execute("euler")[0]
    sigmas = BasicScheduler.execute(model, "simple", 3, 1.0)[0]
    theirs = SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, tiny.av_latent())
    assert_close(joint(model, tiny.av_latent(), mode=mode, skip_layers="1"), theirs[0])
    assert streams(theirs[1])[1].shape == (1, 8, 18)


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("node", [CCLGuider, CCLJointSampler])
def test_each_mode_shows_its_own_scales_behind_the_combo(node: type, name: str) -> None:
    inputs, *_ = get_finalized_class_inputs(node.INPUT_TYPES(), {"mode": name})
    terms = MODES[name].terms
    required = [f"mode.{scale_widget(stream, term)}" for term in terms for stream in ("video", "audio")]
    optional = [f"mode.{range_widget(term, bound)}" for term in terms for bound in ("start", "end")]
    assert [key for key in inputs["required"] if key.startswith("mode.")] == required
    assert [key for key in inputs["optional"] if key.startswith("mode.")] == optional


@pytest.mark.parametrize("name", MODES)
def test_the_widgets_start_at_the_defaults_of_the_mode(name: str) -> None:
    inputs, *_ = get_finalized_class_inputs(CCLGuider.INPUT_TYPES(), {"mode": name})
    widgets = {**inputs["required"], **inputs["optional"]}
    values = {
        key.removeprefix("mode."): spec[1]["default"] for key, spec in widgets.items() if "mode." in key
    }
    assert settings_of({"mode": name, **values}) == default_settings(name)


def test_optional_widgets_that_a_prompt_leaves_out_have_their_defaults() -> None:
    """The host hands them out as None, one key for each."""
    ranges = {"cfg_start_percent": None, "cfg_end_percent": None}
    assert settings_of({**CFG, **ranges}) == settings_of(CFG) == {"text": TermScale(4.0, 4.0)}


@pytest.mark.parametrize("name", MODES)
def test_the_help_page_has_a_row_for_each_mode(name: str) -> None:
    page = Path(__file__).parents[2] / "js" / "docs" / "CCLGuider.md"
    lines = page.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    passes = {mode.split(":")[0].strip(): count.strip() for mode, _, count in rows}
    assert passes.get(name) == str(len(branch_weights(name, default_settings(name)))), f"{page} lacks {name}"


def test_the_tooltip_of_the_mode_counts_the_passes() -> None:
    assert "cfg (2): away from the negative text" in mode_tooltip()
    assert "ucg (3): text and coupling apart" in mode_tooltip()
    assert all(f"{name} (" in mode_tooltip() for name in MODES)


@pytest.mark.parametrize("node", [CCLGuider, CCLJointSampler])
def test_schemas_hold_and_every_input_has_a_tooltip(node: type) -> None:
    schema = node.GET_SCHEMA()
    assert schema.search_aliases
    for entry in (entry for top in schema.inputs for entry in top.get_all()):
        assert entry.tooltip, entry.id


def test_the_sampler_offers_what_the_host_offers() -> None:
    required = CCLJointSampler.INPUT_TYPES()["required"]
    assert required["sampler_name"][1]["options"][1:] == comfy.samplers.KSampler.SAMPLERS
    assert required["scheduler"][1]["options"][1:] == comfy.samplers.KSampler.SCHEDULERS
    assert required["seed"][1]["max"] == 2**64 - 1


def test_a_word_in_skip_layers_is_refused(model: ModelPatcher) -> None:
    with pytest.raises(ValueError, match="skip_layers wants layer numbers such as 7, 8, 9, got 'all'"):
        CCLGuider.execute(model, POSITIVE, NEGATIVE, CFG, skip_layers="all")


def published(name: str) -> Any:
    """A tiny model that says it is of this family."""
    return tiny.patcher(family=name)


@pytest.mark.parametrize("name", ["ccl", "ovi", "mova"])
def test_from_model_is_what_the_family_was_published_with(name: str) -> None:
    row = FAMILIES[name].sampling
    guider = CCLGuider.execute(published(name), POSITIVE, NEGATIVE, FROM_MODEL)[0]
    assert (guider.mode, guider.settings) == (row.mode, row.settings)
    assert guider.skip_layers == ()  # the tiny model has no layer 11


def test_layers_that_were_skipped_when_published_are_skipped() -> None:
    video = replace(tiny.CONFIG.video, num_layers=12)
    deep = tiny.patcher(family="ovi", video=video, audio=replace(tiny.CONFIG.audio, num_layers=12))
    assert CCLGuider.execute(deep, POSITIVE, NEGATIVE, FROM_MODEL)[0].skip_layers == (11,)
    assert CCLGuider.execute(deep, POSITIVE, NEGATIVE, FROM_MODEL, skip_layers="3")[0].skip_layers == (3,)
    assert CCLGuider.execute(deep, POSITIVE, NEGATIVE, CFG)[0].skip_layers == ()


def test_a_run_from_model_is_the_run_with_the_published_values() -> None:
    model = published("mova")
    left = {"mode": FROM_MODEL, "steps": 0, "sampler_name": "from model", "scheduler": "from model"}
    told = {
        "mode": {"mode": "cfg", "video_cfg": 5.0, "audio_cfg": 5.0},
        "steps": 50,
        "sampler_name": "euler",
        "scheduler": "simple",
    }
    ours, theirs = (streams(joint(model, tiny.av_latent(), **run)) for run in (left, told))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("mode", "term"), [({"mode": "ma_cfg", "video_cfg": 3.0, "audio_cfg": 2.0}, "joint"), (CFG, "text")]
)
def test_the_lowest_sigma_of_a_mode_is_the_published_one_until_somebody_types_one(
    model: ModelPatcher, mode: dict[str, Any], term: str
) -> None:
    usual = default_settings(mode["mode"])[term].least_sigma
    assert usual == {"joint": 0.5, "text": 0.0}[term]
    for typed, wanted in ((-1.0, usual), (0.0, 0.0), (0.8, 0.8)):
        guider = CCLGuider.execute(model, POSITIVE, NEGATIVE, mode, lowest_sigma=typed)[0]
        assert guider.settings[term].least_sigma == wanted
        assert replace(guider.settings[term], least_sigma=usual) == settings_of(mode)[term]


def test_it_changes_the_guidance_of_the_family_too() -> None:
    talking = published("uniavgen")
    guider = CCLGuider.execute(talking, POSITIVE, NEGATIVE, FROM_MODEL, lowest_sigma=0.0)[0]
    assert (guider.mode, guider.settings) == ("ma_cfg", {"joint": TermScale(3.0, 2.0)})
    # No step has a noise level above 1.
    usual, without = (
        streams(joint(talking, tiny.av_latent(), mode=FROM_MODEL, lowest_sigma=sigma)) for sigma in (-1, 2)
    )
    assert all((x - y).abs().max() > 1e-4 for x, y in zip(usual, without, strict=True))


def test_a_model_without_a_row_gets_plain_cfg() -> None:
    guider = CCLGuider.execute(tiny.other_model(), POSITIVE, NEGATIVE, FROM_MODEL)[0]
    assert (guider.mode, guider.settings) == ("cfg", {"text": TermScale(4.0, 3.0)})


@pytest.mark.parametrize("node", [CCLGuider, CCLJointSampler])
def test_from_model_is_the_first_choice(node: type) -> None:
    inputs = node.INPUT_TYPES()["required"]
    assert inputs["mode"][1]["options"][0]["key"] == "from model"
    for name in {"sampler_name", "scheduler"} & set(inputs):
        assert inputs[name][1]["options"][0] == inputs[name][1]["default"] == "from model"


def test_a_latent_whose_streams_cover_other_seconds_is_refused(model: ModelPatcher) -> None:
    with pytest.raises(ValueError, match=r"the video is 0\.562 s long .*, the sound 1\.250 s"):
        joint(model, tiny.av_latent(tokens=40))
    # The rate of the latent counts, which may be another than the model's.
    joint(model, tiny.av_latent(tokens=40) | {"fps": 8.0})


def test_the_sampler_says_what_the_run_takes(model: ModelPatcher, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        joint(model, tiny.av_latent())
    assert "2 passes per step, 2.0x the work.\nFits whole in RAM.\nGuidance cfg, 3 steps" in caplog.text
