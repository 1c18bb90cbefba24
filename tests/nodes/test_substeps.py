"""Audio Substep Sampler: the samplers it offers, in both places where a SAMPLER goes, and its choices."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced, SamplerEulerAncestral

from ccl_pack.ccl_core.guidance import MODES
from ccl_pack.nodes.guidance import CCLGuider, CCLJointSampler
from ccl_pack.nodes.substeps import BETWEEN, FROM_GUIDER, CCLSubstepSampler, sampler_names
from support.tiny import av_latent, conditioning, patcher

SIGMAS = torch.tensor([1.0, 0.7, 0.3, 0.0])
MODE = {"mode": "cfg", "video_cfg": 2.0, "audio_cfg": 3.0}
TEXTS = {"positive": conditioning(1), "negative": conditioning(7)}


def sampler_of(name: str = "euler", substeps: int = 2, **guidance: Any) -> Any:
    chosen = guidance or {"audio_guidance": FROM_GUIDER}
    return CCLSubstepSampler.execute(name, substeps, chosen)[0]


def advanced(model: ModelPatcher, sampler: Any) -> list[torch.Tensor]:
    """The host's SamplerCustomAdvanced."""
    guider = CCLGuider.execute(model, **TEXTS, mode=MODE)[0]
    made = SamplerCustomAdvanced.execute(Noise_RandomNoise(3), guider, sampler, SIGMAS, av_latent())
    return made[0]["samples"].unbind()


def same(made: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(made, wanted, strict=True))


@pytest.mark.parametrize("name", comfy.samplers.KSampler.SAMPLERS)
def test_every_sampler_of_the_host_is_carried_exactly_and_those_that_are_offered_take_substeps(
    name: str,
) -> None:
    model = patcher()
    wanted = advanced(model, comfy.samplers.sampler_object(name))
    assert same(advanced(model, sampler_of(name, 1)), wanted)
    if name in sampler_names():
        assert all(part.isfinite().all() for part in advanced(model, sampler_of(name)))
    else:
        with pytest.raises(ValueError, match="between the noise levels"):
            advanced(model, sampler_of(name))


def test_what_is_not_offered_is_a_sampler_of_the_host() -> None:
    assert set(comfy.samplers.KSampler.SAMPLERS) >= BETWEEN and sampler_names()[0] == "euler"


def test_a_sampler_with_settings_takes_the_place_of_the_name() -> None:
    model = patcher()
    calm = SamplerEulerAncestral.execute(eta=0.0, s_noise=1.0)[0]
    made = advanced(model, CCLSubstepSampler.execute("lcm", 2, {"audio_guidance": FROM_GUIDER}, calm)[0])
    for x, y in zip(made, advanced(model, sampler_of()), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4)


def test_the_joint_sampler_takes_it_too(caplog: pytest.LogCaptureFixture) -> None:
    model = patcher()
    settings = {"seed": 3, "steps": 3, "sampler_name": "lcm", "scheduler": "simple", "denoise": 1.0}

    def joint(**sampler: Any) -> list[torch.Tensor]:
        made = CCLJointSampler.execute(
            model, **TEXTS, latent_image=av_latent(), mode=MODE, **settings, **sampler
        )
        return made[0]["samples"].unbind()

    by_name = joint(sampler=comfy.samplers.sampler_object("lcm"))
    assert same(joint(), by_name)
    assert same(joint(sampler=sampler_of("lcm", 1)), by_name)
    assert not same(joint(sampler=sampler_of("lcm", 4)), by_name)
    assert "sampler_name lcm is left out" in caplog.text


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_has_its_scales_for_the_audio(mode: str) -> None:
    option = next(
        option
        for entry in CCLSubstepSampler.define_schema().inputs
        if entry.id == "audio_guidance"
        for option in entry.options
        if option.key == mode
    )
    names = [entry.id for entry in option.inputs]
    assert names and all(name.startswith("audio_") for name in names)
    sampler = sampler_of(audio_guidance=mode, **dict.fromkeys(names, 4.5))
    assert sampler.guidance.mode == mode
    assert {scale.audio for scale in sampler.guidance.settings.values()} == {4.5}


def test_guidance_of_its_own_changes_the_audio() -> None:
    model = patcher()
    own = sampler_of(audio_guidance="cfg", audio_cfg=7.0)
    assert not torch.allclose(advanced(model, own)[1], advanced(model, sampler_of())[1], atol=1e-3)


def test_a_choice_that_is_none_is_told() -> None:
    assert "audio_guidance is missing" in CCLSubstepSampler.validate_inputs(4, None)
    assert CCLSubstepSampler.validate_inputs(4, {"audio_guidance": FROM_GUIDER}) is True


def test_the_joint_sampler_s_default_is_no_other_sampler() -> None:
    entry = CCLJointSampler.define_schema().inputs[-1]
    assert entry.id == "sampler" and entry.optional
